//! The store of limits that gateways share.

use super::tls;
use crate::config::file;
use crate::config::report::Report;
use crate::gates::{StoreSettings, shared};

/// None where it has no URL, which was said.
pub(super) fn build(file: file::Redis, report: &mut Report<'_>) -> Option<StoreSettings> {
    if file.url.is_none() {
        report.add("redis", "has no URL; write `url: redis://HOST:PORT`");
    }
    let cleartext = file.url.as_ref().is_some_and(|url| !shared::is_over_tls(&url.0));
    let useless =
        cleartext.then(|| "the URL beside it is `redis://`; write `rediss://` there, or remove `tls`".to_owned());
    let tls = tls::client_beside(useless, file.tls, "redis.tls", report);
    let timeout = file.timeout.map_or(shared::TIMEOUT, |value| value.0);
    Some(StoreSettings { url: file.url?.0, tls, timeout })
}
