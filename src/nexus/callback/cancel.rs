//! The operation token of a cancel: in its header, its query or, in the older form, its path.
//!
//! Temporal looks into the path first, then the header, then the query. Others may look elsewhere first, so when a
//! token is replaced, the places that do not count lose theirs.

use std::borrow::Cow;

use http::header::HeaderValue;
use http::request::Parts;

use super::query;
use crate::nexus::path::decode;
use crate::nexus::{Method, Path, headers};

const TOKEN: &str = "token";

/// The token that a cancel names; none on a start, and where it is not UTF-8.
pub fn cancel_token<'a>(path: &Path, head: &'a Parts) -> Option<Cow<'a, str>> {
    match (path.method, in_header(head)) {
        (Method::Start | Method::Complete, _) => None,
        (Method::LegacyCancel, _) => decode(&head.uri.path()[path.token.clone()?]),
        (Method::Cancel, Some(value)) => std::str::from_utf8(value.as_bytes()).ok().map(Cow::Borrowed),
        (Method::Cancel, None) => query::value_of(head.uri.query()?, TOKEN),
    }
}

fn in_header(head: &Parts) -> Option<&HeaderValue> {
    head.headers.get(&headers::OPERATION_TOKEN).filter(|value| !value.is_empty())
}

/// Puts `new` into `head`, in the place of the token that [`cancel_token`] reads, and gives the path as it is then.
///
/// None, and nothing is changed, where there is no token, or where that place cannot carry `new`: control characters in
/// a header, `.` and `..` as a segment, a URI beyond 65,534 bytes.
pub fn with_cancel_token(path: &Path, head: &mut Parts, new: &str) -> Option<Path> {
    cancel_token(path, head)?;
    let raw = head.uri.path();
    let others = || head.uri.query().and_then(|query| query::without(query, TOKEN));
    let (raw, query, value) = match &path.token {
        Some(old) => (format!("{}{}{}", &raw[..old.start], query::escape(new), &raw[old.end..]), others(), None),
        None if in_header(head).is_some() => (raw.to_owned(), others(), Some(headers::sensitive(new.as_bytes())?)),
        None => (raw.to_owned(), Some(query::with_value(head.uri.query()?, TOKEN, new)), None),
    };
    let path = Path::parse(&raw).ok()?;
    let uri = query.map_or(raw.clone(), |query| format!("{raw}?{query}"));
    if !query::set_path_and_query(&mut head.uri, uri) {
        return None;
    }
    headers::remove_operation_tokens(&mut head.headers);
    if let Some(value) = value {
        head.headers.insert(&headers::OPERATION_TOKEN, value);
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BASE: &str = "/nexus/endpoints/pay/services/Svc/op";

    fn cancel(tail: &str, header: Option<&str>) -> (Path, Parts) {
        let mut request = http::Request::post(format!("{BASE}{tail}")).header("x-other", "o");
        if let Some(token) = header {
            request = request.header("nexus-operation-token", HeaderValue::from_bytes(token.as_bytes()).unwrap());
        }
        let head = request.body(()).unwrap().into_parts().0;
        (Path::parse(head.uri.path()).unwrap(), head)
    }

    fn token(tail: &str, header: Option<&str>) -> Option<String> {
        let (path, head) = cancel(tail, header);
        cancel_token(&path, &head).map(Cow::into_owned)
    }

    /// Tail and header after the token became `new`.
    fn replaced(tail: &str, header: Option<&str>, new: &str) -> Option<(String, Option<String>)> {
        let (path, mut head) = cancel(tail, header);
        let after = with_cancel_token(&path, &mut head, new)?;
        assert_eq!(cancel_token(&after, &head).as_deref(), Some(new));
        assert_eq!(head.headers["x-other"], "o");
        let header = head.headers.get("nexus-operation-token").map(|value| value.as_bytes().to_vec());
        let tail = head.uri.to_string().strip_prefix(BASE).unwrap().to_owned();
        Some((tail, header.map(|value| String::from_utf8(value).unwrap())))
    }

    #[test]
    fn the_token_is_where_temporal_finds_it() {
        for (tail, header, expected) in [
            ("/cancel", Some("t"), Some("t")),
            ("/cancel?token=q", Some("t"), Some("t")),
            ("/cancel?token=q", Some(""), Some("q")),
            ("/cancel?a=b&%74oken=q%2B+%C3%A9", None, Some("q+ é")),
            ("/cancel", Some("tök+%41"), Some("tök+%41")),
            ("/a%2Fb+c/cancel", None, Some("a/b+c")),
            ("/path/cancel?token=q", Some("t"), Some("path")),
            ("/cancel", None, None),
            ("/cancel?token=", Some(""), None),
            ("?token=q", Some("t"), None),
        ] {
            assert_eq!(token(tail, header).as_deref(), expected, "{tail} {header:?}");
        }
        let (path, mut head) = cancel("/cancel?token=q", None);
        head.headers.insert("nexus-operation-token", HeaderValue::from_bytes(b"\xff").unwrap());
        assert_eq!(cancel_token(&path, &head), None, "the query does not count beside a header");
    }

    #[test]
    fn the_token_is_replaced_where_it_stands_and_is_nowhere_else() {
        for (tail, header, after, header_after) in [
            ("/cancel", Some("t"), "/cancel", Some("n/+")),
            ("/cancel?a=%41&token=q&b", Some("t"), "/cancel?a=%41&b", Some("n/+")),
            ("/cancel?a=%41&token=q&b&token=r", None, "/cancel?a=%41&token=n%2F%2B&b", None),
            ("/cancel?token=q", Some(""), "/cancel?token=n%2F%2B", None),
            ("/a%2Fb/cancel?x=y", None, "/n%2F%2B/cancel?x=y", None),
            ("/a/cancel?token=q", Some("t"), "/n%2F%2B/cancel", None),
        ] {
            let expected = Some((after.to_owned(), header_after.map(str::to_owned)));
            assert_eq!(replaced(tail, header, "n/+"), expected, "{tail} {header:?}");
        }
    }

    #[test]
    fn what_does_not_fit_changes_nothing() {
        for (tail, header, new) in [
            ("/cancel", None, "n"),
            ("?token=q", Some("t"), "n"),
            ("/cancel?token=q", Some("t"), "line\nfeed"),
            ("/t/cancel", None, ".."),
            ("/t/cancel", None, ""),
            ("/cancel?token=q", None, &*"n".repeat(70_000)),
        ] {
            let (path, mut head) = cancel(tail, header);
            let before = head.clone();
            assert_eq!(with_cancel_token(&path, &mut head, new), None, "{tail} {header:?}");
            assert_eq!((head.uri, head.headers), (before.uri, before.headers));
        }
    }

    proptest! {
        #[test]
        fn any_token_comes_back_from_all_three_places(new in ".{1,40}", old in "[a-z%+é]{1,10}") {
            let old = query::escape(&old).to_string();
            let in_query = replaced(&format!("/cancel?a=b&token={old}"), None, &new);
            prop_assert!(in_query.is_some());
            let in_path = replaced(&format!("/{old}/cancel"), None, &new);
            let has_dots = new.split(['/', '\\']).any(|part| matches!(part, "." | ".."));
            prop_assert_eq!(in_path.is_some(), !has_dots);
            let in_header = replaced("/cancel", Some(&old), &new);
            prop_assert_eq!(in_header.is_some(), HeaderValue::from_bytes(new.as_bytes()).is_ok());
        }
    }
}
