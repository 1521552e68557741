//! What targets are shown: credentials that nobody else sees, headers that are not somebody else's, and who asks.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use http::header::{AUTHORIZATION, HeaderName, HeaderValue};

use super::tls;
use crate::config::file;
use crate::config::problem::quoted_list;
use crate::config::report::Report;
use crate::config::tree::{item_path, key_path};
use crate::config::value::{Checked, FilePath};
use crate::credentials::{
    CallerHeader, ClientAuth, Credentials, OAuth2Settings, Outward, Pass, PublicKey, SignerSettings, SigningKey,
};
use crate::nexus::{BaseUrl, headers};
use crate::registry::ClusterSettings;
use crate::secret::Secret;
use crate::tls::ClientTlsSettings;

/// Most keys that are published beside the one that signs.
const MAX_PUBLISHED: usize = 10;
/// What a cleartext URL would do.
const CLEARTEXT: &str = "would go over http:// readable, and usable, for everybody on the way; write `https://`, or \
    `allow_cleartext: true` beside the URL where the way is safe by other means";

/// What the target at `urls`, whose settings stand at `path`, is shown.
pub(super) fn outward(
    tls: ClientTlsSettings,
    file: file::Shown,
    urls: &[BaseUrl],
    path: &str,
    report: &mut Report<'_>,
) -> Outward {
    let credentials_path = format!("{path}.credentials");
    refuse_empty(file.credentials.is_none(), &credentials_path, "`bearer`, `header` or `oauth2`", report);
    let allow_cleartext = file.allow_cleartext.unwrap_or(false);
    let refuses_secrets = !allow_cleartext && urls.iter().any(|url| !url.tls && !is_loopback(&url.host));
    let credentials = file.credentials.and_then(|file| {
        if refuses_secrets {
            report.add(&credentials_path, CLEARTEXT);
        }
        credentials(file, allow_cleartext, &credentials_path, report)
    });
    let headers_path = format!("{path}.headers");
    let headers = file.headers.map(|named| named.0).unwrap_or_default();
    let headers = headers.into_iter().filter_map(|(name, value)| {
        let path = key_path(&headers_path, &name);
        let Some(value) = value else {
            // What stands there may be a header and its value, written as one.
            report.add(&headers_path, "has a header without a value; write `NAME: VALUE`, with a space between");
            return None;
        };
        let read = HeaderName::try_from(&name);
        let Ok(name) = read else {
            report.add(&path, "has what is not a header's name; write one such as `x-tenant`");
            return None;
        };
        if let Some(why) = whose(&name) {
            report.add(&path, format!("cannot be set here: {why}"));
        } else if refuses_secrets && report.is_expanded(&path) {
            report.add(&path, format!("may be a secret, and {CLEARTEXT}"));
        }
        Some((name, sensitive(&value.0)?))
    });
    let headers = headers.collect();
    let caller = match file.caller {
        Some(file::CallerHeader::Off) => CallerHeader::Off,
        Some(file::CallerHeader::Signed) => CallerHeader::Signed,
        Some(file::CallerHeader::Header) | None => CallerHeader::Name,
    };
    let pass_path = format!("{path}.pass");
    let pass = pass(file.pass.unwrap_or_default(), &pass_path, report);
    if refuses_secrets && (pass.authorization || pass.cookie) {
        report.add(&pass_path, format!("what callers show {CLEARTEXT}"));
    }
    Outward { tls, credentials, headers, pass, caller }
}

/// How the names of callers are signed.
pub(super) fn callers(file: Option<file::Callers>, report: &mut Report<'_>) -> Option<SignerSettings> {
    let file = file?;
    let published = file.published_keys.map(|list| published(list, report)).unwrap_or_default();
    let Some(key) = file.signing_key else {
        report.add("callers", "lacks `signing_key`; write `signing_key: /PATH/TO/FILE`");
        return None;
    };
    let key = read_key("callers.signing_key", &key.0, SigningKey::read, report)?;
    let issuer = file.issuer.map_or_else(|| "nexus-gateway".into(), |issuer| issuer.0);
    Some(SignerSettings { key, published, issuer })
}

fn published(list: Vec<Option<Checked<FilePath>>>, report: &mut Report<'_>) -> Vec<PublicKey> {
    const PATH: &str = "callers.published_keys";
    if list.is_empty() {
        report.add(PATH, "lists no key; write `/PATH/TO/FILE`, or leave `published_keys` out");
    }
    if list.len() > MAX_PUBLISHED {
        report.add(PATH, format!("has {} keys; write at most {MAX_PUBLISHED}", list.len()));
        return Vec::new();
    }
    let mut known: Vec<(String, PublicKey)> = Vec::new();
    for (index, item) in list.into_iter().enumerate() {
        let path = item_path(PATH, index);
        let Some(file) = item else {
            report.add(&path, "is empty; write `/PATH/TO/FILE`, or remove it");
            continue;
        };
        let Some(key) = read_key(&path, &file.0, PublicKey::read, report) else { continue };
        if let Some((first, _)) = known.iter().find(|(_, other)| *other == key) {
            let message = format!("has the same key as `{first}` ({}); remove one of them", report.place(first));
            report.add(&path, message);
        }
        known.push((path, key));
    }
    known.into_iter().map(|(_, key)| key).collect()
}

fn read_key<K>(path: &str, file: &Path, read: fn(&str) -> Result<K, String>, report: &mut Report<'_>) -> Option<K> {
    let shown = file.display();
    let key = match report.read(file) {
        Ok(pem) => read(&pem).map_err(|why| format!("cannot use `{shown}`: {why}")),
        Err(why) => Err(format!("cannot read `{shown}`: {why}")),
    };
    key.map_err(|message| report.add(path, message)).ok()
}

