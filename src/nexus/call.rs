//! What a request asks for, read from its head once.

use std::time::Duration;

use http::HeaderMap;
use http::header::HeaderValue;
use http::request::Parts;
use percent_encoding::percent_decode_str;

use super::path::{BadPath, Method, Path};
use super::{headers, link, timeout};

/// A well-formed request for an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Where the parts of the path are, and what is asked.
    pub path: Path,
    /// The caller's `Request-Timeout`; none where there is none or it is zero, which Temporal reads as none.
    pub timeout: Option<Duration>,
}

/// Why a request is refused before anyone is asked. The message is for the caller's developer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// The path is no route.
    #[error("no such route; Nexus requests go to /nexus/endpoints/ENDPOINT/services/SERVICE/OPERATION[/cancel]")]
    UnknownRoute,
    /// The path has a broken escape or a dot segment.
    #[error("bad path: {0}")]
    BadPath(&'static str),
    /// The method is not POST.
    #[error("invalid request method: expected POST, got {0:?}")]
    BadMethod(String),
    /// The `Request-Timeout` cannot be read.
    #[error("invalid Request-Timeout {0:?}: expected a number followed by ms, s or m")]
    BadTimeout(String),
    /// A `Nexus-Link` cannot be read.
    #[error("invalid Nexus-Link: expected <URL>; type=\"TYPE\"")]
    BadLink,
    /// A cancel without a token.
    #[error("missing operation token: expected the header Nexus-Operation-Token or the query parameter token")]
    MissingToken,
}

impl Call {
    /// Reads the head of a request.
    pub fn read(head: &Parts) -> Result<Self, Invalid> {
        let path = Path::parse(head.uri.path()).map_err(|bad| match bad {
            BadPath::Unknown => Invalid::UnknownRoute,
            BadPath::Escape => Invalid::BadPath("a percent sign without two hexadecimal digits, or not UTF-8"),
            BadPath::Dots => Invalid::BadPath("a segment is . or .."),
        })?;
        if head.method != http::Method::POST {
            return Err(Invalid::BadMethod(shorten(head.method.as_str().as_bytes())));
        }
        match path.method {
            Method::Start => check_links(&head.headers)?,
            Method::Cancel => check_token(head)?,
            Method::LegacyCancel | Method::Complete => {}
        }
        Ok(Self { path, timeout: read_timeout(&head.headers)? })
    }
}

fn check_links(request: &HeaderMap) -> Result<(), Invalid> {
    let valid = |value: &HeaderValue| std::str::from_utf8(value.as_bytes()).is_ok_and(link::is_valid);
    if request.get_all(&headers::LINK).iter().all(valid) { Ok(()) } else { Err(Invalid::BadLink) }
}

fn check_token(head: &Parts) -> Result<(), Invalid> {
    let in_header = head.headers.get(&headers::OPERATION_TOKEN).is_some_and(|token| !token.is_empty());
    let in_query = || head.uri.query().is_some_and(|query| query.split('&').any(is_token));
    if in_header || in_query() { Ok(()) } else { Err(Invalid::MissingToken) }
}

fn is_token(pair: &str) -> bool {
    pair.split_once('=')
        .is_some_and(|(key, value)| !value.is_empty() && percent_decode_str(key).eq(b"token".iter().copied()))
}

/// The `Request-Timeout` of a request; none where there is none or it is zero, which Temporal reads as none.
pub fn read_timeout(request: &HeaderMap) -> Result<Option<Duration>, Invalid> {
    let Some(value) = request.get(&headers::REQUEST_TIMEOUT) else { return Ok(None) };
    if value.is_empty() {
        return Ok(None);
    }
    let timeout = value.to_str().ok().and_then(timeout::parse);
    let timeout = timeout.ok_or_else(|| Invalid::BadTimeout(shorten(value.as_bytes())))?;
    Ok((!timeout.is_zero()).then_some(timeout))
}

/// The beginning of what a caller wrote, fit for a message.
fn shorten(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(64)]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(method: &str, uri: &str, headers: &[(&'static str, &str)]) -> Result<Call, Invalid> {
        let mut request = http::Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Call::read(&request.body(()).unwrap().into_parts().0)
    }

    const START: &str = "/nexus/endpoints/pay/services/Svc/op";
    const CANCEL: &str = "/nexus/endpoints/pay/services/Svc/op/cancel";

    #[test]
    fn a_start_needs_nothing_but_its_path() {
        let call = read("POST", START, &[]).unwrap();
        assert_eq!((call.path.method, call.timeout), (Method::Start, None));
    }

    #[test]
    fn the_first_timeout_counts_and_zero_is_none() {
        let timeout = |values: &[(&'static str, &str)]| read("POST", START, values).map(|call| call.timeout);
        assert_eq!(timeout(&[("request-timeout", "2s"), ("request-timeout", "x")]), Ok(Some(Duration::from_secs(2))));
        assert_eq!(timeout(&[("request-timeout", "0ms")]), Ok(None));
        assert_eq!(timeout(&[("request-timeout", "")]), Ok(None));
        assert_eq!(timeout(&[("request-timeout", "soon")]), Err(Invalid::BadTimeout("soon".into())));
    }

    #[test]
    fn an_operation_timeout_is_never_refused() {
        assert!(read("POST", START, &[("operation-timeout", "39.996143338s")]).is_ok());
        assert!(read("POST", START, &[("operation-timeout", "nonsense")]).is_ok());
    }

    #[test]
    fn a_cancel_needs_a_token() {
        assert_eq!(read("POST", CANCEL, &[]), Err(Invalid::MissingToken));
        assert_eq!(read("POST", CANCEL, &[("nexus-operation-token", "")]), Err(Invalid::MissingToken));
        assert_eq!(read("POST", &format!("{CANCEL}?token="), &[]), Err(Invalid::MissingToken));
        assert!(read("POST", CANCEL, &[("nexus-operation-token", "t")]).is_ok());
        assert!(read("POST", &format!("{CANCEL}?a=b&%74oken=t"), &[]).is_ok());
        assert!(read("POST", "/nexus/endpoints/pay/services/Svc/op/t/cancel", &[]).is_ok());
    }

    #[test]
    fn a_bad_link_is_refused_on_starts_only() {
        let bad = [("nexus-link", "<http://a>; type=\"a.B\""), ("nexus-link", "nonsense")];
        assert_eq!(read("POST", START, &bad), Err(Invalid::BadLink));
        assert!(read("POST", &format!("{CANCEL}?token=t"), &bad).is_ok());
    }

    #[test]
    fn an_unknown_route_is_unknown_by_any_method() {
        assert_eq!(read("GET", "/", &[]), Err(Invalid::UnknownRoute));
        assert_eq!(read("GET", START, &[]), Err(Invalid::BadMethod("GET".into())));
    }
}
