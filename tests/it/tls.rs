//! TLS with callers: who is let in, what is shown to whom, and how certificates change under open connections.

use std::sync::Arc;
use std::time::Duration;

use nexus_gateway::config::Settings;
use nexus_gateway::server::ServerSettings;
use nexus_gateway::tls::{ClientAuth, Roots, ServerTlsSettings};
use rustls::ClientConfig;
use rustls::version::{TLS12, TLS13};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::certificates::{Authority, For, Issued};
use crate::harness::process::Process;
use crate::harness::*;

const HOST: &str = "gateway.test";
const HANDSHAKES: &str = "nexus_gateway_tls_handshakes_total";

fn for_host(authority: &Authority, host: &str) -> Issued {
    authority.issue(For { hosts: &[host], ..For::default() })
}

fn orders(authority: &Authority) -> Issued {
    authority.issue(For { common_name: "orders", ..For::default() })
}

fn own(issued: &Issued) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(issued.chain.as_bytes()).expect("PEM")
}

async fn gateway(handler: &Handler, tls: ServerTlsSettings) -> Gateway {
    Gateway::start(over_tls(leading_to(handler), tls)).await
}

/// The status of a call on a new connection; none where the gateway refused the client, or the client the gateway.
async fn status(gateway: &Gateway, client: &Arc<ClientConfig>) -> Option<u16> {
    let mut caller = TlsCaller::connect(gateway.data(), HOST, client).await.ok()?;
    caller.call(&start("pay")).await.map(|answer| answer.status())
}

#[tokio::test]
async fn clients_are_let_in_by_their_certificates() {
    let handler = Handler::answering(ok());
    let (authority, stranger) = (Authority::new("ours"), Authority::new("another"));
    let server = for_host(&authority, HOST);
    let client = |issued: Option<&Issued>| tls_client(&authority, issued, &[&TLS13]);
    let (good, strange) = (orders(&authority), orders(&stranger));
    let expired = authority.issue(For { expired: true, ..For::default() });
    let shown = [None, Some(&good), Some(&strange), Some(&expired)];
    for (clients, expected) in [
        (ClientAuth::Off, [true, true, true, true]),
        (of(&authority, false), [true, true, false, false]),
        (of(&authority, true), [false, true, false, false]),
    ] {
        let gateway = gateway(&handler, server_tls(&[&server], clients.clone())).await;
        for (shown, expected) in shown.iter().zip(expected) {
            let answered = status(&gateway, &client(*shown)).await;
            assert_eq!(answered, expected.then_some(200), "{clients:?}");
        }
        let good = expected.iter().filter(|expected| **expected).count();
        #[expect(clippy::cast_precision_loss, reason = "small")]
        for (result, count) in [("ok", good as f64), ("failed", (shown.len() - good) as f64)] {
            gateway.counts(HANDSHAKES, &[("result", result)], count).await;
        }
    }
}

#[tokio::test]
async fn a_client_refuses_a_gateway_that_it_cannot_believe() {
    let handler = Handler::answering(ok());
    let (authority, stranger) = (Authority::new("ours"), Authority::new("another"));
    let gateway = gateway(&handler, server_tls(&[&for_host(&authority, HOST)], ClientAuth::Off)).await;
    assert_eq!(status(&gateway, &tls_client(&stranger, None, &[&TLS13])).await, None);
    gateway.counts(HANDSHAKES, &[("result", "failed")], 1.0).await;
}

#[tokio::test]
async fn only_tls_1_3_is_spoken_unless_1_2_is_asked_for() {
    let handler = Handler::answering(ok());
    let authority = Authority::new("ours");
    let tls = server_tls(&[&for_host(&authority, HOST)], ClientAuth::Off);
    let old = tls_client(&authority, None, &[&TLS12]);
    let strict = gateway(&handler, tls.clone()).await;
    assert_eq!(status(&strict, &old).await, None);
    let lenient = gateway(&handler, ServerTlsSettings { only_tls13: false, ..tls }).await;
    assert_eq!(status(&lenient, &old).await, Some(200));
    assert_eq!(status(&lenient, &tls_client(&authority, None, &[&TLS13])).await, Some(200));
}

