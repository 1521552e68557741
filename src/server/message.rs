//! An HTTP/2 request made to mean what the same one means in HTTP/1.1, or refused where it could mean two things.
//!
//! What RFC 9113 §8.2 calls malformed (fields of one connection, upper case, control characters, a length that the body
//! does not have) the `h2` crate answers with a reset.

use http::header::{CONTENT_LENGTH, COOKIE, HOST, HeaderMap, HeaderValue};
use http::uri::Authority;
use http::{Request, Uri};

use super::ServerSettings;
use super::strict::is_target;
use crate::response::{Failure, Reason};

/// Checks a request's head against the bounds that the protocol itself does not keep, and joins its cookies.
pub(super) fn check_http2<B>(request: &mut Request<B>, settings: &ServerSettings) -> Result<(), Failure> {
    let ServerSettings { max_headers, max_uri, .. } = *settings;
    let headers = request.headers();
    if headers.len() > max_headers {
        return Err(too_large(format!("the request has more than max_headers, {max_headers}")));
    }
    if length(request.uri()) > max_uri {
        return Err(too_large(format!("the request's target is longer than max_uri, {max_uri} bytes")));
    }
    if !request.uri().path_and_query().is_some_and(|target| target.as_str().bytes().all(is_target)) {
        return Err(bad("the request's target has a character that no target has"));
    }
    if headers.contains_key("content_length") || headers.contains_key("transfer_encoding") {
        return Err(bad("the request has a header that could be taken for one that says where it ends"));
    }
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    // As strict as in HTTP/1.1: it is written there as it came.
    if let Some(value) = lengths.next()
        && length_of(value.as_bytes()).is_none()
    {
        return Err(bad("the request's Content-Length is no number"));
    }
    if lengths.next().is_some() {
        return Err(bad("the request has more than one Content-Length"));
    }
    check_authority(request.uri().authority(), headers)?;
    join_cookies(request.headers_mut());
    Ok(())
}

fn length(uri: &Uri) -> usize {
    uri.path_and_query().map_or(0, |path| path.as_str().len())
}

/// One host is meant: `:authority` or `Host`, or both alike (RFC 9113 §8.3.1).
fn check_authority(authority: Option<&Authority>, headers: &HeaderMap) -> Result<(), Failure> {
    let mut hosts = headers.get_all(HOST).iter();
    let (host, another) = (hosts.next(), hosts.next());
    if another.is_some() {
        return Err(bad("the request has more than one Host"));
    }
    let host = host.map(HeaderValue::as_bytes);
    let authority = authority.map(|authority| authority.as_str().as_bytes());
    match (authority, host) {
        (None, None) => Err(bad("the request has no :authority")),
        (Some(authority), Some(host)) if !authority.eq_ignore_ascii_case(host) => {
            Err(bad("the request's :authority and its Host are not the same"))
        }
        (Some(one), _) | (None, Some(one)) if !is_host(one) => Err(bad("the request's :authority is no host")),
        _ => Ok(()),
    }
}

/// A length: digits and nothing else (RFC 9110 §8.6), and no leading zero, which some take for an octal number.
pub(super) fn length_of(value: &[u8]) -> Option<u64> {
    let is_number = value.iter().all(u8::is_ascii_digit) && (value.len() == 1 || value.first() != Some(&b'0'));
    std::str::from_utf8(value).ok().filter(|_| is_number)?.parse().ok()
}

/// Whether this is `HOST[:PORT]`, with a host as machines have them: a name, an IPv4 address, or an IPv6 one in
/// brackets. Stricter than RFC 3986 §3.2.2, whose sub-delimiters no host name has.
pub(super) fn is_host(text: &[u8]) -> bool {
    let (host, port) = match text {
        [b'[', rest @ ..] => match rest.iter().position(|byte| *byte == b']') {
            Some(end) => {
                let (address, port) = (&rest[..end], &rest[end + 1..]);
                let is_address = address.iter().all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.'));
                return is_address
                    && !address.is_empty()
                    && (port.is_empty() || port[0] == b':' && is_port(&port[1..]));
            }
            None => return false,
        },
        _ => match text.iter().position(|byte| *byte == b':') {
            Some(colon) => (&text[..colon], Some(&text[colon + 1..])),
            None => (text, None),
        },
    };
    let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    !host.is_empty() && host.iter().all(is_name) && port.is_none_or(is_port)
}

