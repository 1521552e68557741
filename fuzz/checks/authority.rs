//! What holds for any URL of a target, token issuer or key set.

use nexus_gateway::nexus::BaseUrl;

pub(crate) fn check(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Ok(url) = BaseUrl::parse(text) else { return };
    assert!(!url.host.is_empty() && url.port != 0, "{text:?} has no place to connect to");
    assert!(!text.contains(['#', '?']), "{text:?} has more than a base URL has");
    let authority = url.authority();
    let stray = |byte: u8| byte.is_ascii_control() || matches!(byte, b' ' | b'/' | b'\\' | b'@');
    assert!(!authority.bytes().any(stray), "{authority:?} is no Host header");
    assert!(url.path.is_empty() || (url.path.starts_with('/') && !url.path.ends_with('/')), "{:?}", url.path);
    let written = url.to_string();
    assert_eq!(BaseUrl::parse(&written).as_ref(), Ok(&url), "{written:?} is read as what it was written for");
}
