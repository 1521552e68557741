//! Where settings come from: files, folders, variables, secrets, flags.

use std::fs;
use std::num::NonZeroU32;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nexus_gateway::admin::{AdminSettings, AdminToken};
use nexus_gateway::admission::authorize::{Callers, Pattern, Rule};
use nexus_gateway::admission::{AuthorizationSettings, Trust};
use nexus_gateway::callback::CallbackSettings;
use nexus_gateway::callback::destination::Allowed;
use nexus_gateway::callback::seal::Key;
use nexus_gateway::config::{Overrides, Settings, load, load_changed};
use nexus_gateway::credentials::Outward;
use nexus_gateway::gates::{ProcessSettings, StoreSettings};
use nexus_gateway::nexus::BaseUrl;
use nexus_gateway::park::{ParkingSettings, StoreAt};
use nexus_gateway::registry::{ClusterSettings, Definition, DiscoverSettings, Target};
use nexus_gateway::resilience::park::{ParkOn, ParkReason, ParkSettings};
use nexus_gateway::resilience::rate_limit::{OnFailure, Rate, Scope, StoreUrl};
use nexus_gateway::resilience::retry::RetryOn;
use nexus_gateway::resilience::{BreakerSettings, ConcurrencySettings, Per, RateLimitSettings, RetrySettings};
use nexus_gateway::route::{PolicyRule, Selector, Toggle, TokenRule};
use nexus_gateway::server::{Http2Settings, ListenerSettings, ServerSettings};
use nexus_gateway::telemetry::{LogFormat, LogSettings, LogTarget};
use nexus_gateway::tls::ClientTlsSettings;
use nexus_gateway::upstream::UpstreamSettings;
use tempfile::tempdir;

use crate::shipped::load_shipped;
use crate::{load_path, load_text, refusal, write};

#[test]
fn nothing_at_all_gives_the_defaults() {
    assert_eq!(load(None, &Overrides::default()).1, Ok(Settings::default()));
    for text in
        ["", "# nothing\n", "---\n", "listen:\nadmin:\nserver: {}\nclusters:\nendpoints: {}\npolicies: []\nlog:\n"]
    {
        assert_eq!(load_text(text), Ok(Settings::default()), "{text:?}");
    }
}

#[test]
fn a_file_is_turned_into_settings() {
    let settings = load_shipped(Path::new("config/edge.yaml"));
    assert_eq!(settings.listen[0].trust, Trust::Untrusted);
    let names: Vec<_> = settings.clusters.iter().map(|cluster| &*cluster.name).collect();
    assert_eq!(names, ["eu", "us"]);
    assert_eq!(
        settings.clusters[0].discover,
        Some(DiscoverSettings { every: Duration::from_secs(5), externals: false })
    );
    assert_eq!(settings.clusters[1].urls.len(), 3);
    assert_eq!(settings.clusters[1].discover, None);
    let worker =
        Target::Worker { cluster: "us".into(), namespace: "payments".into(), task_queue: "payments-nexus".into() };
    assert_eq!(settings.endpoints[0].target, worker);
    assert_eq!(settings.policies[2].selector.operation.as_deref(), Some("statement"));
    assert_eq!(settings.policies[2].max_response_body, Some(8 << 20));
}

