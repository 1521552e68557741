//! What holds for any request path.

use nexus_gateway::nexus::path::{BadPath, Method, Path, Route, decode};

pub(crate) fn check(input: &[u8]) {
    let Ok(raw) = std::str::from_utf8(input) else { return };
    let route = Route::parse(raw);
    let Ok(path) = Path::parse(raw) else { return check_completion(raw, route) };
    assert_eq!(route.as_ref(), Ok(&Route::Operation(path.clone())));
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
        Method::Complete => unreachable!("no operation's path asks for this"),
        Method::LegacyCancel => {
            let token = path.token.clone().expect("the older form has its token in the path");
            assert_eq!(rest, format!("/{}/cancel", &raw[token]));
        }
    }
    let forwarded = format!("/nexus/endpoints/other/services/{tail}");
    let again = Path::parse(&forwarded).expect("what is forwarded is a route, too");
    assert_eq!((again.method, again.tail(&forwarded)), (path.method, tail), "the next hop reads the same");
}

fn check_completion(raw: &str, route: Result<Route, BadPath>) {
    let (rebuilt, segment) = match route {
        Ok(Route::Relay { sealed }) => (format!("/nexus/callback/{}", &raw[sealed.clone()]), sealed),
        Ok(Route::NamespaceCallback { namespace }) => {
            (format!("/namespaces/{}/nexus/callback", &raw[namespace.clone()]), namespace)
        }
        Ok(Route::HomeCallback) => return assert_eq!(raw, "/nexus/callback"),
        Ok(Route::Operation(_)) => panic!("{raw:?} is no operation"),
        Err(_) => return,
    };
    assert_eq!(rebuilt, raw, "every byte is kept");
    let decoded = decode(&raw[segment]).expect("a segment can be decoded");
    assert!(!matches!(&*decoded, "" | "." | ".."), "{raw:?} may lead elsewhere");
}
