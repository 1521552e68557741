//! Public keys that handlers check signatures by, as a key set tells them (RFC 7517): P-256 (ES256) and Ed25519 (`EdDSA`).
//!
//! Each is named by its thumbprint (RFC 7638), so that it is the same one whoever tells it.

use aws_lc_rs::digest;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ED25519, ParsedPublicKey};
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Map, Value};

use super::signer::{SigningKey, WRONG_KIND, encode};

/// What stands before the bytes of a key in its DER form (RFC 5280 §4.1.2.7), which says what kind of key it is: for P-256
/// with an uncompressed point (RFC 5480 §2), and for Ed25519 (RFC 8410 §4).
const P256: &[u8] =
    b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00";
const ED: &[u8] = b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00";

/// A public key of a kind that the gateway signs with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublicKey {
    /// P-256, by its coordinates.
    P256 {
        /// The first.
        x: [u8; 32],
        /// The second.
        y: [u8; 32],
    },
    /// Ed25519.
    Ed25519([u8; 32]),
}

impl PublicKey {
    /// Reads a PEM of a public key, or the public part of a private one in PKCS#8. Messages never repeat any of it.
    pub fn read(pem: &str) -> Result<Self, String> {
        if let Ok(key) = SubjectPublicKeyInfoDer::from_pem_slice(pem.as_bytes()) {
            return Self::of_der(&key).ok_or_else(|| WRONG_KIND.into());
        }
        if pem.contains("-----BEGIN PRIVATE KEY") {
            return SigningKey::read(pem).map(|key| key.public());
        }
        Err("the file has neither a PEM public key (`BEGIN PUBLIC KEY`) nor a private one in PKCS#8 (`BEGIN PRIVATE KEY`)"
            .into())
    }

    fn of_der(der: &[u8]) -> Option<Self> {
        if let Some(point) = der.strip_prefix(P256) {
            ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).ok()?;
            return Self::of_point(point);
        }
        let key = der.strip_prefix(ED)?;
        ParsedPublicKey::new(&ED25519, key).ok()?;
        key.try_into().ok().map(Self::Ed25519)
    }

    /// One of P-256 by its point, uncompressed: 4, x, y.
    pub(super) fn of_point(point: &[u8]) -> Option<Self> {
        let (x, y) = point.strip_prefix(&[4])?.split_first_chunk()?;
        Some(Self::P256 { x: *x, y: y.try_into().ok()? })
    }

    /// The name of its algorithm (RFC 7518 §3.1, RFC 8037 §3.1).
    pub fn algorithm(&self) -> &'static str {
        match self {
            Self::P256 { .. } => "ES256",
            Self::Ed25519(_) => "EdDSA",
        }
    }

    /// The key without what names it; its members in the order that a thumbprint wants.
    fn members(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::P256 { x, y } => {
                vec![("crv", "P-256".into()), ("kty", "EC".into()), ("x", encode(x)), ("y", encode(y))]
            }
            Self::Ed25519(x) => vec![("crv", "Ed25519".into()), ("kty", "OKP".into()), ("x", encode(x))],
        }
    }

    /// Its name.
    pub fn thumbprint(&self) -> String {
        let members: Vec<_> = self.members().iter().map(|(name, value)| format!("\"{name}\":\"{value}\"")).collect();
        encode(digest::digest(&digest::SHA256, format!("{{{}}}", members.join(",")).as_bytes()).as_ref())
    }

    /// The key as a set has it.
    pub(super) fn jwk(&self) -> Value {
        let mut key: Map<_, Value> =
            self.members().into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
        let thumbprint = self.thumbprint();
        for (name, value) in [("kid", &*thumbprint), ("use", "sig"), ("alg", self.algorithm())] {
            key.insert(name.into(), value.into());
        }
        key.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What RFC 8037 (appendix A) says of this key.
    #[test]
    fn a_key_is_named_by_its_thumbprint() {
        let x = b"\xd7\x5a\x98\x01\x82\xb1\x0a\xb7\xd5\x4b\xfe\xd3\xc9\x64\x07\x3a\x0e\xe1\x72\xf3\xda\xa6\x23\x25\xaf\x02\x1a\x68\xf7\x07\x51\x1a";
        assert_eq!(PublicKey::Ed25519(*x).thumbprint(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    }

    #[test]
    fn a_public_key_is_the_same_by_itself_and_in_the_private_one() {
        for kind in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ED25519] {
            let pair = rcgen::KeyPair::generate_for(kind).unwrap();
            let public = PublicKey::read(&pair.public_key_pem()).unwrap();
            assert_eq!(PublicKey::read(&pair.serialize_pem()), Ok(public.clone()));
            assert_eq!(SigningKey::read(&pair.serialize_pem()).unwrap().public(), public);
        }
    }

    #[test]
    fn what_is_no_key_is_refused_without_being_shown() {
        let other = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        let good = rcgen::KeyPair::generate().unwrap().public_key_pem();
        let mut off_the_curve = SubjectPublicKeyInfoDer::from_pem_slice(good.as_bytes()).unwrap().to_vec();
        assert!(PublicKey::of_der(&off_the_curve).is_some());
        let last = off_the_curve.len() - 1;
        off_the_curve[last] ^= 1;
        assert_eq!(PublicKey::of_der(&off_the_curve), None);
        for text in
            [&*other.public_key_pem(), &other.serialize_pem(), "s3cret", "-----BEGIN PUBLIC KEY-----\ns3cret", ""]
        {
            let why = PublicKey::read(text).unwrap_err();
            assert!(!why.contains("s3cret"), "{why}");
        }
    }
}
