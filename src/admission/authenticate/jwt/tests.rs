//! Which tokens are believed, and which are not.

use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU32;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::AUTHORIZATION;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::admission::authenticate::testing::{Signer, base64, jwks};

/// Seconds since 1970, at which all of this happens.
const NOW: u64 = 1_800_000_000;

const PEER: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

const ISSUER: &str = "https://issuer.example";

fn issuer(signers: &[&Signer]) -> JwtSettings {
    JwtSettings {
        issuer: ISSUER.into(),
        audience: vec!["gateway".into(), "other-gateway".into()],
        algorithms: vec![Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa],
        keys: KeySource::Set(KeySet::read(&jwks(signers)).unwrap()),
        header: AUTHORIZATION,
        name: path(&["sub"]),
        pattern: IdentityPattern::whole(),
        namespace: Some(path(&["kubernetes.io", "namespace"])),
        leeway: Duration::from_secs(30),
    }
}

fn path(names: &[&str]) -> ClaimPath {
    ClaimPath::new(names.iter().map(|name| Box::from(*name)))
}

/// What a good token says.
fn claims() -> Value {
    json!({
        "iss": ISSUER,
        "aud": "gateway",
        "exp": NOW + 600,
        "nbf": NOW - 10,
        "iat": NOW - 10,
        "sub": "orders",
        "kubernetes.io": { "namespace": "shop" },
    })
}

/// The same, but for this.
fn but(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

fn without(name: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(name);
    claims
}

fn trusting(jwt: impl Into<Vec<JwtSettings>>, before: Option<&Tokens>) -> Tokens {
    Tokens::new(&AuthenticationSettings { jwt: jwt.into(), ..AuthenticationSettings::default() }, before)
}

fn at(tokens: &Tokens, token: &str, now: u64) -> Result<String, String> {
    let known = ready(tokens.identify_at(PEER, &AUTHORIZATION, token, Duration::from_secs(now)));
    known.map(|identity| format!("{} in {:?}", identity.name, identity.namespace)).map_err(|denied| {
        assert!(matches!(denied, Denied::Wrong { how: How::Jwt, .. }), "{denied:?}");
        denied.why().to_owned()
    })
}

/// What comes of what has to wait for nothing.
fn ready<T>(future: impl Future<Output = T>) -> T {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(future).poll(&mut context) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => panic!("it waits"),
    }
}

fn who(settings: &JwtSettings, token: &str) -> Result<String, String> {
    at(&trusting([settings.clone()], None), token, NOW)
}

/// Not believed for this reason.
#[track_caller]
fn assert_wrong(settings: &JwtSettings, token: &str, why: &str) {
    let denied = who(settings, token).unwrap_err();
    assert!(denied.contains(why), "{denied:?} has nothing of {why:?}");
}

#[test]
fn a_token_is_believed_by_its_key_of_any_kind() {
    let algorithms = ["RS256", "PS256", "ES256", "ES384", "EdDSA"];
    let signers = algorithms.map(|algorithm| Signer::new(algorithm, algorithm));
    let settings = JwtSettings { algorithms: Algorithm::ALL.into(), ..issuer(&signers.each_ref()) };
    for (signer, algorithm) in signers.iter().zip(algorithms) {
        let expected = Ok("orders in Some(\"shop\")".to_owned());
        assert_eq!(who(&settings, &signer.token(&claims())), expected, "{algorithm}");
        let no_key_id = json!({ "alg": algorithm });
        assert_eq!(who(&settings, &signer.token_with(&no_key_id, &claims())), expected, "{algorithm} without kid");
        for other in algorithms {
            let key_of_another = json!({ "alg": algorithm, "kid": other });
            let read = who(&settings, &signer.token_with(&key_of_another, &claims()));
            assert_eq!(read.is_ok(), other == algorithm, "{algorithm} by the key for {other}");
        }
    }
}

