//! One key at work: content to sealed text and back.
//!
//! The bytes of a seal, in base64url without padding: version (1), name of the key (4), nonce (12), ciphertext, tag
//! (16). What it is bound to is not in it: version, name, purpose and context are authenticated beside the content.

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::{hmac, rand};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as TEXT;

use super::codec::Writer;
use super::{Key, Refused};

/// How seals name a key.
pub(super) type Name = [u8; NAME_LEN];

const VERSION: u8 = 1;
const NAME_LEN: usize = 4;
const HEAD_LEN: usize = 1 + NAME_LEN + NONCE_LEN;
const TAG_LEN: usize = 16;

/// What a seal is for.
#[derive(Clone, Copy)]
pub(super) enum Purpose {
    Callback,
    CallbackToken,
    OperationToken,
    Parked,
}

impl Purpose {
    fn label(self) -> &'static str {
        match self {
            Self::Callback => "callback",
            Self::CallbackToken => "callback-token",
            Self::OperationToken => "operation-token",
            Self::Parked => "parked",
        }
    }
}

/// A key, with the keys that are derived from it.
pub(super) struct Cipher {
    pub(super) key: Key,
    pub(super) name: Name,
    callback: LessSafeKey,
    callback_token: LessSafeKey,
    operation_token: LessSafeKey,
    parked: LessSafeKey,
    operation_nonce: hmac::Key,
}

impl Cipher {
    pub(super) fn new(key: Key) -> Self {
        let derived = |purpose: Purpose| {
            let bytes = key.derive(purpose.label());
            LessSafeKey::new(UnboundKey::new(&AES_256_GCM_SIV, &bytes).expect("32 bytes are a key"))
        };
        Self {
            name: key.name(),
            callback: derived(Purpose::Callback),
            callback_token: derived(Purpose::CallbackToken),
            operation_token: derived(Purpose::OperationToken),
            parked: derived(Purpose::Parked),
            operation_nonce: hmac::Key::new(hmac::HMAC_SHA256, &key.derive("operation-nonce")),
            key,
        }
    }

    /// Seals the content into a text with this before it.
    pub(super) fn seal(&self, purpose: Purpose, bound_to: &[&str], content: &[u8], prefix: &str) -> String {
        let sealed = self.seal_bytes(purpose, bound_to, content);
        let mut text = String::with_capacity(prefix.len() + text_len(sealed.len()));
        text.push_str(prefix);
        TEXT.encode_string(&sealed, &mut text);
        text
    }

    /// Seals the content.
    pub(super) fn seal_bytes(&self, purpose: Purpose, bound_to: &[&str], content: &[u8]) -> Vec<u8> {
        let bound = bound(self.name, purpose, bound_to);
        let nonce = self.nonce(purpose, &bound, content);
        let mut sealed = Vec::with_capacity(HEAD_LEN + content.len() + TAG_LEN);
        sealed.push(VERSION);
        sealed.extend_from_slice(&self.name);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(content);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag =
            self.aead(purpose).seal_in_place_separate_tag(nonce, Aad::from(bound.bytes()), &mut sealed[HEAD_LEN..]);
        sealed.extend_from_slice(tag.expect("nothing so long comes here").as_ref());
        sealed
    }

    /// Opens a text that names this key.
    pub(super) fn open(&self, purpose: Purpose, bound_to: &[&str], text: &str) -> Result<Vec<u8>, Refused> {
        self.open_bytes(purpose, bound_to, TEXT.decode(text).map_err(|_| Refused::Malformed)?)
    }

    /// Opens what names this key.
    pub(super) fn open_bytes(
        &self,
        purpose: Purpose,
        bound_to: &[&str],
        mut sealed: Vec<u8>,
    ) -> Result<Vec<u8>, Refused> {
        if sealed.len() < HEAD_LEN + TAG_LEN {
            return Err(Refused::Malformed);
        }
        let (head, content) = sealed.split_at_mut(HEAD_LEN);
        let nonce = Nonce::try_assume_unique_for_key(&head[1 + NAME_LEN..]).map_err(|_| Refused::Malformed)?;
        let bound = bound(self.name, purpose, bound_to);
        let content = self.aead(purpose).open_in_place(nonce, Aad::from(bound.bytes()), content);
        content.map(|content| content.to_vec()).map_err(|_| Refused::Forged)
    }

    /// Of a token that must not change: from all that goes into its seal. Of others: at random.
    fn nonce(&self, purpose: Purpose, bound: &Writer, content: &[u8]) -> [u8; NONCE_LEN] {
        let mut nonce = [0; NONCE_LEN];
        match purpose {
            Purpose::OperationToken => {
                let mut mac = hmac::Context::with_key(&self.operation_nonce);
                mac.update(bound.bytes());
                mac.update(content);
                nonce.copy_from_slice(&mac.sign().as_ref()[..NONCE_LEN]);
            }
            Purpose::Callback | Purpose::CallbackToken | Purpose::Parked => {
                rand::fill(&mut nonce).expect("the system has randomness");
            }
        }
        nonce
    }

    fn aead(&self, purpose: Purpose) -> &LessSafeKey {
        match purpose {
            Purpose::Callback => &self.callback,
            Purpose::CallbackToken => &self.callback_token,
            Purpose::OperationToken => &self.operation_token,
            Purpose::Parked => &self.parked,
        }
    }
}

/// What a seal is bound to. Every text has its length before it, so that no two contexts give the same bytes.
fn bound(name: Name, purpose: Purpose, bound_to: &[&str]) -> Writer {
    let mut bound = Writer::default();
    bound.number(VERSION.into());
    bound.number(u32::from_be_bytes(name).into());
    bound.text(purpose.label());
    for text in bound_to {
        bound.text(text);
    }
    bound
}

/// The key that a text of this version names.
pub(super) fn named(text: &str) -> Option<Name> {
    // As much as it takes to hold version and name.
    let mut start = [0; 6];
    TEXT.decode_slice(text.get(..8)?, &mut start).ok()?;
    named_bytes(&start)
}

/// The key that bytes of this version name.
pub(super) fn named_bytes(sealed: &[u8]) -> Option<Name> {
    let [VERSION, a, b, c, d, ..] = *sealed else { return None };
    Some([a, b, c, d])
}

/// Length of the text that content of this many bytes is sealed into.
pub(super) fn sealed_len(content: usize) -> usize {
    text_len(HEAD_LEN + content + TAG_LEN)
}

/// Length of this many bytes in base64 without padding.
fn text_len(bytes: usize) -> usize {
    (bytes * 4).div_ceil(3)
}
