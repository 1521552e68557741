//! No secret is shown, whatever happens: not in the log at its most talkative, in no other log, metric, page of the admin
//! port or answer, and not by `check` and `resolve`.

use std::path::Path;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tempfile::TempDir;

use serde_json::json;

use crate::certificates::{Authority, For};
use crate::harness::planted::{assert_none_in as no_secret_in, note};
use crate::harness::process::{Process, output};
use crate::harness::*;
use crate::tokens::{Signer, jwks};

const ADMIN_TOKEN: &str = "planted-admin-token-0001";
const REDIS_PASSWORD: &str = "planted-redis-password-0002";
const POSTGRES_PASSWORD: &str = "planted-postgres-password-0003";
/// Exactly as long as a key is.
const SEAL_KEY: &str = "planted-seal-key-000000000000004";
const API_KEY: &str = "planted-api-key-0007";
/// What the gateway shows to targets, in files of these names.
const OUTWARD: [(&str, &str); 4] = [
    ("bearer", "planted-outward-bearer-0025"),
    ("partner-key", "planted-outward-key-0026"),
    ("tenant", "planted-outward-tenant-0027"),
    ("client-secret", "planted-client-secret-0028"),
];
const GRANTED: &str = "planted-granted-0029";
const HEADERS: [(&str, &str); 6] = [
    ("Authorization", "Bearer planted-bearer-0005"),
    ("Cookie", "session=planted-cookie-0006"),
    ("X-Api-Key", API_KEY),
    ("Proxy-Authorization", "Basic planted-basic-0008"),
    ("Nexus-Callback-Temporal-Callback-Token", "planted-callback-token-0009"),
    ("Nexus-Callback-Authorization", "Bearer planted-callback-bearer-0010"),
];
const PAYLOAD: &str = "\"planted-payload-0011\"";
const WRONG_TOKEN: &str = "planted-wrong-token-0012";
const RESULT: &str = "\"planted-result-0013\"";
const HANDLER_COOKIE: &str = "planted-handler-cookie-0014";

/// Files with everything that must not be found. All that is planted has one beginning; what is not text of ours is noted
/// besides.
struct Secrets {
    folder: TempDir,
    signer: Signer,
}

