//! What holds for any query with a callback: two texts, parted by a line feed, the query and the new URL.

use nexus_gateway::nexus::callback::{callback_of, with_callback};

pub(crate) fn check(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let (query, new) = text.split_once('\n').unwrap_or((text, "http://a/?b=c&d+e"));
    if let Some(old) = callback_of(Some(query)) {
        assert!(!old.is_empty(), "an empty callback is none");
    }
    let replaced = with_callback(query, new);
    assert_eq!(callback_of(Some(&replaced)).unwrap_or_default(), new, "what is put in is read again");
    assert_eq!(with_callback(&replaced, new), replaced, "and once is enough");
    let others = |query: &str| -> Vec<String> {
        query.split('&').filter(|pair| !is_callback(pair)).map(str::to_owned).collect()
    };
    assert_eq!(replaced.split('&').count(), others(&replaced).len() + 1, "there is one callback");
    if !query.is_empty() {
        assert_eq!(others(&replaced), others(query), "every other byte is kept");
    }
}

/// Whether the pair's name is that of the callback, whatever its value.
fn is_callback(pair: &str) -> bool {
    let (key, _) = pair.split_once('=').unwrap_or((pair, ""));
    callback_of(Some(&format!("{key}=x"))).is_some()
}
