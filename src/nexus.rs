//! The Nexus protocol over HTTP, as pure functions: what a request asks for, what a failure says.
//!
//! Knows paths, headers, time-outs, links, failure bodies and what completions are. Must not know where anything is sent, what a
//! policy allows, or what time it is. The rules come from the Nexus HTTP specification and from what Temporal
//! servers do with them; where the two differ, Temporal's behaviour is followed.

pub mod call;
pub mod callback;
pub mod failure;
pub mod headers;
pub mod link;
pub mod path;
pub mod timeout;
pub mod url;

pub use call::{Call, Invalid};
pub use failure::ErrorType;
pub use path::{Method, Path, Route};
pub use url::BaseUrl;

/// Longest name of a Nexus endpoint in bytes (Temporal's default limit).
pub const MAX_ENDPOINT_NAME: usize = 200;

/// Whether `name` can be an endpoint's name: `^[a-zA-Z][a-zA-Z0-9\-]*[a-zA-Z0-9]$`, at most
/// [`MAX_ENDPOINT_NAME`] bytes. Temporal refuses to create any other.
pub fn is_endpoint_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    (2..=MAX_ENDPOINT_NAME).contains(&bytes.len())
        && first.is_ascii_alphabetic()
        && last.is_ascii_alphanumeric()
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')
}

/// Whether `text` has the form of an endpoint's id, a UUID with hyphens.
pub fn is_endpoint_id(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(i, b)| match i {
            8 | 13 | 18 | 23 => b == b'-',
            _ => b.is_ascii_hexdigit(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoint_names_are_those_that_temporal_accepts() {
        for good in ["ab", "a1", "payments", "a-b", "A--9", &"a".repeat(200)] {
            assert!(is_endpoint_name(good), "{good}");
        }
        for bad in ["", "a", "1a", "a-", "-a", "a_b", "a b", "é1", &"a".repeat(201)] {
            assert!(!is_endpoint_name(bad), "{bad}");
        }
    }

    #[test]
    fn endpoint_ids_are_uuids() {
        assert!(is_endpoint_id("7c679e62-b5fe-4ebc-9ae3-f5b952778b7d"));
        assert!(!is_endpoint_id("7c679e62-b5fe-4ebc-9ae3-f5b952778b7"));
        assert!(!is_endpoint_id("7c679e62xb5fe-4ebc-9ae3-f5b952778b7d"));
        assert!(!is_endpoint_id("gc679e62-b5fe-4ebc-9ae3-f5b952778b7d"));
    }
}
