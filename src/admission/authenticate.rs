//! Who sends a request, by what it shows: API keys.
//!
//! Knows connections' peers and headers. Must not know what anybody may do: that is another stage's. Whoever shows nothing
//! is anonymous; whoever shows something that is wrong is refused, since it cannot have been meant. A header that is
//! configured to carry credentials belongs to the gateway, and passes on to nobody.

use std::borrow::Cow;

use http::HeaderMap;

use super::authorize::ANONYMOUS;
use super::{Caller, How, Peer};

mod api_key;
mod shown;

pub use api_key::{ApiKey, ApiKeySettings, NewApiKey};

use api_key::ApiKeys;
use shown::{Shown, shown};

/// Longest name of a caller, in bytes.
pub const MAX_NAME: usize = 256;

/// By what callers are known. Something is configured in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuthenticationSettings {
    /// API keys.
    pub api_keys: Option<ApiKeySettings>,
}

/// Finds out who sends a request.
pub struct Authentication {
    api_keys: Option<ApiKeys>,
}

/// Why nobody is known although something was shown. The words are for logs, never for the sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied {
    /// It is wrong.
    Wrong {
        /// What was shown.
        how: How,
        /// What is wrong with it.
        why: Cow<'static, str>,
    },
    /// It may be right, but that cannot be seen at present.
    Unavailable {
        /// What was shown.
        how: How,
        /// Why not.
        why: Cow<'static, str>,
    },
}

impl Denied {
    fn wrong(how: How, why: impl Into<Cow<'static, str>>) -> Self {
        Self::Wrong { how, why: why.into() }
    }

    /// What was shown.
    pub fn how(&self) -> How {
        match self {
            Self::Wrong { how, .. } | Self::Unavailable { how, .. } => *how,
        }
    }

    /// Why, for logs.
    pub fn why(&self) -> &str {
        match self {
            Self::Wrong { why, .. } | Self::Unavailable { why, .. } => why,
        }
    }
}

impl Authentication {
    /// By these settings.
    pub fn new(settings: &AuthenticationSettings) -> Self {
        Self { api_keys: settings.api_keys.as_ref().map(ApiKeys::new) }
    }

    /// Who sends a request with these headers over the connection of `peer`.
    #[expect(clippy::unused_async, reason = "keys of tokens may have to be waited for")]
    pub async fn authenticate(&self, peer: &Peer, headers: &HeaderMap) -> Result<Caller, Denied> {
        let key = match &self.api_keys {
            None => None,
            Some(keys) => match shown(headers, &keys.header, How::ApiKey)? {
                Shown::Nothing => None,
                Shown::Text(text) => Some(keys.identify(text)?),
            },
        };
        Ok(key.map_or_else(|| Caller::anonymous(peer), |identity| Caller::known(peer, identity)))
    }

    /// Takes what carries credentials for the gateway out of `headers`.
    pub fn strip(&self, headers: &mut HeaderMap) {
        if let Some(keys) = &self.api_keys {
            headers.remove(&keys.header);
        }
    }
}

/// Whether somebody may be called so: 1 to [`MAX_NAME`] printable ASCII characters, none of them a space at either end.
pub fn is_name(text: &str) -> bool {
    is_printable(text) && text != ANONYMOUS
}

/// Whether a caller's namespace may be called so, likewise.
pub fn is_printable(text: &str) -> bool {
    (1..=MAX_NAME).contains(&text.len()) && text.bytes().all(|byte| matches!(byte, b' '..=b'~')) && text.trim() == text
}

#[cfg(test)]
mod tests;