/// All different from their defaults and from each other, so that none can take another one's place.
#[test]
#[expect(clippy::too_many_lines, reason = "every setting there is")]
fn every_setting_reaches_its_field() {
    let settings = load_text(
        "
listen: [{ address: '127.0.0.1:1', trust: untrusted }, { address: '0.0.0.0:2', trust: trusted }]
admin: { address: '127.0.0.1:3', token: secret-of-the-admin }
server:
  { max_connections: 4, max_head: 5KiB, head_timeout: 6s, idle_timeout: 9s, grace: 7s, workers: 8, max_in_flight: 21,
    max_queued_bytes: 22MiB, max_wait: 23s, max_connections_per_peer: 68, body_timeout: 69s, handshake_timeout: 123ms, max_handshakes_per_peer: 19,
    max_cuts_per_peer: 70, max_unread_bytes: 71MiB,
    max_headers: 61, max_uri: 52KiB, max_requests_per_connection: 63,
    http2: { max_streams: 64, stream_window: 65KiB, connection_window: 66KiB, ping_every: 67s, ping_timeout: 58s } }
clusters: { home: { url: 'http://a:9/x', discover: { every: 10s, externals: true } } }
endpoints: { partner: { external: { url: 'http://b:11/y' } } }
policies:
  - match: { caller: orders, caller_namespace: N, endpoint: partner, service: S, operation: O }
    timeout: 12s
    max_request_body: 13
    max_response_body: 14
    hold: false
    rate_limit:
      { per: [service, caller], rate: 24/m, burst: 25, max_wait: 2.6s, max_queue: 27, headers: true, scope: global,
        on_failure: closed }
    concurrency: { per: [operation], max: 28, max_wait: 2.9s, max_queue: 30, adaptive: true }
    retry:
      { attempts: 3, backoff: { initial: 31ms, max: 32s }, on: [reset, timeout, resource_exhausted, internal],
        budget: 33% }
    breaker:
      { failure_rate: 34%, min_requests: 35, window: 36s, consecutive: 37, open_for: 38s, max_open_for: 39s, probes: 40,
        per: service, hold: true }
    callbacks: relay
    park: { on: [saturated, breaker_open], max: 54, max_bytes: 55MiB, max_age: 56d }
    sticky: false
    tokens: any
    redact: on
callbacks:
  public_url: http://c:48/z
  keys:
    - { id: a, secret: 'MTExMTExMTExMTExMTExMTExMTExMTExMTExMTExMTE=' }
    - { id: b, secret: MjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjI }
  allow: ['http://d:49', { url: 'http://e:*', private: true }, { url: 'http://f' }]
  seal_token: false
  expires_after: 50d
  home: home
upstream:
  { connect_timeout: 15s, idle_timeout: 16s, max_idle: 17, max_streams: 61, ping_every: 62s, resolve_every: 18s,
    slow_start: 41s, probe_every: 42s, eject_after: 43, eject_for: 44s, panic_threshold: 45% }
redis: { url: 'redis://:secret@a:46/47', timeout: 4.8s }
authorization:
  rules: [{ callers: [c54], namespaces: [n55], endpoints: [e56], services: [s57], operations: [o58] }]
  completions: { callers: [c59], namespaces: [n60] }
  tell_forbidden: true
park: { store: 'postgres://g:secret@i:51/j', max: 9000052, max_bytes: 53GiB }
state: { directory: /nineteen }
log: { level: debug, format: json, access_log: /twenty, audit_log: /fifty-seven }",
    );
    let (seconds, millis) = (Duration::from_secs, Duration::from_millis);
    let url = |text| BaseUrl::parse(text).unwrap();
    let names = |text| Some(vec![Pattern::new(text).unwrap()]);
    let expected = Settings {
        listen: vec![
            ListenerSettings::plain("127.0.0.1:1".parse().unwrap(), Trust::Untrusted),
            ListenerSettings::plain("0.0.0.0:2".parse().unwrap(), Trust::Trusted),
        ],
        authentication: None,
        admin: AdminSettings {
            token: Some(AdminToken::new("secret-of-the-admin")),
            ..AdminSettings::at("127.0.0.1:3".parse().unwrap())
        },
        server: ServerSettings {
            max_connections: 4,
            max_connections_per_peer: 68,
            max_cuts_per_peer: 70,
            max_unread_bytes: 71 << 20,
            max_head: 5 << 10,
            max_headers: 61,
            max_uri: 52 << 10,
            head_timeout: seconds(6),
            handshake_timeout: Duration::from_millis(123),
            max_handshakes_per_peer: 19,
            idle_timeout: seconds(9),
            max_requests_per_connection: 63,
            http2: Http2Settings {
                max_streams: 64,
                stream_window: 65 << 10,
                connection_window: 66 << 10,
                ping_every: seconds(67),
                ping_timeout: seconds(58),
            },
            grace: seconds(7),
            workers: 8,
            process: ProcessSettings {
                max_in_flight: 21,
                max_queued_bytes: 22 << 20,
                max_wait: seconds(23),
                body_timeout: seconds(69),
            },
        },
        clusters: vec![ClusterSettings {
            outward: Outward::default(),
            name: "home".into(),
            urls: vec![url("http://a:9/x")],
            discover: Some(DiscoverSettings { every: seconds(10), externals: true }),
        }],
        callers: None,
        endpoints: vec![Definition {
            name: "partner".into(),
            id: None,
            target: Target::External { url: url("http://b:11/y") },
        }],
        externals: std::collections::BTreeMap::new(),
        authorization: Some(AuthorizationSettings {
            rules: vec![Rule {
                callers: Callers { names: names("c54"), namespaces: names("n55") },
                endpoints: names("e56"),
                services: names("s57"),
                operations: names("o58"),
            }],
            completions: Some(Callers { names: names("c59"), namespaces: names("n60") }),
            tell_forbidden: true,
        }),
        policies: vec![every_setting_of_a_policy()],
        callbacks: every_setting_of_callbacks(),
        upstream: UpstreamSettings {
            connect_timeout: seconds(15),
            idle_timeout: seconds(16),
            max_idle: 17,
            max_streams: 61,
            ping_every: seconds(62),
            resolve_every: seconds(18),
            slow_start: seconds(41),
            probe_every: seconds(42),
            eject_after: 43,
            eject_for: seconds(44),
            panic_threshold: 45,
        },
        redis: Some(StoreSettings {
            url: StoreUrl::new("redis://:secret@a:46/47"),
            tls: ClientTlsSettings::default(),
            timeout: millis(4800),
        }),
        parking: ParkingSettings {
            store: StoreAt::Postgres(StoreUrl::new("postgres://g:secret@i:51/j")),
            tls: ClientTlsSettings::default(),
            max: 9_000_052,
            max_bytes: 53 << 30,
        },
        state: Some("/nineteen".into()),
        log: LogSettings {
            level: "debug".into(),
            format: LogFormat::Json,
            access_log: Some(LogTarget::File("/twenty".into())),
            audit_log: Some(LogTarget::File("/fifty-seven".into())),
        },
    };
    assert_eq!(settings, Ok(expected));
}