#[test]
fn a_token_has_to_be_for_here_and_now() {
    let signer = Signer::new("one", "EdDSA");
    let settings = issuer(&[&signer]);
    for good in [
        but("aud", json!(["elsewhere", "other-gateway"])),
        but("exp", json!(NOW - 29)),
        but("exp", json!(1e300)),
        but("nbf", json!(NOW + 30)),
        but("iat", json!(NOW + 30)),
        but("iat", json!(1_500_000_000.5)),
        without("nbf"),
        without("iat"),
        but("crit", json!("of no meaning here")),
    ] {
        assert_eq!(who(&settings, &signer.token(&good)), Ok("orders in Some(\"shop\")".into()), "{good}");
    }
    assert_eq!(who(&settings, &signer.token(&without("kubernetes.io"))), Ok("orders in None".into()));
    let table = [
        (but("iss", json!("https://issuer.example/")), "issuer is unknown"),
        (but("iss", json!([ISSUER])), "no `iss`"),
        (but("iss", json!(null)), "no `iss`"),
        (without("iss"), "no `iss`"),
        (but("aud", json!("gatewa")), "another audience"),
        (but("aud", json!([])), "another audience"),
        (but("aud", json!(["gateway", 1])), "`aud` has more"),
        (but("aud", json!({ "gateway": true })), "no `aud`"),
        (without("aud"), "no `aud`"),
        (but("exp", json!(NOW - 30)), "expired"),
        (but("exp", json!(-1)), "expired"),
        (but("exp", json!((NOW + 600).to_string())), "no number"),
        (but("exp", json!(null)), "no number"),
        (without("exp"), "no `exp`"),
        (but("nbf", json!(NOW + 31)), "not hold yet"),
        (but("nbf", json!("0")), "no number"),
        (but("iat", json!(NOW + 31)), "future"),
        (but("iat", json!(true)), "no number"),
        (without("sub"), "does not say who"),
        (but("sub", json!(["orders"])), "is no text"),
        (but("sub", json!("")), "nobody may be called"),
        (but("sub", json!("anonymous")), "nobody may be called"),
        (but("sub", json!("a\nb")), "nobody may be called"),
        (but("sub", json!("x".repeat(257))), "nobody may be called"),
        (but("kubernetes.io", json!({ "namespace": 1 })), "is no text"),
        (but("kubernetes.io", json!({ "namespace": "" })), "no namespace may be called"),
    ];
    for (claims, why) in table {
        assert_wrong(&settings, &signer.token(&claims), why);
    }
}

#[test]
fn a_name_is_read_out_of_a_longer_text() {
    let signer = Signer::new("one", "EdDSA");
    let pattern = IdentityPattern::new("system:serviceaccount:{namespace}:{name}").unwrap();
    let settings = JwtSettings { pattern, namespace: None, ..issuer(&[&signer]) };
    let named = |sub: &str| who(&settings, &signer.token(&but("sub", json!(sub))));
    assert_eq!(named("system:serviceaccount:shop:orders"), Ok("orders in Some(\"shop\")".into()));
    for other in ["orders", "system:serviceaccount:shop", "system:serviceaccount:shop:orders:x"] {
        assert!(named(other).unwrap_err().contains("nobody may be called"), "{other}");
    }
}

#[test]
fn no_header_of_a_token_changes_what_it_is_checked_by() {
    let (signer, thief) = (Signer::new("one", "EdDSA"), Signer::new("one", "EdDSA"));
    let settings = issuer(&[&signer]);
    let brought = json!({
        "alg": "EdDSA", "kid": "one", "jwk": thief.jwk(), "jku": "https://thief.example/jwks", "x5u": "https://thief.example",
        "x5c": ["MIIB"],
    });
    assert_wrong(&settings, &thief.token_with(&brought, &claims()), "signature is wrong");
    assert_wrong(&settings, &thief.token(&claims()), "signature is wrong");
    assert!(who(&settings, &signer.token_with(&brought, &claims())).is_ok(), "what it brings is of no matter");
    let table = [
        (json!({ "alg": "EdDSA", "kid": "two" }), "key is unknown"),
        (json!({ "alg": "EdDSA", "kid": 1 }), "`kid`"),
        (json!({ "alg": "EdDSA", "crit": ["exp"] }), "`crit`"),
        (json!({ "alg": "EdDSA", "crit": null }), "`crit`"),
        (json!({ "alg": "ES384", "kid": "one" }), "none that its issuer uses"),
        (json!({ "alg": "ES256", "kid": "one" }), "key is unknown"),
        (json!({ "alg": "RS256", "kid": "one" }), "key is unknown"),
        (json!({ "alg": "eddsa", "kid": "one" }), "none that is taken"),
        (json!({ "alg": ["EdDSA"], "kid": "one" }), "none that is taken"),
        (json!({ "kid": "one" }), "none that is taken"),
        (json!([]), "no JSON object"),
    ];
    for (header, why) in table {
        assert_wrong(&settings, &signer.token_with(&header, &claims()), why);
    }
}

