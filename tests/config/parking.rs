//! Parking: what is written for it, what never shows, and what `check` says of it.

use std::path::Path;
use std::process::{Command, Output};

use nexus_gateway::config::{Problem, Settings};
use nexus_gateway::park::{ParkingSettings, StoreAt};
use nexus_gateway::resilience::park::{ParkOn, ParkReason, ParkSettings};
use nexus_gateway::route::Toggle;

use crate::{load_text, refusal, write};

const KEY: &str = "MTExMTExMTExMTExMTExMTExMTExMTExMTExMTExMTE=";

/// What parking needs besides a policy.
const REST: &str = "clusters: { eu: { url: 'http://eu' }, us: { url: 'http://us' } }\nstate: { directory: /s }";

fn load_policies(policies: &str) -> Result<Settings, Vec<Problem>> {
    load_text(&format!("policies: {policies}\ncallbacks: {{ public_url: 'http://g' }}\n{REST}"))
}

#[test]
fn parking_is_switched_by_one_word() {
    let default = || Some(Toggle::On(ParkSettings::default()));
    for (text, expected) in [
        ("on", default()),
        ("true", default()),
        ("{}", default()),
        ("'on'", default()),
        ("off", Some(Toggle::Off)),
        ("false", Some(Toggle::Off)),
        ("~", None),
    ] {
        let rule = load_policies(&format!("[{{ timeout: 9s, park: {text} }}]")).unwrap().policies.remove(0);
        assert_eq!(rule.park, expected, "{text}");
    }
    let rule = load_policies("[park: { on: [rate_limited], max: 7 }]").unwrap().policies.remove(0);
    let on = ParkOn::of([ParkReason::RateLimited]);
    assert_eq!(rule.park, Some(Toggle::On(ParkSettings { on, max: 7, ..ParkSettings::default() })));
}

/// Of the ends, as of all lists, each item may be written once, in any order.
#[test]
fn every_end_can_be_named() {
    let names: Vec<_> = ParkReason::ALL.iter().rev().map(|reason| reason.name()).collect();
    let rule = load_policies(&format!("[park: {{ on: [{}] }}]", names.join(", "))).unwrap().policies.remove(0);
    assert_eq!(rule.park, Some(Toggle::On(ParkSettings::default())));
    for reason in ParkReason::ALL {
        let rule = load_policies(&format!("[park: {{ on: [{}] }}]", reason.name())).unwrap().policies.remove(0);
        assert_eq!(rule.park.and_then(Toggle::on).unwrap().on, ParkOn::of([reason]));
    }
}

#[test]
fn a_store_stays_where_no_policy_parks_any_more() {
    let text = format!(
        "callbacks: {{ public_url: 'http://g', keys: [{{ id: k, secret: '{KEY}' }}] }}
park: {{ store: 'postgresql://h', max: 5, max_bytes: 1KiB }}"
    );
    let parking = load_text(&text).unwrap().parking;
    assert_eq!((parking.max, parking.max_bytes), (5, 1024));
    assert!(matches!(parking.store, StoreAt::Postgres(url) if url.reveal() == "postgresql://h"));
    for text in ["park: { store: embedded }", "park: {}", "park:"] {
        assert_eq!(load_text(text).unwrap().parking, ParkingSettings::default(), "{text}");
    }
}

#[test]
fn the_password_of_the_store_never_shows() {
    let with_keys = format!("callbacks: {{ public_url: 'http://g', keys: [{{ id: k, secret: '{KEY}' }}] }}");
    let settings = load_text(&format!("{with_keys}\npark: {{ store: 'postgres://u:hunter2@h/db' }}")).unwrap();
    assert!(!format!("{settings:?}").contains("hunter2"));
    for url in [
        "postgres://u:hunter2@h/db?sslmode=require",
        "postgres://u:hunter2@h/db?nothing=hunter2",
        "postgres://u:hunter2@",
        "postgres://h:hunter2",
        "postgres:/u:hunter2",
        "mysql://u/hunter2",
        "hunter2",
    ] {
        for text in [format!("park: {{ store: '{url}' }}"), format!("park: '{url}'")] {
            let report = refusal(load_text(&text));
            assert!(!report.contains("hunter2") && report.contains(": park"), "{text}: {report}");
        }
    }
    let report = refusal(load_text("park: { store: 'postgres://u:hunter2@h/db' }"));
    assert!(!report.contains("hunter2") && report.contains("park.store: gateways that share"), "{report}");
}

