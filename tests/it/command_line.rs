//! The binary: exit codes, signals, and a configuration file that changes while it runs.

use std::path::PathBuf;

use tempfile::TempDir;

use crate::harness::process::{Process, output};
use crate::harness::*;

/// A configuration file in a folder of its own.
struct Config {
    folder: TempDir,
}

impl Config {
    fn new(text: &str) -> Self {
        let config = Self { folder: tempfile::tempdir().expect("a temporary folder") };
        config.write(text);
        config
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("gateway.yaml")
    }

    fn argument(&self) -> String {
        self.path().display().to_string()
    }

    fn write(&self, text: &str) {
        std::fs::write(self.path(), text).expect("a file can be written");
    }
}

const PORTS: &str = "listen: [{ address: 127.0.0.1:0 }]\nadmin: { address: 127.0.0.1:0 }\nserver: { workers: 1 }\n";

/// A file with free ports and one endpoint `pay` that leads to `handler`.
fn leading_to(handler: &Handler) -> String {
    format!("{PORTS}endpoints: {{ pay: {{ external: {{ url: '{}' }} }} }}\n", handler.url())
}

/// A process that serves, and its data port.
async fn serving(config: &Config) -> (Process, std::net::SocketAddr) {
    let mut process = Process::run(&config.path());
    let data = process.address("data port listening").await;
    process.logs("serving").await;
    (process, data)
}

#[tokio::test]
async fn exit_codes_are_those_of_sysexits() {
    let good = Config::new(PORTS);
    let bad = Config::new("listne: []\nserver: { grace: soon }\n");
    let taken = Handler::answering(ok());
    let (good, bad) = (good.argument(), bad.argument());
    let address = taken.address.to_string();
    let cluster = Cluster::serving(vec![listed("pay", 1)]);
    let (url, gone) = (cluster.url(), Reserved::new());
    let gone = format!("http://{}", gone.address);
    let rows: [(&[&str], i32); 12] = [
        (&["--help"], 0),
        (&["check", "--config", &good], 0),
        (&["check", "--config", &bad], 78),
        (&["check", "--config", "/no/such/file.yaml"], 78),
        (&["run", "--config", &bad], 78),
        (&["run", "--config", &good, "--listen", &address], 71),
        (&["run", "--config", &good, "--admin", &address], 71),
        (&["run", "--nonsense"], 64),
        (&["check"], 64),
        (&["resolve", "pay", "--cluster", &url], 0),
        (&["resolve", "none", "--cluster", &url], 1),
        (&["resolve", "pay", "--cluster", &gone], 69),
    ];
    for (arguments, code) in rows {
        let ended = output(arguments).await;
        assert_eq!(ended.status.code(), Some(code), "{arguments:?}: {}", String::from_utf8_lossy(&ended.stderr));
    }
}

#[tokio::test]
async fn check_names_every_mistake_with_its_place() {
    let bad = Config::new("listne: []\nserver: { grace: soon }\n");
    let ended = output(&["check", "--config", &bad.argument()]).await;
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    let path = bad.argument();
    for (line, place) in said.lines().zip([format!("{path}:1: listne: "), format!("{path}:2: server.grace: ")]) {
        assert!(line.starts_with(&place), "{said}");
    }
    assert_eq!(said.lines().count(), 2, "{said}");
}

#[tokio::test]
async fn resolve_says_where_an_endpoint_leads() {
    let cluster = Cluster::serving(vec![listed("pay", 1)]);
    let ended = output(&["resolve", "pay", "--cluster", &cluster.url()]).await;
    let said = String::from_utf8_lossy(&ended.stdout).into_owned();
    for part in ["pay", &id(1), "task queue tq", &cluster.url()["http://".len()..], "10s (the default)"] {
        assert!(said.contains(part), "{part} in {said}");
    }
}

#[tokio::test]
async fn a_new_api_key_lets_its_caller_in_once_its_hash_is_in_the_file() {
    let made = output(&["keys", "api", "--name", "orders \"$1\"", "--namespace", "shop"]).await;
    let (entry, said) = (String::from_utf8_lossy(&made.stdout), String::from_utf8_lossy(&made.stderr));
    let key = said.split_whitespace().last().expect("a key");
    assert!(!entry.contains(key) && entry.lines().count() == 1 && said.lines().count() == 1, "{entry}{said}");
    let handler = Handler::answering(ok());
    let config = Config::new(&leading_to(&handler));
    let (mut process, data) = serving(&config).await;
    let rules = "authorization: { rules: [{ callers: ['orders*'], namespaces: [shop] }] }\n";
    let keys = format!("authentication:\n  api_keys:\n    keys:\n      {entry}");
    config.write(&(leading_to(&handler) + rules + &keys));
    process.logs("the changed configuration is in force").await;
    let mut caller = Caller::connect(data).await;
    assert_eq!(caller.call(&start("pay").header("X-Api-Key", key)).await.status(), 200);
    assert_eq!(caller.call(&start("pay").header("X-Api-Key", &key[1..])).await.status(), 401);
    assert_eq!(caller.call(&start("pay")).await.status(), 401, "no rule is for whoever shows nothing");
    config.write(&leading_to(&handler));
    process.logs("authentication is not configured any more").await;
    for reserved in ["anonymous", "", " "] {
        assert_eq!(output(&["keys", "api", "--name", reserved]).await.status.code(), Some(64));
    }
}

