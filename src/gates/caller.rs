//! By what rules name callers, and by what limits tell them apart.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

/// Callers as rules name them: by a name, wherever those of that name call from, or without one by their address. Cheap to
/// clone.
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

/// Whose a share of a limit is: one caller's, by its name and the namespace that it calls from, or without a name by its
/// address. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Account {
    caller: CallerKey,
    /// None where there is no name, or none is known.
    namespace: Option<Arc<str>>,
}

impl Account {
    /// That of a caller with a name.
    pub fn named(name: Arc<str>, namespace: Option<Arc<str>>) -> Self {
        Self { caller: name.into(), namespace }
    }

    /// The same for all addresses of an IPv6 /64: whoever has one of them has them all.
    #[must_use]
    pub fn network(&self) -> Self {
        match &self.caller.0 {
            Known::Address(IpAddr::V6(address)) => {
                IpAddr::from(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)).into()
            }
            _ => self.clone(),
        }
    }
}

impl From<IpAddr> for Account {
    fn from(address: IpAddr) -> Self {
        Self { caller: address.into(), namespace: None }
    }
}

/// No two look alike, nor one like an address: names and namespaces are in quotes, and what is in them is escaped.
impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(namespace) = &self.namespace {
            write!(f, "{namespace:?}/")?;
        }
        fmt::Debug::fmt(&self.caller, f)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Gateways that share limits know them by this text.
    #[test]
    fn no_two_callers_look_alike() {
        let named = |name: &str, namespace: Option<&str>| Account::named(name.into(), namespace.map(Into::into));
        let looks = |account: Account| format!("{account:?}");
        assert_eq!(looks(IpAddr::from([10, 0, 0, 1]).into()), "10.0.0.1");
        assert_eq!(looks(named("orders", None)), "\"orders\"");
        assert_eq!(looks(named("orders", Some("prod"))), "\"prod\"/\"orders\"");
        assert_eq!(looks(named("prod\"/\"orders", None)), "\"prod\\\"/\\\"orders\"");
    }
}