impl Secrets {
    fn planted() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let issued = Authority::new("authority").issue(For { hosts: &["localhost"], ..For::default() });
        let seal_key = STANDARD.encode(SEAL_KEY);
        let line_of_key = issued.key.lines().nth(1).expect("a PEM has lines").to_owned();
        let signing_key = rcgen::KeyPair::generate().expect("a key").serialize_pem();
        let signer = Signer::new("one", "ES256");
        let jwks = jwks(&[&signer]);
        let line_of_signing = signing_key.lines().nth(1).expect("a PEM has lines");
        [&seal_key, &line_of_key, line_of_signing].into_iter().for_each(note);
        let files = [
            ("admin-token", ADMIN_TOKEN),
            ("callers.key", &signing_key),
            ("jwks.json", &jwks),
            ("seal-key", &seal_key),
            ("tls.crt", &issued.chain),
            ("tls.key", &issued.key),
        ];
        for (name, text) in files.into_iter().chain(OUTWARD) {
            std::fs::write(folder.path().join(name), text).expect("a file can be written");
        }
        Self { folder, signer }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.path().join(name)).unwrap_or_default()
    }

    /// A token of the issuer for this caller.
    fn token(&self, sub: &str) -> String {
        let claims = json!({ "iss": "https://issuer.example", "aud": "gateway", "exp": 4_000_000_000_u64, "sub": sub });
        format!("Bearer {}", self.signer.token(&claims))
    }

    /// A configuration with a secret wherever one can be. `grants` hands out a token, `denies` tells all it was told.
    fn config(&self, handler: &Handler, grants: &Handler, denies: &Handler) -> String {
        let [admin, seal, crt, key, access, audit] =
            ["admin-token", "seal-key", "tls.crt", "tls.key", "access.log", "audit.log"].map(|name| self.path(name));
        let [signing, jwks, bearer, partner, tenant, client] =
            ["callers.key", "jwks.json", "bearer", "partner-key", "tenant", "client-secret"]
                .map(|name| self.path(name));
        format!(
            "
listen: [{{ address: 127.0.0.1:0 }}, {{ address: 127.0.0.2:0, tls: {{ certificate: {crt}, key: {key} }} }}]
admin: {{ address: 127.0.0.1:0, token: '${{file:{admin}}}' }}
server: {{ workers: 1 }}
authentication:
  api_keys: {{ keys: [{{ name: orders, sha256: {api_key} }}] }}
  jwt:
    - {{ issuer: 'https://issuer.example', audience: gateway, algorithms: [ES256], jwks: {{ file: {jwks} }}, header: x-token }}
    - issuer: https://elsewhere.example
      audience: gateway
      algorithms: [ES256]
      header: x-elsewhere
      jwks: {{ url: '{denies}/jwks.json', bearer: '${{file:{bearer}}}' }}
authorization: {{ rules: [{{ callers: [orders] }}], completions: {{ callers: [orders] }} }}
callers: {{ signing_key: {signing}, issuer: edge }}
clusters: {{ echoing: {{ url: '{denies}', discover: {{ every: 100ms }}, credentials: {{ bearer: '${{file:{bearer}}}' }} }} }}
endpoints:
  pay:
    external:
      url: '{url}'
      credentials: {{ bearer: '${{file:{bearer}}}' }}
      headers: {{ x-tenant: '${{file:{tenant}}}' }}
      caller: signed
  keyed: {{ external: {{ url: '{url}', credentials: {{ header: {{ name: x-key, value: '${{file:{partner}}}' }} }} }} }}
  granted:
    external:
      url: '{url}'
      credentials: {{ oauth2: {{ token_url: '{grants}/token', client_id: edge, client_secret: '${{file:{client}}}' }} }}
  denied:
    external:
      url: '{url}'
      credentials:
        oauth2:
          {{ token_url: '{denies}/token', client_id: edge, client_secret: '${{file:{client}}}', client_auth: body }}
  lost: {{ external: {{ url: 'http://127.0.0.1:1' }} }}
policies:
  - {{ retry: off, hold: false, rate_limit: {{ rate: 1000/s, scope: global }}, park: on }}
redis: {{ url: 'redis://:{REDIS_PASSWORD}@127.0.0.1:1/0' }}
callbacks:
  public_url: http://127.0.0.1:9
  keys: [{{ id: one, secret: '${{file:{seal}}}' }}]
  allow: [{{ url: 'http://127.0.0.1:*', private: true }}]
park: {{ store: 'postgres://user:{POSTGRES_PASSWORD}@127.0.0.1:1/db' }}
log: {{ level: trace, access_log: {access}, audit_log: {audit} }}
",
            url = handler.url(),
            grants = grants.url(),
            denies = denies.url(),
            api_key = digest(&SHA256, API_KEY.as_bytes())
                .as_ref()
                .iter()
                .fold(String::new(), |hex, byte| hex + &format!("{byte:02x}")),
        )
    }

    fn write(&self, config: &str) -> String {
        let path = self.path("gateway.yaml");
        std::fs::write(&path, config).expect("a file can be written");
        path
    }
}

