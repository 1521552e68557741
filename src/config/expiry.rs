//! When the certificates that are shown expire.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::Settings;
use super::tree::key_path;
use crate::tls::KeyPair;

/// So long before, an operator is warned.
const SOON: i64 = 14 * DAY;
/// In seconds.
const DAY: i64 = 86_400;

/// What certificates are for (`listen[0]`, `clusters.home`, `endpoints.partner`), each with when the first of those there
/// expires, in seconds since 1970.
pub fn expiries(settings: &Settings) -> Vec<(String, i64)> {
    let listeners = settings.listen.iter().enumerate();
    let listeners = listeners.map(|(index, listener)| {
        let pairs = listener.tls.as_ref().map_or(&[][..], |tls| &tls.certificates);
        (format!("listen[{index}]"), pairs.iter().map(KeyPair::expires).min())
    });
    let clusters = settings.clusters.iter();
    let clusters = clusters.map(|cluster| (key_path("clusters", &cluster.name), &cluster.outward));
    let externals = settings.externals.iter().map(|(name, outward)| (key_path("endpoints", name), outward));
    let outwards = clusters.chain(externals).map(|(used_for, outward)| {
        let pair = outward.tls.certificate.as_ref();
        (used_for, pair.map(KeyPair::expires))
    });
    listeners.chain(outwards).filter_map(|(used_for, expires)| Some((used_for, expires?))).collect()
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
