use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as TEXT;
use proptest::prelude::*;

use super::*;

const NOW: u64 = 1_790_000_000;
const URL: &str = "http://a.example:7243/namespaces/default/nexus/callback";

fn key(id: &str, byte: u8) -> Key {
    Key::new(id, [byte; 32])
}

fn ring(keys: &[(&str, u8)]) -> Keyring {
    Keyring::new(keys.iter().map(|(id, byte)| key(id, *byte)).collect()).expect("the keys are distinct")
}

fn one() -> Keyring {
    ring(&[("one", 1)])
}

fn origin(url: &str) -> Origin {
    Origin {
        url: url.to_owned(),
        endpoint: "payments".to_owned(),
        target: "worker:home/payments/payments-tq".to_owned(),
        caller: "spiffe://a.example/ns/orders".to_owned(),
        issued: NOW,
        expires: NOW + 90 * 24 * 3600,
        request_id: String::new(),
    }
}

fn as_of<'a>(endpoint: &'a str, service: &'a str, operation: &'a str, caller: &'a str) -> Bound<'a> {
    Bound { endpoint, service: service.into(), operation: operation.into(), caller: caller.into() }
}

fn bound() -> Bound<'static> {
    as_of("payments", "Svc", "op", "orders")
}

fn operation(token: &str) -> Operation {
    let target = TargetRef::Worker {
        cluster: "home".to_owned(),
        namespace: "payments".to_owned(),
        task_queue: "payments-tq".to_owned(),
    };
    Operation { target, token: token.to_owned() }
}

fn any_target() -> impl Strategy<Value = TargetRef> {
    // Texts that look like escapes and separators are rare among all there are.
    let text = || prop_oneof![any::<String>(), "[%/:2F5 ]{0,12}"];
    prop_oneof![
        [text(), text(), text()].prop_map(|[cluster, namespace, task_queue]| TargetRef::Worker {
            cluster,
            namespace,
            task_queue
        }),
        text().prop_map(|url| TargetRef::External { url }),
    ]
}

/// Every seal of a kind, made by the same ring, with what tries to open it.
type Opening = fn(&Keyring, &str) -> Result<(), Refused>;

fn one_of_each(keys: &Keyring) -> [(String, Opening); 3] {
    [
        (keys.seal_callback(&origin(URL)), |keys, text| keys.open_callback(text, NOW).map(drop)),
        (keys.seal_token(b"token", URL), |keys, text| keys.open_token(text, URL).map(drop)),
        (keys.seal_operation(&bound(), &operation("t")).expect("it is short"), |keys, text| {
            match keys.open_operation(&bound(), text) {
                Opened::Ours(_) => Ok(()),
                Opened::Foreign => Err(Refused::Malformed),
                Opened::Refused(refused) => Err(refused),
            }
        }),
    ]
}

