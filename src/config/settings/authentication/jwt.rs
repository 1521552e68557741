//! Issuers of tokens: each once, with keys that can be read.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::header::AUTHORIZATION;

use crate::admission::authenticate::{Algorithm, ClaimPath, IdentityPattern, JwksUrl, JwtSettings, KeySet, KeySource};
use crate::config::file;
use crate::config::problem::quoted_list;
use crate::config::report::Report;
use crate::config::settings::outward::is_loopback;
use crate::config::settings::tls;
use crate::config::shape::OneOrMore;
use crate::config::tree::item_path;
use crate::config::value::{AlgorithmName, Checked, Kind};

const PATH: &str = "authentication.jwt";

/// More than anybody trusts; each of them could say of anybody that it is any caller.
const MAX_ISSUERS: usize = 16;

/// What issuers sign with by default.
const ALGORITHMS: [Algorithm; 3] = [Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa];

/// Time between two fetches by default.
const EVERY: Duration = Duration::from_secs(300);

/// How long a fetched set holds by default.
const MAX_AGE: Duration = Duration::from_secs(24 * 3600);

const LEEWAY: Duration = Duration::from_secs(30);

pub(super) fn build(list: Vec<Option<file::Jwt>>, report: &mut Report<'_>) -> Vec<JwtSettings> {
    if list.is_empty() {
        report.add(PATH, "lists no issuer; write `- issuer:`, `audience:` and `jwks:` below it, or remove it");
    }
    if list.len() > MAX_ISSUERS {
        report.add(PATH, format!("has {} issuers; write at most {MAX_ISSUERS}", list.len()));
    }
    let mut first_with: Vec<(Arc<str>, String)> = Vec::new();
    let mut issuers = Vec::new();
    for (index, item) in list.into_iter().take(MAX_ISSUERS).enumerate() {
        let (item, path) = (item.unwrap_or_default(), item_path(PATH, index));
        if let Some(Checked(issuer)) = &item.issuer {
            if let Some((_, first)) = first_with.iter().find(|(known, _)| known == issuer) {
                let message = format!("is that of `{first}` as well ({}); remove one of them", report.place(first));
                report.add_about(&format!("{path}.issuer"), &message);
            }
            first_with.push((Arc::clone(issuer), path.clone()));
        }
        issuers.extend(issuer(item, &path, report));
    }
    issuers
}

/// None where something is wrong, and was said.
fn issuer(file: file::Jwt, path: &str, report: &mut Report<'_>) -> Option<JwtSettings> {
    let missing =
        [("issuer", file.issuer.is_none()), ("audience", file.audience.is_none()), ("jwks", file.jwks.is_none())];
    let missing: Vec<_> = missing.into_iter().filter_map(|(name, missing)| missing.then_some(name)).collect();
    if !missing.is_empty() {
        report.add(path, format!("lacks {}; each of them is mandatory", quoted_list(missing)));
    }
    let audience = file.audience.and_then(|list| names(list, &format!("{path}.audience"), report));
    let algorithms = algorithms(file.algorithms, &format!("{path}.algorithms"), report);
    let keys = file.jwks.and_then(|file| jwks(file, &format!("{path}.jwks"), report));
    let name = match file.name {
        None => Some(vec!["sub".into()]),
        Some(list) => names(list, &format!("{path}.name"), report),
    };
    let namespace = file.namespace.map(|list| names(list, &format!("{path}.namespace"), report));
    let pattern = file.pattern.map_or_else(IdentityPattern::whole, |pattern| pattern.0);
    if pattern.has_namespace() && namespace.is_some() {
        let message = format!("says where the namespace stands, and so does `{path}.namespace`; remove one of them");
        report.add_about(&format!("{path}.pattern"), &message);
    }
    Some(JwtSettings {
        issuer: file.issuer?.0,
        audience: audience?,
        algorithms: algorithms?,
        keys: keys?,
        header: file.header.map_or(AUTHORIZATION, |header| header.0),
        name: ClaimPath::new(name?),
        pattern,
        namespace: match namespace {
            None => None,
            Some(names) => Some(ClaimPath::new(names?)),
        },
        leeway: file.leeway.map_or(LEEWAY, |leeway| leeway.0),
    })
}

/// At least one.
fn names<K: Kind<Value = Box<str>>>(list: OneOrMore<K>, path: &str, report: &mut Report<'_>) -> Option<Vec<Box<str>>> {
    filled(list.0, path, K::EXPECTED, report)
}

fn algorithms(
    list: Option<Vec<Option<Checked<AlgorithmName>>>>,
    path: &str,
    report: &mut Report<'_>,
) -> Option<Vec<Algorithm>> {
    let Some(list) = list else { return Some(ALGORITHMS.into()) };
    filled(list, path, AlgorithmName::EXPECTED, report)
}

/// The items of a list of which none is empty, nor the list.
fn filled<K: Kind>(
    list: Vec<Option<Checked<K>>>,
    path: &str,
    expected: &str,
    report: &mut Report<'_>,
) -> Option<Vec<K::Value>> {
    if list.is_empty() {
        report.add(path, format!("is an empty list; write {expected}, or remove it"));
        return None;
    }
    if let Some(empty) = list.iter().position(Option::is_none) {
        report.add(&item_path(path, empty), format!("is empty; write {expected}, or remove it"));
    }
    list.into_iter().map(|item| item.map(|item| item.0)).collect()
}

fn jwks(file: file::Jwks, path: &str, report: &mut Report<'_>) -> Option<KeySource> {
    match (file.file, file.url) {
        (Some(file), None) => read(&file.0, &format!("{path}.file"), report).map(KeySource::Set),
        (None, Some(Checked(url))) => {
            let is_loopback = url.host().is_some_and(is_loopback);
            if url.scheme_str() == Some("http") && !is_loopback {
                let message = "lets everybody on the way change the keys; write `https://`";
                report.add_about(&format!("{path}.url"), message);
            }
            let tls = file.tls.map(|tls| tls::client(tls, &format!("{path}.tls"), report)).unwrap_or_default();
            Some(KeySource::Url(JwksUrl {
                url,
                every: file.every.map_or(EVERY, |every| every.0),
                max_age: file.max_age.map_or(MAX_AGE, |max_age| max_age.0),
                tls,
                bearer: file.bearer.map(|bearer| bearer.0),
            }))
        }
        _ => {
            report.add(path, "has to be one of `file: /PATH/TO/FILE` and `url: https://HOST/PATH`");
            None
        }
    }
}

fn read(file: &Path, path: &str, report: &mut Report<'_>) -> Option<KeySet> {
    let shown = file.display();
    let set = match report.read(file) {
        Ok(text) => KeySet::read(&text).map_err(|why| format!("`{shown}` {why}")),
        Err(why) => Err(format!("cannot read `{shown}`: {why}; it has to be a JSON Web Key Set")),
    };
    set.map_err(|why| report.add(path, why)).ok()
}
