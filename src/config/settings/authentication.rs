//! Authentication: something to know callers by, keys that can be told apart, and issuers of tokens.

use std::collections::HashMap;
use std::num::NonZeroU32;

use http::HeaderName;

use crate::admission::AuthenticationSettings;
use crate::admission::authenticate::{ApiKey, ApiKeySettings, CertificateRule, Field};
use crate::config::file;
use crate::config::problem::quoted_list;
use crate::config::report::Report;
use crate::config::tree::item_path;
use crate::config::value::Checked;

mod jwt;

/// Rules are tried one after the other.
const MAX_RULES: usize = 100;
/// Above any real number of callers; a look-up's cost does not depend on it.
const MAX_KEYS: usize = 10_000;

/// By what callers are known; none where nothing is said of it.
pub(super) fn build(file: Option<file::Authentication>, report: &mut Report<'_>) -> Option<AuthenticationSettings> {
    let file = file?;
    if file.certificates.is_none() && file.api_keys.is_none() && file.jwt.is_none() {
        let message = "knows callers by nothing; write `certificates:`, `api_keys:` or `jwt:` below it, or remove it";
        report.add("authentication", message);
    }
    let certificates = file.certificates.map(|list| certificates(list, report)).unwrap_or_default();
    let api_keys = file.api_keys.map(|file| api_keys(file, report));
    let jwt = file.jwt.map(|list| jwt::build(list, report)).unwrap_or_default();
    let mut settings = AuthenticationSettings { certificates, api_keys, jwt, ..AuthenticationSettings::default() };
    if let Some(Checked(max)) = file.max_wrong_per_peer {
        settings.max_wrong_per_peer = max.and_then(|max| NonZeroU32::new(u32::try_from(max).unwrap_or(u32::MAX)));
    }
    Some(settings)
}

fn certificates(list: Vec<Option<file::CertificateRule>>, report: &mut Report<'_>) -> Vec<CertificateRule> {
    let path = "authentication.certificates";
    if list.is_empty() {
        report.add(
            path,
            "has no rules; write `- spiffe: 'spiffe://TRUST-DOMAIN/ns/{namespace}/sa/{name}'`, or remove it",
        );
    }
    if list.len() > MAX_RULES {
        report.add(path, format!("has {} rules; write at most {MAX_RULES}", list.len()));
    }
    let items = list.into_iter().take(MAX_RULES).map(Option::unwrap_or_default).enumerate();
    items.filter_map(|(index, item)| certificate(item, &item_path(path, index), report)).collect()
}

fn certificate(file: file::CertificateRule, path: &str, report: &mut Report<'_>) -> Option<CertificateRule> {
    let file::CertificateRule { spiffe, dns, subject, common_name } = file;
    let fields =
        [(Field::Spiffe, spiffe), (Field::Dns, dns), (Field::Subject, subject), (Field::CommonName, common_name)];
    let mut written = fields.into_iter().filter_map(|(field, pattern)| Some((field, pattern?.0)));
    let (first, second) = (written.next(), written.next());
    if first.is_none() || second.is_some() {
        let message = "has to be one of `spiffe`, `dns`, `subject` and `common_name`; write several rules for several";
        report.add(path, message);
    }
    first.map(|(field, pattern)| CertificateRule { field, pattern })
}

fn api_keys(file: file::ApiKeys, report: &mut Report<'_>) -> ApiKeySettings {
    let path = "authentication.api_keys";
    let header = file.header.map_or(HeaderName::from_static("x-api-key"), |header| header.0);
    let list = file.keys.unwrap_or_default();
    if list.is_empty() {
        report
            .add(path, "has no keys; make one with `nexus-gateway keys api` and list it below `keys:`, or remove this");
    }
    if list.len() > MAX_KEYS {
        report.add(&format!("{path}.keys"), format!("has {} keys; write at most {MAX_KEYS}", list.len()));
    }
    ApiKeySettings { header, keys: keys(list, &format!("{path}.keys"), report) }
}

fn keys(list: Vec<Option<file::ApiKey>>, path: &str, report: &mut Report<'_>) -> Vec<ApiKey> {
    let mut known: Vec<ApiKey> = Vec::new();
    let mut first_with: HashMap<[u8; 32], String> = HashMap::new();
    for (index, item) in list.into_iter().take(MAX_KEYS).enumerate() {
        let (item, path) = (item.unwrap_or_default(), item_path(path, index));
        let (Some(name), Some(sha256)) = (&item.name, &item.sha256) else {
            report.add(&path, lacks(&item));
            continue;
        };
        if let Some(first) = first_with.get(&sha256.0) {
            let message = format!("the same hash as `{first}` has ({}); remove one of them", report.place(first));
            report.add(&format!("{path}.sha256"), message);
        }
        first_with.entry(sha256.0).or_insert(path);
        let namespace = item.namespace.map(|namespace| namespace.0);
        known.push(ApiKey { name: name.0.clone(), namespace, sha256: sha256.0 });
    }
    known
}

fn lacks(key: &file::ApiKey) -> String {
    let missing = [("name", key.name.is_none()), ("sha256", key.sha256.is_none())];
    let missing = missing.into_iter().filter_map(|(name, missing)| missing.then_some(name));
    format!("lacks {}; make a key with `nexus-gateway keys api`", quoted_list(missing))
}