fn is_port(text: &[u8]) -> bool {
    (1..=5).contains(&text.len()) && text.iter().all(u8::is_ascii_digit)
}

/// In HTTP/1.1 there is one line of cookies (RFC 9113 §8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(COOKIE).iter().nth(1).is_none() {
        return;
    }
    let crumbs: Vec<_> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    let joined = HeaderValue::from_bytes(&crumbs.join(&b"; "[..]));
    if let Ok(joined) = joined {
        headers.insert(COOKIE, joined);
    }
}

fn bad(why: &str) -> Failure {
    Failure::new(Reason::BadHead, why)
}

fn too_large(why: String) -> Failure {
    Failure::new(Reason::HeadTooLarge, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(request: http::request::Builder) -> Result<Request<()>, Reason> {
        let mut request = request.body(()).expect("a request");
        let settings = ServerSettings { max_headers: 5, max_uri: 20, ..ServerSettings::default() };
        check_http2(&mut request, &settings).map(|()| request).map_err(|failure| failure.reason)
    }

    #[test]
    fn one_host_is_meant() {
        for (uri, hosts, expected) in [
            ("http://a.b:80/", &[][..], Ok(())),
            ("http://a.b:80/", &["A.b:80"], Ok(())),
            ("/", &["a.b"], Ok(())),
            ("/", &[], Err(Reason::BadHead)),
            ("http://a.b/", &["a.c"], Err(Reason::BadHead)),
            ("http://a.b/", &["a.b:80"], Err(Reason::BadHead)),
            ("http://a.b/", &["a.b", "a.b"], Err(Reason::BadHead)),
            ("http://u@a.b/", &[], Err(Reason::BadHead)),
        ] {
            let request = hosts.iter().fold(Request::post(uri), |request, host| request.header("host", *host));
            assert_eq!(checked(request).map(|_| ()), expected, "{uri} {hosts:?}");
        }
    }

    #[test]
    fn bounds_of_a_head_are_kept() {
        let many = (0..6).fold(Request::post("http://h/"), |request, n| request.header(format!("x-{n}"), "1"));
        assert_eq!(checked(many).map(|_| ()), Err(Reason::HeadTooLarge));
        let long = Request::post(format!("http://h/{}", "x".repeat(20)));
        assert_eq!(checked(long).map(|_| ()), Err(Reason::HeadTooLarge));
        let lengths = Request::post("http://h/").header("content-length", "1").header("content-length", "1");
        assert_eq!(checked(lengths).map(|_| ()), Err(Reason::BadHead));
        for (length, expected) in
            [("0", Ok(())), ("10", Ok(())), ("010", Err(Reason::BadHead)), ("", Err(Reason::BadHead))]
        {
            let request = Request::post("http://h/").header("content-length", length);
            assert_eq!(checked(request).map(|_| ()), expected, "{length}");
        }
    }

    #[test]
    fn what_http_1_1_could_take_for_something_else_is_refused() {
        let target: http::uri::PathAndQuery = "/\u{e4}".parse().expect("what the `http` crate takes");
        let request = Request::post(Uri::from(target)).header("host", "h");
        assert_eq!(checked(request).map(|_| ()), Err(Reason::BadHead));
        for name in ["content_length", "transfer_encoding"] {
            let request = Request::post("http://h/").header(name, "1");
            assert_eq!(checked(request).map(|_| ()), Err(Reason::BadHead), "{name}");
        }
    }

    #[test]
    fn cookies_are_joined() {
        let crumbs = Request::post("http://h/").header("cookie", "a=1").header("cookie", "b=2");
        let request = checked(crumbs).expect("it is good");
        let cookies: Vec<_> = request.headers().get_all("cookie").iter().collect();
        assert_eq!(cookies, ["a=1; b=2"]);
    }

    #[test]
    fn hosts_are_told_from_what_only_looks_like_one() {
        for host in ["a", "a.b:80", "10.0.0.1:7280", "[::1]", "[::1]:80", "under_score", "localhost."] {
            assert!(is_host(host.as_bytes()), "{host}");
        }
        for no_host in [
            "", ":80", "a:", "a:b", "a:1:2", "u@a", "a/b", "a b", "a,b", "a\tb", "[::1", "[]", "[::1]80", "[::1]:",
            "a:123456", "\u{e9}",
        ] {
            assert!(!is_host(no_host.as_bytes()), "{no_host}");
        }
    }
}
