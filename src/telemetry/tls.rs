//! Metrics of TLS.

use prometheus::{IntCounter, IntGaugeVec};

use super::Maker;

/// How a handshake with a client ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handshake {
    /// The connection is open.
    Ok,
    /// One of the two sides refused.
    Failed,
    /// The client took too long.
    TimedOut,
    /// There was no turn for it.
    Refused,
}

impl Handshake {
    const ALL: [Self; 4] = [Self::Ok, Self::Failed, Self::TimedOut, Self::Refused];

    /// Its label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::TimedOut => "timeout",
            Self::Refused => "refused",
        }
    }
}

/// Handshakes with clients, and how long certificates are good.
pub struct TlsMetrics {
    handshakes: [IntCounter; Handshake::ALL.len()],
    expires: IntGaugeVec,
}

impl TlsMetrics {
    pub(super) fn new(make: &Maker) -> Self {
        let handshakes =
            make.counters("tls_handshakes_total", "Handshakes with clients, by how they ended.", &["result"]);
        Self {
            handshakes: Handshake::ALL.map(|result| handshakes.with_label_values(&[result.name()])),
            expires: make.gauges(
                "tls_certificate_expires_timestamp_seconds",
                "When the first certificate that is shown there expires, in seconds since 1970.",
                &["used_for"],
            ),
        }
    }

    /// Counts a handshake; how many ended so by now.
    pub fn count(&self, result: Handshake) -> u64 {
        let counter = &self.handshakes[result as usize];
        counter.inc();
        counter.get()
    }

    /// From now on these are in use, each with when it expires, in seconds since 1970.
    pub fn expire(&self, certificates: impl IntoIterator<Item = (String, i64)>) {
        self.expires.reset();
        for (used_for, expires) in certificates {
            self.expires.with_label_values(&[&*used_for]).set(expires);
        }
    }
}
