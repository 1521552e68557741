//! What the configuration allows: one entry of `callbacks.allow`.
//!
//! ```text
//! http://127.0.0.1:*                     an address, any port
//! http://10.1.0.0/16:7243                a network; IPv6 in brackets: http://[fd00::/8]:7243
//! http://frontend.temporal.svc:7243      a host name
//! https://*.example.com                  the names below it, at any depth, but not itself; the scheme's port
//! ```
//!
//! An address or a network is for URLs that name an address in it, and for host names that another entry allows: they
//! may be at these addresses, whatever kind these are. A host name alone may be at public addresses only, unless the
//! entry is marked as private: then it may be anywhere. Configured clusters are entries of that kind, but for their two
//! callback routes only: at any other path a caller's URL would make the gateway act there in its own name.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use super::check::Reach;
use super::{Class, Destination, Forbidden, Host, check_name, read_port, read_v6};
use crate::nexus::BaseUrl;
use crate::tls::ClientTlsSettings;

/// Shortest prefixes of networks: one that is wider would hold all kinds of addresses, and hardly be meant.
const MIN_PREFIX_V4: u8 = 8;
const MIN_PREFIX_V6: u8 = 7;

const FORM: &str = "write `http://HOST:PORT`, `http://*.HOST:PORT` or `http://10.0.0.0/8:PORT`";

/// What to write instead of a bare `localhost`.
const PRIVATE: &str = "write `{ url: http://localhost:PORT, private: true }`, or `http://127.0.0.1:PORT`";

/// An entry of `callbacks.allow`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed {
    tls: bool,
    host: HostPattern,
    /// None: any.
    port: Option<u16>,
    pub(super) private: bool,
    /// Of a cluster: what stands before its callback routes, the only ones that the entry is for. None: it is for any path.
    base: Option<Box<str>>,
    /// How what it allows is met where that is by `https`.
    met_by: ClientTlsSettings,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum HostPattern {
    /// In lower case.
    Name(Box<str>),
    /// What names end with, the dot included, in lower case.
    Below(Box<str>),
    Net(Net),
}

/// A network, or a single address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Net {
    address: IpAddr,
    prefix: u8,
}

impl Allowed {
    /// Reads an entry that is not marked as private. Refusals are what a message says after the entry.
    pub fn parse(text: &str) -> Result<Self, String> {
        Self::new(text, false)
    }

    /// Reads an entry; where it is `private`, its names may be at addresses that are not public as well.
    pub fn new(text: &str, private: bool) -> Result<Self, String> {
        let (scheme, rest) = text.split_once("://").ok_or_else(|| format!("has no scheme; {FORM}"))?;
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            _ => return Err(format!("has another scheme than `http` or `https`; {FORM}")),
        };
        let (host, port) = split(rest)?;
        let default = if tls { 443 } else { 80 };
        let port = match port {
            None => Some(default),
            Some("*") => None,
            Some(port) => Some(read_port(port).map_err(|why| format!("has {why}; write a number, or `*` for any"))?),
        };
        let host = HostPattern::read(host)?;
        if !private && host == HostPattern::Name("localhost".into()) {
            return Err(format!("is this machine, where no entry leads that is not private; {PRIVATE}"));
        }
        Ok(Self { tls, host, port, private, base: None, met_by: ClientTlsSettings::default() })
    }

    /// The same entry, for what is met with `tls`.
    #[must_use]
    pub fn met_by(self, tls: ClientTlsSettings) -> Self {
        Self { met_by: tls, ..self }
    }

    /// How what it allows is met.
    pub fn tls(&self) -> &ClientTlsSettings {
        &self.met_by
    }

    /// Whether the entry is for `https`.
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// The entry for the callback routes of a configured cluster's own URL, wherever that is.
    pub fn cluster(url: &BaseUrl) -> Self {
        let host = match url.host.parse::<IpAddr>() {
            Ok(address) => HostPattern::Net(Net::single(address)),
            Err(_) => HostPattern::Name(url.host.clone()),
        };
        let (port, base) = (Some(url.port), Some(url.path.clone()));
        Self { tls: url.tls, host, port, private: true, base, met_by: ClientTlsSettings::default() }
    }

    /// Whether the entry allows this destination; at which addresses, is another question.
    pub fn matches(&self, destination: &Destination) -> bool {
        self.is_for_port(destination) && self.is_for_path(destination) && self.is_for_host(destination)
    }

    /// Whether the entry is for some paths only, and this is one of them.
    pub(super) fn is_for_this_path_only(&self, destination: &Destination) -> bool {
        self.base.is_some() && self.is_for_port(destination) && self.is_for_path(destination)
    }

    fn is_for_host(&self, destination: &Destination) -> bool {
        match (&self.host, &destination.host) {
            (HostPattern::Name(name), Host::Name(host)) => name == host,
            // Something stands before the dot: no name begins with one.
            (HostPattern::Below(end), Host::Name(host)) => host.ends_with(&**end),
            (HostPattern::Net(net), Host::Address(address)) => net.contains(*address),
            _ => false,
        }
    }

    fn is_for_path(&self, destination: &Destination) -> bool {
        self.base.as_ref().is_none_or(|base| destination.is_callback_route_below(base))
    }

    fn is_for_port(&self, destination: &Destination) -> bool {
        self.tls == destination.origin.tls && self.port.is_none_or(|port| port == destination.origin.port)
    }
}

