//! Values of `credentials` and of what stands beside it. No message shows any of them.

use http::Uri;
use http::header::{HeaderName, HeaderValue};

use super::Kind;
use crate::secret::Secret;

/// Longest secret or header's value in bytes; it has to fit into a head.
const MAX: usize = 16 << 10;

/// A token.
pub(in crate::config) struct SecretText;

impl Kind for SecretText {
    type Value = Secret;

    const EXPECTED: &'static str = "a token";
    const FREE_TEXT: bool = true;

    /// What RFC 6750 §2.1 has, and whatever else is one word in a header.
    fn from_text(text: &str) -> Result<Secret, String> {
        if text.is_empty() {
            Err("is no token; write one, best as `${file:/PATH}` or `${env:NAME}`".into())
        } else if text.len() > MAX || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            Err("is no token: it is one word of visible characters, up to 16KiB, without `Bearer`".into())
        } else {
            Ok(Secret::new(text))
        }
    }
}

/// A header's value; not shown.
pub(in crate::config) struct FieldValue;

impl Kind for FieldValue {
    type Value = Secret;

    const EXPECTED: &'static str = "a header's value";
    const FREE_TEXT: bool = true;

    fn from_text(text: &str) -> Result<Secret, String> {
        let fits = HeaderValue::from_str(text).is_ok() && text.len() <= MAX && text.trim() == text;
        if text.is_empty() {
            Err("is no value; write one, or leave the key out".into())
        } else if fits {
            Ok(Secret::new(text))
        } else {
            Err("cannot be a value here; write one line of ASCII without spaces around it, up to 16KiB".into())
        }
    }
}

/// A header's name.
pub(in crate::config) struct FieldName;

impl Kind for FieldName {
    type Value = HeaderName;

    const EXPECTED: &'static str = "a header's name";
    const FREE_TEXT: bool = true;

    fn from_text(text: &str) -> Result<HeaderName, String> {
        let name = HeaderName::try_from(text);
        name.map_err(|_| "is not a header's name; write one such as `x-api-key`, without a colon".into())
    }

    fn pattern() -> &'static str {
        "^[a-zA-Z0-9!#$%&'*+.^_`|~\\-]+$"
    }
}

/// A short text in one line.
pub(in crate::config) struct PlainName;

impl Kind for PlainName {
    type Value = Box<str>;

    const EXPECTED: &'static str = "a text";
    const FREE_TEXT: bool = true;

    fn from_text(text: &str) -> Result<Box<str>, String> {
        if (1..=1000).contains(&text.len()) && !text.contains(char::is_control) {
            Ok(text.into())
        } else {
            Err("cannot be a text here; write 1 to 1000 characters in one line, or leave the key out".into())
        }
    }
}

/// A token endpoint.
pub(in crate::config) struct TokenUrl;

impl Kind for TokenUrl {
    type Value = Uri;

    const EXPECTED: &'static str = "a URL such as `https://login.example/oauth2/token`";

    fn from_text(text: &str) -> Result<Uri, String> {
        let refused = "is no token endpoint; write `https://HOST[:PORT]/PATH`, without user name or `#`";
        let uri: Uri = text.parse().map_err(|_| refused)?;
        let good = matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.host().is_some_and(|host| !host.is_empty())
            && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'))
            && !text.contains('#');
        if good { Ok(uri) } else { Err(refused.into()) }
    }

    fn pattern() -> &'static str {
        "^https?://"
    }
}