proptest! {
    #[test]
    fn what_was_sealed_comes_back(
        texts in any::<[String; 5]>(), issued: u64, expires in 1u64.., token: Vec<u8>, context in any::<[String; 4]>(),
        target in any_target(), name: String,
    ) {
        let keys = one();
        let [url, endpoint, origin_target, caller, request_id] = texts;
        let origin = Origin { url, endpoint, target: origin_target, caller, issued, expires, request_id };
        prop_assert_eq!(keys.open_callback(&keys.seal_callback(&origin), expires - 1), Ok(origin));

        let [endpoint, service, called, caller] = &context;
        prop_assert_eq!(keys.open_token(&keys.seal_token(&token, endpoint), endpoint), Ok(token));

        let bound = as_of(endpoint, service, called, caller);
        let operation = Operation { target, token: name };
        match keys.seal_operation(&bound, &operation) {
            Ok(sealed) => {
                prop_assert_eq!(sealed.len(), Keyring::operation_len(&bound, &operation));
                prop_assert_eq!(keys.open_operation(&bound, &sealed), Opened::Ours(operation));
            }
            Err(TooLong { by, .. }) => {
                prop_assert_eq!(Keyring::operation_len(&bound, &operation), MAX_OPERATION_TOKEN + by);
            }
        }
    }

    #[test]
    fn a_flipped_bit_is_refused(bit: prop::sample::Index) {
        let keys = one();
        for (sealed, open) in one_of_each(&keys) {
            let (prefix, text) = sealed.split_at(if sealed.starts_with(PREFIX) { PREFIX.len() } else { 0 });
            let mut bytes = TEXT.decode(text).expect("a seal is base64url");
            let bit = bit.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            let refused = open(&keys, &format!("{prefix}{}", TEXT.encode(&bytes)));
            // Version, name of the key, and what is authenticated.
            let expected = match bit / 8 { 0 => Refused::Malformed, 1..=4 => Refused::UnknownKey, _ => Refused::Forged };
            prop_assert_eq!(refused, Err(expected));
        }
    }

    #[test]
    fn another_character_is_refused(at: prop::sample::Index, byte in 0u8..0x80) {
        let keys = one();
        for (sealed, open) in one_of_each(&keys) {
            let mut text = sealed.clone().into_bytes();
            let at = at.index(text.len());
            prop_assume!(text[at] != byte);
            text[at] = byte;
            prop_assert!(open(&keys, std::str::from_utf8(&text).expect("it is ASCII")).is_err());
        }
    }

    #[test]
    fn a_shorter_or_longer_text_is_refused(at: prop::sample::Index, more in "[A-Za-z0-9_=.-]{1,9}") {
        let keys = one();
        for (sealed, open) in one_of_each(&keys) {
            prop_assert!(open(&keys, &sealed[..at.index(sealed.len())]).is_err());
            prop_assert!(open(&keys, &sealed[1 + at.index(sealed.len())..]).is_err());
            prop_assert!(open(&keys, &[&*sealed, &*more].concat()).is_err());
            prop_assert!(open(&keys, &[&*more, &*sealed].concat()).is_err());
        }
    }

    #[test]
    fn made_up_texts_are_refused(bytes: Vec<u8>, text: String) {
        let keys = one();
        // With a head that a seal of this key has, so that what comes after it is looked at.
        let head = TEXT.decode(keys.seal_callback(&origin(URL))).expect("a seal is base64url")[..5].to_vec();
        for text in [text, TEXT.encode(&bytes), TEXT.encode([head, bytes].concat())] {
            for text in [&*text, &format!("{PREFIX}{text}")] {
                for (_, open) in one_of_each(&keys) {
                    prop_assert!(open(&keys, text).is_err());
                }
            }
        }
    }

    #[test]
    fn no_content_makes_reading_panic(bytes: Vec<u8>) {
        read_origin(&bytes);
        Operation::from_bytes(&bytes);
        Operation::with_caller_from_bytes(&bytes);
    }

    #[test]
    fn numbers_of_any_size_come_back(number: u64, less in 0u32..64) {
        let mut written = Writer::default();
        written.number(number >> less);
        let mut reader = Reader::new(written.bytes());
        prop_assert_eq!(reader.number(), Some(number >> less));
        prop_assert!(reader.end());
    }

    #[test]
    fn a_target_is_read_as_it_was_written(target in any_target()) {
        prop_assert_eq!(TargetRef::parse(&target.to_string()), Some(target));
    }

    #[test]
    fn a_key_is_read_as_it_was_written(id in "[A-Za-z0-9._-]{1,64}", secret: [u8; 32]) {
        let key = Key::new(&id, secret);
        prop_assert_eq!(Key::parse(&key.to_text()), Ok(key.clone()));
        prop_assert_eq!(Key::parse(&format!(" {}=\n", key.to_text())), Ok(key));
    }
}

#[test]
fn a_number_beyond_64_bits_is_none() {
    for (bytes, number) in [
        (vec![0xff; 9], None),
        ([vec![0xff; 9], vec![1]].concat(), Some(u64::MAX)),
        ([vec![0xff; 9], vec![2]].concat(), None),
        ([vec![0xff; 9], vec![0x81, 0]].concat(), None),
    ] {
        assert_eq!(Reader::new(&bytes).number(), number, "{bytes:x?}");
    }
}

#[test]
fn a_seal_for_one_purpose_does_not_open_for_another() {
    let keys = one();
    for (made, (sealed, _)) in one_of_each(&keys).into_iter().enumerate() {
        let bare = sealed.strip_prefix(PREFIX).unwrap_or(&sealed);
        for (tried, (_, open)) in one_of_each(&keys).into_iter().enumerate() {
            let text = if tried == 0 { bare.to_owned() } else { format!("{PREFIX}{bare}") };
            let expected = if made == tried { Ok(()) } else { Err(Refused::Forged) };
            assert_eq!(open(&keys, &text), expected, "made for {made}, opened for {tried}");
        }
    }
}

