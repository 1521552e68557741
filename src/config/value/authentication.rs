//! Values of `authentication`.

use std::sync::Arc;

use http::{HeaderName, Uri};

use super::{Kind, TokenUrl};
use crate::admission::authenticate::{Algorithm, IdentityPattern, MAX_NAME, is_name, is_printable};
use crate::admission::authorize::ANONYMOUS;
use crate::config::problem::{did_you_mean, quoted_list};

/// Who a caller is.
pub(in crate::config) struct IdentityName;

impl Kind for IdentityName {
    type Value = Arc<str>;

    const EXPECTED: &'static str = "a caller's name";
    const FREE_TEXT: bool = true;

    fn from_text(text: &str) -> Result<Arc<str>, String> {
        if text == ANONYMOUS {
            return Err(format!("is no caller's name: `{ANONYMOUS}` are those who show nothing; write another one"));
        }
        let wrong = || format!("is not a caller's name; write 1 to {MAX_NAME} printable ASCII characters");
        is_name(text).then(|| text.into()).ok_or_else(wrong)
    }
}

/// The namespace that a caller calls from.
pub(in crate::config) struct CallerNamespace;

impl Kind for CallerNamespace {
    type Value = Arc<str>;

    const EXPECTED: &'static str = "a namespace";
    const FREE_TEXT: bool = true;

    fn from_text(text: &str) -> Result<Arc<str>, String> {
        let wrong =
            || format!("is not a namespace; write 1 to {MAX_NAME} printable ASCII characters, or leave the key out");
        is_printable(text).then(|| text.into()).ok_or_else(wrong)
    }
}

/// How a text names a caller.
pub(in crate::config) struct Pattern;

impl Kind for Pattern {
    type Value = IdentityPattern;

    const EXPECTED: &'static str = "a pattern such as `{name}`";
    const FREE_TEXT: bool = true;

    fn from_text(text: &str) -> Result<IdentityPattern, String> {
        IdentityPattern::new(text)
    }

    fn pattern() -> &'static str {
        r"\{name\}"
    }
}

/// A header that carries credentials, and so reaches no handler.
pub(in crate::config) struct CredentialHeader;

impl Kind for CredentialHeader {
    type Value = HeaderName;

    const EXPECTED: &'static str = "a header's name such as `x-api-key`";
    const FREE_TEXT: bool = true;

    fn from_text(text: &str) -> Result<HeaderName, String> {
        let name: HeaderName =
            text.parse().map_err(|_| "is not a header's name; write `authorization` or `x-api-key`")?;
        if is_taken(name.as_str()) {
            return Err("carries something else; write `authorization`, `x-api-key` or a name of your own".into());
        }
        Ok(name)
    }

    fn pattern() -> &'static str {
        "^[a-zA-Z0-9!#$%&'*+.^_`|~-]+$"
    }
}

/// Whether requests need this header for what it says by HTTP, Nexus or Temporal.
fn is_taken(name: &str) -> bool {
    const BEGINNINGS: [&str; 5] = ["content-", "nexus-", "temporal-", "proxy-", "xdc-"];
    const NAMES: [&str; 14] = [
        "accept",
        "connection",
        "cookie",
        "expect",
        "host",
        "keep-alive",
        "operation-timeout",
        "request-timeout",
        "te",
        "traceparent",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "user-agent",
    ];
    NAMES.contains(&name) || BEGINNINGS.iter().any(|beginning| name.starts_with(beginning))
}

/// A hash of a key. Messages never repeat it: it may be the key itself by mistake.
pub(in crate::config) struct Sha256;

impl Kind for Sha256 {
    type Value = [u8; 32];

    const EXPECTED: &'static str = "a hash in hexadecimal";
    const FREE_TEXT: bool = true;

    fn from_text(text: &str) -> Result<[u8; 32], String> {
        let mut hash = [0; 32];
        let digits = text.as_bytes();
        let is_hex = digits.len() == 2 * hash.len() && digits.iter().all(u8::is_ascii_hexdigit);
        if !is_hex {
            return Err("is not a SHA-256 in hexadecimal, 64 digits; make a key with `nexus-gateway keys api`".into());
        }
        for (byte, at) in hash.iter_mut().zip((0..).step_by(2)) {
            *byte = u8::from_str_radix(&text[at..at + 2], 16).map_err(|error| error.to_string())?;
        }
        Ok(hash)
    }

