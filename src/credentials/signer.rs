//! Who asks, as a token that the gateway signs and a handler can check: a JWT (RFC 7519) that holds for a minute.
//!
//! The public key is told as a key set (RFC 7517) on the admin port, with those of a change: one that will sign is told before
//! it does, and one that did for as long as its tokens hold. Which key signed is told by its thumbprint (RFC 7638).

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::header::HeaderValue;
use moka::sync::Cache;
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};

use super::public_key::PublicKey;
use crate::admission::Identity;

/// How long a token holds.
const LIFETIME: Duration = Duration::from_secs(60);
/// How long the same token is shown again: it still holds for as long as a request may take to be checked.
const SHOWN_FOR: Duration = Duration::from_secs(15);
/// Tokens that are kept to be shown again.
const MAX_KEPT: u64 = 10_000;
/// What is said of other kinds of keys.
pub(super) const WRONG_KIND: &str = "the key is neither one of P-256 nor of Ed25519";

/// How the names of callers are signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignerSettings {
    /// The key.
    pub key: SigningKey,
    /// Further keys of the key set: those that sign elsewhere, or did, or will. The same one as `key` counts once.
    pub published: Vec<PublicKey>,
    /// The `iss` of the tokens.
    pub issuer: Box<str>,
}

/// A private key that signs: P-256 (ES256) or Ed25519 (`EdDSA`).
#[derive(Clone)]
pub struct SigningKey {
    der: Arc<[u8]>,
    pair: Arc<Pair>,
    public: PublicKey,
}

enum Pair {
    P256(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl SigningKey {
    /// Reads a PEM of PKCS#8. Messages never repeat any of it.
    pub fn read(pem: &str) -> Result<Self, String> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes())
            .map_err(|_| "the file has no PEM private key in PKCS#8 (`BEGIN PRIVATE KEY`)")?;
        let der = der.secret_pkcs8_der();
        let p256 = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der).map(Pair::P256);
        let pair = p256.or_else(|_| Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).map(Pair::Ed25519));
        let pair = pair.map_err(|_| WRONG_KIND)?;
        let public = match &pair {
            Pair::P256(pair) => PublicKey::of_point(pair.public_key().as_ref()),
            Pair::Ed25519(pair) => pair.public_key().as_ref().try_into().ok().map(PublicKey::Ed25519),
        };
        Ok(Self { der: der.into(), pair: Arc::new(pair), public: public.ok_or(WRONG_KIND)? })
    }

    /// What its signatures are checked by.
    pub fn public(&self) -> PublicKey {
        self.public.clone()
    }

    fn sign(&self, text: &[u8]) -> Option<Vec<u8>> {
        match &*self.pair {
            Pair::P256(pair) => Some(pair.sign(&SystemRandom::new(), text).ok()?.as_ref().to_vec()),
            Pair::Ed25519(pair) => Some(pair.sign(text).as_ref().to_vec()),
        }
    }
}

impl PartialEq for SigningKey {
    fn eq(&self, other: &Self) -> bool {
        self.der == other.der
    }
}

impl Eq for SigningKey {}

/// Shows nothing of the key.
impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public.algorithm())
    }
}

/// What a token says: the caller's name, its namespace, and the endpoint.
type Said = (Arc<str>, Option<Arc<str>>, Box<str>);

/// Signs who asks.
pub struct Signer {
    settings: SignerSettings,
    /// The head of every token, encoded.
    head: String,
    kept: Cache<Said, HeaderValue>,
}

impl Signer {
    /// A signer by these settings.
    pub fn new(settings: SignerSettings) -> Self {
        let public = &settings.key.public;
        let head = json!({ "alg": public.algorithm(), "typ": "JWT", "kid": public.thumbprint() });
        let kept = Cache::builder().max_capacity(MAX_KEPT).time_to_live(SHOWN_FOR).build();
        Self { head: encode(head.to_string().as_bytes()), settings, kept }
    }

    /// Its settings.
    pub fn settings(&self) -> &SignerSettings {
        &self.settings
    }

    /// The set of public keys: its own, and what else is published.
    pub fn key_set(&self) -> Value {
        let SignerSettings { key, published, .. } = &self.settings;
        let others = published.iter().filter(|other| **other != key.public);
        let keys: Vec<_> = std::iter::once(&key.public).chain(others).map(PublicKey::jwk).collect();
        json!({ "keys": keys })
    }

    /// A token that says to the handlers of `endpoint` who asks. None where nothing can be signed, which does not happen.
    pub(super) fn sign(&self, caller: &Identity, endpoint: &str) -> Option<HeaderValue> {
        let key = (caller.name.clone(), caller.namespace.clone(), endpoint.into());
        if let Some(kept) = self.kept.get(&key) {
            return Some(kept);
        }
        let token = self.token(caller, endpoint, SystemTime::now())?;
        let mut value = HeaderValue::try_from(token).ok()?;
        value.set_sensitive(true);
        self.kept.insert(key, value.clone());
        Some(value)
    }

