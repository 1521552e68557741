//! Fetches from servers on loopback.

use tokio::net::TcpListener;

use super::testing::{Server, says};
use super::*;
use crate::tls::testing::{Authority, For, Issued};
use crate::tls::{ClientAuth, KeyPair, Roots, ServerTls, ServerTlsSettings};

const BOUNDS: Bounds = Bounds { bytes: 1000, time: Duration::from_secs(20) };

fn fine() -> String {
    says("200 OK", "fine")
}

fn tls(issued: &Issued, clients: ClientAuth) -> ServerTls {
    let certificates = vec![KeyPair::read(&issued.chain, &issued.key).unwrap()];
    ServerTls::new(&ServerTlsSettings { certificates, clients, only_tls13: false }, &[Protocol::Http1]).unwrap()
}

fn plain() -> Fetcher {
    Fetcher::new(&ClientTlsSettings::default()).unwrap()
}

fn believing(authority: &Authority) -> ClientTlsSettings {
    ClientTlsSettings { roots: Some(Roots::read(&authority.pem).unwrap()), ..ClientTlsSettings::default() }
}

#[tokio::test]
async fn a_body_is_posted_and_the_answer_read() {
    let server = Server::start(fine()).await;
    let mut headers = HeaderMap::new();
    headers.insert("x-key", "value".parse().unwrap());
    let fetched = plain().post(&server.uri("/a?b=c"), headers, "body".into(), BOUNDS).await.unwrap();
    assert_eq!((fetched.status, &*fetched.body), (StatusCode::OK, &b"fine"[..]));
    let sent = server.requests().remove(0);
    assert!(sent.starts_with("POST /a?b=c HTTP/1.1\r\n"), "{sent}");
    assert!(sent.contains("x-key: value\r\n") && sent.ends_with("\r\n\r\nbody"), "{sent}");
}

#[tokio::test]
async fn a_redirect_is_an_answer() {
    let answer = says("307 Temporary Redirect\r\nlocation: /elsewhere", "");
    let server = Server::start(answer).await;
    let fetched = plain().get(&server.uri("/"), HeaderMap::new(), BOUNDS).await.unwrap();
    assert_eq!(fetched.status, StatusCode::TEMPORARY_REDIRECT);
    assert_eq!(server.requests().len(), 1, "it was not followed");
}

#[tokio::test]
async fn an_answer_longer_than_its_bound_is_refused() {
    let server = Server::start(says("200 OK", &"x".repeat(1001))).await;
    let refused = plain().get(&server.uri("/"), HeaderMap::new(), BOUNDS).await.unwrap_err();
    assert_eq!(refused, "the answer is longer than 1000 bytes");
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up() {
    let server = Server::start(None).await;
    let bounds = Bounds { time: Duration::from_millis(50), ..BOUNDS };
    let late = plain().get(&server.uri("/?secret=s3cret"), HeaderMap::new(), bounds).await.unwrap_err();
    assert_eq!(late, "no answer within 50ms");
}

#[tokio::test]
async fn nobody_there_is_told_without_what_was_asked() {
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let uri: Uri = format!("http://127.0.0.1:{port}/?secret=s3cret").parse().unwrap();
    let error = plain().post(&uri, HeaderMap::new(), "s3cret".into(), BOUNDS).await.unwrap_err();
    assert!(error.contains("refused") && !error.contains("s3cret"), "{error}");
}

#[tokio::test]
async fn a_server_is_believed_by_its_authority_only() {
    let (authority, stranger) = (Authority::new("roots"), Authority::new("others"));
    let issued = authority.issue(For { hosts: &["127.0.0.1"], ..For::default() });
    let server = Server::behind(Some(tls(&issued, ClientAuth::Off)), fine()).await;
    let get = async |tls: &ClientTlsSettings| {
        let fetcher = Fetcher::new(tls).unwrap();
        fetcher.get(&server.uri("/"), HeaderMap::new(), BOUNDS).await.map(|fetched| fetched.body)
    };
    assert_eq!(get(&believing(&authority)).await.unwrap(), "fine");
    let refused = get(&believing(&stranger)).await.unwrap_err();
    assert!(refused.contains("UnknownIssuer"), "{refused}");
    let expects_another = ClientTlsSettings { server_name: Some("other.test".into()), ..believing(&authority) };
    let refused = get(&expects_another).await.unwrap_err();
    assert!(refused.contains("not valid for name"), "{refused}");
}

#[tokio::test]
async fn a_server_is_met_under_another_name_and_shown_a_certificate() {
    let authority = Authority::new("roots");
    let issued = authority.issue(For { hosts: &["registry.test"], ..For::default() });
    let clients = ClientAuth::Required(Roots::read(&authority.pem).unwrap());
    let server = Server::behind(Some(tls(&issued, clients)), fine()).await;
    let own = authority.issue(For { common_name: "gateway", ..For::default() });
    let settings = ClientTlsSettings {
        certificate: Some(KeyPair::read(&own.chain, &own.key).unwrap()),
        server_name: Some("registry.test".into()),
        ..believing(&authority)
    };
    let fetched = Fetcher::new(&settings).unwrap().get(&server.uri("/"), HeaderMap::new(), BOUNDS).await;
    assert_eq!(fetched.unwrap().body, "fine");
    let without = ClientTlsSettings { certificate: None, ..settings };
    let refused = Fetcher::new(&without).unwrap().get(&server.uri("/"), HeaderMap::new(), BOUNDS).await;
    assert!(refused.is_err(), "a certificate has to be shown");
}

#[test]
fn a_uri_is_shown_without_its_secrets() {
    let uri: Uri = "https://user:s3cret@a.test:8443/token?key=s3cret".parse().unwrap();
    assert_eq!(shown(&uri), "https://a.test:8443/token");
}
