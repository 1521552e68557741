//! What a header shows of a credential.

use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};

use super::Denied;
use crate::admission::How;

/// A credential as it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shown<'a> {
    /// None.
    Nothing,
    /// The text of one.
    Text(&'a str),
}

/// What `headers` show under `name`, as [`read`] reads it.
/// Two lines of the same name are refused: which one counts would be a guess.
pub(super) fn shown<'a>(headers: &'a HeaderMap, name: &HeaderName, how: How) -> Result<Shown<'a>, Denied> {
    let mut lines = headers.get_all(name).iter();
    let Some(line) = lines.next() else { return Ok(Shown::Nothing) };
    if lines.next().is_some() {
        return Err(Denied::wrong(how, "its header is there more than once"));
    }
    read(line, name, how).map(Shown::Text)
}

/// What a line of the header `name` shows. In `Authorization` it has the scheme `Bearer` (RFC 6750 §2.1), elsewhere it may
/// have.
pub(super) fn read<'a>(line: &'a HeaderValue, name: &HeaderName, how: How) -> Result<&'a str, Denied> {
    let text = line.to_str().map_err(|_| Denied::wrong(how, "its header is not printable"))?;
    match bearer(text) {
        Some("") => Err(Denied::wrong(how, "its header is empty")),
        Some(credential) => Ok(credential),
        None if name == AUTHORIZATION => Err(Denied::wrong(how, "Authorization has another scheme than Bearer")),
        None if text.is_empty() => Err(Denied::wrong(how, "its header is empty")),
        None => Ok(text),
    }
}

/// What follows the scheme `Bearer`, whose case does not matter (RFC 9110 §11.1).
fn bearer(text: &str) -> Option<&str> {
    const SCHEME: &str = "bearer";
    let (scheme, rest) = text.split_at_checked(SCHEME.len())?;
    if !scheme.eq_ignore_ascii_case(SCHEME) {
        return None;
    }
    if rest.is_empty() { Some(rest) } else { rest.strip_prefix(' ').map(|rest| rest.trim_start_matches(' ')) }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn read_all(name: &'static str, lines: &[&str]) -> Result<Option<String>, String> {
        let name = HeaderName::from_static(name);
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(&name, HeaderValue::from_bytes(line.as_bytes()).unwrap());
        }
        match shown(&headers, &name, How::ApiKey) {
            Ok(Shown::Nothing) => Ok(None),
            Ok(Shown::Text(text)) => Ok(Some(text.to_owned())),
            Err(denied) => Err(denied.why().to_owned()),
        }
    }

    #[test]
    fn a_credential_is_read_from_one_line() {
        let table: [(_, &[&str], _); 15] = [
            ("authorization", &[], Ok(None)),
            ("authorization", &["Bearer abc"], Ok(Some("abc"))),
            ("authorization", &["bEaReR   abc"], Ok(Some("abc"))),
            ("x-api-key", &["abc"], Ok(Some("abc"))),
            ("x-api-key", &["Bearer abc"], Ok(Some("abc"))),
            ("x-api-key", &["bearerabc"], Ok(Some("bearerabc"))),
            ("authorization", &["Basic abc"], Err("another scheme")),
            ("authorization", &["bearerabc"], Err("another scheme")),
            ("authorization", &["Bearer "], Err("empty")),
            ("authorization", &["Bearer"], Err("empty")),
            ("authorization", &[""], Err("another scheme")),
            ("x-api-key", &[""], Err("empty")),
            ("x-api-key", &["ab\u{e9}"], Err("not printable")),
            ("authorization", &["Bearer abc", "Bearer abc"], Err("more than once")),
            ("x-api-key", &["abc", ""], Err("more than once")),
        ];
        for (name, lines, expected) in table {
            match (read_all(name, lines), expected) {
                (Ok(read), Ok(expected)) => assert_eq!(read.as_deref(), expected, "{lines:?}"),
                (Err(why), Err(expected)) => assert!(why.contains(expected), "{lines:?}: {why}"),
                other => panic!("{lines:?}: {other:?}"),
            }
        }
    }

    proptest! {
        #[test]
        fn any_line_is_read_or_refused(line in "(?s).{0,40}") {
            prop_assume!(HeaderValue::from_bytes(line.as_bytes()).is_ok());
            for name in ["authorization", "x-api-key"] {
                let _ = read_all(name, &[&line]);
            }
        }
    }
}