    fn pattern() -> &'static str {
        "^[0-9a-fA-F]{64}$"
    }
}

/// Who makes tokens.
pub(in crate::config) struct IssuerName;

impl Kind for IssuerName {
    type Value = Arc<str>;

    const EXPECTED: &'static str = "an issuer such as `https://issuer.example`";
    const FREE_TEXT: bool = true;

    fn from_text(text: &str) -> Result<Arc<str>, String> {
        printable(text, "an issuer").map(Into::into)
    }
}

/// Whom tokens are for.
pub(in crate::config) struct Audience;

impl Kind for Audience {
    type Value = Box<str>;

    const EXPECTED: &'static str = "an audience such as `nexus-gateway`";
    const FREE_TEXT: bool = true;

    fn from_text(text: &str) -> Result<Box<str>, String> {
        printable(text, "an audience").map(Into::into)
    }
}

/// Something that a token says.
pub(in crate::config) struct ClaimName;

impl Kind for ClaimName {
    type Value = Box<str>;

    const EXPECTED: &'static str = "a claim's name such as `sub`";
    const FREE_TEXT: bool = true;

    fn from_text(text: &str) -> Result<Box<str>, String> {
        printable(text, "a claim's name").map(Into::into)
    }
}

fn printable<'a>(text: &'a str, what: &str) -> Result<&'a str, String> {
    let wrong = || format!("is not {what}; write 1 to {MAX_NAME} printable ASCII characters");
    is_printable(text).then_some(text).ok_or_else(wrong)
}

/// Where keys are published.
pub(in crate::config) struct KeysUrl;

impl Kind for KeysUrl {
    type Value = Uri;

    const EXPECTED: &'static str = "a URL such as `https://issuer.example/jwks.json`";

    fn from_text(text: &str) -> Result<Uri, String> {
        let refused = || "is no URL of keys; write `https://HOST[:PORT]/PATH`, without user name or `#`".to_owned();
        TokenUrl::from_text(text).map_err(|_| refused())
    }

    fn pattern() -> &'static str {
        TokenUrl::pattern()
    }
}

/// How tokens are signed.
pub(in crate::config) struct AlgorithmName;

impl Kind for AlgorithmName {
    type Value = Algorithm;

    const EXPECTED: &'static str = "an algorithm such as `RS256`";

    fn from_text(text: &str) -> Result<Algorithm, String> {
        let all = Algorithm::ALL.map(Algorithm::name);
        if text.eq_ignore_ascii_case("none") || text.starts_with("HS") {
            return Err(format!("would let others than the issuer make tokens; write one of {}", quoted_list(all)));
        }
        let hint = || did_you_mean(text, all).unwrap_or_else(|| format!("; write one of {}", quoted_list(all)));
        Algorithm::named(text).ok_or_else(|| format!("is no algorithm that is taken{}", hint()))
    }

    fn pattern() -> &'static str {
        "^([RP]S(256|384|512)|ES(256|384)|EdDSA)$"
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn headers_that_say_something_else_carry_no_credentials() {
        for good in ["authorization", "X-Api-Key", "x-team-key"] {
            assert!(CredentialHeader::from_text(good).is_ok(), "{good}");
        }
        for bad in ["", "a b", "Host", "content-type", "Nexus-Callback-Token", "traceparent", "te"] {
            assert!(CredentialHeader::from_text(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn hashes_are_read_as_they_are_written(hash in any::<[u8; 32]>()) {
            let text = hash.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
            prop_assert_eq!(Sha256::from_text(&text), Ok(hash));
            prop_assert_eq!(Sha256::from_text(&text.to_uppercase()), Ok(hash));
            prop_assert!(Sha256::from_text(&text[1..]).is_err());
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".*") {
            let _ = (IdentityName::from_text(&text), CallerNamespace::from_text(&text));
            let _ = Pattern::from_text(&text);
            let _ = (CredentialHeader::from_text(&text), Sha256::from_text(&text));
        }
    }
}
