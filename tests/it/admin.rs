//! The admin port: who is let in, and that nobody can keep others out.

use std::net::SocketAddr;

use nexus_gateway::admin::{AdminSettings, AdminToken};
use nexus_gateway::config::Settings;
use nexus_gateway::tls::{ClientAuth, ClientTls, ClientTlsSettings, KeyPair, Protocol, Roots, ServerTlsSettings};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::certificates::{Authority, For, Issued};
use crate::harness::message::Reader;
use crate::harness::*;

const TOKEN: &str = "planted-admin-token";

fn everywhere() -> AdminSettings {
    AdminSettings::at(([0, 0, 0, 0], 0).into())
}

fn with_token() -> AdminSettings {
    AdminSettings { token: Some(AdminToken::new(TOKEN)), ..everywhere() }
}

async fn at(admin: AdminSettings) -> Gateway {
    Gateway::start(Settings { admin, ..settings() }).await
}

/// Where this machine reaches a port that listens everywhere.
fn near(gateway: &Gateway) -> SocketAddr {
    ([127, 0, 0, 1], gateway.running.admin_address().port()).into()
}

#[tokio::test]
async fn beyond_loopback_it_shows_health_and_metrics_and_says_what_opens_the_rest() {
    let (closed, opened) = (at(everywhere()).await, at(with_token()).await);
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(closed.admin(path).await.status(), 200, "{path}");
    }
    let refused = closed.admin("/endpoints").await;
    assert_eq!(refused.status(), 403);
    assert!(refused.text().contains("admin.token") && refused.text().contains("admin.tls"), "{}", refused.text());
    assert_eq!(closed.ask_admin(&to("/breakers/trip").header("Nexus-Gateway-Admin", "1")).await.status(), 403);

    let unknown = opened.admin("/endpoints").await;
    assert_eq!((unknown.status(), unknown.header("www-authenticate")), (401, Some("Bearer")));
    let authorization = format!("Bearer {TOKEN}");
    let known = |request: Request| request.header("Authorization", &authorization);
    assert_eq!(opened.ask_admin(&known(get("/endpoints"))).await.status(), 200);
    assert_eq!(opened.ask_admin(&known(to("/breakers/trip"))).await.status(), 403, "without its header");
    let steer = known(to("/breakers/trip").header("Nexus-Gateway-Admin", "1"));
    assert_eq!(opened.ask_admin(&steer).await.status(), 404, "there is no such breaker");
    assert_eq!(opened.ask_admin(&known(get("/breakers/trip").header("Nexus-Gateway-Admin", "1"))).await.status(), 405);
}

#[tokio::test]
async fn a_name_that_somebody_s_dns_leads_here_opens_nothing() {
    let gateway = at(settings().admin).await;
    let mut caller = Caller::connect(gateway.running.admin_address()).await;
    let refused = caller.call(&get("/endpoints").host("evil.example")).await;
    assert_eq!(refused.status(), 403);
    assert!(refused.text().contains("Host"), "{}", refused.text());
    assert_eq!(caller.call(&get("/endpoints").host("127.0.0.1:7281")).await.status(), 200);
}

#[tokio::test]
async fn a_changed_token_counts_at_once_and_the_port_stays() {
    let gateway = at(with_token()).await;
    let before = gateway.running.admin_address();
    let changed = AdminSettings { token: Some(AdminToken::new("planted-another-12345")), ..everywhere() };
    gateway.running.apply(Settings { admin: changed, ..settings() }).await.expect("it can be applied");
    assert_eq!(gateway.running.admin_address(), before);
    let asked = |token: &str| get("/endpoints").header("Authorization", &format!("Bearer {token}"));
    assert_eq!(gateway.ask_admin(&asked(TOKEN)).await.status(), 401);
    assert_eq!(gateway.ask_admin(&asked("planted-another-12345")).await.status(), 200);
}

#[tokio::test]
async fn clients_that_say_nothing_cannot_fill_it() {
    let gateway = at(with_token()).await;
    let mut held = Vec::new();
    for number in 0..200 {
        let mut caller = Caller::connect(near(&gateway)).await;
        if number % 2 == 0 {
            caller.send("GET /metrics HTTP/1.1\r\nHost: ").await;
        }
        held.push(caller);
    }
    assert_eq!(gateway.admin("/healthz").await.status(), 200);
    held.remove(0).closed().await;
}

/// Asks with TLS, perhaps with a certificate. None where the handshake fails.
async fn ask(gateway: &Gateway, roots: &str, certificate: Option<&Issued>, request: &Request) -> Option<Message> {
    let certificate = certificate.map(|issued| KeyPair::read(&issued.chain, &issued.key).expect("a pair"));
    let roots = Some(Roots::read(roots).expect("an authority"));
    let settings = ClientTlsSettings { roots, certificate, ..ClientTlsSettings::default() };
    let tls = ClientTls::new(&settings, &[Protocol::Http1]);
    let stream = TcpStream::connect(near(gateway)).await.expect("the port is open");
    let (stream, _) = tls.expect("a client").connect("localhost", stream).await.ok()?;
    let (read, mut write) = tokio::io::split(stream);
    write.write_all(&request.bytes()).await.ok()?;
    Reader::new(read).answer().await
}

#[tokio::test]
async fn a_certificate_opens_it_and_a_changed_one_is_shown_while_the_port_stays() {
    let (authority, later, strangers) = (Authority::new("a"), Authority::new("b"), Authority::new("c"));
    let settings_by = |authority: &Authority, clients: ClientAuth| {
        let issued = authority.issue(For { hosts: &["localhost"], ..For::default() });
        let certificates = vec![KeyPair::read(&issued.chain, &issued.key).expect("a pair")];
        let tls = Some(ServerTlsSettings { certificates, clients, only_tls13: true });
        Settings { admin: AdminSettings { tls, ..everywhere() }, ..settings() }
    };
    let trusted = || ClientAuth::Optional(Roots::read(&authority.pem).expect("an authority"));
    let gateway = Gateway::start(settings_by(&authority, trusted())).await;
    let (good, bad) = (authority.issue(For { common_name: "op", ..For::default() }), strangers.issue(For::default()));
    let endpoints = get("/endpoints");
    let status = |answer: Option<Message>| answer.map(|answer| answer.status());
    assert_eq!(status(ask(&gateway, &authority.pem, None, &get("/healthz")).await), Some(200));
    assert_eq!(status(ask(&gateway, &authority.pem, None, &endpoints).await), Some(403));
    assert_eq!(status(ask(&gateway, &authority.pem, Some(&good), &endpoints).await), Some(200));
    assert_eq!(status(ask(&gateway, &authority.pem, Some(&bad), &endpoints).await), None);

    gateway.running.apply(settings_by(&later, trusted())).await.expect("it can be applied");
    assert_eq!(status(ask(&gateway, &authority.pem, None, &get("/healthz")).await), None);
    assert_eq!(status(ask(&gateway, &later.pem, Some(&good), &endpoints).await), Some(200));
}
