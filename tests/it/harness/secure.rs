//! A server behind TLS that takes every request, and what those who meet it believe.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request as Asked, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use nexus_gateway::tls::{ClientAuth, ClientTlsSettings, KeyPair, Protocol, Roots, ServerTls, ServerTlsSettings};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

use crate::certificates::{Authority, For, Issued};

/// A request as the handler got it: its path and its headers.
pub(crate) type Seen = (String, Vec<(String, String)>);

/// A handler behind TLS that answers every request with `{}`.
pub(crate) struct Secure {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    task: AbortHandle,
}

struct Shared {
    tls: Mutex<ServerTls>,
    connections: AtomicUsize,
    requests: Mutex<Vec<Seen>>,
}

impl Secure {
    pub(crate) async fn new(tls: ServerTls) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let shared = Shared { tls: Mutex::new(tls), connections: AtomicUsize::new(0), requests: Mutex::default() };
        let shared = Arc::new(shared);
        let task = tokio::spawn(accept(listener, Arc::clone(&shared))).abort_handle();
        Self { address, shared, task }
    }

    pub(crate) fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// What the next connections see.
    pub(crate) fn rotate(&self, tls: ServerTls) {
        *self.shared.tls.lock().unwrap_or_else(PoisonError::into_inner) = tls;
    }

    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    pub(crate) fn requests(&self) -> Vec<Seen> {
        self.shared.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Secure {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut open = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.expect("connections can be accepted");
        open.spawn(serve(stream, Arc::clone(&shared)));
    }
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    let tls = shared.tls.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let Ok(accepted) = tls.accept(stream).await else { return };
    shared.connections.fetch_add(1, Ordering::Relaxed);
    let answer = service_fn(move |request: Asked<Incoming>| answer(request, Arc::clone(&shared)));
    let stream = TokioIo::new(accepted.stream);
    match accepted.protocol {
        Protocol::Http1 => {
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(stream, answer).await;
        }
        Protocol::Http2 => {
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let _ = builder.serve_connection(stream, answer).await;
        }
    }
}

async fn answer(request: Asked<Incoming>, shared: Arc<Shared>) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let text = |value: &http::HeaderValue| value.to_str().unwrap_or_default().to_owned();
    let headers = request.headers().iter().map(|(name, value)| (name.to_string(), text(value))).collect();
    shared.requests.lock().unwrap_or_else(PoisonError::into_inner).push((path, headers));
    let _ = request.into_body().collect().await;
    let answer = Response::builder().header("content-type", "application/json");
    Ok(answer.body(Full::new(Bytes::from_static(b"{}"))).unwrap_or_default())
}

pub(crate) fn pair(issued: &Issued) -> KeyPair {
    KeyPair::read(&issued.chain, &issued.key).expect("a pair")
}

pub(crate) fn roots(authorities: &[&Authority]) -> Roots {
    Roots::read(&authorities.iter().map(|authority| &*authority.pem).collect::<String>()).expect("roots")
}

pub(crate) fn own(authority: &Authority) -> Issued {
    authority.issue(For { hosts: &["127.0.0.1"], ..For::default() })
}

pub(crate) fn server(own: &Issued, clients: ClientAuth, protocols: &[Protocol]) -> ServerTls {
    let settings = ServerTlsSettings { certificates: vec![pair(own)], clients, only_tls13: false };
    ServerTls::new(&settings, protocols).expect("it can be used")
}

pub(crate) fn believing(authorities: &[&Authority]) -> ClientTlsSettings {
    ClientTlsSettings { roots: Some(roots(authorities)), ..ClientTlsSettings::default() }
}