/// Somebody wants names signed, and nothing signs them.
pub(super) fn refuse_unsigned(
    clusters: &[ClusterSettings],
    externals: &BTreeMap<Box<str>, Outward>,
    signs: bool,
    report: &mut Report<'_>,
) {
    let clusters = clusters.iter().map(|cluster| (key_path("clusters", &cluster.name), &cluster.outward));
    let external = |name: &str| format!("{}.external", key_path("endpoints", name));
    let externals = externals.iter().map(|(name, outward)| (external(name), outward));
    for (path, outward) in clusters.chain(externals) {
        if outward.caller == CallerHeader::Signed && !signs {
            let message = "needs a key; write `callers: { signing_key: /PATH/TO/FILE }` at the top of the file";
            report.add(&format!("{path}.caller"), message);
        }
    }
}

fn credentials(
    file: file::Credentials,
    allow_cleartext: bool,
    path: &str,
    report: &mut Report<'_>,
) -> Option<Credentials> {
    let written =
        [("bearer", file.bearer.is_some()), ("header", file.header.is_some()), ("oauth2", file.oauth2.is_some())];
    let written: Vec<_> = written.into_iter().filter_map(|(key, is)| is.then_some(key)).collect();
    match (file.bearer, file.header, file.oauth2) {
        (Some(token), None, None) => {
            let value = Secret::new(format!("Bearer {}", token.0.reveal()));
            Some(Credentials::Header(AUTHORIZATION, sensitive(&value)?))
        }
        (None, Some(header), None) => header_of(&header, &format!("{path}.header"), report),
        (None, None, Some(oauth2)) => {
            let settings = oauth2_of(oauth2, allow_cleartext, &format!("{path}.oauth2"), report)?;
            Some(Credentials::OAuth2(Box::new(settings)))
        }
        (None, None, None) => {
            report.add(path, "names none; write `bearer`, `header` or `oauth2`");
            None
        }
        _ => {
            report.add(path, format!("has {}; keep one of them", quoted_list(written)));
            None
        }
    }
}

fn header_of(file: &file::CredentialHeader, path: &str, report: &mut Report<'_>) -> Option<Credentials> {
    let (Some(name), Some(value)) = (&file.name, &file.value) else {
        report.add(path, "lacks `name` or `value`; write both");
        return None;
    };
    if let Some(why) = whose(&name.0).filter(|_| name.0 != AUTHORIZATION) {
        report.add(&format!("{path}.name"), format!("cannot be set here: {why}"));
    }
    Some(Credentials::Header(name.0.clone(), sensitive(&value.0)?))
}

fn oauth2_of(file: file::OAuth2, allow_cleartext: bool, path: &str, report: &mut Report<'_>) -> Option<OAuth2Settings> {
    let tls_path = format!("{path}.tls");
    let tls = file.tls.map(|tls| tls::client(tls, &tls_path, report)).unwrap_or_default();
    let (Some(url), Some(client_id), Some(secret)) = (file.token_url, file.client_id, file.client_secret) else {
        report.add(path, "lacks `token_url`, `client_id` or `client_secret`; write all three");
        return None;
    };
    let is_loopback = url.0.host().is_some_and(is_loopback);
    if url.0.scheme_str() == Some("http") && !is_loopback && !allow_cleartext {
        report.add(&format!("{path}.token_url"), format!("the client's secret {CLEARTEXT}"));
    }
    Some(OAuth2Settings {
        token_url: url.0,
        client_id: client_id.0,
        client_secret: secret.0,
        client_auth: match file.client_auth {
            Some(file::ClientAuth::Body) => ClientAuth::Body,
            Some(file::ClientAuth::Basic) | None => ClientAuth::Basic,
        },
        scope: file.scope.map(|scope| scope.0),
        audience: file.audience.map(|audience| audience.0),
        tls,
    })
}

fn pass(list: Vec<Option<file::Passed>>, path: &str, report: &mut Report<'_>) -> Pass {
    let mut pass = Pass::default();
    for (index, passed) in list.into_iter().enumerate() {
        match passed {
            Some(file::Passed::Authorization) => pass.authorization = true,
            Some(file::Passed::Cookie) => pass.cookie = true,
            None => report.add(&item_path(path, index), "is empty; write `authorization` or `cookie`, or remove it"),
        }
    }
    pass
}

/// Why a header is not the configuration's to set.
fn whose(name: &HeaderName) -> Option<&'static str> {
    let name = name.as_str();
    if headers::is_hop_by_hop(name) || name == "host" || name == "expect" {
        Some("it belongs to one connection, which the gateway makes")
    } else if name.starts_with("content-") {
        Some("it describes the payload, and a changed one breaks callers")
    } else if name.starts_with("nexus-") || name == "request-timeout" || name == "operation-timeout" {
        Some("it belongs to the Nexus protocol")
    } else if name.starts_with("temporal-") || headers::steers_temporal(name) {
        Some("it steers Temporal")
    } else if name == "authorization" {
        Some("it is a credential; write it under `credentials`")
    } else {
        None
    }
}

fn refuse_empty(is_none: bool, path: &str, what: &str, report: &mut Report<'_>) {
    if is_none && report.is_written(path) {
        report.add(path, format!("has no value; write {what} below it, or remove it"));
    }
}

fn sensitive(value: &Secret) -> Option<HeaderValue> {
    headers::sensitive(value.reveal().as_bytes())
}

pub(super) fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}