#[tokio::test]
async fn no_cleartext_is_answered_on_a_tls_port() {
    let handler = Handler::answering(ok());
    let authority = Authority::new("ours");
    let gateway = gateway(&handler, server_tls(&[&for_host(&authority, HOST)], ClientAuth::Off)).await;
    let mut caller = gateway.connect().await;
    caller.send(start("pay").bytes()).await;
    assert!(caller.any_answer().await.is_none());
    assert_eq!(handler.requests().len(), 0);
    gateway.counts(HANDSHAKES, &[("result", "failed")], 1.0).await;
    gateway.counts("nexus_gateway_connections", &[], 0.0).await;
}

#[tokio::test]
async fn the_host_that_a_client_names_picks_the_certificate() {
    let handler = Handler::answering(ok());
    let authority = Authority::new("ours");
    let issued = [HOST, "*.wide.test", "exact.wide.test", "other.test"].map(|host| for_host(&authority, host));
    let gateway = gateway(&handler, server_tls(&issued.each_ref(), ClientAuth::Off)).await;
    let client = tls_client(&authority, None, &[&TLS13]);
    for (host, expected) in [
        (HOST, Some(0)),
        ("GATEWAY.test", Some(0)),
        ("a.wide.test", Some(1)),
        ("exact.wide.test", Some(1)),
        ("other.test", Some(3)),
        // The first one is shown, and is not for these.
        ("wide.test", None),
        ("a.b.wide.test", None),
        ("unknown.test", None),
    ] {
        let shown = TlsCaller::connect(gateway.data(), host, &client).await.ok().map(|caller| caller.shown);
        assert_eq!(shown, expected.map(|index: usize| own(&issued[index])), "{host}");
    }
}

#[tokio::test]
async fn http_2_is_spoken_with_clients_that_offer_it() {
    let handler = Handler::answering(ok());
    let authority = Authority::new("ours");
    let tls = server_tls(&[&for_host(&authority, HOST)], ClientAuth::Off);
    let client = |protocols: &[&str]| {
        let mut client = (*tls_client(&authority, None, &[&TLS13])).clone();
        client.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(client)
    };
    let mut settings = over_tls(leading_to(&handler), tls);
    let gateway = Gateway::start(settings.clone()).await;
    assert_eq!(status(&gateway, &client(&["h2"])).await, None, "off unless it is wanted");
    assert_eq!(status(&gateway, &client(&["h2", "http/1.1"])).await, Some(200));

    settings.listen[0].http2 = true;
    gateway.running.apply(settings).await.expect("it can be applied");
    for protocols in [&[][..], &["http/1.1"]] {
        assert_eq!(status(&gateway, &client(protocols)).await, Some(200), "{protocols:?}");
    }
    let stream = tls_stream(gateway.data(), HOST, &client(&["http/1.1", "h2"])).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut requests, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let url = format!("https://{HOST}/nexus/endpoints/pay/services/Svc/op");
    let (answer, _) = requests.send_request(http::Request::post(url).body(()).unwrap(), true).unwrap();
    assert_eq!(answer.await.unwrap().status(), 200);
}

#[tokio::test]
async fn certificates_change_under_open_connections() {
    let handler = Handler::answering(ok());
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let (old_server, new_server) = (for_host(&old, HOST), for_host(&new, HOST));
    let settings =
        |server: &Issued, clients: &Authority| over_tls(leading_to(&handler), server_tls(&[server], of(clients, true)));
    let gateway = Gateway::start(settings(&old_server, &old)).await;
    let (old_client, new_client) = (orders(&old), orders(&new));
    let (from_old, from_new) =
        (tls_client(&old, Some(&old_client), &[&TLS13]), tls_client(&new, Some(&new_client), &[&TLS13]));
    let address = gateway.data();
    let mut open = TlsCaller::connect(address, HOST, &from_old).await.unwrap();
    assert_eq!(open.call(&start("pay")).await.unwrap().status(), 200);
    assert_eq!(status(&gateway, &from_new).await, None);

    gateway.running.apply(settings(&new_server, &old)).await.expect("it can be applied");
    assert_eq!(open.call(&start("pay")).await.unwrap().status(), 200, "a new certificate ends no connection");
    let both = Roots::read(&format!("{}{}", old.pem, new.pem)).expect("two authorities");
    let both = over_tls(leading_to(&handler), server_tls(&[&new_server], ClientAuth::Required(both)));
    gateway.running.apply(both).await.expect("it can be applied");
    assert_eq!(open.call(&start("pay")).await.unwrap().status(), 200, "it is still believed");
    let mut moved = TlsCaller::connect(address, HOST, &from_new).await.unwrap();
    assert_eq!(moved.call(&start("pay")).await.unwrap().status(), 200);
    gateway.running.apply(settings(&new_server, &new)).await.expect("it can be applied");
    assert_eq!(gateway.data(), address, "the socket stays");
    assert_eq!(moved.call(&start("pay")).await.unwrap().status(), 200, "what it showed is still believed");
    // It was let in by what is not believed any more. What comes at that moment is answered, and is the last.
    let last = open.call(&start("pay")).await;
    assert!(last.is_none_or(|answer| answer.header("connection") == Some("close")));
    assert!(open.call(&start("pay")).await.is_none());
    let fresh = TlsCaller::connect(address, HOST, &from_new).await.unwrap();
    assert_eq!(fresh.shown, own(&new_server));
    assert_eq!(status(&gateway, &from_old).await, None);
    // Believed by the client, but not any more by the gateway.
    let left_behind = tls_client(&new, Some(&old_client), &[&TLS13]);
    assert_eq!(status(&gateway, &left_behind).await, None);
    assert_eq!(status(&gateway, &from_new).await, Some(200));
}

