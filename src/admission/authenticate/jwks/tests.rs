//! Which keys are taken.

use serde_json::json;

use super::*;
use crate::admission::authenticate::testing::{Signer, jwks};

fn read(keys: &Value) -> Result<KeySet, String> {
    KeySet::read(&json!({ "keys": keys }).to_string())
}

#[test]
fn keys_are_for_what_they_say() {
    let signer = Signer::new("one", "RS256");
    let fits = |change: Value, algorithm| {
        let mut key = signer.jwk();
        for (name, value) in change.as_object().unwrap() {
            key[name] = value.clone();
        }
        let other = Signer::new("other", "EdDSA").jwk();
        read(&json!([key, other])).unwrap().fitting(Some("one"), algorithm).count() == 1
    };
    assert!(fits(json!({}), Algorithm::Rs256) && fits(json!({}), Algorithm::Ps512));
    assert!(!fits(json!({}), Algorithm::Es256) && !fits(json!({}), Algorithm::EdDsa));
    assert!(fits(json!({ "alg": "RS256", "use": "sig", "key_ops": ["verify"] }), Algorithm::Rs256));
    assert!(!fits(json!({ "alg": "RS256" }), Algorithm::Rs384));
    for change in [
        json!({ "use": "enc" }),
        json!({ "key_ops": ["encrypt"] }),
        json!({ "key_ops": "verify" }),
        json!({ "alg": "RSA-OAEP" }),
        json!({ "alg": "ES256" }),
        json!({ "alg": 1 }),
        json!({ "kid": 1 }),
        json!({ "kty": "rsa" }),
        json!({ "n": "AQAB" }),
        json!({ "n": "not base64" }),
        json!({ "e": "" }),
        json!({ "e": null }),
    ] {
        assert!(!fits(change.clone(), Algorithm::Rs256), "{change}");
    }
}

#[test]
fn a_set_is_refused_that_is_none() {
    let signer = Signer::new("one", "ES256");
    let mut short = signer.jwk();
    short["x"] = "AAAA".into();
    let mut private = signer.jwk();
    private["d"] = "cHJpdmF0ZQ".into();
    let many: Vec<_> = (0..101).map(|_| signer.jwk()).collect();
    let secret = json!({ "kty": "oct", "k": "c2VjcmV0", "alg": "HS256", "kid": "one" });
    for (keys, why) in [
        (json!([]), "no key"),
        (json!([secret]), "no key"),
        (json!([short]), "no key"),
        (json!([{ "kty": "AKP", "alg": "ML-DSA-44", "pub": "AA" }]), "no key"),
        (json!([signer.jwk(), private]), "private key"),
        (json!(many), "has 101 keys"),
        (json!({}), "not a JSON Web Key Set"),
        (json!(["text"]), "not a JSON Web Key Set"),
    ] {
        let refused = read(&keys).unwrap_err();
        assert!(refused.contains(why) && !refused.contains("cHJpdmF0ZQ"), "{refused}");
    }
    for text in ["", "null", "[]", "{}", "<html>", "{\"keys\":[]} {}"] {
        assert!(KeySet::read(text).is_err(), "{text}");
    }
    let huge = format!("{}{}", jwks(&[&signer]), " ".repeat(MAX_SET));
    assert!(KeySet::read(&huge).unwrap_err().contains("longer than 1024 KiB"));
}

#[test]
fn sets_are_equal_where_their_texts_are() {
    let [one, two] = ["one", "two"].map(|id| Signer::new(id, "EdDSA"));
    let set = |signers: &[&Signer]| KeySet::read(&jwks(signers)).unwrap();
    assert_eq!(set(&[&one]), set(&[&one]));
    assert_ne!(set(&[&one]), set(&[&one, &two]));
    assert!(!format!("{:?}", set(&[&one])).contains("one"));
}
