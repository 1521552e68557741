//! Who is known by what.

use std::net::Ipv4Addr;
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{HeaderName, HeaderValue};
use proptest::prelude::*;
use serde_json::json;

use super::testing::{Signer, jwks};
use super::*;
use crate::admission::Trust;
use crate::tls::PeerCertificate;

fn peer() -> Peer {
    Peer::connected((Ipv4Addr::LOCALHOST, 1).into(), Trust::Untrusted)
}

fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
    }
    headers
}

/// Whom `authentication` takes the sender of these headers for.
async fn who(authentication: &Authentication, lines: &[(&'static str, &str)]) -> Result<Option<String>, Denied> {
    let caller = authentication.authenticate(&peer(), &headers(lines)).await?;
    Ok(caller.identity().map(|identity| match &identity.namespace {
        Some(namespace) => format!("{} in {namespace} by {:?}", identity.name, identity.how),
        None => format!("{} by {:?}", identity.name, identity.how),
    }))
}

fn keys(header: &'static str, keys: Vec<ApiKey>) -> ApiKeySettings {
    ApiKeySettings { header: HeaderName::from_static(header), keys }
}

#[tokio::test]
async fn a_caller_is_known_by_its_api_key() {
    let orders = NewApiKey::generate("orders", Some("shop")).unwrap();
    let next = NewApiKey::generate("orders", None).unwrap();
    let settings = keys("x-api-key", vec![orders.key, next.key]);
    let authentication = Authentication::new(
        &AuthenticationSettings { api_keys: Some(settings), ..AuthenticationSettings::default() },
        None,
    );
    let known = |text: &str| Ok(Some(text.to_owned()));
    assert_eq!(who(&authentication, &[("x-api-key", &orders.text)]).await, known("orders in shop by ApiKey"));
    assert_eq!(who(&authentication, &[("x-api-key", &next.text)]).await, known("orders by ApiKey"));
    assert_eq!(who(&authentication, &[]).await, Ok(None));
    assert_eq!(
        who(&authentication, &[("authorization", "Bearer x")]).await,
        Ok(None),
        "that header is not the gateway's"
    );
    let long = "x".repeat(600);
    for wrong in ["", "x", &orders.text[1..], &orders.text.to_uppercase(), &long] {
        let denied = who(&authentication, &[("x-api-key", wrong)]).await.unwrap_err();
        assert!(matches!(denied, Denied::Wrong { how: How::ApiKey, .. }), "{wrong}: {denied:?}");
    }
    let twice = [("x-api-key", &*orders.text), ("x-api-key", &*orders.text)];
    assert!(who(&authentication, &twice).await.is_err());
}

#[tokio::test]
async fn what_a_request_shows_names_its_sender_rather_than_the_certificate() {
    let key = NewApiKey::generate("orders", None).unwrap();
    let pattern = IdentityPattern::new("CN={name}").unwrap();
    let authentication = Authentication::new(
        &AuthenticationSettings {
            certificates: vec![CertificateRule { field: Field::Subject, pattern }],
            api_keys: Some(keys("x-api-key", vec![key.key])),
            ..AuthenticationSettings::default()
        },
        None,
    );
    let with = |subject: &str| Peer {
        certificate: Some(Arc::new(PeerCertificate { subject: subject.into(), ..PeerCertificate::default() })),
        ..peer()
    };
    for (subject, shown, expected) in [
        ("CN=mesh", None, Ok("mesh")),
        ("CN=mesh", Some(&*key.text), Ok("orders")),
        ("CN=mesh", Some("wrong"), Err(How::ApiKey)),
        ("O=mesh", None, Err(How::Certificate)),
        ("O=mesh", Some(&*key.text), Err(How::Certificate)),
    ] {
        let headers = headers(&shown.map(|key| ("x-api-key", key)).into_iter().collect::<Vec<_>>());
        let found = authentication.authenticate(&with(subject), &headers).await;
        let found = found.map(|caller| caller.identity().map(|identity| identity.name.to_string()));
        assert_eq!(
            found.map_err(|denied| denied.how()),
            expected.map(|name| Some(name.to_owned())),
            "{subject} {shown:?}"
        );
    }
    assert_eq!(who(&authentication, &[]).await, Ok(None), "without a certificate");
}

#[tokio::test]
async fn an_api_key_may_come_as_a_bearer() {
    let orders = NewApiKey::generate("orders", None).unwrap();
    let settings = keys("authorization", vec![orders.key]);
    let authentication = Authentication::new(
        &AuthenticationSettings { api_keys: Some(settings), ..AuthenticationSettings::default() },
        None,
    );
    let shown = format!("Bearer {}", orders.text);
    assert_eq!(who(&authentication, &[("authorization", &shown)]).await, Ok(Some("orders by ApiKey".into())));
    assert!(who(&authentication, &[("authorization", &orders.text)]).await.is_err(), "without a scheme");
    let mut headers = headers(&[("authorization", &shown), ("x-api-key", "of the handler")]);
    authentication.strip(&mut headers);
    assert_eq!(headers.keys().collect::<Vec<_>>(), ["x-api-key"]);
}

#[test]
fn keys_are_random_and_only_their_hashes_are_kept() {
    let [one, other] = [0, 1].map(|_| NewApiKey::generate("orders", None).unwrap());
    assert!(one.text != other.text && one.text.starts_with("ngk_") && one.text.len() == 47);
    let debug = format!("{:?}", keys("x-api-key", vec![one.key.clone()]));
    assert!(debug.contains("orders") && !debug.contains(&one.text) && !debug.contains("sha256"), "{debug}");
}

#[test]
fn names_are_printable_and_nobody_is_called_anonymous() {
    for good in ["a", "a b", "spiffe://a/b", "CN=a, O=b", &"x".repeat(256)] {
        assert!(is_name(good), "{good}");
        assert!(NewApiKey::generate(good, Some(good)).is_some());
    }
    for bad in ["", " a", "a ", "a\nb", "é", "a\u{7f}", "anonymous", &"x".repeat(257)] {
        assert!(!is_name(bad), "{bad}");
        assert!(NewApiKey::generate(bad, None).is_none());
    }
}

proptest! {
    #[test]
    fn no_text_but_a_key_is_known(text in "\\PC{0,60}") {
        let orders = NewApiKey::generate("orders", None).unwrap();
        let keys = ApiKeys::new([orders.key].iter());
        prop_assert!(keys.identify(&text).is_err());
    }
}

#[tokio::test]
async fn a_header_may_carry_a_token_or_a_key() {
    let (key, signer) = (NewApiKey::generate("by-key", None).unwrap(), Signer::new("one", "EdDSA"));
    let issuer = JwtSettings {
        issuer: "issuer".into(),
        audience: vec!["gateway".into()],
        algorithms: vec![Algorithm::EdDsa],
        keys: KeySource::Set(KeySet::read(&jwks(&[&signer])).unwrap()),
        header: AUTHORIZATION,
        name: ClaimPath::new(["sub".into()]),
        pattern: IdentityPattern::whole(),
        namespace: None,
        leeway: Duration::ZERO,
    };
    let token = |audience: &str| {
        let claims = json!({ "iss": "issuer", "aud": audience, "exp": 1e12, "sub": "by-token" });
        format!("Bearer {}", signer.token(&claims))
    };
    let (right, wrong, key_text) = (token("gateway"), token("another"), format!("Bearer {}", key.text));
    let with = |header| AuthenticationSettings {
        api_keys: Some(keys(header, vec![key.key.clone()])),
        jwt: vec![issuer.clone()],
        ..AuthenticationSettings::default()
    };
    let known = |text: &str| Ok(Some(text.to_owned()));
    let both = Authentication::new(&with("authorization"), None);
    assert_eq!(who(&both, &[("authorization", &right)]).await, known("by-token by Jwt"));
    assert_eq!(who(&both, &[("authorization", &key_text)]).await, known("by-key by ApiKey"));
    assert_eq!(who(&both, &[("authorization", &wrong)]).await.unwrap_err().how(), How::Jwt);
    assert_eq!(who(&both, &[("authorization", "Bearer a.b.c.d")]).await.unwrap_err().how(), How::ApiKey);

    let apart = Authentication::new(&with("x-api-key"), None);
    let shown = [("authorization", &*right), ("x-api-key", &*key.text)];
    assert_eq!(who(&apart, &shown).await, known("by-token by Jwt"));
    assert!(who(&apart, &[("authorization", &right), ("x-api-key", "wrong")]).await.is_err());
    assert!(who(&apart, &[("authorization", &wrong), ("x-api-key", &key.text)]).await.is_err());
    assert_eq!(who(&apart, &[("authorization", &key_text)]).await.unwrap_err().how(), How::Jwt);
    let mut headers = headers(&shown);
    apart.strip(&mut headers);
    assert!(headers.is_empty());
}
