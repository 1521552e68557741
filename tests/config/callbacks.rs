//! Callbacks: keys, and that nothing shows their secrets.

use std::process::Command;

use nexus_gateway::callback::seal::Key;
use nexus_gateway::config::{Settings, key_id, new_key, notes};

use crate::{load_text, refusal};

/// 32 bytes in base64, of either alphabet, with and without padding; all begin alike.
const SECRETS: [&str; 4] = [
    "hunter2hunter2hunter2hunter2hunter2+unter2g=",
    "hunter2hunter2hunter2hunter2hunter2-unter2g",
    "hunter2hunter2hunter2hunter2hunter2/unter2g",
    "hunter2hunter2hunter2hunter2hunter2_unter2g=",
];

fn with_keys(keys: &str) -> String {
    format!("callbacks:\n  public_url: http://gateway.example:7280\n  keys:\n{keys}")
}

fn ids(settings: &Settings) -> Vec<&str> {
    settings.callbacks.keys.iter().map(|key| &*key.id).collect()
}

#[test]
fn a_new_key_is_one_line_of_a_configuration() {
    let (first, second) = (new_key(Some("k2")), new_key(None));
    let settings = load_text(&with_keys(&format!("    {first}\n    {second}\n"))).unwrap();
    let [_, today] = ids(&settings)[..] else { panic!("two keys") };
    assert_eq!(settings.callbacks.keys[0].id.as_ref(), "k2");
    assert!(today.strip_prefix('k').is_some_and(|date| date.len() == 8 && date.parse::<u32>().is_ok()), "{today}");
    assert_eq!(first.lines().count(), 1);
    assert_ne!(new_key(Some("k2")), first, "not random");
    for id in ["12", "1e3", "true", "-", ".", "~".repeat(3).as_str()] {
        assert_eq!(load_text(&with_keys(&format!("    {}", new_key(Some(id))))).is_ok(), key_id(id).is_ok(), "{id}");
    }
}

#[test]
fn keys_without_a_public_url_are_for_tokens_and_it_is_noted_where_they_only_open_them() {
    let key = new_key(Some("k1"));
    let keys = format!("callbacks:\n  keys:\n    {key}");
    let guarded = "authentication: { api_keys: { keys: [{ name: orders, sha256: \
        8bb0cf6eb9b17d0f7d22b456f121257dc1254e1f01665370476383ea776df414 }] } }";
    for (sealed, more) in [
        (false, ""),
        (true, "policies: [{ match: { endpoint: pay }, tokens: sealed }]"),
        (true, guarded),
        (true, &format!("{guarded}\npolicies: [{{ match: {{ endpoint: pay }}, tokens: any }}]")),
        (false, &format!("{guarded}\npolicies: [tokens: any]")),
        (true, &format!("{guarded}\npolicies: [tokens: any, {{ match: {{ endpoint: pay }}, tokens: sealed }}]")),
    ] {
        let loaded = load_text(&format!("{more}\n{keys}"));
        let settings = loaded.unwrap();
        let noted = notes(&settings).iter().any(|note| note.starts_with("`callbacks.keys` seal nothing"));
        assert_eq!((settings.seals_tokens(), noted), (sealed, !sealed), "{more}");
    }
}

#[test]
fn a_secret_is_the_same_in_every_base64() {
    let load = |secret: &str| {
        let settings = load_text(&with_keys(&format!("    - {{ id: k, secret: \"{secret}\" }}"))).unwrap();
        assert!(!format!("{settings:?}").contains("hunter2"));
        settings.callbacks.keys[0].clone()
    };
    let keys: Vec<Key> = SECRETS.iter().map(|secret| load(secret)).collect();
    assert_eq!((&keys[0], &keys[2]), (&keys[1], &keys[3]));
    assert_ne!(keys[0], keys[2]);
    assert_eq!(keys[0], Key::parse(&format!("k:{}", SECRETS[1])).unwrap());
}

#[test]
fn the_command_prints_a_key_and_nothing_else() {
    let run = |arguments: &[&str]| {
        let ended = Command::new(env!("CARGO_BIN_EXE_nexus-gateway")).args(["keys", "new"]).args(arguments).output();
        ended.expect("the binary runs")
    };
    let ended = run(&["--id", "k9"]);
    assert!(ended.status.success() && ended.stderr.is_empty(), "{ended:?}");
    let key = String::from_utf8(ended.stdout).unwrap();
    assert_eq!(ids(&load_text(&with_keys(&format!("    {key}"))).unwrap()), ["k9"]);
    let ended = run(&["--id", "a key"]);
    assert!(ended.status.code() == Some(64) && ended.stdout.is_empty(), "{ended:?}");
    assert!(String::from_utf8_lossy(&ended.stderr).contains("is not a key's id"), "{ended:?}");
}