#[test]
fn nothing_that_is_public_signs() {
    for algorithm in ["RS256", "ES256", "EdDSA"] {
        let signer = Signer::new("one", algorithm);
        let settings = JwtSettings { algorithms: Algorithm::ALL.into(), ..issuer(&[&signer]) };
        let set = jwks(&[&signer]);
        let der = signer.der();
        let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(&der));
        for secret in [der, pem.into_bytes(), set.into_bytes(), signer.jwk().to_string().into_bytes(), Vec::new()] {
            let header = json!({ "alg": "HS256", "kid": "one", "typ": "JWT" }).to_string();
            let message = format!("{}.{}", base64(header.as_bytes()), base64(claims().to_string().as_bytes()));
            let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &secret), message.as_bytes());
            assert_wrong(&settings, &format!("{message}.{}", base64(tag.as_ref())), "none that is taken");
        }
        for name in ["none", "None", "nOnE", ""] {
            let header = json!({ "alg": name, "kid": "one" });
            let by_the_key = signer.token_with(&header, &claims());
            let (message, _) = by_the_key.rsplit_once('.').unwrap();
            assert_wrong(&settings, &format!("{message}."), "none that is taken");
            assert_wrong(&settings, &by_the_key, "none that is taken");
        }
        let token = signer.token(&claims());
        let (message, _) = token.rsplit_once('.').unwrap();
        assert_wrong(&settings, &format!("{message}."), "signature is wrong");
    }
}

#[test]
fn what_is_no_token_is_not_looked_into() {
    let signer = Signer::new("one", "EdDSA");
    let settings = issuer(&[&signer]);
    let token = signer.token(&claims());
    for (text, why) in [
        ("", "form"),
        ("..", "no JSON"),
        ("a.b", "form"),
        (&format!("{token}.{token}"), "form"),
        (&format!("{token}="), "form"),
        (&format!("{token} "), "form"),
        (&token.replace('.', " . "), "form"),
        (&format!(".{}", token.split_once('.').unwrap().1), "no JSON"),
        (&signer.token(&but("sub", json!("x".repeat(9_000)))), "too long"),
        (&signer.token(&json!("text")), "no JSON object"),
        (&signer.token(&json!([claims()])), "no JSON object"),
    ] {
        assert_wrong(&settings, text, why);
    }
}

#[test]
fn a_token_is_checked_once_while_it_holds() {
    let (signer, other) = (Signer::new("one", "EdDSA"), Signer::new("one", "EdDSA"));
    let mut tokens = trusting([issuer(&[&signer])], None);
    let token = signer.token(&claims());
    assert!(at(&tokens, &token, NOW).is_ok());
    let hash = sha256(token.as_bytes());
    assert!(tokens.remembered.contains_key(&hash));
    assert!(at(&tokens, &token, NOW + 629).is_ok());
    assert_eq!(at(&tokens, &token, NOW + 630), Err(format!("{ISSUER}: it has expired")), "though it is remembered");
    let elsewhere = ready(tokens.identify_at(PEER, &http::header::FROM, &token, Duration::from_secs(NOW)));
    assert!(elsewhere.is_err(), "another header");

    let same = trusting([issuer(&[&signer])], Some(&tokens));
    assert!(same.remembered.contains_key(&hash), "nothing changed");
    tokens = trusting([issuer(&[&other])], Some(&tokens));
    assert_eq!(at(&tokens, &token, NOW), Err(format!("{ISSUER}: its signature is wrong")), "the keys changed");
    let wrong = other.token(&without("exp"));
    assert!(at(&tokens, &wrong, NOW).is_err() && !tokens.remembered.contains_key(&sha256(wrong.as_bytes())));
}

/// Who a token from this peer shows, or how it is refused.
async fn from(tokens: &Tokens, peer: &str, token: &str) -> Result<(), Denied> {
    let peer = peer.parse().expect("an address");
    tokens.identify_at(peer, &AUTHORIZATION, token, Duration::from_secs(NOW)).await.map(|_| ())
}

