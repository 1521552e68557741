//! What holds for any request path.

use nexus_gateway::nexus::path::{Method, Path, decode};

pub(crate) fn check(input: &[u8]) {
    let Ok(raw) = std::str::from_utf8(input) else { return };
    let Ok(path) = Path::parse(raw) else { return };
    let parts = [&path.endpoint, &path.service, &path.operation].map(|part| &raw[part.clone()]);
    for part in parts {
        assert!(!part.is_empty() && !part.contains('/'), "{part:?} is not a segment");
        let decoded = decode(part).expect("a segment can be decoded");
        assert!(!matches!(&*decoded, "" | "." | ".."), "{part:?} may lead elsewhere");
    }
    let [endpoint, service, operation] = parts;
    let tail = path.tail(raw);
    assert_eq!(format!("/nexus/endpoints/{endpoint}/services/{tail}"), raw, "every byte is kept");
    assert_eq!(path.key(raw), format!("{service}/{operation}"));
    let rest = tail.strip_prefix(path.key(raw)).expect("the tail begins with the key");
    match path.method {
        Method::Start => assert_eq!(rest, ""),
        Method::Cancel => assert_eq!(rest, "/cancel"),
        Method::LegacyCancel => assert!(rest.ends_with("/cancel") && rest.matches('/').count() == 2, "{rest:?}"),
    }
    let forwarded = format!("/nexus/endpoints/other/services/{tail}");
    let again = Path::parse(&forwarded).expect("what is forwarded is a route, too");
    assert_eq!((again.method, again.tail(&forwarded)), (path.method, tail), "the next hop reads the same");
}