#[tokio::test]
async fn connections_end_when_the_certificates_that_let_them_in_expire() {
    let gate = Gate::new();
    let handler = Handler::acting(vec![Act::Wait(gate.clone()), ok().into()]);
    let authority = Authority::new("ours");
    let tls = server_tls(&[&for_host(&authority, HOST)], of(&authority, true));
    let mut settings = over_tls(leading_to(&handler), tls);
    settings.listen[0].http2 = true;
    let gateway = Gateway::start(settings).await;
    let lasting = |lasts: Option<u64>, protocol: &str| {
        let issued = authority.issue(For { lasts: lasts.map(Duration::from_secs), ..For::default() });
        let mut client = (*tls_client(&authority, Some(&issued), &[&TLS13])).clone();
        client.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        Arc::new(client)
    };
    let (short, longer, long) = (lasting(Some(3), "http/1.1"), lasting(Some(4), "http/1.1"), lasting(None, "http/1.1"));
    let connect = |client| TlsCaller::connect(gateway.data(), HOST, client);
    let (mut busy, idle) = (connect(&short).await.unwrap(), connect(&longer).await.unwrap());
    let mut lasting_on = connect(&long).await.unwrap();
    let in_flight = tokio::spawn(async move {
        let answer = busy.call(&start("pay")).await;
        (answer, busy)
    });
    let stream = tls_stream(gateway.data(), HOST, &lasting(Some(3), "h2")).await.unwrap();
    let (mut requests, connection) = h2::client::handshake(stream).await.unwrap();
    let ended = tokio::spawn(connection);
    let url = format!("https://{HOST}/nexus/endpoints/pay/services/Svc/op");
    let (answer, _) = requests.send_request(http::Request::post(url).body(()).unwrap(), true).unwrap();
    handler.wait_for(2).await;

    // Its certificate lasts longer than that of those who are busy.
    idle.closed().await;
    gate.open();
    let (last, busy) = in_flight.await.unwrap();
    let last = last.expect("what is in flight is answered");
    assert_eq!((last.status(), last.header("connection")), (200, Some("close")));
    busy.closed().await;
    assert_eq!(answer.await.unwrap().status(), 200);
    ended.await.unwrap().expect("it is told by GOAWAY");
    assert_eq!(lasting_on.call(&start("pay")).await.unwrap().status(), 200);
}

/// With sessions, a client would be let in by what it showed once.
#[tokio::test]
async fn sessions_are_resumed_only_where_no_certificates_are_asked_for() {
    let handler = Handler::answering(ok());
    let authority = Authority::new("ours");
    let (server, certificate) = (for_host(&authority, HOST), orders(&authority));
    for (clients, resumes) in [(ClientAuth::Off, true), (of(&authority, false), false), (of(&authority, true), false)] {
        for version in [&TLS12, &TLS13] {
            let tls = ServerTlsSettings { only_tls13: false, ..server_tls(&[&server], clients.clone()) };
            let settings = over_tls(leading_to(&handler), tls);
            let gateway = Gateway::start(settings.clone()).await;
            let client = tls_client(&authority, Some(&certificate), &[version]);
            for resumed in [false, resumes] {
                let mut caller = TlsCaller::connect(gateway.data(), HOST, &client).await.unwrap();
                assert_eq!(caller.resumed, resumed, "{version:?} {clients:?}");
                assert_eq!(caller.call(&start("pay")).await.unwrap().status(), 200);
                gateway.running.apply(settings.clone()).await.expect("nothing of TLS changes");
            }
        }
    }
}

