//! Seals: texts that pass through hands that may neither read nor change nor make them.
//!
//! Four contents are sealed, each for its own purpose and with its own keys: where a callback came from, the token of
//! the caller's cluster in that callback, the handler's operation token, and what is kept of a parked operation. A seal
//! for one purpose, endpoint, operation, caller or callback does not open for another.
//!
//! The cipher is AES-256-GCM-SIV (RFC 8452), which survives a repeated nonce. Replicas share keys without a common
//! counter, so that nonces are drawn at random; and an operation's token must be the same text each time, since a
//! repeated start has to get the token that the first one got, so that its nonce is computed from the content. A nonce
//! twice then shows no more than that two contents are equal.
//!
//! Knows keys and texts, and is told the time. Must not know HTTP, endpoints' policies or where anything is sent.

mod cipher;
pub(super) mod codec;
mod key;
mod operation;
#[cfg(test)]
mod tests;

pub use key::{Key, KeyError};
pub use operation::{Bound, Operation, TargetRef};

use cipher::{Cipher, Purpose};
use codec::{Reader, Writer};

/// Before sealed tokens, so that they can be told from tokens that passed as they were.
pub const PREFIX: &str = "ngw1.";
/// Between a gateway's public URL and a sealed callback.
pub const CALLBACK_PATH: &str = "/nexus/callback/";
/// Characters of a callback URL that Temporal takes.
pub const MAX_CALLBACK_URL: usize = 1000;
/// Bytes of an operation token that Temporal takes.
pub const MAX_OPERATION_TOKEN: usize = 4096;

/// Keys in force: the first seals, all open.
pub struct Keyring {
    first: Cipher,
    others: Vec<Cipher>,
}

/// Where a callback came from: what a completion needs to come home.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The callback URL that the caller gave.
    pub url: String,
    /// Name of the endpoint that was called.
    pub endpoint: String,
    /// The target that the start went to, as [`TargetRef`] is written.
    pub target: String,
    /// Who called.
    pub caller: String,
    /// When it was sealed, in seconds since 1970.
    pub issued: u64,
    /// The first second in which it does not open any more, likewise.
    pub expires: u64,
    /// The start's request id, by which logs of both ways belong together; may be empty.
    pub request_id: String,
}

/// Why a seal was not opened. For metrics: who sent it learns no more of the first three than that it is not valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Not the form of a seal.
    #[error("not valid")]
    Malformed,
    /// Made with a key that is not in force here, or not any more.
    #[error("not valid")]
    UnknownKey,
    /// Changed, made up, or made for something else.
    #[error("not valid")]
    Forged,
    /// Genuine, and too old.
    #[error("expired")]
    Expired,
}

/// What an operation token turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opened {
    /// Sealed here, for this operation of this endpoint and for this caller.
    Ours(Operation),
    /// Not a sealed one: passes as it is.
    Foreign,
    /// It looks like a sealed one, and does not open.
    Refused(Refused),
}

/// What was sealed does not fit where it has to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{by} characters longer than the {max} allowed")]
pub struct TooLong {
    /// How many characters are too many; the texts are ASCII.
    pub by: usize,
    /// How many there may be.
    pub max: usize,
}

impl Keyring {
    /// A ring of these keys, the first of which seals. None where there is no key, or where two have the same id, the
    /// same secret or, which chance makes of one pair in 4 billion, the same name on the wire.
    pub fn new(keys: Vec<Key>) -> Option<Self> {
        let distinct = |(at, key): (usize, &Key)| {
            keys[..at].iter().all(|earlier| earlier.id != key.id && earlier.name() != key.name())
        };
        if !keys.iter().enumerate().all(distinct) {
            return None;
        }
        let mut ciphers = keys.into_iter().map(Cipher::new);
        Some(Self { first: ciphers.next()?, others: ciphers.collect() })
    }