/// How a destination is met: by the first entry for it that says something of it. The names of clusters stand before
/// patterns, so that no pattern gets their certificates.
pub(super) fn met_by<'a>(allow: &'a [Allowed], destination: &Destination) -> Option<&'a ClientTlsSettings> {
    let matching = allow.iter().filter(|entry| entry.tls && entry.matches(destination));
    matching.map(|entry| &entry.met_by).find(|tls| **tls != ClientTlsSettings::default())
}

/// Which addresses `allow` lets a destination be at.
pub(super) fn reach(allow: &[Allowed], destination: &Destination) -> Result<Reach, Forbidden> {
    let mut matching = allow.iter().filter(|entry| entry.matches(destination)).peekable();
    if matching.peek().is_none() {
        return Err(not_allowed(allow, destination));
    }
    let is_for = |entry: &&Allowed| entry.is_for_port(destination) && entry.is_for_path(destination);
    let nets = allow.iter().filter(is_for).filter_map(|entry| match &entry.host {
        HostPattern::Net(net) => Some(*net),
        _ => None,
    });
    let is_name = matches!(destination.host, Host::Name(_));
    Ok(Reach { public: is_name, any: is_name && matching.any(|entry| entry.private), nets: nets.collect() })
}

fn not_allowed(allow: &[Allowed], destination: &Destination) -> Forbidden {
    if allow.iter().any(|entry| entry.is_for_port(destination) && entry.is_for_host(destination)) {
        return Forbidden::NotAllowed(format!("{destination} beyond its callback routes").into());
    }
    let origin = destination.to_string().into();
    match destination.host {
        Host::Address(address) if Class::of(address) != Class::Public => {
            Forbidden::PrivateAddress { origin, class: Class::of(address) }
        }
        _ => Forbidden::NotAllowed(origin),
    }
}

/// Host and port as written.
fn split(rest: &str) -> Result<(&str, Option<&str>), String> {
    let end = match rest.strip_prefix('[') {
        Some(_) => rest.find(']').map_or(rest.len(), |end| end + 1),
        None => rest.find(':').unwrap_or(rest.len()),
    };
    let (host, tail) = rest.split_at(end);
    let is_net = |host: &str| host.split_once('/').is_none_or(|(_, prefix)| is_number(prefix));
    if tail.contains('/') || !(host.starts_with('[') || is_net(host)) {
        return Err("has a path, and completions bring their own; leave it out".into());
    }
    match tail.strip_prefix(':') {
        Some(port) => Ok((host, Some(port))),
        None if tail.is_empty() => Ok((host, None)),
        None => Err(format!("has something between its host and its port; {FORM}")),
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

impl HostPattern {
    fn read(text: &str) -> Result<Self, String> {
        if let Some(inner) = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
            return Net::read(inner, |text| read_v6(text).map(IpAddr::from)).map(Self::Net);
        }
        if text.contains('/') || text.parse::<Ipv4Addr>().is_ok() {
            let read = |text: &str| text.parse::<Ipv4Addr>().map(IpAddr::from).map_err(|_| "an address that is none");
            return Net::read(text, read).map(Self::Net);
        }
        let name = text.strip_prefix("*.").unwrap_or(text);
        check_name(name).map_err(|why| format!("has {why}; {FORM}"))?;
        let lower = text.to_ascii_lowercase();
        Ok(match lower.strip_prefix('*') {
            Some(end) => Self::Below(end.into()),
            None => Self::Name(lower.into()),
        })
    }
}

impl Net {
    fn single(address: IpAddr) -> Self {
        let address = address.to_canonical();
        Self { address, prefix: bits(address) }
    }

    /// Reads `ADDRESS` or `ADDRESS/PREFIX`.
    fn read(text: &str, read: impl Fn(&str) -> Result<IpAddr, &'static str>) -> Result<Self, String> {
        let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let address = read(address).map_err(|why| format!("has {why}; {FORM}"))?;
        let Some(prefix) = prefix else { return Ok(Self::single(address)) };
        let (min, max) = (if address.is_ipv4() { MIN_PREFIX_V4 } else { MIN_PREFIX_V6 }, bits(address));
        let prefix = prefix.parse().ok().filter(|bits| (min..=max).contains(bits) && is_number(prefix));
        let prefix = prefix.ok_or_else(|| format!("has a network of another length than `/{min}` to `/{max}`"))?;
        let first = masked(address, prefix);
        if first != address {
            return Err(format!("has an address that is not the first of its network; write `{first}/{prefix}`"));
        }
        Ok(Self { address, prefix })
    }

    /// Whether the address, or the IPv4 address that it stands for in the socket interface, is in this network.
    pub(super) fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4() && masked(address, self.prefix) == self.address
    }
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    let prefix = u32::from(prefix);
    match address {
        IpAddr::V4(four) => {
            let mask = u32::MAX.checked_shl(32 - prefix).unwrap_or(0);
            IpAddr::V4((four.to_bits() & mask).into())
        }
        IpAddr::V6(six) => {
            let mask = u128::MAX.checked_shl(128 - prefix).unwrap_or(0);
            IpAddr::V6((six.to_bits() & mask).into())
        }
    }
}

impl fmt::Display for Allowed {
    /// As it could be written, without the mark.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.tls { "https" } else { "http" }, self.host)?;
        match self.port {
            Some(port) if port == if self.tls { 443 } else { 80 } => Ok(()),
            Some(port) => write!(f, ":{port}"),
            None => f.write_str(":*"),
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Below(end) => write!(f, "*{end}"),
            Self::Net(Net { address, prefix }) => {
                let net = if *prefix == bits(*address) { address.to_string() } else { format!("{address}/{prefix}") };
                if address.is_ipv4() { f.write_str(&net) } else { write!(f, "[{net}]") }
            }
        }
    }
}