/// What is wrong elsewhere is said once, and not that parking lacks it.
#[test]
fn nothing_is_said_of_what_is_unknown() {
    let policies = "policies: [{ park: on, max_request_body: 1KiB }]";
    for rest in [
        "clusters: 7\ncallbacks: { public_url: 'http://g' }\nstate: { directory: /s }",
        "clusters: { eu: { url: 'http://eu' } }\ncallbacks: { public_url: 7 }\nstate: { directory: /s }",
        "callbacks: { public_url: 'http://g', allow: 7 }\nstate: { directory: /s }",
        "callbacks: { public_url: 'http://g', allow: ['x'] }\nstate: { directory: /s }",
        "clusters: { eu: { url: 'http://eu' } }\ncallbacks: { public_url: 'http://g' }\npark: { max: 50x }",
        "clusters: { eu: { url: 'http://eu' } }\ncallbacks: { public_url: 'http://g', keys: 7 }\n\
            park: { store: 'postgres://h' }",
    ] {
        let report = refusal(load_text(&format!("{policies}\n{rest}")));
        assert_eq!(report.lines().count(), 1, "{rest}: {report}");
    }
    for rules in [
        "[{ callbacks: direct }, { match: { endpoint: ab }, callbacks: realy, park: on }]",
        "[{ callbacks: direct, match: { endpoint: 7 } }, { match: { endpoint: ab }, park: on }]",
        "[{ max_request_body: 8MB }, { match: { endpoint: ab }, park: { max_bytes: 1MiB } }]",
        "[{ park: { max: 0, max_bytes: 1MiB } }]",
    ] {
        let report = refusal(load_policies(rules));
        assert_eq!(report.lines().count(), 1, "{rules}: {report}");
    }
}

/// A narrower rule that is direct takes its requests out of what is parked, and no more.
#[test]
fn a_part_may_be_direct() {
    assert!(load_policies("[park: on, { match: { endpoint: ab }, callbacks: direct }]").is_ok());
    assert!(load_policies("[callbacks: direct, { match: { endpoint: ab }, callbacks: relay, park: on }]").is_ok());
    assert!(load_policies("[callbacks: direct, { match: { endpoint: ab }, park: off }]").is_ok());
}

#[test]
fn exactly_as_much_as_needed_is_enough() {
    assert!(load_policies("[{ max_request_body: 4KiB, park: { max_bytes: 68KiB } }]").is_ok());
    assert!(load_policies("[{ max_request_body: 4KiB, park: { max_bytes: 69631 } }]").is_err());
    let with_all = |all: &str| load_policies(&format!("[park: {{ max: 9, max_bytes: 64MiB }}]\npark: {{ {all} }}"));
    assert!(with_all("max: 9, max_bytes: 64MiB").is_ok());
    assert!(with_all("max: 8, max_bytes: 64MiB").is_err());
    assert!(with_all("max: 9, max_bytes: 63MiB").is_err());
}

/// Runs `check` with these variables and no others.
fn check(text: &str, variables: &[(&str, &str)]) -> Output {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = write(folder.path(), "gateway.yaml", text);
    let mut command = Command::new(env!("CARGO_BIN_EXE_nexus-gateway"));
    command.env_clear().envs(variables.iter().copied());
    command.arg("check").arg("--config").arg(Path::new(&path)).output().expect("the binary runs")
}

#[test]
fn what_is_embedded_needs_a_state_folder() {
    let text = "policies: [park: on]\nclusters: { eu: { url: 'http://eu' } }\ncallbacks: { public_url: 'http://g' }";
    let refused = check(text, &[]);
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!((refused.status.code(), said.lines().count()), (Some(78), 1), "{said}");
    assert!(said.contains(":1: policies[0].park: there is no state folder"), "{said}");
    for (more, variables) in [
        ("", [("HOME", "/h")].as_slice()),
        ("\nstate: { directory: /s }", &[]),
        ("\npark: { store: 'postgres://h' }", &[]),
    ] {
        let keys = format!("keys: [{{ id: k, secret: '{KEY}' }}] }}");
        let text = format!("{}, {keys}{more}", text.strip_suffix(" }").unwrap());
        let taken = check(&text, variables);
        assert!(taken.status.success() && taken.stderr.is_empty(), "{more}: {taken:?}");
    }
}

#[test]
fn check_says_for_whom_parking_is() {
    let said = |callbacks: &str, rest: &str| {
        let text = format!("policies: [park: on]\ncallbacks: {{ public_url: 'http://g' {callbacks} }}\n{rest}");
        let taken = check(&text, &[("HOME", "/h")]);
        assert!(taken.status.success() && taken.stderr.is_empty(), "{taken:?}");
        String::from_utf8(taken.stdout).unwrap()
    };
    assert_eq!(
        said("", REST),
        "note: parked operations can be completed at the configured clusters (`eu`, `us`); starts with a callback \
        elsewhere are not parked\n\
        note: parked operations with the callback temporal://system can be completed for the configured clusters only\n"
    );
    let allow = ", allow: ['http://a.example:*', { url: 'http://10.0.0.0/8', private: true }]";
    let both = said(allow, REST);
    let listed = "at the configured clusters (`eu`, `us`) and what `callbacks.allow` lists (`http://a.example:*`, \
        `http://10.0.0.0/8`); ";
    assert!(both.contains(listed), "{both}");
    let none = said(allow, "");
    assert!(none.contains("at what `callbacks.allow` lists"), "{none}");
    assert!(none.contains("can be completed for no cluster: none is configured"), "{none}");
}

#[test]
fn check_says_nothing_where_nothing_is_parked() {
    let text = format!("policies: [park: off]\n{REST}");
    assert!(check(&text, &[("HOME", "/h")]).stdout.is_empty());
}
