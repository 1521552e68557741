//! Keys, their texts, and what is derived from them.

use std::fmt;

use aws_lc_rs::{constant_time, hmac, rand};
use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

const ID_MAX: usize = 64;
const SECRET_LEN: usize = 32;

/// Padding may be there, since other tools write it.
const TEXT: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new().with_encode_padding(false).with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A key that seals and opens.
#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    /// What operators call it. It is not on the wire.
    pub id: Box<str>,
    secret: Secret,
}

/// Why a text is not a key. The messages hold nothing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// There is no colon.
    #[error("a key is written ID:SECRET, for example by `nexus-gateway keys new`")]
    Form,
    /// The id is empty, too long or has other characters.
    #[error("the id of a key has 1 to {ID_MAX} letters, digits, dots, hyphens and underscores")]
    Id,
    /// The secret has another length or another alphabet.
    #[error(
        "the secret of a key is {SECRET_LEN} random bytes in base64url: 43 letters, digits, hyphens and underscores"
    )]
    Secret,
}

impl Key {
    /// A key of this name. The secret has to be random: nothing makes a guessable one harder to guess.
    pub fn new(id: &str, secret: [u8; SECRET_LEN]) -> Self {
        Self { id: id.into(), secret: Secret(secret) }
    }

    /// A key of this name with a secret of its own.
    ///
    /// # Panics
    /// Where the operating system has no randomness.
    pub fn generate(id: &str) -> Self {
        let mut secret = [0; SECRET_LEN];
        rand::fill(&mut secret).expect("the system has randomness");
        Self::new(id, secret)
    }

    /// Reads what [`to_text`](Self::to_text) writes; space around it is ignored, as files end with a newline.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let (id, secret) = text.trim().split_once(':').ok_or(KeyError::Form)?;
        if !Self::is_id(id) {
            return Err(KeyError::Id);
        }
        let mut bytes = Secret([0; SECRET_LEN]);
        match TEXT.decode_slice(secret, &mut bytes.0) {
            Ok(SECRET_LEN) => Ok(Self { id: id.into(), secret: bytes }),
            _ => Err(KeyError::Secret),
        }
    }

    /// Whether a key may be called so: 1 to 64 letters, digits, dots, hyphens and underscores.
    pub fn is_id(id: &str) -> bool {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        (1..=ID_MAX).contains(&id.len()) && id.bytes().all(allowed)
    }

    /// `ID:SECRET`, the secret in base64url. For files that only the gateway reads; [`Debug`] shows the id alone.
    pub fn to_text(&self) -> String {
        format!("{}:{}", self.id, TEXT.encode(self.secret.0))
    }

    /// How seals name it. It depends on the secret alone, so that it shows no id, an id can be corrected, and
    /// another secret under the same id is seen to be another key.
    pub(super) fn name(&self) -> super::cipher::Name {
        let [a, b, c, d, ..] = self.derive("name");
        [a, b, c, d]
    }

    /// A key for one purpose: a block of HKDF-Expand (RFC 5869, 2.3). The secret is uniformly random, so that nothing
    /// needs to be extracted from it first (3.3).
    pub(super) fn derive(&self, label: &str) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &self.secret.0));
        context.update(b"nexus-gateway seal ");
        context.update(label.as_bytes());
        context.update(&[1]);
        let mut derived = [0; 32];
        derived.copy_from_slice(context.sign().as_ref());
        derived
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.id)
    }
}

#[derive(Clone)]
struct Secret([u8; SECRET_LEN]);

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        constant_time::verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

impl Eq for Secret {}

/// As well as it can be done without unsafe code: values that were moved may have left copies.
impl Drop for Secret {
    fn drop(&mut self) {
        self.0.fill(0);
        std::hint::black_box(&self.0);
    }
}
