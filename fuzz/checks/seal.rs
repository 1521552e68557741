//! What holds for any seal, and for any content of one.

use std::sync::LazyLock;

use nexus_gateway::callback::seal::{Bound, Key, Keyring, Opened, Operation, Origin, Refused, TargetRef};

static KEYS: LazyLock<Keyring> = LazyLock::new(|| {
    let keys = [Key::new("first", [1; 32]), Key::new("second", [2; 32])];
    Keyring::new(keys.into()).expect("the keys are distinct")
});

/// What was made with the keys, as far as the corpus tells: it has these with one thing changed, and that may be undone.
const MADE: [&str; 4] = [
    concat!(
        "AZxGO5sAAQIDBAUGBwgJCgtaF7nG5kaf8CFImXUZLeJ2Nv676wrJwzy4kkK7yf9NxVJTMHLgBtYxvUK-Y8bmnZH2vDA_XIpJsXIVAE8dqYmU7wdGmw",
        "oO3I52GGtgtEHrlntZW7wrpnbhuG4jD7-moNyQeT_gZF9J-rywz55_4NOpi23IgvY3s3T1moCLemBqEgT9Lr-8YfpH8LcbydGBjMOgXGaHTZ4C9qY",
    ),
    concat!(
        "AbbX8MoAAQIDBAUGBwgJCgtY2C6RwYrv8mN1HErU55cOxZfkHZBTvg5FjbWFFNmJ3kULWMuHnCyp-kXH0kiJj3XWrEjxCy0Yb7XU5eUbyA57NWTWRA",
        "aojoODoH3ftMG__3jBimp7WDI1UJggyWGGRsW4lUQUZfi4-zAMswzKxMwnWYvCFtwyvDj4TA1Xu4ISGW3p0nSsoMbz1VfRFjkJbaoqXK5s-_dykIQ",
    ),
    "ngw1.AbbX8MrRaJykQKarKXMPdG8nlm3-kLLtsnEgaYcokyL46GNbp7s8G0tKeu0FBTsV1jmAhvTLqGU0wEgRakQ",
    "ngw1.AbbX8MoAAQIDBAUGBwgJCgu79E8HRmMfdMzDiD8Z8NzOM_ckVWE",
];

pub(crate) fn check(input: &[u8]) {
    token_comes_back(input);
    let Ok(text) = std::str::from_utf8(input) else { return };
    does_not_open(text);
    does_not_open(&format!("ngw1.{text}"));
    strings_come_back(text);
    if let Ok(key) = Key::parse(text) {
        assert_eq!(Key::parse(&key.to_text()).as_ref(), Ok(&key), "what is written can be read");
    }
    if let Some(target) = TargetRef::parse(text) {
        assert_eq!(TargetRef::parse(&target.to_string()).as_ref(), Some(&target), "what is written can be read");
    }
}

/// Nothing else was made with the keys, so that whatever opens is forged.
fn does_not_open(text: &str) {
    if MADE.contains(&text) {
        return;
    }
    let refused = [
        KEYS.open_callback(text, 0).expect_err("a callback is forged"),
        KEYS.open_token(text, "").expect_err("a callback's token is forged"),
        match KEYS.open_operation(&bound(""), text) {
            Opened::Ours(_) => panic!("an operation's token is forged"),
            Opened::Foreign => Refused::Malformed,
            Opened::Refused(refused) => refused,
        },
    ];
    assert!(!refused.contains(&Refused::Expired), "age shows without a key");
    let named = KEYS.opens_with(text).is_some();
    assert!(named || !refused.contains(&Refused::Forged), "a key that is not named was tried");
}

fn bound(endpoint: &str) -> Bound<'_> {
    Bound { endpoint, service: "Svc".into(), operation: endpoint.into(), caller: "caller".into() }
}

fn token_comes_back(token: &[u8]) {
    let sealed = KEYS.seal_token(token, "http://a");
    assert_eq!(KEYS.open_token(&sealed, "http://a").as_deref(), Ok(token));
    assert_eq!(KEYS.open_token(&sealed, "http://b"), Err(Refused::Forged));
}

fn strings_come_back(text: &str) {
    let [url, endpoint, target, caller] = [text, "", text, ""].map(str::to_owned);
    let origin = Origin { url, endpoint, target, caller, issued: 0, expires: 1, request_id: String::new() };
    assert_eq!(KEYS.open_callback(&KEYS.seal_callback(&origin), 0), Ok(origin));

    let operation = Operation { target: TargetRef::External { url: text.to_owned() }, token: text.to_owned() };
    match KEYS.seal_operation(&bound(text), &operation) {
        Ok(sealed) => {
            assert!(sealed.len() <= 4096, "it is longer than Temporal takes");
            assert_eq!(KEYS.open_operation(&bound(text), &sealed), Opened::Ours(operation));
        }
        Err(too_long) => assert_eq!(Keyring::operation_len(&bound(text), &operation), 4096 + too_long.by),
    }
}