fn every_setting_of_callbacks() -> CallbackSettings {
    CallbackSettings {
        public_url: Some(BaseUrl::parse("http://c:48/z").expect("a URL")),
        keys: vec![Key::new("a", [b'1'; 32]), Key::new("b", [b'2'; 32])],
        allow: [("http://d:49", false), ("http://e:*", true), ("http://f", false)]
            .map(|(url, private)| Allowed::new(url, private).expect("a URL"))
            .into(),
        seal_token: false,
        expires_after: Duration::from_secs(50 * 24 * 3600),
        home: Some("home".into()),
    }
}

fn every_setting_of_a_policy() -> PolicyRule {
    let (seconds, millis) = (Duration::from_secs, Duration::from_millis);
    let count = |number| NonZeroU32::new(number).expect("not zero");
    PolicyRule {
        selector: Selector {
            caller: Some(Arc::<str>::from("orders").into()),
            caller_namespace: Some("N".into()),
            endpoint: Some("partner".into()),
            service: Some("S".into()),
            operation: Some("O".into()),
        },
        timeout: Some(seconds(12)),
        max_request_body: Some(13),
        max_response_body: Some(14),
        hold: Some(false),
        rate_limit: Some(Toggle::On(RateLimitSettings {
            per: Per { caller: true, service: true, ..Per::default() },
            rate: Rate { requests: count(24), every: seconds(60) },
            burst: count(25),
            max_wait: millis(2600),
            max_queue: 27,
            headers: true,
            scope: Scope::Global,
            on_failure: OnFailure::Closed,
        })),
        concurrency: Some(Toggle::On(ConcurrencySettings {
            per: Per { operation: true, ..Per::default() },
            max: 28,
            max_wait: millis(2900),
            max_queue: 30,
            adaptive: true,
        })),
        retry: Some(Toggle::On(RetrySettings {
            attempts: 3,
            initial: millis(31),
            max: seconds(32),
            on: RetryOn { reset: true, timeout: true, resource_exhausted: true, internal: true, ..RetryOn::NOTHING },
            budget: Some(33),
        })),
        breaker: Some(Toggle::On(BreakerSettings {
            per: Per { endpoint: true, service: true, ..Per::default() },
            failure_rate: Some(34),
            min_requests: 35,
            window: seconds(36),
            consecutive: Some(37),
            open_for: seconds(38),
            max_open_for: seconds(39),
            probes: 40,
            hold: true,
        })),
        park: Some(Toggle::On(ParkSettings {
            on: ParkOn::of([ParkReason::BreakerOpen, ParkReason::Saturated]),
            max: 54,
            max_bytes: 55 << 20,
            max_age: seconds(56 * 24 * 3600),
        })),
        relay: Some(true),
        sticky: Some(false),
        tokens: Some(TokenRule::Any),
        redact: Some(true),
    }
}

