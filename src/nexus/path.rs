//! Request paths: `/nexus/endpoints/{endpoint}/services/{service}/{operation}[/cancel]`.
//!
//! Segments stay as the caller wrote them: they are cut out of the path, never decoded in place, normalised or
//! collapsed, so that what is forwarded is what was sent.

use std::borrow::Cow;
use std::ops::Range;

use percent_encoding::percent_decode_str;

/// What a request asks of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// Start it.
    Start,
    /// Cancel it; the token is in a header or the query.
    Cancel,
    /// Cancel it in the older form, `…/{operation}/{token}/cancel`.
    LegacyCancel,
}

impl Method {
    /// The name used in metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Cancel | Self::LegacyCancel => "cancel",
        }
    }
}

/// Where the parts of a request path are, as byte ranges of the raw path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// The endpoint's name or id.
    pub endpoint: Range<usize>,
    /// The service.
    pub service: Range<usize>,
    /// The operation.
    pub operation: Range<usize>,
    /// What is asked.
    pub method: Method,
}

/// Why a path is not one that Nexus has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadPath {
    /// No such route.
    Unknown,
    /// A `%` without two hexadecimal digits, or bytes that are not UTF-8 once decoded.
    Escape,
    /// A segment that is `.` or `..`, or decodes to it.
    Dots,
}

impl Path {
    /// Cuts `raw`, the path of a request without its query.
    pub fn parse(raw: &str) -> Result<Self, BadPath> {
        const PREFIX: &str = "/nexus/endpoints/";
        const SERVICES: &str = "services";
        let rest = raw.strip_prefix(PREFIX).ok_or(BadPath::Unknown)?;
        let mut segments = Segments { raw, next: Some(raw.len() - rest.len()) };
        let mut next = || segments.next().ok_or(BadPath::Unknown);

        let endpoint = next()?;
        if &raw[next()?] != SERVICES {
            return Err(BadPath::Unknown);
        }
        let service = next()?;
        let operation = next()?;
        let method = match (segments.next(), segments.next(), segments.next()) {
            (None, ..) => Method::Start,
            (Some(last), None, _) if &raw[last.clone()] == "cancel" => Method::Cancel,
            (Some(token), Some(last), None) if &raw[last.clone()] == "cancel" => {
                check_segment(&raw[token])?;
                Method::LegacyCancel
            }
            _ => return Err(BadPath::Unknown),
        };
        for part in [&endpoint, &service, &operation] {
            check_segment(&raw[part.clone()])?;
        }
        Ok(Self { endpoint, service, operation, method })
    }

    /// `{service}/{operation}` as written: the key of an operation.
    pub fn key<'a>(&self, raw: &'a str) -> &'a str {
        &raw[self.service.start..self.operation.end]
    }

    /// Everything from the service on, to be appended to a target's prefix.
    pub fn tail<'a>(&self, raw: &'a str) -> &'a str {
        &raw[self.service.start..]
    }
}

/// Byte ranges between slashes, from a start on.
struct Segments<'a> {
    raw: &'a str,
    next: Option<usize>,
}

impl Iterator for Segments<'_> {
    type Item = Range<usize>;

    fn next(&mut self) -> Option<Range<usize>> {
        let start = self.next?;
        let end = self.raw[start..].find('/').map_or(self.raw.len(), |length| start + length);
        self.next = (end < self.raw.len()).then_some(end + 1);
        Some(start..end)
    }
}

/// Refuses segments that a later hop could read as another path.
fn check_segment(segment: &str) -> Result<(), BadPath> {
    match &*decode(segment).ok_or(BadPath::Escape)? {
        "" => Err(BadPath::Unknown),
        "." | ".." => Err(BadPath::Dots),
        _ => Ok(()),
    }
}

/// The text that a segment stands for; none where an escape is broken or the bytes are not UTF-8.
pub fn decode(segment: &str) -> Option<Cow<'_, str>> {
    if !segment.contains('%') {
        return Some(Cow::Borrowed(segment));
    }
    well_escaped(segment.as_bytes()).then(|| percent_decode_str(segment).decode_utf8().ok())?
}

