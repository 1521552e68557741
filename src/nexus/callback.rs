//! Completions on the wire: where a start wants its completion sent, which tokens go along, and what a completion is.
//!
//! Knows where in a start, its answer, a cancel and a completion the callback's URL and the tokens stand, and how each is
//! replaced there while every other byte stays. Must not know how anything is sealed: what is put in comes from the
//! caller of these functions. Where Temporal and others would read the same bytes differently, what is read here is what
//! Temporal reads, and what is written leaves only one reading.

use http::HeaderMap;
use http::header::HeaderValue;

use super::headers;

pub mod answer;
pub mod cancel;
pub mod completion;
pub mod query;
pub mod started;

pub use cancel::{cancel_token, with_cancel_token};
pub use completion::{Completion, Invalid, State, clean_completion, completion_of, is_stale_reference};
pub use query::{callback_of, set_query, with_callback};
pub use started::{started_token, with_started_token};

/// Longest callback URL in characters (Temporal's default limit).
pub const MAX_URL: usize = 1000;

/// Most bytes that names and values of callback headers have together (Temporal's default limit).
pub const MAX_HEADERS: usize = 8192;

/// Longest operation token in bytes (Temporal's default limit).
pub const MAX_OPERATION_TOKEN: usize = 4096;

/// Whether `url` is Temporal's `temporal://system`: the caller's own cluster, which no other one can reach by it.
pub fn is_system_callback(url: &str) -> bool {
    url.eq_ignore_ascii_case("temporal://system")
}

/// Replaces each value of the callback token that a start carries by what `seal` makes of it.
///
/// How many there were; none, and nothing is changed, where `seal` gives none or what no header can carry.
pub fn seal_callback_token(headers: &mut HeaderMap, seal: impl FnMut(&[u8]) -> Option<String>) -> Option<usize> {
    let values = headers.get_all(&headers::CALLBACK_TOKEN_SENT).iter().map(HeaderValue::as_bytes).map(seal);
    let sealed = values.map(|text| headers::sensitive(text?.as_bytes())).collect::<Option<Vec<_>>>()?;
    for (value, sealed) in values_mut(headers, &headers::CALLBACK_TOKEN_SENT).zip(&sealed) {
        value.clone_from(sealed);
    }
    Some(sealed.len())
}

/// Replaces the callback token that a completion carries, each value of it, by what `open` makes of it.
///
/// Whether there was one. Nothing is changed where `open` fails, or where what it gives is not a header's value, which
/// is false as well: a token that was sealed by [`seal_callback_token`] was a header's value.
pub fn open_callback_token<E>(
    headers: &mut HeaderMap,
    mut open: impl FnMut(&[u8]) -> Result<Vec<u8>, E>,
) -> Result<bool, E> {
    let values = headers.get_all(&headers::CALLBACK_TOKEN).iter().map(HeaderValue::as_bytes);
    let opened = values.map(|text| Ok(headers::sensitive(&open(text)?))).collect::<Result<Option<Vec<_>>, E>>()?;
    let Some(opened) = opened.filter(|opened| !opened.is_empty()) else { return Ok(false) };
    for (value, opened) in values_mut(headers, &headers::CALLBACK_TOKEN).zip(opened) {
        *value = opened;
    }
    Ok(true)
}

fn values_mut<'a>(headers: &'a mut HeaderMap, name: &http::HeaderName) -> impl Iterator<Item = &'a mut HeaderValue> {
    match headers.entry(name) {
        http::header::Entry::Occupied(entry) => Some(entry.into_iter()),
        http::header::Entry::Vacant(_) => None,
    }
    .into_iter()
    .flatten()
}

/// How large the callback headers of a start are, as Temporal counts against [`MAX_HEADERS`]: of each the name
/// without its prefix, and its first value.
pub fn callback_headers_size(headers: &HeaderMap) -> usize {
    let size = |name: &http::HeaderName| {
        let name_size = name.as_str().strip_prefix(headers::CALLBACK_PREFIX)?.len();
        Some(name_size + headers.get(name).map_or(0, HeaderValue::len))
    };
    headers.keys().filter_map(size).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(entries: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in entries {
            map.append(*name, value.parse().unwrap());
        }
        map
    }

    const SENT: &str = "nexus-callback-temporal-callback-token";
    const BACK: &str = "temporal-callback-token";

    #[test]
    fn only_temporal_s_own_address_is_the_system_s() {
        assert!(is_system_callback("temporal://system"));
        assert!(is_system_callback("Temporal://system"));
        for other in ["", "temporal://system2", "temporal://system/x", "http://system", "temporal:system"] {
            assert!(!is_system_callback(other), "{other}");
        }
    }

    #[test]
    fn a_start_s_callback_token_is_sealed_and_nothing_else() {
        let mut headers = map(&[(SENT, "one"), ("nexus-callback-other", "o"), (SENT, "two"), (BACK, "not this")]);
        let sealed = seal_callback_token(&mut headers, |value| Some(format!("<{}>", String::from_utf8_lossy(value))));
        assert_eq!(sealed, Some(2));
        let expected = map(&[(SENT, "<one>"), ("nexus-callback-other", "o"), (SENT, "<two>"), (BACK, "not this")]);
        assert_eq!(headers, expected);
        assert!(headers[SENT].is_sensitive());
    }

    #[test]
    fn a_start_without_a_callback_token_has_nothing_to_seal() {
        let mut headers = map(&[("nexus-callback-other", "o")]);
        assert_eq!(seal_callback_token(&mut headers, |_| unreachable!()), Some(0));
    }

    #[test]
    fn what_cannot_be_sealed_stays_as_it_was() {
        for bad in [None, Some("line\nfeed")] {
            let mut headers = map(&[(SENT, "one"), (SENT, "two")]);
            let seal = |value: &[u8]| if value == b"one" { Some("sealed".to_owned()) } else { bad.map(str::to_owned) };
            assert_eq!(seal_callback_token(&mut headers, seal), None);
            assert_eq!(headers, map(&[(SENT, "one"), (SENT, "two")]));
        }
    }

    #[test]
    fn a_completion_s_callback_token_is_opened() {
        let mut headers = map(&[(BACK, "sealed"), ("x", "y")]);
        let open = |text: &[u8]| if text == b"sealed" { Ok(b"{\"v\":1}".to_vec()) } else { Err("forged") };
        assert_eq!(open_callback_token(&mut headers, open), Ok(true));
        assert_eq!(headers, map(&[(BACK, "{\"v\":1}"), ("x", "y")]));
        assert_eq!(open_callback_token(&mut headers, open), Err("forged"));
        assert_eq!(headers, map(&[(BACK, "{\"v\":1}"), ("x", "y")]));
        assert_eq!(open_callback_token(&mut map(&[("x", "y")]), open), Ok(false));
        assert_eq!(open_callback_token(&mut headers, |_| Ok::<_, ()>(b"\n".to_vec())), Ok(false));
    }

    #[test]
    fn callback_headers_are_counted_as_temporal_counts() {
        let headers = map(&[
            ("nexus-callback-abc", "12345"),
            ("nexus-callback-abc", "not counted"),
            ("nexus-callback-d", ""),
            ("nexus-link", "no callback header"),
        ]);
        assert_eq!(callback_headers_size(&headers), 3 + 5 + 1);
        assert_eq!(callback_headers_size(&HeaderMap::new()), 0);
    }
}