#[tokio::test(start_paused = true)]
async fn a_peers_wrong_signatures_cost_no_more_than_so_many_checks() {
    let signers: Vec<_> = ["1", "2", "3", "4", "5", "6"].map(|id| Signer::new(id, "EdDSA")).into();
    let (signer, thief) = (&signers[0], Signer::new("1", "EdDSA"));
    let settings = AuthenticationSettings {
        jwt: vec![issuer(&signers.iter().collect::<Vec<_>>())],
        max_wrong_per_peer: NonZeroU32::new(10),
        ..AuthenticationSettings::default()
    };
    let mut tokens = Tokens::new(&settings, None);
    let forged = |number: usize| thief.token(&but("jti", json!(number)));
    let (known, fresh) = (signer.token(&claims()), signer.token(&but("jti", json!("fresh"))));
    let wrong = |shown: Result<(), Denied>| matches!(shown, Err(Denied::Wrong { .. }));
    let wait = |shown: Result<(), Denied>| match shown {
        Err(Denied::TooMany { how: How::Jwt, retry_after }) => retry_after.as_millis(),
        other => panic!("{other:?}"),
    };
    assert_eq!(from(&tokens, "10.0.0.1", &known).await, Ok(()));
    for number in 0..11 {
        assert!(wrong(from(&tokens, "10.0.0.1", &forged(number)).await), "{number}");
    }
    assert_eq!(wait(from(&tokens, "10.0.0.1", &forged(11)).await), 100);
    assert_eq!(wait(from(&tokens, "10.0.0.1", &fresh).await), 100, "nobody can tell it from a wrong one unchecked");
    assert_eq!(from(&tokens, "10.0.0.1", &known).await, Ok(()), "who is known already goes on");
    assert!(wrong(from(&tokens, "10.0.0.1", &signer.token(&without("aud"))).await), "what costs nothing is free");
    let nobodys = thief.token_with(&json!({ "alg": "EdDSA", "kid": "7" }), &claims());
    assert!(wrong(from(&tokens, "10.0.0.1", &nobodys).await), "so is a key that there is not");
    assert_eq!(from(&tokens, "10.0.0.2", &fresh).await, Ok(()), "and others have no part in it");

    tokens = Tokens::new(&settings, Some(&tokens));
    assert_eq!(wait(from(&tokens, "10.0.0.1", &forged(11)).await), 100, "a reload forgives nothing");
    tokio::time::advance(Duration::from_millis(100)).await;
    let nameless = |signer: &Signer| signer.token_with(&json!({ "alg": "EdDSA" }), &but("jti", json!("nameless")));
    assert!(wrong(from(&tokens, "10.0.0.1", &nameless(&thief)).await));
    assert_eq!(wait(from(&tokens, "10.0.0.1", &forged(12)).await), 400, "each key that was tried counts");
    assert_eq!(from(&tokens, "10.0.0.2", &nameless(&signers[3])).await, Ok(()));
    assert!(wrong(from(&tokens, "10.0.0.2", &nameless(&signers[4])).await), "no more than four keys are tried");
}

