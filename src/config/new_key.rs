//! A new key, as `nexus-gateway keys new` prints it.

use std::fmt::Write as _;
use std::time::SystemTime;

use super::value::{CallerNamespace, IdentityName, KeyId, Kind};
use crate::admission::authenticate::NewApiKey;
use crate::callback::seal::Key;

/// An entry of `callbacks.keys` with a random secret, as one line of YAML. Without an id it is called by today's date.
pub fn new_key(id: Option<&str>) -> String {
    let key = Key::generate(&id.map_or_else(todays_id, str::to_owned));
    let text = key.to_text();
    let secret = text.strip_prefix(&*key.id).and_then(|rest| rest.strip_prefix(':')).unwrap_or_default();
    // In quotes, since an id may look like a number.
    format!(r#"- {{ id: "{}", secret: "{secret}" }}"#, key.id)
}

/// A new API key, in both its forms.
pub struct NewApiKeyEntry {
    /// What its caller gets; nothing keeps it.
    pub text: String,
    /// An entry of `authentication.api_keys.keys`, as one line of YAML, with the key's hash.
    pub entry: String,
}

/// A random key for a caller; none where it cannot be called so.
pub fn new_api_key(name: &str, namespace: Option<&str>) -> Option<NewApiKeyEntry> {
    let NewApiKey { text, key } = NewApiKey::generate(name, namespace)?;
    let namespace = namespace.map(|namespace| format!("namespace: {}, ", quoted(namespace))).unwrap_or_default();
    let mut entry = format!("- {{ name: {}, {namespace}sha256: \"", quoted(name));
    for byte in key.sha256 {
        // Writing to a text cannot fail.
        let _ = write!(entry, "{byte:02x}");
    }
    entry.push_str("\" }");
    Some(NewApiKeyEntry { text, entry })
}

/// Printable text in quotes of YAML, which no `$` expands.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('$', "$$"))
}

/// Whether a caller may be called so, or what to write instead.
pub fn caller_name(text: &str) -> Result<String, String> {
    IdentityName::from_text(text).map(|name| name.to_string())
}

/// Whether a caller's namespace may be called so, or what to write instead.
pub fn caller_namespace(text: &str) -> Result<String, String> {
    CallerNamespace::from_text(text).map(|namespace| namespace.to_string())
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
