//! What holds for any `Nexus-Link` line.

use nexus_gateway::nexus::link::is_valid;

pub(crate) fn check(input: &[u8]) {
    let Ok(line) = std::str::from_utf8(input) else { return };
    let valid = is_valid(line);
    assert_eq!(valid, line.split(',').all(is_valid), "a line is as good as its links");
    assert_eq!(valid, is_valid(&format!("{line},{line}")), "two good lines make one");
    assert!(!is_valid(&format!("{line},")), "an empty link is none");
    if valid {
        for link in line.split(',').map(str::trim) {
            let (url, parameters) = link.split_once('>').expect("the URL ends");
            assert!(url.len() > 1 && url.starts_with('<'), "{link:?} has no URL");
            // Go does not look at a fragment's.
            let (url, _) = url.split_once('#').unwrap_or((url, ""));
            assert!(!url[1..].trim().bytes().any(|byte| byte.is_ascii_control()), "{link:?} would not be read by Go");
            assert!(parameters.split(';').any(|one| one.trim_start().starts_with("type")), "{link:?} has no type");
        }
    }
}
