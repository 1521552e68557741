//! Where the gateway listens.

use std::fmt;
use std::net::SocketAddr;

use crate::admission::Trust;
use crate::config::report::Report;
use crate::config::settings::tls;
use crate::config::tree::item_path;
use crate::config::value::{Address, Checked};
use crate::config::{Overrides, Settings, file};
use crate::server::ListenerSettings;
use crate::tls::ServerTlsSettings;

/// The listeners and the admin address; no two of them overlap.
pub(super) fn build(
    listen: Option<Vec<Option<file::Listener>>>,
    admin: Option<&Checked<Address>>,
    overrides: &Overrides,
    report: &mut Report<'_>,
) -> (Vec<ListenerSettings>, SocketAddr) {
    let default = Settings::default();
    let (listeners, mut origins) = match (overrides.listen, listen) {
        (Some(address), _) => {
            (vec![ListenerSettings::plain(address, trust(address, None))], vec![Origin::Flag("--listen")])
        }
        (None, Some(listeners)) => from_file(listeners, report),
        (None, None) => (default.listen, vec![Origin::Default("the default of `listen`")]),
    };
    let (admin, origin) = match (overrides.admin, admin) {
        (Some(address), _) => (address, Origin::Flag("--admin")),
        (None, Some(address)) => (address.0, Origin::Key("admin.address".into())),
        (None, None) => (default.admin.address, Origin::Default("the default of `admin.address`")),
    };
    let mut addresses: Vec<_> = listeners.iter().map(|listener| listener.address).collect();
    addresses.push(admin);
    origins.push(origin);
    refuse_overlaps(&addresses, &origins, report);
    (listeners, admin)
}

fn from_file(list: Vec<Option<file::Listener>>, report: &mut Report<'_>) -> (Vec<ListenerSettings>, Vec<Origin>) {
    if list.is_empty() {
        report.add("listen", "lists no address; write `- address: IP:PORT`, or leave the key out");
    }
    let mut listeners = Vec::new();
    let mut origins = Vec::new();
    for (index, item) in list.into_iter().map(Option::unwrap_or_default).enumerate() {
        let path = item_path("listen", index);
        match item.address {
            Some(address) => {
                let tls = tls(item.tls, &format!("{path}.tls"), report);
                listeners.push(ListenerSettings {
                    address: address.0,
                    trust: trust(address.0, item.trust),
                    http2: item.http2.unwrap_or(tls.is_some()),
                    tls,
                });
                origins.push(Origin::Key(format!("{path}.address")));
            }
            None => report.add(&path, "has no address; write `address: IP:PORT`"),
        }
    }
    (listeners, origins)
}

fn trust(address: SocketAddr, file: Option<file::Trust>) -> Trust {
    let by_address = || address.ip().to_canonical().is_loopback();
    let trusted = file.map_or_else(by_address, |trust| matches!(trust, file::Trust::Trusted));
    if trusted { Trust::Trusted } else { Trust::Untrusted }
}

/// Nobody who writes `tls` means cleartext, so an empty one is no default.
fn tls(file: Option<file::ServerTls>, path: &str, report: &mut Report<'_>) -> Option<ServerTlsSettings> {
    if file.is_none() && report.is_written(path) {
        report.add(path, "has no value; write `certificate` and `key` below it, or remove it");
    }
    tls::server(file?, path, report)
}

/// Who chose an address.
enum Origin {
    Key(String),
    Flag(&'static str),
    Default(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(path) => write!(f, "`{path}`"),
            Self::Flag(name) => write!(f, "`{name}`"),
            Self::Default(what) => f.write_str(what),
        }
    }
}

fn refuse_overlaps(addresses: &[SocketAddr], origins: &[Origin], report: &mut Report<'_>) {
    for (index, (&address, origin)) in addresses.iter().zip(origins).enumerate() {
        let mut earlier = addresses.iter().zip(origins).take(index);
        if let Some((_, first)) = earlier.find(|(first, _)| overlap(**first, address)) {
            refuse_overlap(first, origin, report);
        }
    }
}

/// At the later of the two, unless only the earlier one can be changed.
fn refuse_overlap(first: &Origin, later: &Origin, report: &mut Report<'_>) {
    let (blamed, other) = if matches!(later, Origin::Default(_)) { (first, later) } else { (later, first) };
    let place = if let Origin::Key(path) = other { format!(" ({})", report.place(path)) } else { String::new() };
    let message = format!("takes the same port as {other}{place}; write another one");
    match blamed {
        Origin::Key(path) => report.add_about(path, &message),
        Origin::Flag(name) => report.add_flag(name, message),
        Origin::Default(_) => {}
    }
}

/// Whether one socket would take what the other wants: `0.0.0.0` takes a port on every address, `[::]` as well.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let every = |address: SocketAddr| address.ip().is_unspecified();
    let same = a.ip() == b.ip() || every(a) && (a.is_ipv6() || b.is_ipv4()) || every(b) && (b.is_ipv6() || a.is_ipv4());
    a.port() != 0 && a.port() == b.port() && same
}
