//! The files in `config/`: they load, they are complete, and the schema describes them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use nexus_gateway::admin::AdminToken;
use nexus_gateway::admission::authorize::Who;
use nexus_gateway::admission::{Authorization, Trust};
use nexus_gateway::config::{Settings, new_key, schema};
use nexus_gateway::credentials::{CallerHeader, ClientAuth as ClientSends, Credentials, Pass};
use nexus_gateway::resilience::park::ParkSettings;
use nexus_gateway::resilience::rate_limit::{OnFailure, Scope};
use nexus_gateway::resilience::{BreakerSettings, RetrySettings};
use nexus_gateway::route::{Policy, Selector, Toggle, TokenRule};
use nexus_gateway::tls::{ClientAuth, Roots};
use saphyr::{LoadableYamlNode, Yaml};
use serde_json::Value;

use crate::certificates::{Authority, For};
use crate::tokens::{Signer, jwks};
use crate::{assert_same_as_file, load_path, load_text, write};

fn shipped() -> Vec<PathBuf> {
    let entries = Path::new("config").read_dir().expect("a folder");
    entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect()
}

/// A shipped file, with what it takes from other files in a folder of this test.
pub(crate) fn load_shipped(path: &Path) -> Settings {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let authority = Authority::new("authority");
    let issued = authority.issue(For::default());
    let key = new_key(None);
    std::fs::create_dir(folder.path().join("tls")).expect("a folder can be made");
    for (name, text) in [
        ("tls/tls.crt", &*issued.chain),
        ("tls/tls.key", &issued.key),
        ("tls/ca.crt", &authority.pem),
        ("admin-token", "0123456789abcdef"),
        ("fraud-check-token", "s3cret"),
        ("callback-key", key.split('"').nth(3).expect("a text in quotes")),
    ] {
        write(folder.path(), name, text);
    }
    let text = std::fs::read_to_string(path).expect("a text");
    let text = text.replace("/etc/nexus-gateway", folder.path().to_str().expect("a path of text"));
    load_text(&text).unwrap_or_else(|problems| panic!("{}: {problems:#?}", path.display()))
}

#[test]
fn every_file_loads() {
    assert!(shipped().len() >= 5);
    for path in shipped() {
        assert!(!load_shipped(&path).clusters.is_empty(), "{} serves nothing", path.display());
    }
}

#[test]
fn the_edge_trusts_no_stranger() {
    let edge = load_shipped(Path::new("config/edge.yaml"));
    let tls = edge.listen[0].tls.as_ref().expect("it speaks TLS");
    assert!(tls.only_tls13 && matches!(tls.clients, ClientAuth::Optional(_)));
    assert_eq!(edge.listen[0].trust, Trust::Untrusted);
    let authentication = edge.authentication.as_ref().expect("callers are known");
    assert!(!authentication.certificates.is_empty() && !authentication.jwt.is_empty());
    let authorization = Authorization::new(edge.authorization.as_ref(), true);
    let who = |name, namespace| Who { name, namespace };
    for endpoint in edge.endpoints.iter().map(|endpoint| &*endpoint.name) {
        assert!(authorization.shows(who(None, None), endpoint).is_err(), "{endpoint}");
        assert!(authorization.shows(who(Some("stranger"), Some("prod-eu")), endpoint).is_err(), "{endpoint}");
    }
    assert!(authorization.shows(who(Some("partner"), None), "us-payments").is_ok());
    assert!(authorization.shows(who(Some("partner"), None), "fraud-check").is_err());
    assert!(edge.admin.token.is_some() && !edge.admin.is_closed());
    let everything = &edge.policies[0];
    assert_eq!((&everything.selector, everything.redact), (&Selector::default(), Some(true)));
    assert!(matches!(everything.rate_limit, Some(Toggle::On(_))));
    assert!(edge.log.audit_log.is_some());
    let (bounds, default) = (&edge.server, Settings::default().server);
    assert!(bounds.max_connections < default.max_connections);
    assert!(bounds.max_connections_per_peer < default.max_connections_per_peer && bounds.max_head < default.max_head);
    for url in edge.clusters.iter().flat_map(|cluster| &cluster.urls) {
        assert!(url.to_string().starts_with("https://"), "{url}");
    }
}

