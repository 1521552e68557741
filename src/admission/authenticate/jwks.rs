//! Sets of public keys that check tokens (RFC 7517, RFC 7518 §6, RFC 8037).
//!
//! There is no algorithm here that a public key could be mistaken for the secret of, and none that asks for no key: what
//! is not asymmetric has no name in [`Algorithm`]. Each key knows of which kind it is, and is tried for that only.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{self as jwt, DecodingKey};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::api_key::sha256;

pub(super) mod fetched;

pub use fetched::{JwksStatus, JwksUrl};

/// Longest text of a set, in bytes.
pub(super) const MAX_SET: usize = 1 << 20;

/// Most keys of a set.
pub(super) const MAX_KEYS: usize = 100;

/// Bytes of an RSA modulus: 2048 to 8192 bits, those that signatures are checked with.
const MODULUS: std::ops::RangeInclusive<usize> = 256..=1024;

/// Longest public exponent of RSA, in bytes.
const MAX_EXPONENT: usize = 8;

/// How a token may be signed (RFC 7518 §3.1, RFC 8037 §3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// With SHA-384.
    Rs384,
    /// With SHA-512.
    Rs512,
    /// RSASSA-PSS with SHA-256.
    Ps256,
    /// With SHA-384.
    Ps384,
    /// With SHA-512.
    Ps512,
    /// ECDSA over P-256 with SHA-256.
    Es256,
    /// ECDSA over P-384 with SHA-384.
    Es384,
    /// Ed25519.
    EdDsa,
}

/// Where the keys of an issuer are from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// The configuration.
    Set(KeySet),
    /// A URL of the issuer.
    Url(JwksUrl),
}

/// What a key is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Rsa,
    P256,
    P384,
    Ed25519,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Rs256,
        Self::Rs384,
        Self::Rs512,
        Self::Ps256,
        Self::Ps384,
        Self::Ps512,
        Self::Es256,
        Self::Es384,
        Self::EdDsa,
    ];

    /// What headers of tokens call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::EdDsa => "EdDSA",
        }
    }

    /// The one of this name, to the letter.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }

    fn kind(self) -> Kind {
        match self {
            Self::Rs256 | Self::Rs384 | Self::Rs512 | Self::Ps256 | Self::Ps384 | Self::Ps512 => Kind::Rsa,
            Self::Es256 => Kind::P256,
            Self::Es384 => Kind::P384,
            Self::EdDsa => Kind::Ed25519,
        }
    }

    fn checked_as(self) -> jwt::Algorithm {
        match self {
            Self::Rs256 => jwt::Algorithm::RS256,
            Self::Rs384 => jwt::Algorithm::RS384,
            Self::Rs512 => jwt::Algorithm::RS512,
            Self::Ps256 => jwt::Algorithm::PS256,
            Self::Ps384 => jwt::Algorithm::PS384,
            Self::Ps512 => jwt::Algorithm::PS512,
            Self::Es256 => jwt::Algorithm::ES256,
            Self::Es384 => jwt::Algorithm::ES384,
            Self::EdDsa => jwt::Algorithm::EdDSA,
        }
    }
}

/// The keys of an issuer. Two are equal where their texts are; a clone is cheap.
#[derive(Clone)]
pub struct KeySet {
    keys: Arc<[Key]>,
    hash: [u8; 32],
}

/// A key that checks signatures.
pub(super) struct Key {
    id: Option<Box<str>>,
    kind: Kind,
    /// The only algorithm that it is for, where it says so.
    only: Option<Algorithm>,
    public: DecodingKey,
}

