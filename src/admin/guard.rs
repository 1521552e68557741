//! Who may ask the admin port, and for what.
//!
//! Health, readiness and metrics are for everyone who reaches the port. All else is for who is on this machine, where the
//! port is a loopback one, and for who has the token or a certificate of `admin.tls.clients`. What changes something wants
//! a header of its own besides, which no web page can make a browser send along; and a loopback port wants to be called by
//! a name that is its own, so that no web page can have a name that leads there (DNS rebinding).

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::Response;

use super::{AdminSettings, refuse};
use crate::tls::{ClientAuth, PeerCertificate};

/// The header that a request must have to change something, with any value.
const STEERING: &str = "nexus-gateway-admin";

/// What everyone may see who reaches the port. The keys are public ones: handlers check by them who calls.
const OPEN: [&str; 4] = ["/healthz", "/readyz", "/metrics", "/.well-known/jwks.json"];

/// What opens the rest.
const HOW: &str = "set admin.token, or admin.tls with clients, or let admin.address be a loopback one";

/// Who asked, by what it was let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Who {
    /// Anyone: it asked for what everyone may see.
    Anyone,
    /// Somebody on this machine.
    Loopback,
    /// Somebody with the token.
    Token,
    /// The subject of a certificate.
    Certificate(Arc<PeerCertificate>),
}

impl Who {
    /// By what it was let in.
    pub(super) fn how(&self) -> &'static str {
        match self {
            Self::Anyone => "anyone",
            Self::Loopback => "loopback",
            Self::Token => "token",
            Self::Certificate(_) => "certificate",
        }
    }

    /// The subject of its certificate.
    pub(super) fn subject(&self) -> Option<&str> {
        match self {
            Self::Certificate(certificate) => Some(&certificate.subject),
            _ => None,
        }
    }
}

/// Why a request is not let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    status: StatusCode,
    why: Cow<'static, str>,
}

impl Refused {
    fn forbidden(why: impl Into<Cow<'static, str>>) -> Self {
        Self { status: StatusCode::FORBIDDEN, why: why.into() }
    }

    /// With what it is refused.
    pub(super) fn status(&self) -> StatusCode {
        self.status
    }

    /// What is answered.
    pub(super) fn into_response(self) -> Response {
        let mut answer = refuse(self.status, &self.why);
        if self.status == StatusCode::UNAUTHORIZED {
            answer.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        answer
    }
}

/// What the settings say of who may ask.
pub(super) struct Guard {
    /// Where the port is, as configured: the port may be 0.
    address: SocketAddr,
    /// The digest of the token: two of them take the same time to compare, whatever they are of.
    token: Option<Vec<u8>>,
    takes_certificates: bool,
}

impl Guard {
    pub(super) fn new(settings: &AdminSettings) -> Self {
        let clients = settings.tls.as_ref().map(|tls| &tls.clients);
        Self {
            address: settings.address,
            token: settings.token.as_ref().map(|token| hash(token.0.as_bytes())),
            takes_certificates: clients.is_some_and(|clients| *clients != ClientAuth::Off),
        }
    }

    /// Who asks, where it may; else what it is answered.
    pub(super) fn admit(&self, head: &Parts, certificate: Option<&Arc<PeerCertificate>>) -> Result<Who, Refused> {
        if self.is_loopback() && !is_own_host(head) {
            return Err(Refused::forbidden(
                "the Host header has to be an address or localhost: on a loopback port, any other name is one that leads \
                here by somebody's DNS",
            ));
        }
        let reads = matches!(head.method, Method::GET | Method::HEAD);
        if reads && OPEN.contains(&head.uri.path()) {
            return Ok(Who::Anyone);
        }
        let who = self.identify(&head.headers, certificate)?;
        if !reads && !head.headers.contains_key(STEERING) {
            let why = "the header Nexus-Gateway-Admin is missing; it may have any value";
            return Err(Refused::forbidden(why));
        }
        Ok(who)
    }

    fn identify(&self, headers: &HeaderMap, certificate: Option<&Arc<PeerCertificate>>) -> Result<Who, Refused> {
        if let Some(certificate) = certificate.filter(|_| self.takes_certificates) {
            return Ok(Who::Certificate(Arc::clone(certificate)));
        }
        if self.has_token(headers) {
            return Ok(Who::Token);
        }
        match (&self.token, self.takes_certificates) {
            (None, false) if self.is_loopback() => Ok(Who::Loopback),
            (None, false) => Err(Refused::forbidden(format!(
                "this port listens beyond loopback and shows {} only; {HOW}",
                OPEN.join(", ")
            ))),
            (Some(_), _) => Err(Refused {
                status: StatusCode::UNAUTHORIZED,
                why: "the token of admin.token is wanted, as `Authorization: Bearer TOKEN`".into(),
            }),
            (None, true) => {
                Err(Refused::forbidden("a certificate of one of the authorities of admin.tls.clients is wanted"))
            }
        }
    }

    fn has_token(&self, headers: &HeaderMap) -> bool {
        let (Some(expected), Some(given)) = (&self.token, headers.get(header::AUTHORIZATION)) else { return false };
        let given = given.as_bytes();
        // The scheme is written in any case (RFC 9110 §11.1).
        let (Some(scheme), Some(token)) = (given.get(..7), given.get(7..)) else { return false };
        scheme.eq_ignore_ascii_case(b"bearer ") && verify_slices_are_equal(&hash(token), expected).is_ok()
    }

