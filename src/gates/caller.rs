//! By what limits tell callers apart.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

/// A caller: by its name where it has one, else by its address. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallerKey(Known);

#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Known {
    /// Canonical.
    Address(IpAddr),
    Name(Arc<str>),
}

impl CallerKey {
    /// Whether it has no name.
    pub fn is_address(&self) -> bool {
        matches!(self.0, Known::Address(_))
    }

    /// The same for all addresses of an IPv6 /64: whoever has one of them has them all.
    #[must_use]
    pub fn network(&self) -> Self {
        match &self.0 {
            Known::Address(IpAddr::V6(address)) => {
                Self(Known::Address(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into()))
            }
            _ => self.clone(),
        }
    }
}

/// An IPv4 address inside an IPv6 one is the same as by itself.
impl From<IpAddr> for CallerKey {
    fn from(address: IpAddr) -> Self {
        Self(Known::Address(address.to_canonical()))
    }
}

impl From<Arc<str>> for CallerKey {
    fn from(name: Arc<str>) -> Self {
        Self(Known::Name(name))
    }
}

/// No name looks like an address, since names are in quotes.
impl fmt::Debug for CallerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Known::Address(address) => address.fmt(f),
            Known::Name(name) => write!(f, "{name:?}"),
        }
    }
}

impl fmt::Display for CallerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Known::Address(address) => address.fmt(f),
            Known::Name(name) => f.write_str(name),
        }
    }
}
