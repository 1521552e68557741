//! Issuers of tokens: each once, with keys that can be read.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::header::AUTHORIZATION;

use crate::admission::authenticate::{Algorithm, ClaimPath, IdentityPattern, JwtSettings, KeySet};
use crate::config::file;
use crate::config::problem::quoted_list;
use crate::config::report::Report;
use crate::config::shape::OneOrMore;
use crate::config::tree::item_path;
use crate::config::value::{AlgorithmName, Checked, Kind};

const PATH: &str = "authentication.jwt";

/// More than anybody trusts; each of them could say of anybody that it is any caller.
const MAX_ISSUERS: usize = 16;

/// What issuers sign with by default.
const ALGORITHMS: [Algorithm; 3] = [Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa];

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

fn jwks(file: file::Jwks, path: &str, report: &mut Report<'_>) -> Option<KeySet> {
    let Some(Checked(file)) = file.file else {
        report.add(path, "says nothing of the keys; write `file: /PATH/TO/FILE` below it");
        return None;
    };
    read(&file, &format!("{path}.file"), report)
}

fn read(file: &Path, path: &str, report: &mut Report<'_>) -> Option<KeySet> {
    let shown = file.display();
    let set = match report.read(file) {
        Ok(text) => KeySet::read(&text).map_err(|why| format!("`{shown}` {why}")),
        Err(why) => Err(format!("cannot read `{shown}`: {why}; it has to be a JSON Web Key Set")),
    };
    set.map_err(|why| report.add(path, why)).ok()
}