/// Configurations that are refused, each with a secret in or beside what is wrong.
fn refused(good: &str) -> Vec<String> {
    [
        ("redis://:", "http://:"),
        ("postgres://user:", "mysql://user:"),
        ("@127.0.0.1:1/db", "@127.0.0.1:port/db"),
        ("secret: '${file:", "secret: 'planted-short', id: '${file:"),
        ("token: '${file:", "tokens: '${file:"),
        ("token: '${file:", "token: 'planted with spaces', tls: '${file:"),
        ("name: orders, sha256: ", "name: orders, sha256: planted-as-it-is, more: "),
        ("redis: {", "redis: { password: planted-unknown-key, "),
        ("key: ", "key: planted-no-file, more: "),
        ("level: trace", "level: planted-level@"),
        ("sha256: ", "sha256: planted-twice, sha256: "),
        ("bearer: '${file:", "bearer: 'planted with spaces', more: '${file:"),
        ("client_secret: '${file:", "client_secret: [planted-list], more: '${file:"),
        ("name: x-key, value: '${file:", "name: host, value: 'planted-header-value', more: '${file:"),
        ("x-tenant: '${file:", "x-tenant: \"planted\\nlines\", x-more: '${file:"),
        ("signing_key: ", "signing_key: planted-no-key, more: "),
        ("signing_key: ", "published_keys: [planted-no-path], signing_key: "),
        ("signing_key: ", "published_keys: planted-no-list, signing_key: "),
        ("policies:", "policies: planted-policies@\nmore:"),
    ]
    .map(|(from, to)| {
        assert!(good.contains(from), "{from}");
        good.replacen(from, to, 1)
    })
    .to_vec()
}

/// Fails where a secret is in `text`, or where there is none at all.
#[track_caller]
fn assert_none_in(text: &str, what: &str) {
    assert!(!text.is_empty(), "{what} is empty");
    no_secret_in(text, what);
}

async fn ask(address: std::net::SocketAddr, request: &Request) -> Message {
    Caller::connect(address).await.call(request).await
}

