//! Where completions may be sent.
//!
//! A callback URL is text that somebody else wrote, and this gateway stands where that somebody may not reach. So the
//! URL is read narrowly ([`Destination`]), looked for in what the configuration allows ([`Allowed`]), and each address
//! that its name has is checked when it is connected to ([`Checked`]): what a name said before, or says to others, does
//! not matter. Redirects are never followed: an answer is handed back as it is.
//!
//! Knows URLs and addresses. Must not know seals, or what a completion says.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::Bytes;
use http::Uri;
use http::uri::PathAndQuery;
use percent_encoding::percent_decode_str;

use crate::nexus::BaseUrl;

mod address;
mod allow;
mod check;
mod pool;
#[cfg(test)]
mod tests;

pub use address::{Class, is_public};
pub use allow::Allowed;
pub use check::{Checked, Reach};
pub use pool::Destinations;

/// Longest host name in bytes, and its longest label (RFC 1035 §2.3.4).
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

/// Where a completion is to go. Shown, it is its origin only, since a path may carry a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    origin: BaseUrl,
    host: Host,
    path_and_query: PathAndQuery,
}

/// A host as URLs and the configuration name it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    /// In lower case.
    Name(Box<str>),
    Address(IpAddr),
}

/// Why a completion may not go where its URL says. For logs and metrics: whoever sent it learns no reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Forbidden {
    /// It is no `http` or `https` URL.
    #[error("{0}")]
    Scheme(&'static str),
    /// It carries a user name or a password.
    #[error("the URL has user info")]
    UserInfo,
    /// It is no URL, or one that is written so that others may read it in another way.
    #[error("the URL is malformed: {0}")]
    Malformed(&'static str),
    /// No entry of `callbacks.allow` is for this origin, or for this path of a cluster's.
    #[error("`callbacks.allow` has no entry for {0}")]
    NotAllowed(Box<str>),
    /// The origin is, or all addresses of its name are, where no entry of `callbacks.allow` allows to connect to.
    #[error("`callbacks.allow` has no entry by which {origin} may be at {class} addresses")]
    PrivateAddress {
        /// The origin.
        origin: Box<str>,
        /// What kind of addresses it has.
        class: Class,
    },
}

impl Forbidden {
    /// Its name in metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Scheme(_) => "scheme",
            Self::UserInfo => "user_info",
            Self::Malformed(_) => "malformed",
            Self::NotAllowed(_) => "not_allowed",
            Self::PrivateAddress { .. } => "private_address",
        }
    }
}

impl Destination {
    /// Reads an absolute `http` or `https` URL. Hosts are taken in one spelling only, apart from the case of letters; path and
    /// query stay byte for byte what they are.
    pub fn parse(url: &str) -> Result<Self, Forbidden> {
        if !url.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Forbidden::Malformed("a space, a control character, or a character beyond ASCII"));
        }
        let (scheme, rest) = url.split_once(':').ok_or(Forbidden::Malformed("no scheme"))?;
        let tls = is_tls(scheme)?;
        let rest = rest.strip_prefix("//").ok_or(Forbidden::Malformed("no `//` after the scheme"))?;
        if rest.contains('#') {
            return Err(Forbidden::Malformed("a fragment"));
        }
        let (authority, tail) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err(Forbidden::UserInfo);
        }
        let (host, port) = split_port(authority).map_err(Forbidden::Malformed)?;
        let host = Host::read(host).map_err(Forbidden::Malformed)?;
        let port = port.map_or(Ok(if tls { 443 } else { 80 }), read_port).map_err(Forbidden::Malformed)?;
        let origin = BaseUrl { tls, host: host.to_string().into(), port, path: "".into() };
        Ok(Self { origin, host, path_and_query: path_and_query(tail)? })
    }

    /// The URL without path and query.
    pub fn origin(&self) -> &BaseUrl {
        &self.origin
    }

    /// Path and query, byte for byte as the URL has them; `/` where it has no path.
    pub fn path_and_query(&self) -> &PathAndQuery {
        &self.path_and_query
    }

    /// Whether the path is one of the two at which Temporal takes completions, below `base`: `/nexus/callback` and
    /// `/namespaces/{namespace}/nexus/callback`, where only the namespace may have escapes, and none that means anything in a
    /// path.
    pub fn is_callback_route_below(&self, base: &str) -> bool {
        let below = self.path_and_query.path().strip_prefix(base);
        let Some(before) = below.and_then(|path| path.strip_suffix("/nexus/callback")) else { return false };
        before.is_empty() || before.strip_prefix("/namespaces/").is_some_and(is_segment)
    }

    /// The same as a request's target, for [`crate::upstream::Outgoing::raw`].
    pub fn uri(&self) -> Uri {
        Uri::from(self.path_and_query.clone())
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.origin.fmt(f)
    }
}