/// Whether each `%` is followed by two hexadecimal digits.
pub(super) fn well_escaped(bytes: &[u8]) -> bool {
    let mut rest = bytes.iter();
    while let Some(byte) = rest.next() {
        if *byte == b'%' {
            let two = [rest.next(), rest.next()];
            if !two.iter().all(|digit| digit.is_some_and(u8::is_ascii_hexdigit)) {
                return false;
            }
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parts(raw: &str) -> Result<(&str, &str, &str, Method), BadPath> {
        let path = Path::parse(raw)?;
        Ok((&raw[path.endpoint], &raw[path.service], &raw[path.operation], path.method))
    }

    #[test]
    fn the_three_forms() {
        let base = "/nexus/endpoints/pay/services/Svc/op";
        assert_eq!(parts(base), Ok(("pay", "Svc", "op", Method::Start)));
        assert_eq!(parts(&format!("{base}/cancel")), Ok(("pay", "Svc", "op", Method::Cancel)));
        assert_eq!(parts(&format!("{base}/tok%2Fen/cancel")), Ok(("pay", "Svc", "op", Method::LegacyCancel)));
    }

    #[test]
    fn an_operation_may_have_any_name() {
        for name in ["cancel", "services", "Ser%2Fvic%20e", "a:b@c", "%E2%82%AC", "...", "a%2e"] {
            let raw = format!("/nexus/endpoints/pay/services/{name}/{name}");
            assert_eq!(parts(&raw), Ok(("pay", name, name, Method::Start)));
        }
    }

    #[test]
    fn refuses_what_is_not_a_route() {
        for raw in [
            "/",
            "/nexus/endpoints",
            "/nexus/endpoints/pay",
            "/nexus/endpoints/pay/services",
            "/nexus/endpoints/pay/services/Svc",
            "/nexus/endpoints/pay/services/Svc/",
            "/nexus/endpoints/pay/services//op",
            "/nexus/endpoints//services/Svc/op",
            "/nexus/endpoints/pay/service/Svc/op",
            "/nexus/endpoints/pay/services/Svc/op/",
            "/nexus/endpoints/pay/services/Svc/op/other",
            "/nexus/endpoints/pay/services/Svc/op//cancel",
            "/nexus/endpoints/pay/services/Svc/op/token/cancel/more",
            "//nexus/endpoints/pay/services/Svc/op",
            "/Nexus/endpoints/pay/services/Svc/op",
        ] {
            assert_eq!(parts(raw), Err(BadPath::Unknown), "{raw}");
        }
    }

    #[test]
    fn refuses_dots_and_broken_escapes_in_every_segment() {
        for (bad, why) in [
            (".", BadPath::Dots),
            ("..", BadPath::Dots),
            ("%2e%2E", BadPath::Dots),
            (".%2e", BadPath::Dots),
            ("%", BadPath::Escape),
            ("%2", BadPath::Escape),
            ("%zz", BadPath::Escape),
            ("%ff", BadPath::Escape),
        ] {
            for raw in [
                format!("/nexus/endpoints/{bad}/services/Svc/op"),
                format!("/nexus/endpoints/pay/services/{bad}/op"),
                format!("/nexus/endpoints/pay/services/Svc/{bad}"),
                format!("/nexus/endpoints/pay/services/Svc/op/{bad}/cancel"),
            ] {
                assert_eq!(parts(&raw), Err(why), "{raw}");
            }
        }
    }

    proptest! {
        #[test]
        fn never_panics_and_keeps_every_byte(raw in "(/nexus/endpoints/)?[a-z%2eF./]{0,40}(/services/)?[a-z%2e./]{0,40}") {
            if let Ok(path) = Path::parse(&raw) {
                let rebuilt = format!("/nexus/endpoints/{}/services/{}", &raw[path.endpoint.clone()], path.tail(&raw));
                prop_assert_eq!(rebuilt, raw);
            }
        }
    }
}