#[tokio::test]
async fn tls_comes_and_goes() {
    let handler = Handler::answering(ok());
    let authority = Authority::new("ours");
    let gateway = Gateway::before(&handler).await;
    let mut plain = gateway.connect().await;
    assert_eq!(plain.call(&start("pay")).await.status(), 200);
    let tls = over_tls(leading_to(&handler), server_tls(&[&for_host(&authority, HOST)], ClientAuth::Off));
    gateway.running.apply(tls).await.expect("it can be applied");
    let client = tls_client(&authority, None, &[&TLS13]);
    let mut secret = TlsCaller::connect(gateway.data(), HOST, &client).await.unwrap();
    plain.closed().await;
    let mut refused = gateway.connect().await;
    refused.send(start("pay").bytes()).await;
    assert!(refused.any_answer().await.is_none());

    gateway.running.apply(leading_to(&handler)).await.expect("it can be applied");
    assert_eq!(secret.call(&start("pay")).await.unwrap().status(), 200);
    assert_eq!(gateway.call(&start("pay")).await.status(), 200);
    assert_eq!(status(&gateway, &client).await, None);
}

fn bounded(
    handler: &Handler,
    tls: ServerTlsSettings,
    handshake_timeout: Duration,
    max_handshakes_per_peer: usize,
) -> Settings {
    let server = ServerSettings { handshake_timeout, max_handshakes_per_peer, ..settings().server };
    over_tls(Settings { server, ..leading_to(handler) }, tls)
}

#[tokio::test]
async fn a_client_that_does_not_shake_hands_is_cut() {
    let handler = Handler::answering(ok());
    let authority = Authority::new("ours");
    let tls = server_tls(&[&for_host(&authority, HOST)], ClientAuth::Off);
    let gateway = Gateway::start(bounded(&handler, tls, Duration::from_millis(100), 256)).await;
    gateway.connect().await.closed().await;
    let mut slow = gateway.connect().await;
    slow.send(&[22, 3, 1]).await;
    slow.closed().await;
    gateway.counts(HANDSHAKES, &[("result", "timeout")], 2.0).await;
    gateway.counts("nexus_gateway_connections", &[], 0.0).await;
}

/// What a client begins with.
fn client_hello(client: &Arc<ClientConfig>) -> Vec<u8> {
    let name = rustls_pki_types::ServerName::try_from(HOST).expect("a host's name");
    let mut hello = Vec::new();
    let mut client = rustls::ClientConnection::new(Arc::clone(client), name).expect("it can begin");
    client.write_tls(&mut hello).expect("it is written");
    hello
}

#[tokio::test]
async fn clients_that_stall_inside_their_handshakes_keep_nobody_else_from_shaking_hands() {
    let handler = Handler::answering(ok());
    let authority = Authority::new("ours");
    let tls = server_tls(&[&for_host(&authority, HOST)], ClientAuth::Off);
    let mut settings = bounded(&handler, tls, Duration::from_secs(3600), 2);
    settings.server.workers = 1;
    let gateway = Gateway::start(settings).await;
    let client = tls_client(&authority, None, &[&TLS13]);
    let hello = client_hello(&client);
    let mut stalled = Vec::new();
    for address in 2..10 {
        for sent in [&hello[..], &hello[..3], &hello[..]] {
            let mut caller = Caller::connect_from([127, 0, 0, address].into(), gateway.data()).await;
            caller.send(sent).await;
            stalled.push(caller);
        }
    }
    gateway.counts("nexus_gateway_connections", &[], 24.0).await;
    assert_eq!(status(&gateway, &client).await, Some(200));
}