#[test]
fn order_is_that_of_the_file() {
    let settings = load_text("clusters: {z: {url: 'http://z'}, a: {url: 'http://a'}, m: {url: 'http://m'}}").unwrap();
    let names: Vec<_> = settings.clusters.iter().map(|cluster| &*cluster.name).collect();
    assert_eq!(names, ["z", "a", "m"]);
}

#[test]
fn only_loopback_addresses_are_trusted_by_default() {
    for (address, trust) in [
        ("127.0.0.1:1", Trust::Trusted),
        ("127.8.8.8:1", Trust::Trusted),
        ("[::1]:1", Trust::Trusted),
        ("[::ffff:127.0.0.1]:1", Trust::Trusted),
        ("0.0.0.0:1", Trust::Untrusted),
        ("[::]:1", Trust::Untrusted),
        ("10.0.0.1:1", Trust::Untrusted),
    ] {
        let settings = load_text(&format!("listen: [address: '{address}']")).unwrap();
        assert_eq!(settings.listen[0].trust, trust, "{address}");
    }
    let settings = load_text("listen: [{ address: '0.0.0.0:1', trust: trusted }]").unwrap();
    assert_eq!(settings.listen[0].trust, Trust::Trusted);
}

#[test]
fn anchors_and_aliases_work() {
    let settings = load_text("server: { grace: &time 3s, head_timeout: *time }").unwrap();
    assert_eq!((settings.server.grace, settings.server.head_timeout), (Duration::from_secs(3), Duration::from_secs(3)));
}

#[test]
fn flags_win_over_the_file() {
    let overrides = Overrides {
        clusters: vec!["http://127.0.0.1:7300/base".into()],
        listen: "0.0.0.0:1".parse().ok(),
        admin: "127.0.0.1:2".parse().ok(),
        state: Some("/tmp/state".into()),
    };
    let settings = load(Some(Path::new("config/gateway.yaml")), &overrides).1.unwrap();
    assert_eq!(settings.listen.len(), 1);
    assert_eq!(Some(settings.listen[0].address), overrides.listen);
    assert_eq!(settings.listen[0].trust, Trust::Untrusted);
    assert_eq!(Some(settings.admin.address), overrides.admin);
    assert_eq!(settings.state, overrides.state);
    let names: Vec<_> = settings.clusters.iter().map(|cluster| &*cluster.name).collect();
    assert_eq!(names, ["home", "overseas", "127.0.0.1:7300"]);
    assert_eq!(&*settings.clusters[2].urls[0].path, "/base");
    assert!(settings.clusters[2].discover.is_some());
}

#[test]
fn a_folder_is_merged_in_name_order() {
    let folder = tempdir().unwrap();
    write(folder.path(), "20-b.yml", "clusters: {b: {url: 'http://b'}}\npolicies: [timeout: 2s]\nserver: {workers: 3}");
    write(
        folder.path(),
        "10-a.yaml",
        "clusters: {a: {url: 'http://a'}}\npolicies: [max_request_body: 1]\nserver: {grace: 1s}",
    );
    write(folder.path(), "15-empty.yaml", "clusters:\n");
    write(folder.path(), "notes.txt", "not: [yaml");
    write(folder.path(), ".#10-a.yaml", "not: [yaml");
    fs::create_dir(folder.path().join("sub.yaml")).unwrap();
    let settings = load_path(folder.path()).unwrap();
    let names: Vec<_> = settings.clusters.iter().map(|cluster| &*cluster.name).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(settings.policies[0].max_request_body, Some(1));
    assert_eq!(settings.policies[1].timeout, Some(Duration::from_secs(2)));
    assert_eq!((settings.server.workers, settings.server.grace), (3, Duration::from_secs(1)));
}