#[test]
fn each_issuer_is_checked_by_what_is_its_own() {
    let (one, two) = (Signer::new("key", "EdDSA"), Signer::new("key", "EdDSA"));
    let header = http::HeaderName::from_static("x-token");
    let other = JwtSettings { issuer: "two".into(), header: header.clone(), name: path(&["who"]), ..issuer(&[&two]) };
    let tokens = trusting([issuer(&[&one]), other], None);
    let mut of_two = but("iss", json!("two"));
    of_two["who"] = "billing".into();
    let known = ready(tokens.identify_at(PEER, &header, &two.token(&of_two), Duration::from_secs(NOW))).unwrap();
    assert_eq!(&*known.name, "billing");
    assert!(at(&tokens, &two.token(&of_two), NOW).is_err(), "not in the header of the other");
    assert!(
        ready(tokens.identify_at(PEER, &header, &one.token(&of_two), Duration::from_secs(NOW))).is_err(),
        "nor by its keys"
    );
    assert!(at(&tokens, &two.token(&claims()), NOW).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// ECDSA has a second signature for each, but none that a change of some characters would find.
    #[test]
    fn no_change_of_a_token_passes(at in any::<prop::sample::Index>(), to in "[A-Za-z0-9_.=-]{0,3}", kind in 0..3) {
        let algorithm = ["EdDSA", "ES256", "ES384"][usize::try_from(kind).unwrap()];
        let signer = Signer::new("one", algorithm);
        let settings = JwtSettings { algorithms: Algorithm::ALL.into(), ..issuer(&[&signer]) };
        let token = signer.token(&claims());
        let at = at.index(token.len());
        let end = (at + to.len().max(1)).min(token.len());
        let changed = [&token[..at], &to, &token[end..]].concat();
        prop_assume!(changed != token);
        prop_assert!(who(&settings, &changed).is_err(), "{} passes for {}", changed, token);
    }

    #[test]
    fn any_text_is_refused(text in "[A-Za-z0-9_-]{0,20}\\.[A-Za-z0-9_-]{0,20}\\.[A-Za-z0-9_-]{0,20}|\\PC{0,60}") {
        let signer = Signer::new("one", "EdDSA");
        prop_assert!(who(&issuer(&[&signer]), &text).is_err());
    }
}

mod fetched {
    //! Tokens of an issuer whose keys are fetched.

    use super::*;
    use crate::admission::authenticate::JwksUrl;
    use crate::fetch::testing::{Server, later, says};
    use crate::tls::ClientTlsSettings;

    fn by_url(server: &Server) -> JwtSettings {
        let keys = KeySource::Url(JwksUrl {
            url: server.uri("/"),
            every: Duration::from_secs(300),
            max_age: Duration::from_secs(3600),
            tls: ClientTlsSettings::default(),
            bearer: None,
        });
        JwtSettings { keys, ..issuer(&[&Signer::new("any", "EdDSA")]) }
    }

    async fn show(tokens: &Tokens, token: &str) -> Result<(), Denied> {
        tokens.identify_at(PEER, &AUTHORIZATION, token, Duration::from_secs(NOW)).await.map(|_| ())
    }

    #[tokio::test]
    async fn keys_come_change_and_go_on_across_a_reload() {
        let server = Server::start(String::new()).await;
        let serve = |signer: &Signer| server.answer(says("200 OK", &jwks(&[signer])));
        let [one, two] = ["one", "two"].map(|id| Signer::new(id, "EdDSA"));
        let settings = by_url(&server);
        let tokens = trusting([settings.clone()], None);
        let token = one.token(&claims());
        let unavailable = |shown: Result<(), Denied>| matches!(shown, Err(Denied::Unavailable { how: How::Jwt, .. }));
        let wrong = |shown: Result<(), Denied>| matches!(shown, Err(Denied::Wrong { how: How::Jwt, .. }));
        assert!(unavailable(show(&tokens, &token).await), "there are no keys yet");
        assert!(wrong(show(&tokens, &one.token(&without("aud"))).await), "though this is wrong by any key");

        serve(&one);
        later(Duration::from_secs(11)).await;
        assert_eq!(show(&tokens, &token).await, Ok(()));
        assert!(unavailable(show(&tokens, &two.token(&claims())).await), "a key that may be there since");

        serve(&two);
        later(Duration::from_secs(11)).await;
        let nameless = two.token_with(&json!({ "alg": "EdDSA" }), &claims());
        assert_eq!(show(&tokens, &nameless).await, Ok(()), "a new key is looked for, though none is named");
        assert_eq!(show(&tokens, &two.token(&claims())).await, Ok(()));
        assert!(wrong(show(&tokens, &token).await), "its key is gone, though it is remembered");

        server.answer(String::new());
        let leeway = JwtSettings { leeway: Duration::ZERO, ..settings };
        let changed = trusting([leeway], Some(&tokens));
        drop(tokens);
        assert_eq!(show(&changed, &two.token(&claims())).await, Ok(()), "keys outlive what has no part in them");
        later(Duration::from_secs(11)).await;
        assert!(unavailable(show(&changed, &token).await), "nobody can tell whether its key is back");
        let status = changed.statuses().next().unwrap();
        assert_eq!((&*status.issuer, status.age.is_some()), (ISSUER, true));
    }
}
