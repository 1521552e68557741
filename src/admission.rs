//! Who is asking, and may they? A later stage can only be reached with the [`Caller`] and the
//! [`Authorized`] that this one hands out.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use crate::tls::PeerCertificate;

pub mod authenticate;
pub mod authorize;

pub use authenticate::{Authentication, AuthenticationSettings};
pub use authorize::{Authorization, AuthorizationSettings, Authorized};

/// What callers of a listener are trusted with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// A sidecar's own application: headers that steer Temporal's internals pass, and failures say all that is known.
    Trusted,
    /// Anyone else: such headers are dropped, and failures name nothing that is inside.
    Untrusted,
}

/// The other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Where it connects from.
    pub address: SocketAddr,
    /// What the listener trusts it with.
    pub trust: Trust,
    /// The certificate that it showed, if any; it is good.
    pub certificate: Option<Arc<PeerCertificate>>,
}

impl Peer {
    /// Whoever connected from `address` to a listener with this trust, and showed no certificate.
    pub fn connected(address: SocketAddr, trust: Trust) -> Self {
        Self { address, trust, certificate: None }
    }
}

/// Who a caller is known to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its name.
    pub name: Arc<str>,
    /// The Temporal namespace that it calls from, where that is known.
    pub namespace: Option<Arc<str>>,
    /// By what it is known.
    pub how: How,
}

/// By what a caller is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum How {
    /// A client certificate.
    Certificate,
    /// A JSON Web Token.
    Jwt,
    /// An API key.
    ApiKey,
}

impl How {
    /// What logs and metrics call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::Jwt => "jwt",
            Self::ApiKey => "api_key",
        }
    }
}

/// The sender of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    address: SocketAddr,
    trust: Trust,
    identity: Option<Arc<Identity>>,
}

impl Caller {
    /// Whoever it is.
    pub fn anonymous(peer: &Peer) -> Self {
        Self { address: peer.address, trust: peer.trust, identity: None }
    }

    /// Somebody who is known.
    pub fn known(peer: &Peer, identity: Arc<Identity>) -> Self {
        Self { address: peer.address, trust: peer.trust, identity: Some(identity) }
    }

    /// Whoever sent, from this address, what the gateway sends for it now.
    pub fn absent(address: IpAddr, identity: Option<Arc<Identity>>) -> Self {
        Self { address: SocketAddr::new(address, 0), trust: Trust::Untrusted, identity }
    }

    /// The address that the connection comes from.
    pub fn peer(&self) -> SocketAddr {
        self.address
    }

    /// That address without its port. An IPv4 one is the same in either form.
    pub fn ip(&self) -> IpAddr {
        self.address.ip().to_canonical()
    }

    /// Who it is; none where that is not known.
    pub fn identity(&self) -> Option<&Arc<Identity>> {
        self.identity.as_ref()
    }

    /// The Temporal namespace that it calls from, where that is known.
    pub fn namespace(&self) -> Option<&str> {
        self.identity.as_ref()?.namespace.as_deref()
    }

    /// Whether it may steer priority and forwarding inside Temporal.
    pub fn may_steer(&self) -> bool {
        self.trust == Trust::Trusted
    }

    /// Whether it may know addresses of targets, names of clusters, and what they said.
    pub fn may_look_inside(&self) -> bool {
        self.trust == Trust::Trusted
    }
}

/// Who counts as one peer: an address; of IPv6 the network of 64 bits, all of which one host may use.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}
