//! Metrics of connections that are not taken.

use prometheus::IntCounter;

use super::Maker;

/// The setting over which a connection was closed at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// There are too many.
    MaxConnections,
    /// Its peer has too many.
    MaxPerPeer,
    /// Too many of its peer were cut.
    MaxCuts,
}

impl Refused {
    const ALL: [Self; 3] = [Self::MaxConnections, Self::MaxPerPeer, Self::MaxCuts];

    /// Its label: the setting, which is one of `server`.
    pub fn name(self) -> &'static str {
        match self {
            Self::MaxConnections => "max_connections",
            Self::MaxPerPeer => "max_connections_per_peer",
            Self::MaxCuts => "max_cuts_per_peer",
        }
    }
}

/// Connections that were closed at once.
pub struct RefusedConnections([IntCounter; Refused::ALL.len()]);

impl RefusedConnections {
    pub(super) fn new(make: &Maker) -> Self {
        let refused = make.counters(
            "connections_refused_total",
            "Connections closed at once, by the setting of `server` that was reached.",
            &["reason"],
        );
        Self(Refused::ALL.map(|reason| refused.with_label_values(&[reason.name()])))
    }

    /// Counts one; how many were refused so by now.
    pub fn count(&self, reason: Refused) -> u64 {
        let counter = &self.0[reason as usize];
        counter.inc();
        counter.get()
    }
}
