//! How the gateway shows a target who it is.

use crate::tls::ClientTlsSettings;

/// How a cluster or an external target is met.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outward {
    /// TLS, where its URL says `https`.
    pub tls: ClientTlsSettings,
}
