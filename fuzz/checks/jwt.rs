//! What holds for any token, and for any set of keys.

use std::net::Ipv4Addr;
use std::pin::pin;
use std::sync::LazyLock;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use nexus_gateway::admission::authenticate::{
    Algorithm, ClaimPath, Denied, IdentityPattern, JwtSettings, KeySet, KeySource,
};
use nexus_gateway::admission::{Authentication, AuthenticationSettings, Peer, Trust};

/// Public keys; their private ones are lost.
const KEYS: &str = r#"{"keys":[{"crv":"Ed25519","kid":"ed","kty":"OKP","x":"fANIX7mzovqwh4qAolHuUUJ7rAZUSoCoo_qJWwOI8Ng"},{"crv":"P-256","kid":"es","kty":"EC","x":"tJmCWVBpGkEmQaYhXR6-L_wtaSfmyPtHWX1gtcqezaY","y":"Vq1wvkRO0vBRM2Mnp0eVl1V4rOXqDwQol_-5V5c6uQc"}]}"#;

/// What was signed with them while they were there, and holds: the corpus has these, changed or not.
const SIGNED: [&str; 2] = [
    concat!(
        "eyJhbGciOiJFZERTQSIsImtpZCI6ImVkIiwidHlwIjoiSldUIn0.eyJhdWQiOlsiZ2F0ZXdheSJdLCJleHAiOjQwMDAwMDAwMDAw",
        "MDAwMDAuMCwiaWF0IjowLjUsImlzcyI6Imlzc3VlciIsIm5iZiI6MCwibnMiOnsiYSI6ImIifSwic3ViIjoic2hvcDpvcmRlcnMi",
        "fQ.Ul5D-Zog9y7EW64w1Ub7ql5QPf4UpgsvhQWMK6LdfWmcFqnPXC_8jXfWExgmDJMjssf_K9dBW-I8HIie1DoMAA",
    ),
    concat!(
        "eyJhbGciOiJFUzI1NiIsImtpZCI6ImVzIiwidHlwIjoiSldUIn0.eyJhdWQiOlsiZ2F0ZXdheSJdLCJleHAiOjQwMDAwMDAwMDAw",
        "MDAwMDAuMCwiaWF0IjowLjUsImlzcyI6Imlzc3VlciIsIm5iZiI6MCwibnMiOnsiYSI6ImIifSwic3ViIjoic2hvcDpvcmRlcnMi",
        "fQ.Lt117CcSEKeQmo2JiudN0qwnKw3ykht6DTo1AQj4vFWoct_vZIoBGXo92vyP8s9R2DSfMeW7SduSOtKRS2aVYw",
    ),
];

static AUTHENTICATION: LazyLock<Authentication> = LazyLock::new(|| {
    let issuer = JwtSettings {
        issuer: "issuer".into(),
        audience: vec!["gateway".into()],
        algorithms: Algorithm::ALL.into(),
        keys: KeySource::Set(KeySet::read(KEYS).expect("a good set")),
        header: AUTHORIZATION,
        name: ClaimPath::new(["sub".into()]),
        pattern: IdentityPattern::new("{namespace}:{name}").expect("a pattern"),
        namespace: None,
        leeway: Duration::ZERO,
    };
    // Nobody shows as many wrong ones as this does.
    let settings =
        AuthenticationSettings { jwt: vec![issuer], max_wrong_per_peer: None, ..AuthenticationSettings::default() };
    Authentication::new(&settings, None)
});

pub(crate) fn check(input: &[u8]) {
    if let Ok(value) = HeaderValue::from_bytes(&[b"Bearer ", input].concat()) {
        let spaces = input.iter().take_while(|byte| **byte == b' ').count();
        is_believed_only_if_signed(&value, &input[spaces..]);
    }
    if let Ok(text) = std::str::from_utf8(input) {
        match KeySet::read(text) {
            Ok(set) => assert!(text.contains("keys") && !format!("{set:?}").contains("kty")),
            Err(why) => assert!(why.len() < 200 && (why.len() > input.len() || !why.contains(text)), "{why}"),
        }
    }
}

/// Nobody can sign any more, so that whatever else is believed is forged.
fn is_believed_only_if_signed(value: &HeaderValue, token: &[u8]) {
    let headers = HeaderMap::from_iter([(AUTHORIZATION, value.clone())]);
    let peer = Peer::connected((Ipv4Addr::LOCALHOST, 1).into(), Trust::Untrusted);
    let mut context = Context::from_waker(Waker::noop());
    let Poll::Ready(known) = pin!(AUTHENTICATION.authenticate(&peer, &headers)).poll(&mut context) else {
        panic!("nothing has to be waited for");
    };
    let signed = SIGNED.iter().any(|signed| signed.as_bytes() == token);
    match known {
        Ok(caller) => assert!(signed && caller.identity().is_some_and(|identity| &*identity.name == "orders")),
        Err(Denied::Wrong { why, .. }) => assert!(!signed, "{why}"),
        Err(denied) => panic!("{denied:?}"),
    }
}
