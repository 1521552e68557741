//! The operation token in a start's 201.
//!
//! The body is cut where the token's value stands, and every other byte stays: unknown members, their order, numbers
//! as they were written, white space.

use std::ops::Range;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HeaderMap, HeaderValue};
use serde::de::{DeserializeOwned, IgnoredAny};

use crate::nexus::{failure, headers};

/// The operation token of a 201; none where the answer is not one that a caller could use.
///
/// `token`, or `id` where there is no `token` or an empty one: the name before Nexus 0.1.
pub fn started_token(answer: &HeaderMap, body: &[u8]) -> Option<String> {
    if !failure::is_started(answer, body) {
        return None;
    }
    let members = members(body)?;
    ["token", "id"].into_iter().filter_map(|name| text(body, &members, name)).find(|token| !token.is_empty())
}

/// The body of a 201 with `new` as its operation token, wherever the token stands: `token`, `id` where it has the same
/// value, the header `Nexus-Operation-Token`. A `Content-Length` is corrected.
///
/// None, and `answer` is not changed, where the answer has no token or `new` does not fit into a header.
pub fn with_started_token(body: &[u8], answer: &mut HeaderMap, new: &str) -> Option<Bytes> {
    let old = started_token(answer, body)?;
    let quoted = serde_json::to_string(new).ok()?;
    if !headers::replace_operation_token(answer, new) {
        return None;
    }
    let mut replaced = Vec::with_capacity(body.len() + quoted.len());
    let mut copied = 0;
    for member in members(body)? {
        if matches!(&*member.name, "token" | "id") && read(body, &member.value).as_ref() == Some(&old) {
            replaced.extend_from_slice(&body[copied..member.value.start]);
            replaced.extend_from_slice(quoted.as_bytes());
            copied = member.value.end;
        }
    }
    replaced.extend_from_slice(&body[copied..]);
    if answer.contains_key(CONTENT_LENGTH) {
        answer.insert(CONTENT_LENGTH, HeaderValue::from(replaced.len()));
    }
    Some(replaced.into())
}

fn text(body: &[u8], members: &[Member], name: &str) -> Option<String> {
    let member = members.iter().rfind(|member| member.name == name)?;
    read(body, &member.value)
}

fn read(body: &[u8], value: &Range<usize>) -> Option<String> {
    serde_json::from_slice(&body[value.clone()]).ok()
}

/// A member of a JSON object.
struct Member {
    name: String,
    /// Where its value is.
    value: Range<usize>,
}

/// The members of the object that `body` is, in their order; none where it is no object.
fn members(body: &[u8]) -> Option<Vec<Member>> {
    let mut members = Vec::new();
    let mut at = after(body, 0, b'{')?;
    if after(body, at, b'}').is_some() {
        return Some(members);
    }
    loop {
        let (name, end) = next::<String>(body, at)?;
        let start = past_space(body, after(body, end, b':')?);
        let (_, end) = next::<IgnoredAny>(body, start)?;
        members.push(Member { name, value: start..end });
        match after(body, end, b',') {
            Some(next) => at = next,
            None => return after(body, end, b'}').map(|_| members),
        }
    }
}

/// Where `mark` ends, if it is the next thing from `at` on.
fn after(body: &[u8], at: usize, mark: u8) -> Option<usize> {
    let mark_at = past_space(body, at);
    (body.get(mark_at) == Some(&mark)).then_some(mark_at + 1)
}

fn past_space(body: &[u8], at: usize) -> usize {
    let space = |byte: &&u8| matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
    at + body.iter().skip(at).take_while(space).count()
}

