//! Who asks, as a token that the gateway signs and a handler can check: a JWT (RFC 7519) that holds for a minute.
//!
//! The public key is told as a key set (RFC 7517) on the admin port. Which key signed is told by its thumbprint (RFC 7638).

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::header::HeaderValue;
use moka::sync::Cache;
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};

use crate::admission::Identity;

/// How long a token holds.
const LIFETIME: Duration = Duration::from_secs(60);
/// How long the same token is shown again: it still holds for as long as a request may take to be checked.
const SHOWN_FOR: Duration = Duration::from_secs(15);
/// Tokens that are kept to be shown again.
const MAX_KEPT: u64 = 10_000;

/// How the names of callers are signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignerSettings {
    /// The key.
    pub key: SigningKey,
    /// The `iss` of the tokens.
    pub issuer: Box<str>,
}

/// A private key that signs: P-256 (ES256) or Ed25519 (`EdDSA`).
#[derive(Clone)]
pub struct SigningKey {
    der: Arc<[u8]>,
    pair: Arc<Pair>,
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
        let pair = pair.map_err(|_| "the key is neither one of P-256 nor of Ed25519")?;
        Ok(Self { der: der.into(), pair: Arc::new(pair) })
    }

    fn algorithm(&self) -> &'static str {
        match &*self.pair {
            Pair::P256(_) => "ES256",
            Pair::Ed25519(_) => "EdDSA",
        }
    }

    /// The public key without what names it; its members in the order that a thumbprint wants.
    fn public(&self) -> Vec<(&'static str, String)> {
        match &*self.pair {
            Pair::P256(pair) => {
                // An uncompressed point: 4, x, y.
                let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
                vec![("crv", "P-256".into()), ("kty", "EC".into()), ("x", encode(x)), ("y", encode(y))]
            }
            Pair::Ed25519(pair) => {
                let x = encode(pair.public_key().as_ref());
                vec![("crv", "Ed25519".into()), ("kty", "OKP".into()), ("x", x)]
            }
        }
    }

    fn thumbprint(&self) -> String {
        let members: Vec<_> = self.public().iter().map(|(name, value)| format!("\"{name}\":\"{value}\"")).collect();
        encode(digest::digest(&digest::SHA256, format!("{{{}}}", members.join(",")).as_bytes()).as_ref())
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
        write!(f, "SigningKey({})", self.algorithm())
    }
}

/// What a token says: the caller's name, its namespace, and the endpoint.
type Said = (Arc<str>, Option<Arc<str>>, Box<str>);

/// Signs who asks.
pub struct Signer {
    settings: SignerSettings,
    thumbprint: String,
    /// The head of every token, encoded.
    head: String,
    kept: Cache<Said, HeaderValue>,
}

impl Signer {
    /// A signer by these settings.
    pub fn new(settings: SignerSettings) -> Self {
        let thumbprint = settings.key.thumbprint();
        let head = json!({ "alg": settings.key.algorithm(), "typ": "JWT", "kid": thumbprint });
        let kept = Cache::builder().max_capacity(MAX_KEPT).time_to_live(SHOWN_FOR).build();
        Self { settings, head: encode(head.to_string().as_bytes()), thumbprint, kept }
    }

    /// Its settings.
    pub fn settings(&self) -> &SignerSettings {
        &self.settings
    }

    /// The set of its public key.
    pub fn key_set(&self) -> Value {
        let mut key: serde_json::Map<_, _> =
            self.settings.key.public().into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
        for (name, value) in [("kid", &*self.thumbprint), ("use", "sig"), ("alg", self.settings.key.algorithm())] {
            key.insert(name.into(), value.into());
        }
        json!({ "keys": [key] })
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

fn encode(bytes: &[u8]) -> String {
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
        Signer::new(SignerSettings { key: SigningKey::read(&pem).unwrap(), issuer: "edge".into() })
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
