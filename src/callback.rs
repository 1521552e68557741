//! Completions on their way back: sealed on the start, opened and forwarded when the handler's cluster sends them.
//!
//! Nothing is kept: all that a completion needs to come home is sealed into its URL and its token, so that any replica
//! that has the keys can carry any completion. Knows URLs, tokens and keys. Must not know how a request was admitted.

use std::sync::Arc;
use std::time::Duration;

use crate::nexus::BaseUrl;

pub mod destination;
pub mod seal;

/// What holds for completions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallbackSettings {
    /// How handlers' clusters reach this gateway; none where completions do not go through it.
    pub public_url: Option<BaseUrl>,
    /// The keys: the first seals, all open.
    pub keys: Vec<seal::Key>,
    /// Where completions may be sent, besides the configured clusters.
    pub allow: Vec<destination::Allowed>,
    /// Whether the token that the caller's cluster put into its callback is sealed as well.
    pub seal_token: bool,
    /// How long a seal holds where a start has no `Operation-Timeout`.
    pub expires_after: Duration,
    /// The cluster that takes completions addressed to `/nexus/callback` and `/namespaces/NS/nexus/callback`.
    pub home: Option<Arc<str>>,
}

impl Default for CallbackSettings {
    fn default() -> Self {
        Self {
            public_url: None,
            keys: Vec::new(),
            allow: Vec::new(),
            seal_token: true,
            expires_after: Duration::from_secs(90 * 24 * 3600),
            home: None,
        }
    }
}
