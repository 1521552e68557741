//! What the log says of a gateway that is open: at start, and when a reload opens it.

use std::path::PathBuf;

use tempfile::TempDir;

use crate::certificates::{Authority, For};
use crate::harness::process::Process;

const OPEN: &str = "everyone who reaches this port may call every endpoint: no authentication is configured";
const OF_CLIENTS: &str =
    "everyone with a certificate of the clients' authorities may call every endpoint: no authentication is configured";
const KEYS: &str = "authentication: { api_keys: { keys: [{ name: orders, sha256: \
    8bb0cf6eb9b17d0f7d22b456f121257dc1254e1f01665370476383ea776df414 }] } }\n";

/// A configuration that a process runs with and that changes.
struct Config {
    folder: TempDir,
}

impl Config {
    /// With a certificate beside it.
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let authority = Authority::new("authority");
        let issued = authority.issue(For { hosts: &["localhost"], ..For::default() });
        for (name, text) in [("ca.crt", &authority.pem), ("tls.crt", &issued.chain), ("tls.key", &issued.key)] {
            std::fs::write(folder.path().join(name), text).expect("a file can be written");
        }
        Self { folder }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("gateway.yaml")
    }

    /// A listener on `address`, with TLS where `tls` says so, and more of a configuration.
    fn write(&self, address: &str, tls: &str, more: &str) {
        let text = format!("listen: [{{ address: '{address}'{tls} }}]\nadmin: {{ address: '127.0.0.1:0' }}\n{more}");
        std::fs::write(self.file(), text).expect("a file can be written");
    }

    fn tls(&self, more: &str) -> String {
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        let more = more.replace("CA", &path("ca.crt"));
        format!(", tls: {{ certificate: '{}', key: '{}'{more} }}", path("tls.crt"), path("tls.key"))
    }
}

/// What is logged at `WARN` from start to end.
async fn warnings(config: &Config) -> String {
    let mut process = Process::run(&config.file());
    process.address("data port listening").await;
    process.signal("TERM").await;
    let log = process.whole_log().await;
    log.lines().filter(|line| line.contains("WARN")).collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn a_port_beyond_loopback_that_everybody_may_use_says_so_loudly() {
    let config = Config::new();
    let clients = config.tls(", clients: { ca: 'CA', required: true }");
    let optional = config.tls(", clients: { ca: 'CA', required: false }");
    let rules = "authorization: { rules: [{ callers: [anonymous] }] }\n";
    for (address, tls, more, expected) in [
        ("0.0.0.0:0", "", "", Some(OPEN)),
        ("[::]:0", "", "", Some(OPEN)),
        ("0.0.0.0:0", &*config.tls(""), "", Some(OPEN)),
        ("0.0.0.0:0", &*optional, "", Some(OPEN)),
        ("0.0.0.0:0", &*clients, "", Some(OF_CLIENTS)),
        ("127.0.0.1:0", "", "", None),
        ("127.0.0.9:0", "", "", None),
        ("0.0.0.0:0", "", KEYS, None),
        ("0.0.0.0:0", "", rules, None),
    ] {
        config.write(address, tls, more);
        let warnings = warnings(&config).await;
        let open = warnings.matches("no authentication is configured").count();
        assert_eq!(open, usize::from(expected.is_some()), "{address} {tls} {more}: {warnings}");
        assert!(expected.is_none_or(|expected| warnings.contains(expected)), "{address} {tls} {more}: {warnings}");
    }
}

#[tokio::test]
async fn a_reload_that_opens_a_gateway_says_so_once() {
    let config = Config::new();
    let tls = config.tls("");
    config.write("0.0.0.0:0", &tls, KEYS);
    let mut process = Process::run(&config.file());
    process.address("data port listening").await;

    config.write("0.0.0.0:0", "", KEYS);
    let said = process.logs("TLS is gone: from now on this port takes cleartext only").await;
    assert!(said.contains("WARN"), "{said}");
    process.logs("the changed configuration is in force").await;

    config.write("0.0.0.0:0", "", "");
    let said =
        process.logs("authentication is not configured any more: callers are known by their addresses only").await;
    assert!(said.contains("WARN"), "{said}");
    let said = process.logs(OPEN).await;
    assert!(said.contains("WARN") && said.contains("address=0.0.0.0:"), "{said}");
    process.logs("the changed configuration is in force").await;

    // It is as open as before: there is nothing new to say.
    config.write("0.0.0.0:0", "", "server: { grace: 1s }\n");
    process.logs("the changed configuration is in force").await;
    process.signal("TERM").await;
    let log = process.whole_log().await;
    assert_eq!(log.matches(OPEN).count(), 1, "{log}");
    assert_eq!(log.matches("TLS is gone").count(), 1, "{log}");
}