    fn is_loopback(&self) -> bool {
        self.address.ip().to_canonical().is_loopback()
    }
}

/// Whether the name by which the port is called is its own. HTTP/1.0 has none, and no browser speaks that.
fn is_own_host(head: &Parts) -> bool {
    let mut hosts = head.headers.get_all(header::HOST).iter();
    let named = match (head.uri.authority(), hosts.next(), hosts.next()) {
        (_, _, Some(_)) => return false,
        (Some(authority), _, _) => authority.as_str(),
        (None, Some(host), None) => match host.to_str() {
            Ok(host) => host,
            Err(_) => return false,
        },
        (None, None, None) => return true,
    };
    let host = match named.rsplit_once(':') {
        Some((host, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => named,
    };
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    bare.parse::<IpAddr>().is_ok() || host.eq_ignore_ascii_case("localhost")
}

fn hash(text: &[u8]) -> Vec<u8> {
    digest(&SHA256, text).as_ref().to_vec()
}

/// A token that opens the admin port.
#[derive(Clone, PartialEq, Eq)]
pub struct AdminToken(Arc<str>);

impl AdminToken {
    /// As it comes after `Bearer`.
    pub fn new(token: impl Into<Arc<str>>) -> Self {
        Self(token.into())
    }
}

/// Shows nothing of it.
impl fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdminToken")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(address: &str) -> AdminSettings {
        AdminSettings { address: address.parse().unwrap(), token: None, tls: None }
    }

    fn with_token(address: &str) -> AdminSettings {
        AdminSettings { token: Some(AdminToken::new("right")), ..settings(address) }
    }

    fn head(method: &str, path: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = axum::http::Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn admit(settings: &AdminSettings, method: &str, path: &str, headers: &[(&str, &str)]) -> Result<Who, u16> {
        let admitted = Guard::new(settings).admit(&head(method, path, headers), None);
        admitted.map_err(|refused| refused.into_response().status().as_u16())
    }

    #[test]
    fn beyond_loopback_only_health_and_metrics_are_for_everyone() {
        for address in ["0.0.0.0:1", "10.0.0.1:1", "[::]:1"] {
            for settings in [settings(address), with_token(address)] {
                for path in OPEN {
                    assert_eq!(admit(&settings, "GET", path, &[("host", "any.example")]), Ok(Who::Anyone));
                }
            }
            for path in ["/endpoints", "/metrics/", "//metrics", "/metrics/../endpoints", "/", "/breakers"] {
                assert_eq!(admit(&settings(address), "GET", path, &[]), Err(403), "{path}");
                assert_eq!(admit(&with_token(address), "GET", path, &[]), Err(401), "{path}");
            }
            assert_eq!(admit(&settings(address), "POST", "/metrics", &[(STEERING, "1")]), Err(403));
        }
    }

    #[test]
    fn only_the_token_is_the_token() {
        for address in ["0.0.0.0:1", "127.0.0.1:1"] {
            let settings = with_token(address);
            for right in ["Bearer right", "bearer right"] {
                assert_eq!(admit(&settings, "GET", "/endpoints", &[("authorization", right)]), Ok(Who::Token));
            }
            for wrong in
                ["Bearer wrong", "Bearer righ", "Bearer rightx", "Bearer  right", "Basic right", "right", "Bearer"]
            {
                assert_eq!(admit(&settings, "GET", "/endpoints", &[("authorization", wrong)]), Err(401), "{wrong}");
            }
            assert_eq!(admit(&settings, "POST", "/breakers/trip", &[("authorization", "Bearer right")]), Err(403));
            let all = [("authorization", "Bearer right"), (STEERING, "")];
            assert_eq!(admit(&settings, "POST", "/breakers/trip", &all), Ok(Who::Token));
        }
        assert!(!format!("{:?}", with_token("0.0.0.0:1")).contains("right"));
    }

    #[test]
    fn on_loopback_whatever_changes_something_wants_its_header() {
        for address in ["127.0.0.1:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            let settings = settings(address);
            assert_eq!(admit(&settings, "GET", "/endpoints", &[]), Ok(Who::Loopback));
            for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
                assert_eq!(admit(&settings, method, "/breakers/trip", &[]), Err(403));
                assert_eq!(admit(&settings, method, "/breakers/trip", &[(STEERING, "1")]), Ok(Who::Loopback));
            }
        }
    }

    #[test]
    fn on_loopback_no_name_of_somebody_else_s_leads_in() {
        let settings = settings("127.0.0.1:1");
        for own in ["127.0.0.1", "127.0.0.1:7281", "[::1]:7281", "localhost", "LocalHost:1", "10.0.0.7:7281"] {
            assert_eq!(admit(&settings, "GET", "/metrics", &[("host", own)]), Ok(Who::Anyone), "{own}");
        }
        for other in ["evil.example", "evil.example:7281", "127.0.0.1.evil.example", "localhost.evil.example", "", ":1"]
        {
            assert_eq!(admit(&settings, "GET", "/metrics", &[("host", other)]), Err(403), "{other}");
        }
        assert_eq!(admit(&settings, "GET", "/metrics", &[("host", "localhost"), ("host", "evil.example")]), Err(403));
        assert_eq!(admit(&settings, "GET", "http://evil.example/metrics", &[("host", "localhost")]), Err(403));
    }
}