#[tokio::test]
async fn no_secret_is_shown_whatever_happens() {
    let secrets = Secrets::planted();
    let cookie = format!("Set-Cookie: {HANDLER_COOKIE}");
    let handler = Handler::answering(answer("200 OK", &["Content-Type: application/json", &cookie], RESULT));
    let granted = format!(r#"{{"access_token":"{GRANTED}","token_type":"Bearer","expires_in":3600}}"#);
    let grants = Handler::answering(crate::harness::json("200 OK", &granted));
    let denies = Handler::scripted(|seen| {
        let told = json!({ "error": seen.message.text(), "error_description": format!("{:?}", seen.message) });
        vec![crate::harness::json("400 Bad Request", &told.to_string()).into()]
    });
    let good = secrets.config(&handler, &grants, &denies);
    let path = secrets.write(&good);

    for arguments in [&["check", "--config", &path][..], &["resolve", "pay", "--config", &path][..]] {
        let said = output(arguments).await;
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
        let text = [said.stdout, said.stderr].concat();
        assert_none_in(&(String::from_utf8_lossy(&text) + "."), "what is said of a good file");
    }
    for bad in refused(&good) {
        let path = secrets.write(&bad);
        for command in [&["check"][..], &["resolve", "pay"][..], &["run"][..]] {
            let said = output(&[command, &["--config", &path]].concat()).await;
            assert!(!said.status.success(), "{bad}");
            assert_none_in(&String::from_utf8_lossy(&said.stderr), &format!("what is said of {bad}"));
        }
    }

    let path = secrets.write(&good);
    let mut process = Process::run(Path::new(&path));
    let admin = process.address("admin port listening").await;
    let (first, second) = (process.address("data port listening").await, process.address("data port listening").await);
    let (data, tls) = if first.ip().to_string() == "127.0.0.1" { (first, second) } else { (second, first) };
    process.logs("serving").await;

    use_it(&secrets, data, tls).await;
    ask_admin(admin).await;
    for bad in refused(&good) {
        secrets.write(&bad);
        process.signal("HUP").await;
        process.logs("the last good one stays in force").await;
    }
    process.signal("TERM").await;
    let log = process.whole_log().await;
    assert!(log.contains("DEBUG") && log.contains("draining"), "it is as talkative as it can be: {log}");
    assert_none_in(&log, "the log");
    assert_none_in(&secrets.text("access.log"), "the access log");
    assert_none_in(&secrets.text("audit.log"), "the audit log");
}

/// Requests of callers and of those who complete, good and bad ones. What the gateway answers by itself shows nothing.
async fn use_it(secrets: &Secrets, data: std::net::SocketAddr, tls: std::net::SocketAddr) {
    let planted = |request: Request| request.headers(HEADERS).body(PAYLOAD);
    let base = "/nexus/endpoints/pay/services/Svc";
    let passed = ask(data, &planted(to(format!("{base}/op?callback=http%3A%2F%2F127.0.0.1%3A1%2Fplanted-0015")))).await;
    assert_eq!((passed.status(), passed.text()), (200, RESULT.to_owned()));
    for request in [
        to(format!("{base}/op/cancel?token=planted-token-0016")),
        to("/nexus/endpoints/lost/services/Svc/op?callback=http%3A%2F%2F127.0.0.1%3A1%2Fplanted-0017"),
        to("/nexus/endpoints/lost/services/Svc/op/cancel").header("Nexus-Operation-Token", "planted-token-0018"),
        to("/nexus/callback/planted-seal-0019").header("Nexus-Operation-State", "succeeded"),
        to(format!("{base}/op?callback=ftp%3A%2F%2Fplanted-0020")),
        to(format!("{base}/op")).header("Request-Timeout", "nonsense"),
        to(format!("{base}/op")).header("Nexus-Link", "nonsense"),
        to("/nexus/endpoints/none/services/Svc/op"),
        to("/nonsense"),
    ] {
        let answered = ask(data, &planted(request)).await;
        let shown = format!("{answered:?} {}", answered.text());
        if answered.header("nexus-gateway-failure").is_some() {
            assert_none_in(&shown, "an answer of the gateway");
        }
    }
    use_tokens(secrets, data, &planted).await;
    // A key that is not among those that are known, one that is not text, and none.
    for request in
        [start("pay").header("X-Api-Key", "planted-wrong-key-0023"), start("pay").header("X-Api-Key", "\u{ff}planted")]
    {
        let refused = ask(data, &request.header("Cookie", "planted-cookie-0024").body(PAYLOAD)).await;
        assert_eq!(refused.status(), 401);
        assert_none_in(&format!("{refused:?} {}", refused.text()), "a refusal");
    }
    assert_eq!(ask(data, &start("pay").body(PAYLOAD)).await.status(), 401);
    // What is not even HTTP, and what is not TLS.
    for address in [data, tls] {
        let mut caller = Caller::connect(address).await;
        caller.send("planted-nonsense-0021\r\n\r\n").await;
        drop(caller.any_answer().await);
    }
}

/// Targets that are shown credentials, and callers who show tokens.
async fn use_tokens(secrets: &Secrets, data: std::net::SocketAddr, planted: &impl Fn(Request) -> Request) {
    for (endpoint, status) in [("keyed", 200), ("granted", 200), ("denied", 503)] {
        let answered = ask(data, &planted(start(endpoint))).await;
        assert_eq!(answered.status(), status, "{endpoint}: {}", answered.text());
    }
    let right = secrets.token("orders");
    let forged = right[..right.len() - 8].to_owned() + "AAAAAAAA";
    for (token, status) in [(&right, 200), (&secrets.token("nobody"), 404), (&forged, 401)] {
        let answered = ask(data, &start("pay").header("X-Token", token).body(PAYLOAD)).await;
        assert_eq!(answered.status(), status, "{}", answered.text());
    }
}

/// The admin port with the right token, a wrong one, and none.
async fn ask_admin(admin: std::net::SocketAddr) {
    let right = format!("Bearer {ADMIN_TOKEN}");
    for path in ["/metrics", "/readyz", "/endpoints", "/breakers", "/parked", "/.well-known/jwks.json"] {
        let page = ask(admin, &get(path).host("localhost").header("Authorization", &right)).await;
        assert_none_in(&format!("{page:?} {}", page.text()), path);
    }
    let wrong = format!("Bearer {WRONG_TOKEN}");
    for request in [get("/endpoints"), to("/breakers/trip?endpoint=pay&message=planted-message-0022")] {
        let request = request.host("localhost");
        for request in [request.clone().header("Authorization", &wrong), request] {
            let refused = ask(admin, &request).await;
            assert_eq!(refused.status(), 401);
            assert_none_in(&format!("{refused:?} {}", refused.text()), "a refusal");
        }
    }
}