/// The value that begins at `at`, and where it ends.
fn next<T: DeserializeOwned>(body: &[u8], at: usize) -> Option<(T, usize)> {
    let mut values = serde_json::Deserializer::from_slice(body.get(at..)?).into_iter();
    let value = values.next()?.ok()?;
    Some((value, at + values.byte_offset()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Map, Value};

    fn json() -> HeaderMap {
        HeaderMap::from_iter([(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"))])
    }

    fn replaced(body: &str, new: &str) -> Option<String> {
        with_started_token(body.as_bytes(), &mut json(), new).map(|body| String::from_utf8(body.to_vec()).unwrap())
    }

    #[test]
    fn the_token_is_token_or_else_id() {
        for (body, token) in [
            (r#"{"token":"t","state":"running"}"#, Some("t")),
            (r#"{"state":"running","id":"i"}"#, Some("i")),
            (r#"{"id":"i","token":"t","state":"running"}"#, Some("t")),
            (r#"{"id":"i","token":"","state":"running"}"#, Some("i")),
            (r#" { "to\u006ben" : "a\"\u00e9" , "state" : "running" } "#, Some("a\"é")),
            (r#"{"token":"t","state":"succeeded"}"#, None),
            (r#"{"state":"running"}"#, None),
            (r#"{"token":1,"state":"running"}"#, None),
            (r#"["t","i","running"]"#, None),
            ("", None),
        ] {
            assert_eq!(started_token(&json(), body.as_bytes()).as_deref(), token, "{body}");
        }
        assert_eq!(started_token(&HeaderMap::new(), br#"{"token":"t","state":"running"}"#), None);
    }

    #[test]
    fn only_the_token_changes() {
        for (body, after) in [
            (r#"{"token":"t","state":"running"}"#, r#"{"token":"new","state":"running"}"#),
            (r#"{"state":"running","id":"i"}"#, r#"{"state":"running","id":"new"}"#),
            (r#"{"id":"t","token":"t","state":"running"}"#, r#"{"id":"new","token":"new","state":"running"}"#),
            (r#"{"id":"other","token":"t","state":"running"}"#, r#"{"id":"other","token":"new","state":"running"}"#),
            (
                "{ \"n\" : 1.50E+02 ,\n\"token\"\t:\"t\", \"x\":{\"token\":\"t\"},\"x\":[1, 2],\"state\":\"running\"} ",
                "{ \"n\" : 1.50E+02 ,\n\"token\"\t:\"new\", \"x\":{\"token\":\"t\"},\"x\":[1, 2],\"state\":\"running\"} ",
            ),
        ] {
            assert_eq!(replaced(body, "new").as_deref(), Some(after));
        }
        assert_eq!(replaced(r#"{"token":"t","state":"failed"}"#, "new"), None);
    }

    #[test]
    fn headers_go_with_the_body() {
        let body = br#"{"token":"t","state":"running"}"#;
        let mut answer = json();
        answer.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        answer.insert(&headers::OPERATION_TOKEN, HeaderValue::from_static("t"));
        let after = with_started_token(body, &mut answer, "longer").unwrap();
        assert_eq!(answer[CONTENT_LENGTH], after.len().to_string());
        assert_eq!(answer[&headers::OPERATION_TOKEN], "longer");

        let mut plain = json();
        with_started_token(body, &mut plain, "longer").unwrap();
        assert_eq!(plain, json(), "no header is added");

        let before = answer.clone();
        assert_eq!(with_started_token(&after, &mut answer, "line\nfeed"), None);
        assert_eq!(answer, before);
    }

    #[test]
    fn depth_is_no_matter() {
        let deep = format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000));
        let body = format!(r#"{{"x":{deep},"token":"t","state":"running"}}"#);
        assert_eq!(replaced(&body, "u"), Some(body.replace(r#""t""#, r#""u""#)));
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::hash_map(".{0,6}", inner, 0..4).prop_map(Value::from_iter),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_object_keeps_what_is_not_its_token(
            members in proptest::collection::hash_map(".{0,8}", value(), 0..6),
            (old, new, same_id, pretty) in (".{1,20}", "[ -~é]{1,20}", any::<bool>(), any::<bool>()),
        ) {
            let mut object = Map::from_iter(members);
            object.insert("state".into(), "running".into());
            object.insert("token".into(), old.clone().into());
            object.insert("id".into(), if same_id { old.clone() } else { format!("not {old}") }.into());
            let write = |object: &Map<_, _>| {
                if pretty { serde_json::to_vec_pretty(object) } else { serde_json::to_vec(object) }.unwrap()
            };
            let body = write(&object);
            prop_assert_eq!(started_token(&json(), &body), Some(old));

            let after = with_started_token(&body, &mut json(), &new).unwrap();
            prop_assert_eq!(started_token(&json(), &after), Some(new.clone()));
            object.insert("token".into(), new.clone().into());
            if same_id {
                object.insert("id".into(), new.into());
            }
            prop_assert_eq!(after, write(&object));
        }

        #[test]
        fn never_panics(bytes in r#"[{}\[\]",:a-z0-9 \\]{0,60}"#) {
            let _ = started_token(&json(), bytes.as_bytes());
            let _ = members(bytes.as_bytes());
        }
    }
}