/// Kubernetes mounts a `ConfigMap` as links through `..data`, and swaps that link when it changes.
#[test]
fn a_swapped_folder_is_noticed() {
    let folder = tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for (version, timeout) in [("..v1", "1s"), ("..v2", "2s")] {
        fs::create_dir(path(version)).unwrap();
        write(&path(version), "gateway.yaml", &format!("policies: [timeout: {timeout}]"));
    }
    symlink("..v1", path("..data")).unwrap();
    symlink("..data/gateway.yaml", path("gateway.yaml")).unwrap();
    let (before, settings) = load(Some(folder.path()), &Overrides::default());
    assert_eq!(settings.unwrap().policies[0].timeout, Some(Duration::from_secs(1)));

    symlink("..v2", path("..next")).unwrap();
    fs::rename(path("..next"), path("..data")).unwrap();
    let (after, settings) = load(Some(folder.path()), &Overrides::default());
    assert_eq!(settings.unwrap().policies[0].timeout, Some(Duration::from_secs(2)));
    assert_ne!(before, after);
}

#[test]
fn variables_and_files_expand_in_any_text() {
    let folder = tempdir().unwrap();
    let secret = write(folder.path(), "queue", "orders-tq\n");
    let settings = load_text(&format!(
        "clusters: {{home: {{url: 'http://${{env:CARGO_PKG_NAME}}:7243'}}}}
endpoints:
  orders: {{worker: {{cluster: home, namespace: a$$b, task_queue: '${{file:{}}}'}}}}",
        secret.display()
    ))
    .unwrap();
    assert_eq!(&*settings.clusters[0].urls[0].host, "nexus-gateway");
    let worker = Target::Worker { cluster: "home".into(), namespace: "a$b".into(), task_queue: "orders-tq".into() };
    assert_eq!(settings.endpoints[0].target, worker);
}

#[test]
fn numbers_may_come_from_variables() {
    let folder = tempdir().unwrap();
    let number = write(folder.path(), "number", "12");
    let text = format!("server: {{max_connections: '${{file:{0}}}', max_head: '${{file:{0}}}KiB'}}", number.display());
    let server = load_text(&text).unwrap().server;
    assert_eq!((server.max_connections, server.max_head), (12, 12 << 10));
}

/// Each kind of value, and each check that comes after.
#[test]
fn expanded_values_never_show_in_messages() {
    let folder = tempdir().unwrap();
    let secret = write(folder.path(), "secret", "hunter2_");
    let url = write(folder.path(), "url", "http://hunter2.example");
    for text in [
        "listen: [{address: 'SECRET', trust: 'SECRET'}]\nadmin: 'SECRET'",
        "server: {max_head: 'SECRET', workers: 'SECRET', grace: 'SECRET'}",
        "clusters: {home: {url: 'SECRET', discover: 'SECRET'}}",
        "clusters: {home: {url: ['http://u:SECRET@a', 'https://SECRET', 'x-SECRET']}}",
        "clusters: {home: {url: 'URL', discover: {every: 'SECRET', externals: 'SECRET'}}}",
        "clusters: {home: {url: ['URL', 'URL/SECRET']}, away: {url: 'URL'}}",
        "clusters: {hunter: {url: 'http://a'}}\nendpoints: {ab: {worker: {cluster: 'SECRET', namespace: n}}}",
        "endpoints: {ab: {worker: 'SECRET', external: {url: 'https://SECRET'}}}",
        "policies: [{match: {endpoint: 'SECRET'}, timeout: 'SECRET', max_request_body: 'SECRET'}, 'SECRET']",
        "upstream: {max_idle: 'SECRET', idle_timeout: '1SECRET', panic_threshold: 'SECRET'}",
        "policies: [{match: {caller: 'SECRET'}, rate_limit: {rate: 'SECRET', per: ['SECRET']}, retry: 'SECRET'}]",
        "redis: {url: 'SECRET'}",
        "redis: {url: 'redis://SECRET/x'}",
        "redis: {url: 'rediss://:SECRET@h#insecure'}",
        "redis: {url: 'redis://:SECRET@h', timeout: 'SECRET'}",
        "park: {store: 'SECRET'}",
        "park: {store: 'postgres://SECRET:SECRET/SECRET'}",
        "park: {store: 'postgres://h/SECRET?sslmode=require'}",
        "park: {store: 'postgres://u:SECRET@h', max: 'SECRET', max_bytes: 'SECRET'}",
        "park: 'SECRET'",
        "policies: [{park: 'SECRET'}, {park: {on: ['SECRET'], max: 'SECRET', max_age: 'SECRET'}}]",
        "log: {level: 'SECRET', format: 'SECRET', access_log: 'SECRET', audit_log: 'SECRET'}",
        "state: 'SECRET'",
        "callbacks: 'SECRET'",
        "callbacks: {public_url: 'SECRET', expires_after: 'SECRET', seal_token: 'SECRET', home: 'SECRET'}",
        "callbacks: {public_url: 'URL', keys: 'SECRET', allow: ['ftp://SECRET', {url: 'SECRET', private: 'SECRET'}]}",
        "callbacks: {public_url: 'URL', keys: [{id: ' SECRET', secret: 'SECRET'}, 'SECRET']}",
        "'SECRET'",
    ] {
        let text = text.replace("SECRET", &format!("${{file:{}}}", secret.display()));
        let text = text.replace("URL", &format!("${{file:{}}}", url.display()));
        let report = refusal(load_text(&text));
        assert!(!report.contains("hunter2") && report.contains("the expanded value"), "{text}\n{report}");
    }
}

