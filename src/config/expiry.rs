//! When the certificates that are shown expire.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::Settings;
use super::tree::{item_path, key_path};
use crate::admission::authenticate::KeySource;
use crate::credentials::Credentials;
use crate::tls::{ClientTlsSettings, KeyPair};

/// So long before, an operator is warned.
const SOON: i64 = 14 * DAY;
/// In seconds.
const DAY: i64 = 86_400;

/// What certificates are for (`listen[0]`, `admin`, `clusters.home`, `endpoints.partner`, and below some of them
/// `credentials.oauth2`), each with when the first of those there expires, in seconds since 1970.
pub fn expiries(settings: &Settings) -> Vec<(String, i64)> {
    let listeners = settings.listen.iter().enumerate();
    let listeners = listeners.map(|(index, listener)| (item_path("listen", index), listener.tls.as_ref()));
    let admin = ("admin".to_owned(), settings.admin.tls.as_ref());
    let shown_to_clients = listeners.chain([admin]).filter_map(|(used_for, tls)| {
        let pairs = tls.map_or(&[][..], |tls| &tls.certificates);
        pairs.iter().map(KeyPair::expires).min().map(|expires| (used_for, expires))
    });
    let shown_to_servers = to_servers(settings).filter_map(|(used_for, tls)| {
        let pair = tls.certificate.as_ref();
        pair.map(|pair| (used_for, pair.expires()))
    });
    shown_to_clients.chain(shown_to_servers).collect()
}

/// Whoever may ask for a certificate, and how it is met.
fn to_servers(settings: &Settings) -> impl Iterator<Item = (String, &ClientTlsSettings)> {
    let clusters = settings.clusters.iter();
    let clusters = clusters.map(|cluster| (key_path("clusters", &cluster.name), &cluster.outward));
    let externals = settings.externals.iter().map(|(name, outward)| (key_path("endpoints", name), outward));
    let targets = clusters.chain(externals).flat_map(|(used_for, outward)| {
        let token_server = match &outward.credentials {
            Some(Credentials::OAuth2(oauth2)) => Some((format!("{used_for}.credentials.oauth2"), &oauth2.tls)),
            _ => None,
        };
        [(used_for, &outward.tls)].into_iter().chain(token_server)
    });
    let issuers = settings.authentication.iter().flat_map(|settings| settings.jwt.iter().enumerate());
    let issuers = issuers.filter_map(|(index, issuer)| match &issuer.keys {
        KeySource::Url(url) => Some((item_path("authentication.jwt", index), &url.tls)),
        KeySource::Set(_) => None,
    });
    let destinations = settings.callbacks.allow.iter().enumerate();
    let destinations = destinations.map(|(index, allowed)| (item_path("callbacks.allow", index), allowed.tls()));
    targets.chain(issuers).chain(destinations)
}

/// Which certificates expire within 14 days, or have expired; one line each.
pub fn expiring(settings: &Settings, now: SystemTime) -> Vec<String> {
    let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX));
    let soon = expiries(settings).into_iter().filter(|(_, expires)| *expires < now.saturating_add(SOON));
    soon.map(|(used_for, expires)| {
        let at = UNIX_EPOCH + Duration::from_secs(expires.max(0).unsigned_abs());
        let at = humantime::format_rfc3339_seconds(at);
        if expires <= now {
            format!("the certificate of {used_for} expired at {at}: whoever checks it refuses it")
        } else {
            format!("the certificate of {used_for} expires at {at}, in {} days", (expires - now) / DAY)
        }
    })
    .collect()
}
