//! Callbacks: keys that can be told apart, destinations, and what is of no use without a public URL.

use crate::callback::CallbackSettings;
use crate::callback::destination::Allowed;
use crate::callback::seal::Key;
use crate::config::file;
use crate::config::problem::quoted_list;
use crate::config::report::Report;
use crate::config::settings::targets::known_cluster;
use crate::config::settings::tls;
use crate::config::shape::Allow;
use crate::config::tree::item_path;
use crate::registry::ClusterSettings;

/// What holds for completions.
pub(super) fn build(
    file: Option<file::Callbacks>,
    clusters: &[ClusterSettings],
    report: &mut Report<'_>,
) -> CallbackSettings {
    let file = file.unwrap_or_default();
    refuse_without_url(&file, report);
    let default = CallbackSettings::default();
    CallbackSettings {
        public_url: file.public_url.map(|url| url.0),
        keys: file.keys.map(|list| keys(list, report)).unwrap_or_default(),
        allow: file.allow.map(|list| allow(list, report)).unwrap_or_default(),
        seal_token: file.seal_token.unwrap_or(default.seal_token),
        expires_after: file.expires_after.map_or(default.expires_after, |value| value.0),
        home: file.home.and_then(|home| known_cluster(&home.0, "callbacks.home", clusters, report)),
    }
}

/// All but `home` is for completions that come back to the public URL, and keys for tokens of operations as well, also for
/// those that were sealed before.
fn refuse_without_url(file: &file::Callbacks, report: &mut Report<'_>) {
    if file.public_url.is_some() || report.is_known_bad("callbacks") {
        return;
    }
    let set = [
        ("allow", file.allow.is_some()),
        ("seal_token", file.seal_token.is_some()),
        ("expires_after", file.expires_after.is_some()),
    ];
    for (key, _) in set.into_iter().filter(|(_, is_set)| *is_set) {
        let message = "is of no use without a public URL; write `public_url: http://HOST:PORT` beside it, or remove it";
        report.add(&format!("callbacks.{key}"), message);
    }
}

fn keys(list: Vec<Option<file::SealKey>>, report: &mut Report<'_>) -> Vec<Key> {
    if list.is_empty() {
        report.add("callbacks.keys", "lists no key; make one with `nexus-gateway keys new`, or leave `keys` out");
    }
    let mut known: Vec<(String, Box<str>, [u8; 32])> = Vec::new();
    for (index, item) in list.into_iter().map(Option::unwrap_or_default).enumerate() {
        let path = item_path("callbacks.keys", index);
        let (Some(id), Some(secret)) = (&item.id, &item.secret) else {
            report.add(&path, lacks(&item));
            continue;
        };
        let (id, secret) = (id.0.clone(), secret.0);
        if let Some((first, ..)) = known.iter().find(|(_, other, _)| *other == id) {
            let message = format!("the same id as `{first}` has ({}); write another one", report.place(first));
            report.add(&format!("{path}.id"), message);
        }
        if let Some((first, ..)) = known.iter().find(|(.., other)| *other == secret) {
            let message = format!("the same secret as `{first}` has ({}); remove one of the keys", report.place(first));
            report.add(&format!("{path}.secret"), message);
        }
        known.push((path, id, secret));
    }
    known.into_iter().map(|(_, id, secret)| Key::new(&id, secret)).collect()
}

fn lacks(key: &file::SealKey) -> String {
    let missing = [("id", key.id.is_none()), ("secret", key.secret.is_none())];
    let missing = missing.into_iter().filter_map(|(name, missing)| missing.then_some(name));
    format!("lacks {}; make a key with `nexus-gateway keys new`", quoted_list(missing))
}

fn allow(list: Vec<Option<Allow>>, report: &mut Report<'_>) -> Vec<Allowed> {
    let items = list.into_iter().enumerate();
    items.filter_map(|(index, item)| allowed(item, item_path("callbacks.allow", index), report)).collect()
}

fn allowed(item: Option<Allow>, path: String, report: &mut Report<'_>) -> Option<Allowed> {
    let (url, private, tls, path, tls_path) = match item {
        None => {
            report.add(&path, "is empty; write `http://HOST:PORT`, or remove it");
            return None;
        }
        Some(Allow::Url(url)) => (url, false, None, path, String::new()),
        Some(Allow::Keys(file::AllowKeys { url: Some(url), private, tls })) => {
            (url, private.unwrap_or(false), tls, format!("{path}.url"), format!("{path}.tls"))
        }
        Some(Allow::Keys(_)) => {
            report.add(&path, "has no URL; write `url: http://HOST:PORT`");
            return None;
        }
    };
    let allowed = Allowed::new(&url.0, private).map_err(|why| report.add_about(&path, &why)).ok();
    let Some(tls) = tls else { return allowed };
    if let Some(allowed) = allowed.as_ref().filter(|allowed| !allowed.is_tls()) {
        let message =
            format!("is of no use: the URL beside it is `{allowed}`; write `https://` there, or remove `tls`");
        report.add(&tls_path, message);
    }
    let tls = tls::client(tls, &tls_path, report);
    allowed.map(|allowed| allowed.met_by(tls))
}