#[test]
fn limits_have_defaults() {
    let text = "policies: [{rate_limit: {rate: 1000/m}, concurrency: {max: 3}, retry: {}, breaker: {}}]";
    let rule = load_text(text).unwrap().policies.remove(0);
    let limit = rule.rate_limit.unwrap().on().unwrap();
    assert_eq!(limit.per, Per { endpoint: true, ..Per::default() });
    assert_eq!((limit.burst.get(), limit.max_wait, limit.max_queue), (1, Duration::from_millis(500), 1000));
    assert_eq!((limit.headers, limit.scope, limit.on_failure), (false, Scope::Local, OnFailure::Local));
    let concurrency = rule.concurrency.unwrap().on().unwrap();
    assert_eq!((concurrency.per, concurrency.adaptive), (Per::OPERATION, false));
    assert_eq!((concurrency.max_wait, concurrency.max_queue), (Duration::from_millis(500), 1000));
    assert_eq!(rule.retry, Some(Toggle::On(RetrySettings::default())));
    assert_eq!(rule.breaker, Some(Toggle::On(BreakerSettings::default())));
    for (rate, burst) in [("500/s", 50), ("19/s", 1), ("20/s", 2), ("5/h", 1), ("72000/h", 2), ("1000000/s", 100_000)] {
        let mut settings = load_text(&format!("policies: [rate_limit: {{ rate: {rate} }}]")).unwrap();
        let limit = settings.policies.remove(0).rate_limit.unwrap().on().unwrap();
        assert_eq!(limit.burst.get(), burst, "{rate}");
    }
}

#[test]
fn limits_can_be_switched_off() {
    let text = "policies: [{rate_limit: off, concurrency: off, retry: off, breaker: off}]";
    let rule = load_text(text).unwrap().policies.remove(0);
    assert_eq!((rule.rate_limit, rule.concurrency), (Some(Toggle::Off), Some(Toggle::Off)));
    assert_eq!((rule.retry, rule.breaker), (Some(Toggle::Off), Some(Toggle::Off)));
    let text = "policies: [{rate_limit: {rate: 1/s, per: []}, retry: {budget: off}, breaker: {failure_rate: off, \
        consecutive: 3}}, {match: {caller: ::1}, breaker: {consecutive: off}}]";
    let rules = load_text(text).unwrap().policies;
    assert_eq!(rules[0].rate_limit.clone().unwrap().on().unwrap().per, Per::default());
    assert_eq!(rules[0].retry.clone().unwrap().on().unwrap().budget, None);
    let breaker = rules[0].breaker.clone().unwrap().on().unwrap();
    assert_eq!((breaker.failure_rate, breaker.consecutive), (None, Some(3)));
    assert_eq!(rules[1].breaker.clone().unwrap().on().unwrap().consecutive, None);
}

