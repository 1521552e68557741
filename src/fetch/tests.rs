//! Fetches from servers on loopback.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::*;
use crate::tls::testing::{Authority, For, Issued};
use crate::tls::{ClientAuth, KeyPair, Roots, ServerTls, ServerTlsSettings};

const BOUNDS: Bounds = Bounds { bytes: 1000, time: Duration::from_secs(20) };

/// A server that gives the same answer to every request and tells what it was sent.
struct Server {
    port: u16,
    requests: mpsc::UnboundedReceiver<String>,
}

impl Server {
    async fn start(tls: Option<ServerTls>, answer: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (told, requests) = mpsc::unbounded_channel();
        let answer = answer.to_owned();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, told, answer) = (tls.clone(), told.clone(), answer.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, &told, &answer).await,
                        Some(tls) => {
                            if let Ok(accepted) = tls.accept(stream).await {
                                serve(accepted.stream, &told, &answer).await;
                            }
                        }
                    }
                });
            }
        });
        Self { port, requests }
    }

    fn uri(&self, scheme: &str, rest: &str) -> Uri {
        format!("{scheme}://127.0.0.1:{}{rest}", self.port).parse().unwrap()
    }
}

async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, told: &mpsc::UnboundedSender<String>, answer: &str) {
    let mut read = Vec::new();
    let mut piece = [0; 1024];
    while let Ok(length @ 1..) = stream.read(&mut piece).await {
        read.extend_from_slice(&piece[..length]);
        let text = String::from_utf8_lossy(&read).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        if body.len() < length.map_or(0, |length| length.parse().unwrap()) {
            continue;
        }
        read.clear();
        told.send(text).unwrap();
        if stream.write_all(answer.as_bytes()).await.is_err() || stream.flush().await.is_err() {
            return;
        }
    }
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
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
    let mut server = Server::start(None, &ok("fine")).await;
    let mut headers = HeaderMap::new();
    headers.insert("x-key", "value".parse().unwrap());
    let fetched = plain().post(&server.uri("http", "/a?b=c"), headers, "body".into(), BOUNDS).await.unwrap();
    assert_eq!((fetched.status, &*fetched.body), (StatusCode::OK, &b"fine"[..]));
    let sent = server.requests.recv().await.unwrap();
    assert!(sent.starts_with("POST /a?b=c HTTP/1.1\r\n"), "{sent}");
    assert!(sent.contains("x-key: value\r\n") && sent.ends_with("\r\n\r\nbody"), "{sent}");
}

#[tokio::test]
async fn a_redirect_is_an_answer() {
    let answer = "HTTP/1.1 307 Temporary Redirect\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n";
    let mut server = Server::start(None, answer).await;
    let fetched = plain().get(&server.uri("http", "/"), HeaderMap::new(), BOUNDS).await.unwrap();
    assert_eq!(fetched.status, StatusCode::TEMPORARY_REDIRECT);
    server.requests.recv().await.unwrap();
    assert!(server.requests.try_recv().is_err(), "it was not followed");
}

#[tokio::test]
async fn an_answer_longer_than_its_bound_is_refused() {
    let server = Server::start(None, &ok(&"x".repeat(1001))).await;
    let refused = plain().get(&server.uri("http", "/"), HeaderMap::new(), BOUNDS).await.unwrap_err();
    assert_eq!(refused, "the answer is longer than 1000 bytes");
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up() {
    let server = Server::start(None, "").await;
    let bounds = Bounds { time: Duration::from_millis(50), ..BOUNDS };
    let late = plain().get(&server.uri("http", "/?secret=s3cret"), HeaderMap::new(), bounds).await.unwrap_err();
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
    let server = Server::start(Some(tls(&issued, ClientAuth::Off)), &ok("fine")).await;
    let get = async |tls: &ClientTlsSettings| {
        let fetcher = Fetcher::new(tls).unwrap();
        fetcher.get(&server.uri("https", "/"), HeaderMap::new(), BOUNDS).await.map(|fetched| fetched.body)
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
    let server = Server::start(Some(tls(&issued, clients)), &ok("fine")).await;
    let own = authority.issue(For { common_name: "gateway", ..For::default() });
    let settings = ClientTlsSettings {
        certificate: Some(KeyPair::read(&own.chain, &own.key).unwrap()),
        server_name: Some("registry.test".into()),
        ..believing(&authority)
    };
    let fetched = Fetcher::new(&settings).unwrap().get(&server.uri("https", "/"), HeaderMap::new(), BOUNDS).await;
    assert_eq!(fetched.unwrap().body, "fine");
    let without = ClientTlsSettings { certificate: None, ..settings };
    let refused = Fetcher::new(&without).unwrap().get(&server.uri("https", "/"), HeaderMap::new(), BOUNDS).await;
    assert!(refused.is_err(), "a certificate has to be shown");
}

#[test]
fn a_uri_is_shown_without_its_secrets() {
    let uri: Uri = "https://user:s3cret@a.test:8443/token?key=s3cret".parse().unwrap();
    assert_eq!(shown(&uri), "https://a.test:8443/token");
}