#[test]
fn the_schema_is_fresh() {
    let text = serde_json::to_string_pretty(&schema()).unwrap() + "\n";
    assert_same_as_file(Path::new("config/schema.json"), &text, "UPDATE_SCHEMA");
}

#[test]
fn the_schema_knows_every_key() {
    let known = schema_paths();
    for path in shipped() {
        let unknown: Vec<_> = yaml_paths(&path).difference(&known).cloned().collect();
        assert!(unknown.is_empty(), "{}: the schema lacks {unknown:?}", path.display());
    }
}

#[test]
fn the_full_file_has_every_key() {
    let explained: BTreeSet<_> =
        yaml_paths(Path::new("config/gateway.yaml")).into_iter().map(|path| credentials_once(&path)).collect();
    let known: BTreeSet<_> = schema_paths().into_iter().map(|path| credentials_once(&path)).collect();
    let missing: Vec<_> = known.difference(&explained).collect();
    assert!(missing.is_empty(), "config/gateway.yaml does not explain {missing:?}");
}

/// They are the same for every target: each of their keys is explained at one.
fn credentials_once(path: &str) -> String {
    path.replace("endpoints.*.external.credentials", "clusters.*.credentials")
}

#[test]
fn the_full_file_shows_the_defaults() {
    let mut settings = load_path(Path::new("config/gateway.yaml")).unwrap();
    let minimal = load_path(Path::new("config/minimal.yaml")).unwrap();
    assert_eq!(settings.clusters[0], minimal.clusters[0], "`discover` has no other default");

    let everything = settings.policies.swap_remove(0);
    assert_eq!(everything.selector, Selector::default());
    let default = Policy::default();
    assert_eq!(everything.timeout, Some(default.timeout));
    assert_eq!(everything.max_request_body, Some(default.max_request_body));
    assert_eq!(everything.max_response_body, Some(default.max_response_body));
    assert_eq!(everything.hold, Some(default.hold));
    assert_eq!(everything.retry, Some(Toggle::On(RetrySettings::default())));
    assert_eq!((&default.rate_limit, everything.rate_limit), (&None, Some(Toggle::Off)));
    assert_eq!((&default.concurrency, everything.concurrency), (&None, Some(Toggle::Off)));
    assert_eq!((&default.breaker, everything.breaker), (&None, Some(Toggle::Off)));
    assert_eq!((&default.park, everything.park), (&None, Some(Toggle::Off)));
    assert_eq!((everything.relay, everything.sticky), (Some(default.relay), Some(default.sticky)));
    // Left out, it depends on `authentication`, which the file has.
    assert_eq!((default.tokens, everything.tokens), (None, Some(TokenRule::Sealed)));
    assert_eq!(everything.redact, Some(default.redact));

    // What is marked as an example in the file.
    let mut default = Settings::default();
    default.server.workers = settings.server.workers;
    default.state = settings.state.clone();
    default.redis = settings.redis.clone();
    default.callbacks.public_url = settings.callbacks.public_url.clone();
    default.callbacks.allow = settings.callbacks.allow.clone();
    default.callbacks.home = settings.callbacks.home.clone();
    default.authentication = settings.authentication.clone();
    default.authorization = settings.authorization.clone();
    default.log.access_log = settings.log.access_log.clone();
    default.log.audit_log = settings.log.audit_log.clone();
    (default.clusters, default.endpoints, default.policies) =
        (settings.clusters.clone(), settings.endpoints.clone(), settings.policies.clone());
    assert_eq!(settings, default);
}

#[test]
fn the_full_file_shows_the_defaults_of_limits() {
    let mut shown = load_path(Path::new("config/gateway.yaml")).unwrap().policies.swap_remove(1);
    let text = "{ rate_limit: { rate: 500/s }, concurrency: { max: 256 }, breaker: {} }";
    let short = load_text(&format!("policies: [{text}]\nredis: {{ url: 'redis://h' }}")).unwrap().policies.remove(0);
    let Some(Toggle::On(limit)) = &mut shown.rate_limit else { panic!("no rate limit is shown") };
    assert_eq!((limit.scope, limit.on_failure), (Scope::Global, OnFailure::default()));
    limit.scope = Scope::Local;
    assert_eq!(shown.rate_limit, short.rate_limit);
    assert_eq!(shown.concurrency, short.concurrency);
    assert_eq!(shown.breaker, Some(Toggle::On(BreakerSettings::default())));
    assert_eq!(short.breaker, shown.breaker);
    assert_eq!(shown.park, Some(Toggle::On(ParkSettings::default())));
}