#[test]
fn the_password_of_a_store_never_shows() {
    let settings = load_text("redis: {url: 'redis://:hunter2@h'}").unwrap();
    assert!(!format!("{settings:?}").contains("hunter2"));
    assert_eq!(settings.redis.unwrap().url.reveal(), "redis://:hunter2@h");
    for url in [
        "rediss://:hunter2@h#insecure",
        "redis://u:hunter2@",
        "redis:/u:hunter2@h",
        "redis://:hunter2",
        "unix:///s?pass=hunter2",
    ] {
        for text in [format!("redis: {{url: '{url}'}}"), format!("redis: '{url}'")] {
            let report = refusal(load_text(&text));
            assert!(!report.contains("hunter2") && report.contains("redis"), "{text}: {report}");
        }
    }
}

#[test]
fn inputs_change_with_what_was_read() {
    let folder = tempdir().unwrap();
    let secret = folder.path().join("namespace");
    let text = format!("state: {{directory: '${{file:{}}}'}}", secret.display());
    let path = write(folder.path(), "gateway.yaml", &text);
    let inputs = || load(Some(&path), &Overrides::default()).0;

    let missing = inputs();
    assert_eq!(missing, inputs());
    write(folder.path(), "namespace", "one");
    let one = inputs();
    assert_ne!(missing, one);
    assert_eq!(one, inputs());
    write(folder.path(), "namespace", "two");
    let two = inputs();
    assert_ne!(one, two);
    write(folder.path(), "gateway.yaml", &format!("# The same settings.\n{text}"));
    assert_ne!(two, inputs());
    assert_eq!(two.files().collect::<Vec<_>>(), [&*path, &*secret]);
    assert!(!format!("{two:?}").contains("two"), "texts may be secrets");
}

#[test]
fn inputs_change_with_a_folder() {
    let folder = tempdir().unwrap();
    let inputs = || load(Some(folder.path()), &Overrides::default()).0;
    let empty = inputs();
    write(folder.path(), "a.yaml", "");
    let one = inputs();
    assert_ne!(empty, one);
    write(folder.path(), "b.yaml", "");
    assert_ne!(one, inputs());
}

/// Half of a file may be a good configuration.
#[test]
fn what_is_just_being_written_is_not_taken() {
    let folder = tempdir().unwrap();
    let (file, overrides) = (write(folder.path(), "gateway.yaml", "server: { workers: 1 }\n"), Overrides::default());
    let (inputs, _) = load(Some(&file), &overrides);
    let is_done = AtomicBool::new(false);
    fs::write(&file, "").unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0.. {
                let text = format!("# {number}\nserver: {{ workers: 2 }}\n");
                fs::rename(write(folder.path(), "next", &text), &file).unwrap();
                if is_done.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
        // Whoever writes may be held up for so long that the file looks settled, but not each time.
        let taken = (0..50).all(|_| load_changed(Some(&file), &overrides, &inputs).is_some());
        is_done.store(true, Ordering::Relaxed);
        assert!(!taken, "it is taken");
    });
    let (_, settings) = load_changed(Some(&file), &overrides, &inputs).unwrap();
    assert_eq!(settings.unwrap().server.workers, 2);
}

#[test]
fn a_folder_without_files_is_a_change_that_is_refused_once() {
    let folder = tempdir().unwrap();
    let (file, overrides) = (write(folder.path(), "gateway.yaml", "server: { workers: 1 }\n"), Overrides::default());
    let (inputs, first) = load(Some(folder.path()), &overrides);
    first.unwrap();
    fs::remove_file(&file).unwrap();
    let (inputs, empty) = load_changed(Some(folder.path()), &overrides, &inputs).unwrap();
    assert!(refusal(empty).contains("no *.yaml"));
    assert!(load_changed(Some(folder.path()), &overrides, &inputs).is_none());
    write(folder.path(), "gateway.yaml", "server: { workers: 2 }\n");
    load_changed(Some(folder.path()), &overrides, &inputs).unwrap().1.unwrap();
}
