//! Request paths: `/nexus/endpoints/{endpoint}/services/{service}/{operation}[/cancel]`, and those of completions.
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
    /// Tell how it ended.
    Complete,
}

impl Method {
    /// The name used in metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Cancel | Self::LegacyCancel => "cancel",
            Self::Complete => "complete",
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
    /// The token of a cancel in the older form.
    pub token: Option<Range<usize>>,
}

/// What a path leads to. Ranges are of the raw path, percent-encoded as the caller wrote them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// An operation: `/nexus/endpoints/…`.
    Operation(Path),
    /// A completion on its way back through the gateway: `/nexus/callback/{sealed}`.
    Relay {
        /// What was sealed on the start, one segment.
        sealed: Range<usize>,
    },
    /// A completion for the home cluster that says in its token whose it is: `/nexus/callback`.
    HomeCallback,
    /// A completion for a namespace of the home cluster: `/namespaces/{ns}/nexus/callback`.
    NamespaceCallback {
        /// The namespace, one segment.
        namespace: Range<usize>,
    },
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
        let mut token = None;
        let method = match (segments.next(), segments.next(), segments.next()) {
            (None, ..) => Method::Start,
            (Some(last), None, _) if &raw[last.clone()] == "cancel" => Method::Cancel,
            (Some(segment), Some(last), None) if &raw[last.clone()] == "cancel" => {
                check_segment(&raw[segment.clone()])?;
                token = Some(segment);
                Method::LegacyCancel
            }
            _ => return Err(BadPath::Unknown),
        };
        for part in [&endpoint, &service, &operation] {
            check_segment(&raw[part.clone()])?;
        }
        Ok(Self { endpoint, service, operation, method, token })
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

impl Route {
    /// Finds out what `raw`, the path of a request without its query, leads to.
    pub fn parse(raw: &str) -> Result<Self, BadPath> {
        const CALLBACK: &str = "/nexus/callback";
        const NAMESPACES: &str = "/namespaces/";
        // Operations are what most requests are for: what is not one is found out afterwards.
        match Path::parse(raw) {
            Err(BadPath::Unknown) => {}
            found => return found.map(Self::Operation),
        }
        if raw == CALLBACK {
            return Ok(Self::HomeCallback);
        }
        if let Some(sealed) = raw.strip_prefix(CALLBACK).and_then(|rest| rest.strip_prefix('/')) {
            return Ok(Self::Relay { sealed: whole_segment(raw, raw.len() - sealed.len()..raw.len())? });
        }
        let namespace = raw.strip_prefix(NAMESPACES).and_then(|rest| rest.strip_suffix(CALLBACK));
        let namespace = namespace.ok_or(BadPath::Unknown)?;
        let range = NAMESPACES.len()..NAMESPACES.len() + namespace.len();
        Ok(Self::NamespaceCallback { namespace: whole_segment(raw, range)? })
    }
}

fn whole_segment(raw: &str, range: Range<usize>) -> Result<Range<usize>, BadPath> {
    let segment = &raw[range.clone()];
    if segment.contains('/') {
        return Err(BadPath::Unknown);
    }
    check_segment(segment).map(|()| range)
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
    let decoded = decode(segment).ok_or(BadPath::Escape)?;
    if decoded.is_empty() {
        return Err(BadPath::Unknown);
    }
    // Slashes that are escaped belong to a name here, and may not to a hop that decodes before it resolves dots.
    if decoded.split(['/', '\\']).any(|part| matches!(part, "." | "..")) { Err(BadPath::Dots) } else { Ok(()) }
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
            ("..%2Fother%2Fop", BadPath::Dots),
            ("a%5c..", BadPath::Dots),
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

    #[test]
    fn the_token_of_an_older_cancel_has_its_range() {
        let raw = "/nexus/endpoints/pay/services/Svc/op/tok%2Fen/cancel";
        assert_eq!(Path::parse(raw).unwrap().token.map(|token| &raw[token]), Some("tok%2Fen"));
        assert_eq!(Path::parse("/nexus/endpoints/pay/services/Svc/op/cancel").unwrap().token, None);
    }

    #[test]
    fn completions_have_three_routes() {
        let sealed = |raw: &'static str| match Route::parse(raw) {
            Ok(Route::Relay { sealed }) => Ok(&raw[sealed]),
            other => Err(other),
        };
        assert_eq!(sealed("/nexus/callback/AbC-_9"), Ok("AbC-_9"));
        assert_eq!(sealed("/nexus/callback/a%2Fb"), Ok("a%2Fb"));
        assert_eq!(Route::parse("/nexus/callback"), Ok(Route::HomeCallback));
        let raw = "/namespaces/pay%20ments/nexus/callback";
        let Ok(Route::NamespaceCallback { namespace }) = Route::parse(raw) else { panic!("{raw}") };
        assert_eq!(&raw[namespace], "pay%20ments");
        let raw = "/nexus/endpoints/callback/services/nexus/callback";
        assert_eq!(Route::parse(raw), Path::parse(raw).map(Route::Operation));
    }

    #[test]
    fn nothing_near_a_route_is_one() {
        for raw in [
            "",
            "/nexus",
            "/nexus/callback/",
            "/nexus/callback/a/",
            "/nexus/callback/a/b",
            "/nexus/callbacks",
            "/nexus/callbacka",
            "//nexus/callback",
            "/Nexus/callback",
            "/namespaces/nexus/callback",
            "/namespaces//nexus/callback",
            "/namespaces/a/b/nexus/callback",
            "/namespaces/a/nexus/callback/b",
            "/namespaces/nexus/callback/nexus",
            "/nexus/endpoints/pay/services/Svc",
        ] {
            assert_eq!(Route::parse(raw), Err(BadPath::Unknown), "{raw}");
        }
        for (bad, why) in
            [("..", BadPath::Dots), ("%2e", BadPath::Dots), ("%f", BadPath::Escape), ("%ff", BadPath::Escape)]
        {
            for raw in [
                format!("/nexus/callback/{bad}"),
                format!("/namespaces/{bad}/nexus/callback"),
                format!("/nexus/endpoints/pay/services/Svc/{bad}"),
            ] {
                assert_eq!(Route::parse(&raw), Err(why), "{raw}");
            }
        }
    }

    proptest! {
        #[test]
        fn a_route_never_panics(raw in "(/nexus|/namespaces)?[a-z%2eF./é]{0,20}(/nexus)?(/callback)?[a-z%2e./é]{0,20}") {
            match Route::parse(&raw) {
                Ok(Route::Relay { sealed }) => prop_assert_eq!(format!("/nexus/callback/{}", &raw[sealed]), raw),
                Ok(Route::NamespaceCallback { namespace }) => {
                    prop_assert_eq!(format!("/namespaces/{}/nexus/callback", &raw[namespace]), raw);
                }
                Ok(Route::HomeCallback) => prop_assert_eq!(raw, "/nexus/callback"),
                Ok(Route::Operation(path)) => prop_assert_eq!(Path::parse(&raw), Ok(path)),
                // The reason may be another one: of a callback's path only a route knows what is wrong with it.
                Err(_) => prop_assert!(Path::parse(&raw).is_err()),
            }
        }

        #[test]
        fn never_panics_and_keeps_every_byte(raw in "(/nexus/endpoints/)?[a-z%2eF./]{0,40}(/services/)?[a-z%2e./]{0,40}") {
            if let Ok(path) = Path::parse(&raw) {
                let rebuilt = format!("/nexus/endpoints/{}/services/{}", &raw[path.endpoint.clone()], path.tail(&raw));
                prop_assert_eq!(rebuilt, raw);
            }
        }
    }
}