#[test]
fn the_schema_gives_each_key_a_text() {
    let schema = schema();
    let mut structs: Vec<_> = schema["$defs"].as_object().unwrap().values().collect();
    structs.push(&schema);
    for (key, value) in structs.iter().filter_map(|schema| schema["properties"].as_object()).flatten() {
        assert!(value["description"].is_string(), "`{key}` has no text");
    }
}

/// An example key would be used by somebody, and one from a file is on no other machine: it is a comment.
fn with_keys(text: &str) -> String {
    text.replace("# keys: ", "keys: ")
}

/// The same for what is more than a line.
fn with_examples(text: &str) -> String {
    text.replace("#: ", "")
}

#[test]
fn the_examples_of_tls_are_right() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("authority");
    let issued = [authority.issue(For::default()), authority.issue(For::default())];
    for (name, text) in [
        ("tls.crt", &issued[0].chain),
        ("tls.key", &issued[0].key),
        ("other.crt", &issued[1].chain),
        ("other.key", &issued[1].key),
        ("clients.crt", &authority.pem),
        ("cluster-ca.crt", &authority.pem),
        ("partner-ca.crt", &authority.pem),
        ("admin-token", &"0123456789abcdef\n".to_owned()),
        ("token", &"s3cret\n".to_owned()),
        ("client-secret", &"s3cret\n".to_owned()),
        ("partner-key", &"s3cret\n".to_owned()),
        ("login-ca.crt", &authority.pem),
        ("callers.key", &issued[0].key),
        ("callers-next.pub", &rcgen::KeyPair::from_pem(&issued[1].key).unwrap().public_key_pem()),
        ("jwks.json", &jwks(&[&Signer::new("one", "EdDSA")])),
    ] {
        write(folder.path(), name, text);
    }
    let text = std::fs::read_to_string("config/gateway.yaml").unwrap();
    let settings =
        load_text(&with_examples(&text).replace("/etc/nexus-gateway", folder.path().to_str().unwrap())).unwrap();
    let tls = settings.listen[0].tls.as_ref().unwrap();
    assert_eq!((tls.certificates.len(), tls.only_tls13), (2, true));
    assert_eq!(tls.clients, ClientAuth::Required(Roots::read(&authority.pem).unwrap()));
    let guarded = settings.clusters.iter().find(|cluster| &*cluster.name == "guarded").unwrap();
    for (outward, name) in
        [(&guarded.outward, "temporal.internal"), (&settings.externals["partner"], "partner.internal")]
    {
        assert_eq!(outward.tls.roots, Some(Roots::read(&authority.pem).unwrap()));
        assert!(outward.tls.certificate.is_some() && outward.tls.server_name.as_deref() == Some(name));
        assert_eq!(outward.tls.only_tls13, name == "partner.internal");
    }
    assert_eq!(settings.callers.as_ref().unwrap().published.len(), 1);
    let shown = [&guarded.outward, &settings.externals["partner"], &settings.externals["keyed"]];
    let [
        Some(Credentials::Header(name, token)),
        Some(Credentials::OAuth2(oauth2)),
        Some(Credentials::Header(own, key)),
    ] = shown.map(|outward| outward.credentials.as_ref())
    else {
        panic!("{shown:?}")
    };
    assert_eq!((name.as_str(), own.as_str()), ("authorization", "x-api-key"));
    assert!(token == "Bearer s3cret" && key == "s3cret" && oauth2.client_secret.reveal() == "s3cret");
    assert_eq!(oauth2.tls.roots, Some(Roots::read(&authority.pem).unwrap()));
    assert_eq!((&*oauth2.client_id, oauth2.client_auth), ("edge", ClientSends::Basic));
    assert_eq!(
        (oauth2.scope.as_deref(), oauth2.audience.as_deref()),
        (Some("nexus:call"), Some("https://partner.example"))
    );
    for outward in &shown[..2] {
        assert_eq!(outward.headers[0].0.as_str(), "x-tenant");
        assert_eq!(outward.pass, Pass { authorization: true, cookie: true });
    }
    assert_eq!([shown[0].caller, shown[1].caller], [CallerHeader::Name, CallerHeader::Signed]);
    assert_eq!(&*settings.callers.as_ref().unwrap().issuer, "nexus-gateway");
    let stores = [&settings.redis.as_ref().unwrap().tls, &settings.parking.tls];
    for (tls, name) in stores.into_iter().zip(["redis.internal", "postgres.internal"]) {
        assert!(tls.roots.is_some() && tls.certificate.is_some() && tls.server_name.as_deref() == Some(name));
    }
    assert!(!format!("{settings:?}").contains("s3cret"));
    assert_eq!(settings.admin.token, Some(AdminToken::new("0123456789abcdef")));
    assert!(matches!(settings.admin.tls.as_ref().unwrap().clients, ClientAuth::Optional(_)));
    let [first, second] = &settings.authentication.as_ref().unwrap().jwt[..] else { panic!("two issuers are shown") };
    assert!(first.pattern.has_namespace() && second.namespace.is_some());
    // What one of them shows is the default that the other has.
    assert_eq!((&first.header, &first.algorithms, &first.name), (&second.header, &second.algorithms, &second.name));
    assert_eq!(first.leeway, second.leeway);
}