#[tokio::test]
async fn a_changed_file_takes_effect() {
    let (before, after) = (Handler::answering(ok()), Handler::answering(json("200 OK", "\"after\"")));
    let config = Config::new(&leading_to(&before));
    let (mut process, data) = serving(&config).await;
    let mut caller = Caller::connect(data).await;
    assert_eq!(caller.call(&start("pay")).await.text(), RESULT);
    config.write(&leading_to(&after));
    process.logs("the changed configuration is in force").await;
    assert_eq!(caller.call(&start("pay")).await.text(), "\"after\"");
}

#[tokio::test]
async fn a_bad_change_is_refused_and_the_last_good_one_stays() {
    let handler = Handler::answering(ok());
    let config = Config::new(&leading_to(&handler));
    let mut process = Process::run(&config.path());
    // The order in which ports are bound.
    let mut addresses = Vec::new();
    for port in ["admin port listening", "data port listening"] {
        addresses.push(process.address(port).await);
    }
    process.logs("serving").await;
    config.write(&(leading_to(&handler) + "polices: []\n"));
    let line = process.logs("is refused").await;
    assert!(line.contains("polices") && line.contains("gateway.yaml:5"), "{line}");
    assert_eq!(Caller::connect(addresses[1]).await.call(&start("pay")).await.status(), 200);
    let metrics =
        || async { Caller::connect(addresses[0]).await.call(&get("/metrics").host("localhost")).await.text() };
    let refused = metrics().await;
    assert!(refused.contains("nexus_gateway_config_last_reload_successful 0"), "{refused}");
    assert!(refused.contains("nexus_gateway_config_reloads_total{result=\"refused\"} 1"), "{refused}");

    config.write(&(leading_to(&handler) + "policies: []\n"));
    process.logs("the changed configuration is in force").await;
    assert!(metrics().await.contains("nexus_gateway_config_last_reload_successful 1"));
}

#[tokio::test]
async fn a_signal_drains_and_the_process_ends_in_good_order() {
    for signal in ["TERM", "INT"] {
        let gate = Gate::new();
        let handler = Handler::acting(vec![Act::Wait(gate.clone()), ok().into()]);
        let config = Config::new(&leading_to(&handler));
        let (mut process, data) = serving(&config).await;
        let mut caller = Caller::connect(data).await;
        caller.send(start("pay").bytes()).await;
        handler.wait_for(1).await;
        process.signal(signal).await;
        process.logs("draining").await;
        gate.open();
        assert_eq!(caller.answer().await.status(), 200);
        assert_eq!(process.ended().await.code(), Some(0), "{signal}");
    }
}

#[tokio::test]
async fn a_second_signal_ends_the_process_at_once() {
    let handler = Handler::acting(vec![Act::Stall]);
    let config = Config::new(&leading_to(&handler));
    let (mut process, data) = serving(&config).await;
    let mut caller = Caller::connect(data).await;
    caller.send(start("pay").bytes()).await;
    handler.wait_for(1).await;
    process.signal("TERM").await;
    process.logs("draining").await;
    process.signal("TERM").await;
    assert_eq!(process.ended().await.code(), Some(75));
}

#[tokio::test]
async fn no_log_level_shows_payloads_or_credentials() {
    let handler = Handler::answering(json("200 OK", "\"planted-secret\""));
    let config = Config::new(&(leading_to(&handler) + "log: { level: trace }\n"));
    let (process, data) = serving(&config).await;
    let mut caller = Caller::connect(data).await;
    let headers = ["Authorization", "Cookie", "Nexus-Callback-Token"].map(|name| (name, "planted-secret"));
    let request =
        to("/nexus/endpoints/pay/services/Svc/op?callback=planted-secret").headers(headers).body("\"planted-secret\"");
    assert_eq!(caller.call(&request).await.status(), 200);
    caller.send("nonsense planted-secret\r\n\r\n").await;
    drop(caller);
    process.signal("TERM").await;
    let log = process.rest_of_log().await;
    assert!(log.contains("draining") && !log.contains("planted-secret"), "{log}");
}