/// Whether everybody reads this as one segment of a path, decoded or not.
fn is_segment(text: &str) -> bool {
    let is_plain = |char: char| char.is_alphanumeric() || "-_.~ ".contains(char);
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.is_ok_and(|text| !matches!(&*text, "" | "." | "..") && text.chars().all(is_plain))
}

fn is_tls(scheme: &str) -> Result<bool, Forbidden> {
    let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'));
    match scheme {
        _ if !is_scheme => Err(Forbidden::Malformed("no scheme")),
        _ if scheme.eq_ignore_ascii_case("http") => Ok(false),
        _ if scheme.eq_ignore_ascii_case("https") => Ok(true),
        _ => Err(Forbidden::Scheme("the URL's scheme is neither `http` nor `https`")),
    }
}

/// Host, and port if there is one, as written.
fn split_port(authority: &str) -> Result<(&str, Option<&str>), &'static str> {
    // The colons of an IPv6 address are within brackets.
    let end = match authority.strip_prefix('[') {
        Some(_) => authority.find(']').ok_or("a bracket that is not closed")? + 1,
        None => authority.find(':').unwrap_or(authority.len()),
    };
    match authority.split_at(end) {
        (host, "") => Ok((host, None)),
        (host, port) => Ok((host, Some(port.strip_prefix(':').ok_or("something between the host and its port")?))),
    }
}

fn read_port(text: &str) -> Result<u16, &'static str> {
    // No signs, and no zeros in front.
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    text.parse().ok().filter(|_| is_plain).ok_or("a port that is not a number from 1 to 65535")
}

impl Host {
    /// Reads a host name, an IPv4 address in its four decimal parts, or an IPv6 address in brackets.
    fn read(text: &str) -> Result<Self, &'static str> {
        if let Some(inner) = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
            return read_v6(inner).map(|address| Self::Address(address.into()));
        }
        if let Ok(address) = text.parse::<Ipv4Addr>() {
            return Ok(Self::Address(address.into()));
        }
        check_name(text)?;
        Ok(Self::Name(text.to_ascii_lowercase().into()))
    }
}

fn read_v6(text: &str) -> Result<Ipv6Addr, &'static str> {
    // Zones are none of a URL's business, and do not parse.
    let address: Ipv6Addr = text.parse().map_err(|_| "an IPv6 address that is none")?;
    if address.to_ipv4_mapped().is_some() {
        return Err("an IPv4 address that is written as an IPv6 address");
    }
    Ok(address)
}

/// What a resolver might take for an address is none of the names: `0x7f.1` or `2130706433` (URL standard, "ends in a
/// number checker"). Neither is what it would have to decode or to complete.
fn check_name(text: &str) -> Result<(), &'static str> {
    if text.is_empty() {
        return Err("no host");
    }
    let is_label = |label: &str| {
        (1..=MAX_LABEL).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    if text.len() > MAX_NAME || !text.split('.').all(is_label) {
        return Err("a host that is no plain host name");
    }
    let last = text.rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
    let is_hex = last.strip_prefix("0x").is_some_and(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()));
    if is_hex || last.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("an IPv4 address in another form than four decimal numbers");
    }
    Ok(())
}

impl fmt::Display for Host {
    /// Without brackets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(address) => address.fmt(f),
        }
    }
}

/// What follows the authority of a URL.
fn path_and_query(tail: &str) -> Result<PathAndQuery, Forbidden> {
    let slash = if tail.starts_with('/') { "" } else { "/" };
    let text = format!("{slash}{tail}");
    let read = PathAndQuery::from_maybe_shared(Bytes::from(text.clone()));
    read.ok().filter(|read| read.as_str() == text).ok_or(Forbidden::Malformed("a path or query that is none"))
}
