//! API keys: random texts, of which only hashes are kept.
//!
//! A plain SHA-256 is enough of a hash, since a key has 256 random bits: there is nothing to guess that salt or a slow
//! hash would protect. A key is looked up by its hash, so that what a look-up's time tells is nothing about the key.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use aws_lc_rs::{digest, rand};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderName;

use super::{Denied, is_name, is_printable};
use crate::admission::{How, Identity};

/// Begins every key that the gateway makes, so that it is known where it was left lying about.
const PREFIX: &str = "ngk_";

/// Longest key that is looked at, in bytes.
const MAX_KEY: usize = 512;

/// Random bytes of a key.
const RANDOM: usize = 32;

/// The keys, and where they are shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKeySettings {
    /// The header that carries a key.
    pub header: HeaderName,
    /// Keys; their hashes are unique. Several may be of one caller, as when they change.
    pub keys: Vec<ApiKey>,
}

/// A key, as far as the gateway knows it.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// Who shows it; a name by [`is_name`].
    pub name: Arc<str>,
    /// The Temporal namespace that it calls from.
    pub namespace: Option<Arc<str>>,
    /// SHA-256 of the key's text.
    pub sha256: [u8; 32],
}

/// Names only: a hash is of no use to whoever reads a log.
impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKey").field("name", &self.name).field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

/// A key that was made a moment ago. It is shown once, and kept nowhere.
pub struct NewApiKey {
    /// What the caller gets, and sends.
    pub text: String,
    /// What the gateway gets.
    pub key: ApiKey,
}

impl NewApiKey {
    /// A random key for the caller `name`; none where nobody may be called so.
    ///
    /// # Panics
    /// Where the operating system has no randomness.
    pub fn generate(name: &str, namespace: Option<&str>) -> Option<Self> {
        if !is_name(name) || !namespace.is_none_or(is_printable) {
            return None;
        }
        let mut random = [0; RANDOM];
        rand::fill(&mut random).expect("the system has randomness");
        let text = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(random));
        let key = ApiKey { name: name.into(), namespace: namespace.map(Into::into), sha256: sha256(text.as_bytes()) };
        Some(Self { text, key })
    }
}

/// Keys by their hashes.
pub(super) struct ApiKeys {
    known: HashMap<[u8; 32], Arc<Identity>>,
}

impl ApiKeys {
    pub(super) fn new<'a>(keys: impl Iterator<Item = &'a ApiKey>) -> Self {
        let identity = |key: &ApiKey| {
            let (name, namespace) = (key.name.clone(), key.namespace.clone());
            Arc::new(Identity { name, namespace, how: How::ApiKey })
        };
        Self { known: keys.map(|key| (key.sha256, identity(key))).collect() }
    }

    /// Whose key `text` is.
    pub(super) fn identify(&self, text: &str) -> Result<Arc<Identity>, Denied> {
        if text.len() > MAX_KEY {
            return Err(Denied::wrong(How::ApiKey, "it is too long"));
        }
        let known = self.known.get(&sha256(text.as_bytes()));
        known.cloned().ok_or_else(|| Denied::wrong(How::ApiKey, "it is unknown"))
    }
}

/// The hash of a credential's text.
pub(super) fn sha256(text: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, text).as_ref());
    hash
}