impl KeySet {
    /// The set of this text. Keys that are for something else, or of kinds that are unknown here, are left out as RFC 7517
    /// §5 wants it. An error says why no key is left, or what must not be there, and never repeats anything of the text.
    pub fn read(text: &str) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<Map<String, Value>>,
        }
        if text.len() > MAX_SET {
            return Err(format!("is longer than {} KiB", MAX_SET >> 10));
        }
        let wrong = |_| "is not a JSON Web Key Set, an object with a list `keys` of objects";
        let set: Set = serde_json::from_str(text).map_err(wrong)?;
        if set.keys.len() > MAX_KEYS {
            return Err(format!("has {} keys; at most {MAX_KEYS} are taken", set.keys.len()));
        }
        if set.keys.iter().any(|key| key.contains_key("d")) {
            return Err("has a private key, which nobody but the issuer may have".into());
        }
        let keys: Arc<[Key]> = set.keys.iter().filter_map(Key::read).collect();
        if keys.is_empty() {
            return Err("has no key by which a signature can be checked".into());
        }
        Ok(Self { keys, hash: sha256(text.as_bytes()) })
    }

    /// The keys that may have signed what says this of itself.
    pub(super) fn fitting<'a>(&'a self, id: Option<&'a str>, algorithm: Algorithm) -> impl Iterator<Item = &'a Key> {
        self.keys.iter().filter(move |key| {
            let named = id.is_none_or(|id| key.id.as_deref() == Some(id));
            named && key.kind == algorithm.kind() && key.only.is_none_or(|only| only == algorithm)
        })
    }

    /// Whether it is this very set, not only an equal one.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.keys, &other.keys)
    }
}

impl PartialEq for KeySet {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash
    }
}

impl Eq for KeySet {}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeySet").field("keys", &self.keys.len()).finish_non_exhaustive()
    }
}

impl Key {
    /// None where it is not for signatures, or of no kind that is known.
    fn read(key: &Map<String, Value>) -> Option<Self> {
        let text = |name: &str| key.get(name).and_then(Value::as_str);
        let is_for_signatures = key.get("use").is_none_or(|used| used == "sig")
            && key
                .get("key_ops")
                .is_none_or(|uses| uses.as_array().is_some_and(|uses| uses.contains(&"verify".into())));
        let (kind, public) = match (text("kty")?, text("crv")) {
            ("RSA", _) => (Kind::Rsa, rsa(text("n")?, text("e")?)?),
            ("EC", Some("P-256")) => (Kind::P256, point::<32>(text("x")?, text("y")?)?),
            ("EC", Some("P-384")) => (Kind::P384, point::<48>(text("x")?, text("y")?)?),
            ("OKP", Some("Ed25519")) => (Kind::Ed25519, DecodingKey::from_ed_der(&bytes::<32>(text("x")?)?)),
            _ => return None,
        };
        let only = match key.get("alg") {
            None => None,
            Some(name) => Some(Algorithm::named(name.as_str()?).filter(|only| only.kind() == kind)?),
        };
        let id = match key.get("kid") {
            None => None,
            Some(id) => Some(id.as_str()?.into()),
        };
        is_for_signatures.then_some(Self { id, kind, only, public })
    }

    /// Whether it made `signature`, in base64url, of `message`. Only for an algorithm that it fits.
    pub(super) fn signed(&self, message: &str, signature: &str, algorithm: Algorithm) -> bool {
        let checked = jwt::crypto::verify(signature, message.as_bytes(), &self.public, algorithm.checked_as());
        self.kind == algorithm.kind() && matches!(checked, Ok(true))
    }
}

fn rsa(modulus: &str, exponent: &str) -> Option<DecodingKey> {
    let number = |text: &str| {
        let mut bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        bytes.drain(..bytes.iter().take_while(|byte| **byte == 0).count());
        Some(bytes)
    };
    let (modulus, exponent) = (number(modulus)?, number(exponent)?);
    let fits = MODULUS.contains(&modulus.len()) && (1..=MAX_EXPONENT).contains(&exponent.len());
    fits.then(|| DecodingKey::from_rsa_raw_components(&modulus, &exponent))
}

/// A point of an elliptic curve, uncompressed (SEC 1 §2.3.3).
fn point<const SIZE: usize>(x: &str, y: &str) -> Option<DecodingKey> {
    let point = [&[4], &bytes::<SIZE>(x)?[..], &bytes::<SIZE>(y)?[..]].concat();
    Some(DecodingKey::from_ec_der(&point))
}

fn bytes<const SIZE: usize>(text: &str) -> Option<[u8; SIZE]> {
    URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests;
