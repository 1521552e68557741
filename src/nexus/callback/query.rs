//! Query parameters, read as Go's `url.ParseQuery` does and replaced one by one.
//!
//! Go skips a pair that has a `;` or a broken escape, and others do not. So a pair that Go reads comes first, but where
//! there is none the other counts: no parameter is overlooked because it is odd.

use std::borrow::Cow;

use http::Uri;
use http::uri::PathAndQuery;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::nexus::path::well_escaped;

/// What stands in a query or a path segment as it is: the unreserved characters of RFC 3986.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

const CALLBACK: &str = "callback";

/// Where a start wants its completion sent, decoded; none where it says nothing or nothing but an empty text.
///
/// Bytes that are not UTF-8 become U+FFFD, which is in no URL.
pub fn callback_of(query: Option<&str>) -> Option<Cow<'_, str>> {
    value_of(query?, CALLBACK)
}

/// `query` with `new` as the callback's URL, in the place of the one that [`callback_of`] reads, or at the end; further
/// `callback` parameters are dropped, and every other byte stays.
pub fn with_callback(query: &str, new: &str) -> String {
    with_value(query, CALLBACK, new)
}

/// Gives `uri` another query. False, and nothing is changed, where it would be no URI or longer than 65,534 bytes.
pub fn set_query(uri: &mut Uri, query: &str) -> bool {
    let text = format!("{}?{query}", uri.path());
    set_path_and_query(uri, text)
}

pub(super) fn set_path_and_query(uri: &mut Uri, text: String) -> bool {
    let Ok(new) = PathAndQuery::try_from(text) else { return false };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(new);
    Uri::from_parts(parts).map(|new| *uri = new).is_ok()
}

/// The value of the first parameter of this name that has one.
pub(super) fn value_of<'a>(query: &'a str, name: &str) -> Option<Cow<'a, str>> {
    let pair = query.split('&').nth(position(query, name)?)?;
    Some(decode(value(pair)))
}

/// `query` with a single parameter of this name.
pub(super) fn with_value(query: &str, name: &str, new: &str) -> String {
    let place = position(query, name).or_else(|| query.split('&').position(|pair| is_named(pair, name)));
    let mut pairs: Vec<Cow<'_, str>> = Vec::new();
    for (at, pair) in query.split('&').enumerate() {
        if Some(at) == place {
            pairs.push(format!("{}={}", key(pair), escape(new)).into());
        } else if !is_named(pair, name) {
            pairs.push(pair.into());
        }
    }
    if place.is_none() {
        pairs.retain(|pair| !(query.is_empty() && pair.is_empty()));
        pairs.push(format!("{name}={}", escape(new)).into());
    }
    pairs.join("&")
}

/// `query` without the parameters of this name; none where there are no others.
pub(super) fn without(query: &str, name: &str) -> Option<String> {
    let rest: Vec<&str> = query.split('&').filter(|pair| !is_named(pair, name)).collect();
    (!rest.is_empty()).then(|| rest.join("&"))
}

/// `text` as it can stand in a query or in a single path segment.
pub(super) fn escape(text: &str) -> impl std::fmt::Display {
    utf8_percent_encode(text, ESCAPED)
}

/// Which of the pairs gives the parameter's value.
fn position(query: &str, name: &str) -> Option<usize> {
    let given = |pair: &&str| is_named(pair, name) && !value(pair).is_empty();
    let mut pairs = query.split('&');
    let well_formed = pairs.position(|pair| given(&pair) && !pair.contains(';') && well_escaped(pair.as_bytes()));
    well_formed.or_else(|| query.split('&').position(|pair| given(&pair)))
}

fn is_named(pair: &str, name: &str) -> bool {
    percent_decode_str(key(pair)).eq(name.bytes())
}

fn key(pair: &str) -> &str {
    pair.split_once('=').map_or(pair, |(key, _)| key)
}

fn value(pair: &str) -> &str {
    pair.split_once('=').map_or("", |(_, value)| value)
}

