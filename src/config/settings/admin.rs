//! The admin port.

use std::net::SocketAddr;

use super::tls;
use crate::admin::AdminSettings;
use crate::config::file;
use crate::config::report::Report;

/// The admin port, of which the address was read before.
pub(super) fn build(file: file::Admin, address: SocketAddr, report: &mut Report<'_>) -> AdminSettings {
    if file.tls.is_none() && report.is_written("admin.tls") {
        report.add("admin.tls", "has no value; write `certificate` and `key` below it, or remove it");
    }
    if file.token.is_none() && report.is_written("admin.token") {
        report.add("admin.token", "has no value; write `${file:/PATH/TO/FILE}`, or remove it");
    }
    AdminSettings {
        address,
        token: file.token.map(|token| token.0),
        tls: file.tls.and_then(|tls| tls::server(tls, "admin.tls", report)),
    }
}
