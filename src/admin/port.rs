//! The admin port's connections: accepted, perhaps with TLS, guarded and bounded.
//!
//! So few are open at a time that they cost next to nothing, and each only for a while; one that comes when all places are
//! taken takes that of the oldest. So whoever holds connections cannot keep an operator or a probe out. What the settings
//! say can be changed while the port stays open; connections that are open stay as they are.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request, Response, StatusCode, Uri};
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
use super::guard::{Guard, Who};
use crate::telemetry::{AdminAct, Telemetry};
use crate::tls::{PeerCertificate, Protocol, ServerTls};

/// Connections at a time.
const MAX_CONNECTIONS: usize = 64;
/// For a handshake, and for a head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// For all that happens on a connection; scrapers that keep one longer open another.
const LIFE: Duration = Duration::from_secs(120);
/// Bytes of a head.
const MAX_HEAD: usize = 16 << 10;
/// Parameters that say what is changed.
const ABOUT: [&str; 6] = ["endpoint", "service", "operation", "id", "upstream", "address"];
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
pub(super) async fn serve(socket: TcpListener, routes: Router, live: Arc<Live>, telemetry: Arc<Telemetry>) {
    let mut open: VecDeque<Connection> = VecDeque::new();
    loop {
        let (stream, peer) = match socket.accept().await {
            Ok(accepted) => accepted,
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
        let asking =
            Asking { peer, routes: routes.clone(), rules: live.0.load_full(), telemetry: Arc::clone(&telemetry) };
        let serving = asking.connection(stream);
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

/// What the requests of a connection have in common.
struct Asking {
    peer: SocketAddr,
    routes: Router,
    rules: Arc<Rules>,
    telemetry: Arc<Telemetry>,
}

impl Asking {
    async fn connection(self, stream: TcpStream) {
        let Some(tls) = self.rules.tls.clone() else { return self.requests(stream, None).await };
        match timeout(HEAD_TIMEOUT, tls.accept(stream)).await {
            Ok(Ok(accepted)) => self.requests(accepted.stream, accepted.certificate).await,
            Ok(Err(error)) => tracing::debug!(%error, "a handshake on the admin port failed"),
            Err(_) => {}
        }
    }

    async fn requests<S>(self, stream: S, certificate: Option<Arc<PeerCertificate>>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let asking = Arc::new(self);
        let service = service_fn(|request: Request<Incoming>| {
            let (asking, certificate) = (Arc::clone(&asking), certificate.clone());
            async move { Ok::<_, Infallible>(asking.answer(request, certificate.as_ref()).await) }
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

    async fn answer(&self, request: Request<Incoming>, certificate: Option<&Arc<PeerCertificate>>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let admitted = self.rules.guard.admit(&head, certificate);
        let is_noted = admitted.is_err() || !matches!(head.method, Method::GET | Method::HEAD);
        let asked = is_noted.then(|| (head.method.clone(), described(&head.uri), admitted.as_ref().ok().cloned()));
        let answer = if let Err(refused) = admitted {
            self.note_refused(refused.status());
            refused.into_response()
        } else {
            // A body that comes along is not read.
            let request = Request::from_parts(head, Body::new(body));
            match TowerToHyperService::new(self.routes.clone()).call(request).await {
                Ok(answer) => answer,
                Err(never) => match never {},
            }
        };
        if let Some((method, asked, who)) = asked {
            self.telemetry.audit(&AdminAct {
                peer: self.peer,
                how: who.as_ref().map(Who::how),
                caller: who.as_ref().and_then(Who::subject),
                method: method.as_str(),
                asked: &asked,
                status: answer.status().as_u16(),
            });
        }
        answer
    }
}

impl Asking {
    /// Counts, and logs each power of two: enough to be seen, too little to fill a disk.
    fn note_refused(&self, status: StatusCode) {
        let so_far = self.telemetry.admin_refused(status);
        if so_far.is_power_of_two() {
            tracing::warn!(peer = %self.peer, %status, so_far, "the admin port did not let a request in");
        }
    }
}

/// What a request is about, for the audit log: a message for callers is none of its business.
fn described(uri: &Uri) -> String {
    let about = |parameter: &&str| ABOUT.iter().any(|name| parameter.split('=').next() == Some(name));
    let query = uri.query().unwrap_or_default().split('&').filter(about);
    let (mut described, mut separator) = (uri.path().to_owned(), '?');
    for parameter in query {
        described.push(separator);
        described.push_str(parameter);
        separator = '&';
    }
    described.chars().take(500).collect()
}
