//! A new key, as `nexus-gateway keys new` prints it.

use std::time::SystemTime;

use super::value::{KeyId, Kind};
use crate::callback::seal::Key;

/// An entry of `callbacks.keys` with a random secret, as one line of YAML. Without an id it is called by today's date.
pub fn new_key(id: Option<&str>) -> String {
    let key = Key::generate(&id.map_or_else(todays_id, str::to_owned));
    let text = key.to_text();
    let secret = text.strip_prefix(&*key.id).and_then(|rest| rest.strip_prefix(':')).unwrap_or_default();
    // In quotes, since an id may look like a number.
    format!(r#"- {{ id: "{}", secret: "{secret}" }}"#, key.id)
}

/// Whether a key may be called so, or what to write instead.
pub fn key_id(text: &str) -> Result<String, String> {
    KeyId::from_text(text).map(Into::into)
}

/// `k20261231`, by UTC.
fn todays_id() -> String {
    let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let date: String = now.chars().take_while(|c| *c != 'T').filter(char::is_ascii_digit).collect();
    format!("k{date}")
}