fn decode(value: &str) -> Cow<'_, str> {
    if value.contains('+') {
        let spaced = value.replace('+', " ");
        return percent_decode_str(&spaced).decode_utf8_lossy().into_owned().into();
    }
    percent_decode_str(value).decode_utf8_lossy()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_callback_is_read_as_temporal_reads_it() {
        for (query, callback) in [
            ("callback=http%3A%2F%2Fa%2F%3Fx%3D1&b", Some("http://a/?x=1")),
            ("callback=http://a/?x=1", Some("http://a/?x=1")),
            ("a=b&%63allback=x", Some("x")),
            ("callback=one&callback=two", Some("one")),
            ("callback=&callback=two", Some("two")),
            ("callback=a+b%2Bc", Some("a b+c")),
            ("&&callback=x&", Some("x")),
            ("callback=%zz&callback=good", Some("good")),
            ("callback=a;b&callback=good", Some("good")),
            // Others than Go may read these.
            ("callback=a;b", Some("a;b")),
            ("callback=%zz", Some("%zz")),
            ("callback=%ff", Some("\u{fffd}")),
            ("", None),
            ("callback", None),
            ("callback=", None),
            ("Callback=x", None),
            ("call+back=x", None),
            ("callbacks=x&xcallback=y&x=callback=z", None),
        ] {
            assert_eq!(callback_of(Some(query)).as_deref(), callback, "{query}");
        }
        assert_eq!(callback_of(None), None);
    }

    #[test]
    fn the_callback_is_replaced_where_it_stands() {
        for (query, replaced) in [
            ("callback=http%3A%2F%2Fa%2F%3Fx%3D1&b", "callback=http%3A%2F%2Fn%2F%3Fa%3D1%262%2B3&b"),
            ("a=%41+;&%63allback=x&&c", "a=%41+;&%63allback=http%3A%2F%2Fn%2F%3Fa%3D1%262%2B3&&c"),
            ("callback=1&x=y&callback=2&callback", "callback=http%3A%2F%2Fn%2F%3Fa%3D1%262%2B3&x=y"),
            ("callback=%zz&x=y&callback=2", "x=y&callback=http%3A%2F%2Fn%2F%3Fa%3D1%262%2B3"),
            ("callback", "callback=http%3A%2F%2Fn%2F%3Fa%3D1%262%2B3"),
            ("", "callback=http%3A%2F%2Fn%2F%3Fa%3D1%262%2B3"),
            ("a", "a&callback=http%3A%2F%2Fn%2F%3Fa%3D1%262%2B3"),
        ] {
            assert_eq!(with_callback(query, "http://n/?a=1&2+3"), replaced, "{query}");
        }
    }

    #[test]
    fn a_query_is_set_where_it_fits() {
        let mut uri: Uri = "/a/b%20c?callback=x".parse().unwrap();
        assert!(set_query(&mut uri, "y=1"));
        assert_eq!(uri, "/a/b%20c?y=1");
        assert!(!set_query(&mut uri, &"y".repeat(70_000)));
        assert_eq!(uri, "/a/b%20c?y=1");
        let mut absolute: Uri = "http://host/a".parse().unwrap();
        assert!(set_query(&mut absolute, "y=1"));
        assert_eq!(absolute, "http://host/a?y=1");
    }

    fn parameter() -> impl Strategy<Value = String> {
        prop_oneof!["[a-z%;+=0-9é]{0,12}", "(callback|%63allback|callbac%6B|callback2|Callback)(=[a-z%;+=]{0,8})?",]
    }

    proptest! {
        #[test]
        fn what_is_put_in_is_read_again(new in ".{1,60}", pairs in proptest::collection::vec(parameter(), 0..6)) {
            let query = pairs.join("&");
            let replaced = with_callback(&query, &new);
            let read = callback_of(Some(&replaced));
            prop_assert_eq!(read.as_deref(), Some(&*new));
            prop_assert_eq!(replaced.split('&').filter(|pair| is_named(pair, "callback")).count(), 1);
            let others = |query: &str| -> Vec<String> {
                query.split('&').filter(|pair| !is_named(pair, "callback")).map(str::to_owned).collect()
            };
            if !query.is_empty() {
                prop_assert_eq!(others(&replaced), others(&query));
            }
        }
    }
}