/// Whoever only holds a connection open has no handshake under way.
#[tokio::test]
async fn silent_clients_keep_nobody_from_shaking_hands() {
    let handler = Handler::answering(ok());
    let authority = Authority::new("ours");
    let tls = server_tls(&[&for_host(&authority, HOST)], ClientAuth::Off);
    let gateway = Gateway::start(bounded(&handler, tls, Duration::from_secs(3600), 1)).await;
    let mut silent = Vec::new();
    for _ in 0..5 {
        silent.push(gateway.connect().await);
    }
    gateway.counts("nexus_gateway_connections", &[], 5.0).await;
    assert_eq!(status(&gateway, &tls_client(&authority, None, &[&TLS13])).await, Some(200));
}

#[tokio::test]
async fn handshakes_do_not_hold_up_the_end() {
    let handler = Handler::answering(ok());
    let authority = Authority::new("ours");
    let tls = server_tls(&[&for_host(&authority, HOST)], ClientAuth::Off);
    let gateway = Gateway::start(bounded(&handler, tls, Duration::from_secs(3600), 256)).await;
    let silent = gateway.connect().await;
    gateway.counts("nexus_gateway_connections", &[], 1.0).await;
    let drained = gateway.running.drain(std::future::pending()).await;
    assert_eq!(drained, nexus_gateway::run::Drained::Clean);
    silent.closed().await;
}

#[tokio::test]
async fn an_operator_sees_when_certificates_expire() {
    let handler = Handler::answering(ok());
    let authority = Authority::new("ours");
    let (good, stale) = (for_host(&authority, HOST), authority.issue(For { expired: true, ..For::default() }));
    let settings = over_tls(leading_to(&handler), server_tls(&[&good, &stale], ClientAuth::Off));
    let gateway = Gateway::start(settings.clone()).await;
    let metric = "nexus_gateway_tls_certificate_expires_timestamp_seconds";
    let expires = |pair: usize| settings.listen[0].tls.as_ref().unwrap().certificates[pair].expires();
    #[expect(clippy::cast_precision_loss, reason = "seconds of this century")]
    gateway.counts(metric, &[("used_for", "listen[0]")], expires(1) as f64).await;
    assert!(expires(0) > expires(1));
    gateway.running.apply(leading_to(&handler)).await.expect("it can be applied");
    assert!(!gateway.metrics().await.has(metric));
}

#[tokio::test]
async fn changed_files_take_effect_and_broken_ones_do_not() {
    let handler = Handler::answering(ok());
    let authority = Authority::new("ours");
    let [first, second] = [(); 2].map(|()| for_host(&authority, HOST));
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("tls.crt", &first.chain);
    write("tls.key", &first.key);
    let path = folder.path().display();
    let tls = format!("tls: {{ certificate: {path}/tls.crt, key: {path}/tls.key }}");
    let listen = format!("listen: [{{ address: 127.0.0.1:0, {tls} }}]\nadmin: {{ address: 127.0.0.1:0 }}\n");
    let endpoints = format!("endpoints: {{ pay: {{ external: {{ url: '{}' }} }} }}\n", handler.url());
    write("gateway.yaml", &(listen + "server: { workers: 1 }\n" + &endpoints));
    let mut process = Process::run(&folder.path().join("gateway.yaml"));
    let admin = process.address("admin port listening").await;
    let data = process.address("data port listening").await;
    process.logs("serving").await;
    let client = tls_client(&authority, None, &[&TLS13]);
    let connect = || TlsCaller::connect(data, HOST, &client);
    let mut open = connect().await.unwrap();
    assert_eq!(open.call(&start("pay")).await.unwrap().status(), 200);

    write("tls.key", "broken");
    let line = process.logs("is refused").await;
    assert!(line.contains("listen[0].tls.key") && line.contains("tls.key` has no PEM private key"), "{line}");
    let metrics = Caller::connect(admin).await.call(&get("/metrics").host("localhost")).await.text();
    assert!(metrics.contains("nexus_gateway_config_last_reload_successful 0"), "{metrics}");
    assert_eq!(connect().await.unwrap().shown, own(&first));
    assert_eq!(open.call(&start("pay")).await.unwrap().status(), 200);

    write("tls.crt", &second.chain);
    write("tls.key", &second.key);
    process.logs("TLS of this port changed").await;
    process.logs("the changed configuration is in force").await;
    assert_eq!(connect().await.unwrap().shown, own(&second));
    assert_eq!(open.call(&start("pay")).await.unwrap().status(), 200);
}