    fn token(&self, caller: &Identity, endpoint: &str, now: SystemTime) -> Option<String> {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
        let mut claims = json!({
            "iss": self.settings.issuer,
            "sub": caller.name,
            "aud": endpoint,
            "iat": now,
            "exp": now + LIFETIME.as_secs(),
            "jti": uuid::Uuid::new_v4().hyphenated().to_string(),
        });
        if let Some(namespace) = &caller.namespace {
            claims["namespace"] = (**namespace).into();
        }
        let text = format!("{}.{}", self.head, encode(claims.to_string().as_bytes()));
        let signature = self.settings.key.sign(text.as_bytes())?;
        Some(format!("{text}.{}", encode(&signature)))
    }
}

pub(super) fn encode(bytes: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::jwk::Jwk;
    use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};

    use super::*;
    use crate::admission::How;

    fn signer(algorithm: &'static rcgen::SignatureAlgorithm) -> Signer {
        let pem = rcgen::KeyPair::generate_for(algorithm).unwrap().serialize_pem();
        let key = SigningKey::read(&pem).unwrap();
        Signer::new(SignerSettings { key, published: Vec::new(), issuer: "edge".into() })
    }

    fn orders() -> Identity {
        Identity { name: "orders".into(), namespace: Some("prod".into()), how: How::Jwt }
    }

    #[test]
    fn a_handler_can_check_who_asks_by_the_key_set() {
        for (made, read) in
            [(&rcgen::PKCS_ECDSA_P256_SHA256, Algorithm::ES256), (&rcgen::PKCS_ED25519, Algorithm::EdDSA)]
        {
            let signer = signer(made);
            let token = signer.sign(&orders(), "pay").unwrap();
            let token = token.to_str().unwrap();
            let key: Jwk = serde_json::from_value(signer.key_set()["keys"][0].clone()).unwrap();
            assert_eq!(decode_header(token).unwrap().kid, key.common.key_id);
            let mut validation = Validation::new(read);
            validation.set_audience(&["pay"]);
            validation.set_issuer(&["edge"]);
            let decoded = decode::<Value>(token, &DecodingKey::from_jwk(&key).unwrap(), &validation).unwrap();
            assert_eq!((&decoded.claims["sub"], &decoded.claims["namespace"]), (&json!("orders"), &json!("prod")));
            assert_eq!(decoded.claims["exp"].as_u64().unwrap() - decoded.claims["iat"].as_u64().unwrap(), 60);
        }
    }

    #[test]
    fn keys_of_a_change_are_told_beside_the_one_that_signs() {
        let [old, new] = [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ED25519].map(signer);
        let [old, new] = [old.settings().key.clone(), new.settings().key.clone()];
        let told = |key: &SigningKey, published: &[&SigningKey]| {
            let published = published.iter().map(|key| key.public()).collect();
            let signer = Signer::new(SignerSettings { key: key.clone(), published, issuer: "edge".into() });
            let set = signer.key_set();
            let keys: Vec<_> = set["keys"].as_array().unwrap().iter().map(|key| key["kid"].clone()).collect();
            let token = signer.sign(&orders(), "pay").unwrap();
            assert_eq!(json!(decode_header(token.to_str().unwrap()).unwrap().kid), keys[0]);
            assert!(!set.to_string().contains("\"d\""), "nothing private");
            keys
        };
        let names = [&old, &new].map(|key| json!(key.public().thumbprint()));
        let [old_name, new_name] = names;
        assert_eq!(told(&old, &[]), std::slice::from_ref(&old_name));
        assert_eq!(told(&old, &[&new]), [old_name.clone(), new_name.clone()]);
        assert_eq!(told(&new, &[&old]), [new_name.clone(), old_name.clone()]);
        assert_eq!(told(&new, &[&old, &new]), [new_name, old_name], "each once");
    }

    #[test]
    fn the_same_token_is_shown_again_to_the_same_endpoint_only() {
        let signer = signer(&rcgen::PKCS_ED25519);
        let first = signer.sign(&orders(), "pay");
        assert_eq!(signer.sign(&orders(), "pay"), first);
        assert_ne!(signer.sign(&orders(), "ship"), first);
        assert_ne!(signer.sign(&Identity { namespace: None, ..orders() }, "pay"), first);
    }

    #[test]
    fn what_is_no_key_is_refused_without_being_shown() {
        let other = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap().serialize_pem();
        for text in [&*other, "s3cret", ""] {
            let why = SigningKey::read(text).unwrap_err();
            assert!(!why.contains("s3cret"), "{why}");
        }
        let key = SigningKey::read(&rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap();
        assert_eq!(format!("{key:?}"), "SigningKey(ES256)");
    }
}