#[test]
fn a_token_opens_for_the_callback_it_came_with_only() {
    let keys = one();
    let sealed = keys.seal_token(br#"{"v":1,"d":"abc"}"#, URL);
    assert_eq!(keys.open_token(&sealed, URL).as_deref(), Ok(&br#"{"v":1,"d":"abc"}"#[..]));
    for other in ["", "http://a.example:7243/namespaces/default/nexus/callbacks", "http://b.example"] {
        assert_eq!(keys.open_token(&sealed, other), Err(Refused::Forged), "{other}");
    }
    assert_eq!(keys.open_token(r#"{"v":1,"d":"abc"}"#, URL), Err(Refused::Malformed), "it was never sealed");
}

#[test]
fn an_operation_opens_for_what_it_was_started_as_only() {
    let keys = one();
    let sealed = keys.seal_operation(&bound(), &operation("t")).expect("it is short");
    for [endpoint, service, operation, caller] in [
        ["payments", "Svc", "op", "order"],
        ["payments", "Svc", "op", ""],
        ["payments", "Svc", "other", "orders"],
        ["payments", "Other", "op", "orders"],
        ["payments", "Svco", "p", "orders"],
        ["orders", "Svc", "op", "payments"],
        ["paymentsS", "vc", "op", "orders"],
        ["", "", "", "paymentsSvcoporders"],
    ] {
        let other = as_of(endpoint, service, operation, caller);
        assert_eq!(keys.open_operation(&other, &sealed), Opened::Refused(Refused::Forged), "{other:?}");
        let is_same = [endpoint, service, operation] == ["payments", "Svc", "op"];
        let anyones = keys.open_operation_of_anyone(&other, &sealed);
        assert_eq!(matches!(anyones, Opened::Ours(_)), is_same, "{other:?}: {anyones:?}");
    }
}

#[test]
fn tokens_of_others_are_foreign() {
    let keys = one();
    for token in ["", "ngw1", "ngw2.abc", "NGW1.abc", "eyJ2IjoxfQ", " ngw1.abc"] {
        assert_eq!(keys.open_operation(&bound(), token), Opened::Foreign, "{token}");
    }
    for token in ["ngw1.", "ngw1.abc", "ngw1.!!!!!!!!!!!!"] {
        let opened = keys.open_operation(&bound(), token);
        assert_eq!(opened, Opened::Refused(Refused::Malformed), "{token}");
    }
}

#[test]
fn a_callback_opens_until_the_second_in_which_it_expires() {
    let keys = one();
    let sealed = keys.seal_callback(&Origin { expires: NOW, ..origin(URL) });
    for (now, expected) in [
        (0, None),
        (NOW - 1, None),
        (NOW, Some(Refused::Expired)),
        (NOW + 1, Some(Refused::Expired)),
        (u64::MAX, Some(Refused::Expired)),
    ] {
        assert_eq!(keys.open_callback(&sealed, now).err(), expected, "at {now}");
    }
    let other = ring(&[("two", 2)]);
    assert_eq!(other.open_callback(&sealed, NOW), Err(Refused::UnknownKey), "age shows to those who have the key");
}

#[test]
fn a_rotated_key_opens_until_it_is_dropped() {
    let (before, during, after) = (ring(&[("old", 1)]), ring(&[("new", 2), ("old", 1)]), ring(&[("new", 2)]));
    for (sealed, open) in one_of_each(&before) {
        assert_eq!(open(&during, &sealed), Ok(()));
        assert_eq!(during.opens_with(&sealed).map(|key| &*key.id), Some("old"));
        assert_eq!(open(&after, &sealed), Err(Refused::UnknownKey));
        assert_eq!(after.opens_with(&sealed), None);
    }
    for (sealed, open) in one_of_each(&during) {
        assert_eq!(open(&before, &sealed), Err(Refused::UnknownKey), "the first seals");
        assert_eq!(open(&after, &sealed), Ok(()));
    }
    assert_eq!(during.ids().collect::<Vec<_>>(), ["new", "old"]);
}

#[test]
fn a_completion_after_a_rotation_has_the_token_of_its_start() {
    let (before, during, after) = (ring(&[("old", 1)]), ring(&[("new", 2), ("old", 1)]), ring(&[("new", 2)]));
    let callback = before.seal_callback(&origin(URL));
    let like = |keys: &Keyring| keys.seal_operation_like(&callback, &bound(), &operation("t"));
    let plain = |keys: &Keyring| keys.seal_operation(&bound(), &operation("t"));
    assert_eq!(like(&during), plain(&before));
    assert_ne!(plain(&during), plain(&before));
    assert_eq!(like(&after), plain(&after), "without the key, the first one");
}

#[test]
fn an_operation_has_one_token_and_callbacks_have_many() {
    // Another ring with the same key is another replica, or the same one after a restart.
    let [first, second] = [one(), one()].map(|keys| one_of_each(&keys).map(|(sealed, _)| sealed));
    assert_ne!(first[0], second[0], "callbacks");
    assert_ne!(first[1], second[1], "callback tokens");
    assert_eq!(first[2], second[2], "operation tokens");
    let nonce = |endpoint, caller, token| {
        let bound = as_of(endpoint, "Svc", "op", caller);
        let sealed = one().seal_operation(&bound, &operation(token)).expect("it is short");
        TEXT.decode(&sealed[PREFIX.len()..]).expect("a seal is base64url")[5..17].to_vec()
    };
    let nonces = [nonce("a", "b", "t"), nonce("a", "c", "t"), nonce("c", "b", "t"), nonce("a", "b", "u")];
    let distinct: std::collections::BTreeSet<_> = nonces.into_iter().collect();
    assert_eq!(distinct.len(), 4, "a nonce comes from all that is sealed");
}

#[test]
fn nothing_of_the_content_shows() {
    let keys = one();
    for (sealed, _) in one_of_each(&keys) {
        let bytes = TEXT.decode(sealed.strip_prefix(PREFIX).unwrap_or(&sealed)).expect("a seal is base64url");
        for secret in [&b"payments"[..], b"orders", b"a.example", b"token", b"one"] {
            assert!(!bytes.windows(secret.len()).any(|window| window == secret), "{secret:?}");
        }
    }
}

#[test]
fn a_real_callback_fits_after_two_gateways() {
    let url = "https://a.example:7243/namespaces/orders-production/nexus/callback";
    let url = format!("{url:?<120}").replace('?', "x");
    let public_urls = ["https://gateway.b.example/aaaaaaaaaaaaaaa", "https://gateway.c.example/aaaaaaaaaaaaaaa"];
    assert_eq!((url.len(), public_urls.map(str::len)), (120, [41, 41]));
    let keys = [one(), ring(&[("two", 2)])];

    let first = callback_url(public_urls[0], &keys[0].seal_callback(&origin(&url))).expect("it fits");
    let second = callback_url(public_urls[1], &keys[1].seal_callback(&origin(&first))).expect("it fits twice");
    println!("{} characters, then {}, then {}", url.len(), first.len(), second.len());

    let sealed = second.rsplit('/').next().expect("a URL has a path");
    let opened = keys[1].open_callback(sealed, NOW).expect("it opens");
    let sealed = opened.url.rsplit('/').next().expect("a URL has a path");
    assert_eq!(keys[0].open_callback(sealed, NOW), Ok(origin(&url)));
}

#[test]
fn a_callback_url_has_1000_characters_at_most() {
    let sealed = "s".repeat(1000 - "http://gateway".len() - CALLBACK_PATH.len());
    let url = callback_url("http://gateway/", &sealed).expect("it fits");
    assert_eq!(url, format!("http://gateway/nexus/callback/{sealed}"));
    assert_eq!(url.len(), MAX_CALLBACK_URL);
    let too_long = callback_url("http://gateway", &format!("{sealed}12345")).expect_err("it does not fit");
    assert_eq!(too_long.to_string(), "5 characters longer than the 1000 allowed");
}

#[test]
fn an_operation_token_has_4096_bytes_at_most() {
    let keys = one();
    let longest = (0..MAX_OPERATION_TOKEN)
        .find(|len| Keyring::operation_len(&bound(), &operation(&"t".repeat(len + 1))) > MAX_OPERATION_TOKEN);
    let longest = longest.expect("there is a bound");
    assert!(longest > 2900, "a token of {longest} bytes should fit");
    let sealed = keys.seal_operation(&bound(), &operation(&"t".repeat(longest))).expect("it fits");
    assert!(sealed.len() <= MAX_OPERATION_TOKEN);
    let too_long = keys.seal_operation(&bound(), &operation(&"t".repeat(longest + 300)));
    let by = too_long.expect_err("it does not fit").by;
    assert!((398..=403).contains(&by), "{by} for 300 bytes more");
}

#[test]
fn a_ring_has_keys_and_each_of_them_once() {
    for (keys, expected) in [
        (vec![], false),
        (vec![key("a", 1)], true),
        (vec![key("a", 1), key("b", 2)], true),
        (vec![key("a", 1), key("a", 2)], false),
        (vec![key("a", 1), key("b", 1)], false),
        (vec![key("a", 1), key("b", 2), key("a", 3)], false),
    ] {
        let shown = format!("{keys:?}");
        assert_eq!(Keyring::new(keys).is_some(), expected, "{shown}");
    }
}

#[test]
fn what_is_no_key_is_said_without_showing_it() {
    let secret = "A".repeat(43);
    for (text, expected) in [
        ("", KeyError::Form),
        (&*secret, KeyError::Form),
        (&format!(":{secret}"), KeyError::Id),
        (&format!("a b:{secret}"), KeyError::Id),
        (&format!("{}:{secret}", "a".repeat(65)), KeyError::Id),
        ("a:", KeyError::Secret),
        (&format!("a:{}", &secret[1..]), KeyError::Secret),
        (&format!("a:{secret}A"), KeyError::Secret),
        (&format!("a:{secret}AAAAAAAA"), KeyError::Secret),
        (&format!("a:{}/", &secret[1..]), KeyError::Secret),
        (&format!("a:{}B", &secret[1..]), KeyError::Secret),
        (&format!("a:b:{secret}"), KeyError::Secret),
    ] {
        assert_eq!(Key::parse(text), Err(expected), "{text}");
        assert!(!expected.to_string().contains(&secret));
    }
}

#[test]
fn keys_do_not_show_their_secrets() {
    let keys = Keyring::new(vec![key("a", b'x'), key("b", b'y')]).expect("the keys are distinct");
    assert_eq!(format!("{keys:?} {:?}", key("c", b'z')), r#"Keyring["a", "b"] Key(c)"#);
}

#[test]
fn generated_keys_differ() {
    let [a, b] = [Key::generate("a"), Key::generate("a")];
    assert_ne!(a, b);
    assert_eq!(a, a.clone());
    assert_eq!(Key::parse(&a.to_text()), Ok(a));
}

/// A change of the format needs another version: operations outlive releases.
#[test]
fn seals_of_earlier_releases_open() {
    let keys = one();
    let sealed = "ngw1.AbbX8MqSIfGw_DsOiIrGbLxSCqVZiWBAGm3IygwWCdgo8c1slp0MnUaw2suAt7iG83nZFz1p4oXF2Sz7q3E";
    assert_eq!(keys.open_operation(&bound(), sealed), Opened::Ours(operation("t")));
    let other = as_of("payments", "Svc", "op", "order");
    assert_eq!(
        keys.open_operation_of_anyone(&other, sealed),
        Opened::Refused(Refused::Forged),
        "it does not say whose"
    );
    let sealed = "ngw1.AbbX8MrfA2eXjbypzuwgN2ybKzCBhPAjFHj2spkJAf-ApF1VJ1MYRGVP1jOTukbJvx3ShmK-JQNLWtVDwWrFO95d2vBQ";
    assert_eq!(keys.seal_operation(&bound(), &operation("t")).as_deref(), Ok(sealed));
    let sealed = "ngw1.AbbX8MoAAQIDBAUGBwgJCgvmc1UoiBgIAh5kIEz105DNpzP_LgE";
    assert_eq!(keys.open_token(sealed, URL).as_deref(), Ok(&b"token"[..]), "{}", keys.seal_token(b"token", URL));
    let sealed = "AbbX8MoAAQIDBAUGBwgJCgtY2C6RwYrv8mN1HErU55cOxZfkHZBTvg5FjbWFFNmJ3kULWMuHnCyp-kXH0kiJj3XWrEjxCy0Yb7XU5eUbyA57NWTWRAaojoODoH3ftMG__3jBimp7WDI1UJggyWGGRsW4lUQUZfi4-zAMswzKxMwnWYvCFtwyvDj4TA1Xu4ISGW3p0nSsoMbz1VfRFjkJbaoqXK5s-_dykIQ";
    assert_eq!(keys.open_callback(sealed, NOW), Ok(origin(URL)), "{}", keys.seal_callback(&origin(URL)));
}