/// Inline, and however it was meant.
#[test]
fn the_secret_of_a_key_never_shows() {
    let secret = SECRETS[1];
    for keys in [
        format!("    - {{ id: k, secret: {secret}x }}"),
        format!("    - {{ id: k, secret: {secret}= , sercet: {secret} }}\n    - {{ id: k, secret: {secret} }}"),
        format!("    - {{ id: '{secret} ', secret: k }}"),
        format!("    - {{ id: {secret}, secret: k }}\n    - {{ id: {secret}, secret: {} }}", SECRETS[2]),
        format!("    - {{ id: k, secret: [{secret}] }}\n    - {{ id: k, secret: {{ {secret}: }} }}"),
        format!("    - k:{secret}"),
        format!("    - {{ k:{secret} }}\n    - {{ {secret}: k }}"),
        format!("    - [{secret}]\n    - {secret}"),
        format!("    {secret}"),
        format!("    {{ {secret}: {secret} }}"),
        format!("    k: {secret}"),
        format!("    - id: k\n      secret: {secret}\n  home: {secret}x\n  key: {secret}")
            .replace(&format!("{secret}x"), "nowhere"),
    ] {
        let report = refusal(load_text(&with_keys(&keys)));
        assert!(!report.contains("hunter2") && report.contains("callbacks"), "{keys}\n{report}");
    }
    for text in [format!("callbacks: {secret}"), format!("callbacks: {{ keys: {secret}, public_url: 'http://g' }}")] {
        let report = refusal(load_text(&text));
        assert!(!report.contains("hunter2") && report.contains("callbacks"), "{text}\n{report}");
    }
    let report = refusal(load_text(&with_keys("    - { id: k, secret: 31415926535 }\n    - 3141.5926535")));
    assert!(!report.contains("31415926535") && !report.contains("3141.59"), "{report}");
}

#[test]
fn a_length_is_told_and_not_the_secret() {
    for (secret, said) in [("", "is 0 bytes"), ("aA==", "is 1 byte in"), ("hunter2hunter2AA", "is 12 bytes")] {
        let report = refusal(load_text(&with_keys(&format!("    - {{ id: k, secret: '{secret}' }}"))));
        assert!(report.contains(&format!("callbacks.keys[0].secret: this text {said}")), "{report}");
        assert!(report.contains(":4: ") && !report.contains("hunter2"), "{report}");
    }
}

#[test]
fn a_home_needs_no_public_url() {
    let settings = load_text("clusters: { a: { url: 'http://a' } }\ncallbacks: { home: a }").unwrap();
    assert_eq!((settings.callbacks.home.as_deref(), settings.callbacks.public_url), (Some("a"), None));
    for text in ["callbacks: {}", "callbacks:"] {
        assert_eq!(load_text(text), Ok(Settings::default()));
    }
}

#[test]
fn redaction_that_completions_go_round_is_noted() {
    let of = |text: &str| notes(&load_text(text).unwrap());
    let note = |places: &str, why: &str, but: &str| {
        vec![format!(
            "{places}: only failures in answers are cut where completions go straight to their callers' clusters ({why}); \
            those of asynchronous operations do not cross this gateway{but}"
        )]
    };
    let (on, home) = (
        "policies: [{ timeout: 5s }, { match: { endpoint: pay }, redact: on }]\n",
        "clusters: { home: { url: 'http://h' } }\n",
    );
    let no_url = "there is no `callbacks.public_url`";
    assert_eq!(of(on), note("`policies[1].redact`", no_url, ""));
    let by_home = "callbacks: { home: home }\n";
    let but = ", but for those that come by way of `callbacks.home`";
    assert_eq!(of(&format!("{on}{home}{by_home}")), note("`policies[1].redact`", no_url, but));
    assert!(of("policies: [{ timeout: 5s }, { match: { endpoint: pay }, redact: off }]").is_empty());

    let relay = "callbacks: { public_url: 'http://g:7280' }\n";
    assert!(of(&format!("{on}{relay}")).is_empty());
    for policies in [
        "[{ match: { endpoint: pay }, callbacks: direct }, { redact: on }]",
        "[{ callbacks: direct }, { match: { endpoint: pay }, redact: on }]",
    ] {
        let said = of(&format!("policies: {policies}\n{relay}"));
        assert_eq!(said, note("`policies[1].redact`", "`callbacks: direct`", ""), "{policies}");
    }
    let apart =
        "policies: [{ match: { endpoint: pay }, callbacks: direct }, { match: { endpoint: ship }, redact: on }]\n";
    assert!(of(&format!("{apart}{relay}")).is_empty());
}
