//! Who is asking. A later stage can only be reached with the [`Caller`] that this one hands out.

use std::net::{IpAddr, SocketAddr};

/// What callers of a listener are trusted with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// A sidecar's own application: headers that steer Temporal's internals pass.
    Trusted,
    /// Anyone else: such headers are dropped.
    Untrusted,
}

/// The sender of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    peer: SocketAddr,
    trust: Trust,
}

impl Caller {
    /// Whoever connected from `peer` to a listener with this trust.
    pub fn connected(peer: SocketAddr, trust: Trust) -> Self {
        Self { peer, trust }
    }

    /// The address that the connection comes from.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// What it is known by until callers have names: its address. An IPv4 one is the same in either form.
    pub fn ip(&self) -> IpAddr {
        self.peer.ip().to_canonical()
    }

    /// Whether it may steer priority and forwarding inside Temporal.
    pub fn may_steer(&self) -> bool {
        self.trust == Trust::Trusted
    }
}