    /// Ids of the keys, that of the sealing one first.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.ciphers().map(|cipher| &*cipher.key.id)
    }

    /// The key that a seal of any kind names, if it is in force: the one that opens it, unless it is forged.
    pub fn opens_with(&self, sealed: &str) -> Option<&Key> {
        let name = cipher::named(sealed.strip_prefix(PREFIX).unwrap_or(sealed))?;
        self.cipher(name).map(|cipher| &cipher.key)
    }

    /// Seals the origin of a callback: base64url without padding, another text each time.
    pub fn seal_callback(&self, origin: &Origin) -> String {
        let mut content = Writer::default();
        for text in [&origin.url, &origin.endpoint, &origin.target, &origin.caller] {
            content.text(text);
        }
        content.number(origin.issued);
        content.number(origin.expires);
        if !origin.request_id.is_empty() {
            content.text(&origin.request_id);
        }
        self.first.seal(Purpose::Callback, &[], content.bytes(), "")
    }

    /// Opens what [`seal_callback`](Self::seal_callback) made, before the second in which it expires.
    pub fn open_callback(&self, sealed: &str, now_unix: u64) -> Result<Origin, Refused> {
        let content = self.open(Purpose::Callback, &[], sealed)?;
        let origin = read_origin(&content).ok_or(Refused::Malformed)?;
        if now_unix >= origin.expires { Err(Refused::Expired) } else { Ok(origin) }
    }

    /// Seals the token in a caller's callback, bound to the URL of that callback as the caller gave it.
    pub fn seal_token(&self, token: &[u8], bound_to: &str) -> String {
        self.first.seal(Purpose::CallbackToken, &[bound_to], token, PREFIX)
    }

    /// Opens what [`seal_token`](Self::seal_token) made for the same URL. A token that was never sealed is
    /// [`Refused::Malformed`].
    pub fn open_token(&self, sealed: &str, bound_to: &str) -> Result<Vec<u8>, Refused> {
        let sealed = sealed.strip_prefix(PREFIX).ok_or(Refused::Malformed)?;
        self.open(Purpose::CallbackToken, &[bound_to], sealed)
    }

    /// Seals an operation's token, bound to what it was started as: the same text each time, as long as the same key is
    /// the first.
    pub fn seal_operation(&self, bound: &Bound<'_>, operation: &Operation) -> Result<String, TooLong> {
        Self::seal_operation_with(&self.first, bound, operation)
    }

    /// As [`seal_operation`](Self::seal_operation), with the key that sealed this callback: an operation whose
    /// completion comes after another key became the first has the token that its start was answered with.
    pub fn seal_operation_like(
        &self,
        callback: &str,
        bound: &Bound<'_>,
        operation: &Operation,
    ) -> Result<String, TooLong> {
        let cipher = cipher::named(callback).and_then(|name| self.cipher(name)).unwrap_or(&self.first);
        Self::seal_operation_with(cipher, bound, operation)
    }

    fn seal_operation_with(cipher: &Cipher, bound: &Bound<'_>, operation: &Operation) -> Result<String, TooLong> {
        within(Self::operation_len(bound, operation), MAX_OPERATION_TOKEN)?;
        Ok(cipher.seal(Purpose::OperationToken, &bound.context(), &operation.to_bytes_of(&bound.caller), PREFIX))
    }

    /// How many bytes the token of this operation has when it is sealed.
    pub fn operation_len(bound: &Bound<'_>, operation: &Operation) -> usize {
        PREFIX.len() + cipher::sealed_len(operation.to_bytes_of(&bound.caller).len())
    }

    /// Whether a token has the form of those that are sealed here.
    pub fn is_sealed(token: &[u8]) -> bool {
        token.starts_with(PREFIX.as_bytes())
    }

    /// Opens an operation's token for what it was started as.
    pub fn open_operation(&self, bound: &Bound<'_>, token: &str) -> Opened {
        self.open_operation_of(bound, token, |caller| caller == bound.caller)
    }

    /// As [`open_operation`](Self::open_operation), whoever started it.
    pub fn open_operation_of_anyone(&self, bound: &Bound<'_>, token: &str) -> Opened {
        self.open_operation_of(bound, token, |_| true)
    }

    fn open_operation_of(&self, bound: &Bound<'_>, token: &str, may: impl Fn(&str) -> bool) -> Opened {
        let Some(sealed) = token.strip_prefix(PREFIX) else { return Opened::Foreign };
        let opened = match self.open(Purpose::OperationToken, &bound.context(), sealed) {
            Ok(content) => match Operation::with_caller_from_bytes(&content) {
                Some((operation, caller)) if may(&caller) => Ok(operation),
                Some(_) => Err(Refused::Forged),
                None => Err(Refused::Malformed),
            },
            // It may be of a release that bound tokens to their caller as well.
            Err(Refused::Forged) => {
                let content = self.open(Purpose::OperationToken, &bound.context_with_caller(), sealed);
                content.and_then(|content| Operation::from_bytes(&content).ok_or(Refused::Malformed))
            }
            Err(refused) => Err(refused),
        };
        opened.map_or_else(Opened::Refused, Opened::Ours)
    }

    /// Seals what is kept of a parked operation, bound to its name and to what the content is.
    pub fn seal_parked(&self, id: &str, what: &str, content: &[u8]) -> Vec<u8> {
        self.first.seal_bytes(Purpose::Parked, &[id, what], content)
    }

    /// Opens what [`seal_parked`](Self::seal_parked) made for the same operation and content.
    pub fn open_parked(&self, id: &str, what: &str, sealed: &[u8]) -> Result<Vec<u8>, Refused> {
        let name = cipher::named_bytes(sealed).ok_or(Refused::Malformed)?;
        let cipher = self.cipher(name).ok_or(Refused::UnknownKey)?;
        cipher.open_bytes(Purpose::Parked, &[id, what], sealed.to_vec())
    }

    fn open(&self, purpose: Purpose, context: &[&str], sealed: &str) -> Result<Vec<u8>, Refused> {
        let name = cipher::named(sealed).ok_or(Refused::Malformed)?;
        self.cipher(name).ok_or(Refused::UnknownKey)?.open(purpose, context, sealed)
    }

    fn cipher(&self, name: cipher::Name) -> Option<&Cipher> {
        self.ciphers().find(|cipher| cipher.name == name)
    }

    fn ciphers(&self) -> impl Iterator<Item = &Cipher> {
        std::iter::once(&self.first).chain(&self.others)
    }
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keyring")?;
        f.debug_list().entries(self.ids()).finish()
    }
}

/// The URL that the handler's cluster gets, or by how much it exceeds [`MAX_CALLBACK_URL`].
pub fn callback_url(public_url: &str, sealed: &str) -> Result<String, TooLong> {
    let public_url = public_url.trim_end_matches('/');
    within(public_url.len() + CALLBACK_PATH.len() + sealed.len(), MAX_CALLBACK_URL)?;
    Ok([public_url, CALLBACK_PATH, sealed].concat())
}

fn within(len: usize, max: usize) -> Result<(), TooLong> {
    if len <= max { Ok(()) } else { Err(TooLong { by: len - max, max }) }
}

fn read_origin(content: &[u8]) -> Option<Origin> {
    let mut content = Reader::new(content);
    let origin = Origin {
        url: content.text()?,
        endpoint: content.text()?,
        target: content.text()?,
        caller: content.text()?,
        issued: content.number()?,
        expires: content.number()?,
        request_id: if content.end() { String::new() } else { content.text()? },
    };
    content.end().then_some(origin)
}