#[test]
fn the_example_of_keys_is_right() {
    let text = std::fs::read_to_string("config/gateway.yaml").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let key = |name: &str| {
        let entry = new_key(None);
        let secret = entry.split('"').nth(3).expect("a text in quotes");
        format!("${{file:{}}}", write(folder.path(), name, secret).display())
    };
    let text = with_keys(&text).replace("${file:/run/secrets/k2}", &key("k2"));
    let text = text.replace("${env:CALLBACK_KEY_1}", &key("k1"));
    let keys = load_text(&text).unwrap().callbacks.keys;
    assert_eq!(keys.iter().map(|key| &*key.id).collect::<Vec<_>>(), ["k2", "k1"]);
}

/// Such as `clusters.*.url`; names of the user's choice become `*`, and lists leave no trace.
fn yaml_paths(path: &Path) -> BTreeSet<String> {
    let text = with_keys(&with_examples(&std::fs::read_to_string(path).expect("a text")));
    let mut paths = BTreeSet::new();
    let documents = Yaml::load_from_str(&text).expect("YAML");
    collect_yaml(&documents[0], "", &mut paths);
    paths
}

fn collect_yaml(yaml: &Yaml<'_>, path: &str, paths: &mut BTreeSet<String>) {
    for item in yaml.as_sequence().into_iter().flatten() {
        collect_yaml(item, path, paths);
    }
    for (key, value) in yaml.as_mapping().into_iter().flatten() {
        let named = ["clusters", "endpoints", "clusters.*.headers", "endpoints.*.external.headers"].contains(&path);
        let path = join(path, if named { "*" } else { key.as_str().expect("a text") });
        collect_yaml(value, &path, paths);
        paths.insert(path);
    }
}

fn schema_paths() -> BTreeSet<String> {
    let root = schema();
    let mut paths = BTreeSet::new();
    collect_schema(&root, &root, "", &mut paths);
    paths
}

fn collect_schema(root: &Value, schema: &Value, path: &str, paths: &mut BTreeSet<String>) {
    if let Some(name) = schema["$ref"].as_str().and_then(|reference| reference.strip_prefix("#/$defs/")) {
        collect_schema(root, &root["$defs"][name], path, paths);
    }
    for alternative in schema["anyOf"].as_array().into_iter().flatten() {
        collect_schema(root, alternative, path, paths);
    }
    if schema["items"].is_object() {
        collect_schema(root, &schema["items"], path, paths);
    }
    let named = schema["additionalProperties"].as_object().map(|_| ("*", &schema["additionalProperties"]));
    let keys = schema["properties"].as_object().into_iter().flatten().map(|(key, value)| (key.as_str(), value));
    for (key, value) in keys.chain(named) {
        let path = join(path, key);
        collect_schema(root, value, &path, paths);
        paths.insert(path);
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}
