//! The admin port's connections: accepted, perhaps with TLS, guarded and bounded.
//!
//! So few are open at a time that they cost next to nothing, and each only for a while; one that comes when all places are
//! taken takes that of the oldest. So whoever holds connections cannot keep an operator or a probe out. What the settings
//! say can be changed while the port stays open; connections that are open stay as they are.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::AdminSettings;
use super::guard::Guard;
use crate::tls::{PeerCertificate, Protocol, ServerTls};

/// Connections at a time.
const MAX_CONNECTIONS: usize = 64;
/// For a handshake, and for a head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// For all that happens on a connection; scrapers that keep one longer open another.
const LIFE: Duration = Duration::from_secs(120);
/// Bytes of a head.
const MAX_HEAD: usize = 16 << 10;
/// Pause after an accept that failed: out of file descriptors, most of the time.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What the settings say, while they say it.
pub struct Live(ArcSwap<Rules>);

/// What settings say of who is let in and how.
pub struct Rules {
    guard: Guard,
    tls: Option<ServerTls>,
}

impl Live {
    /// Begins with `rules`.
    pub fn new(rules: Rules) -> Self {
        Self(ArcSwap::from_pointee(rules))
    }

    /// From now on new connections go by these.
    pub fn change(&self, rules: Rules) {
        self.0.store(Arc::new(rules));
    }
}

impl Rules {
    /// What `settings` say.
    pub fn new(settings: &AdminSettings) -> Result<Self, String> {
        let tls = settings.tls.as_ref().map(|tls| ServerTls::new(tls, &[Protocol::Http1])).transpose()?;
        Ok(Self { guard: Guard::new(settings), tls })
    }
}

/// Answers on `socket` until dropped.
pub(super) async fn serve(socket: TcpListener, routes: Router, live: Arc<Live>) {
    let mut open: VecDeque<Connection> = VecDeque::new();
    loop {
        let stream = match socket.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "the admin port cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        open.retain(|connection| !connection.0.is_finished());
        if open.len() >= MAX_CONNECTIONS {
            open.pop_front();
        }
        let serving = connection(stream, routes.clone(), live.0.load_full());
        open.push_back(Connection(tokio::spawn(async move {
            // Too late is as good as lost.
            let _ = timeout(LIFE, serving).await;
        })));
    }
}

/// A connection that ends when it is dropped.
struct Connection(JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn connection(stream: TcpStream, routes: Router, rules: Arc<Rules>) {
    let Some(tls) = rules.tls.clone() else { return requests(stream, routes, rules, None).await };
    match timeout(HEAD_TIMEOUT, tls.accept(stream)).await {
        Ok(Ok(accepted)) => requests(accepted.stream, routes, rules, accepted.certificate).await,
        Ok(Err(error)) => tracing::debug!(%error, "a handshake on the admin port failed"),
        Err(_) => {}
    }
}

async fn requests<S>(stream: S, routes: Router, rules: Arc<Rules>, certificate: Option<Arc<PeerCertificate>>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(|request: Request<Incoming>| {
        let (routes, rules, certificate) = (routes.clone(), Arc::clone(&rules), certificate.clone());
        async move { Ok::<_, Infallible>(answer(request, routes, &rules, certificate.as_ref()).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_header_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a connection of the admin port ended");
    }
}

async fn answer(
    request: Request<Incoming>,
    routes: Router,
    rules: &Rules,
    certificate: Option<&Arc<PeerCertificate>>,
) -> Response<Body> {
    let (head, body) = request.into_parts();
    match rules.guard.admit(&head, certificate) {
        Err(refused) => refused.into_response(),
        // A body that comes along is not read.
        Ok(_) => match TowerToHyperService::new(routes).call(Request::from_parts(head, Body::new(body))).await {
            Ok(answer) => answer,
            Err(never) => match never {},
        },
    }
}
