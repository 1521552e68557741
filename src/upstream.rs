//! One attempt at one target: pick an address, send, hand out the answer.
//!
//! Knows addresses, connections and HTTP/1.1. Must not know which endpoint a request is for, what a policy says or
//! what an answer means. Two losses are healed here because a direct connection would not have had them: an address
//! that refuses a connection gives way to the next one, and a request that was lost with a connection that had been
//! idle goes out once more on a fresh one.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Uri, header, response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::nexus::BaseUrl;

mod balancer;
mod connection;
mod pool;
mod rewrite;

use balancer::Balancer;
use connection::Connection;
pub use pool::Address;
pub use rewrite::Crossing;

/// Time between two looks for idle connections that died or are too old.
const SWEEP_EVERY: Duration = Duration::from_secs(5);

/// How connections to targets are made and kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamSettings {
    /// Longest time for one TCP connect.
    pub connect_timeout: Duration,
    /// Idle connections older than this are closed. Below the two minutes after which Temporal frontends close them.
    pub idle_timeout: Duration,
    /// Idle connections kept per worker thread and address.
    pub max_idle: usize,
    /// Time between two DNS look-ups of a host name.
    pub resolve_every: Duration,
    /// Time in which the share of an address that is new, or healthy again, grows to the full one; zero: at once.
    pub slow_start: Duration,
    /// Time between two probes of an address that is down.
    pub probe_every: Duration,
    /// An address is ejected after so many failures in a row; 0: never.
    pub eject_after: u32,
    /// How long an address stays ejected the first time.
    pub eject_for: Duration,
    /// With less than this percentage of the addresses usable, ejections do not count; 0: they always do.
    pub panic_threshold: u32,
}

impl Default for UpstreamSettings {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(2),
            idle_timeout: Duration::from_secs(90),
            max_idle: 256,
            resolve_every: Duration::from_secs(10),
            slow_start: Duration::from_secs(10),
            probe_every: Duration::from_millis(250),
            eject_after: 5,
            eject_for: Duration::from_secs(5),
            panic_threshold: 50,
        }
    }
}

/// A target's addresses and the connections to them.
pub struct Upstream {
    name: Arc<str>,
    settings: UpstreamSettings,
    balancer: Balancer,
    /// How the last look-up of the addresses went; none before the first.
    looked_up: watch::Sender<Option<Result<(), String>>>,
    counts: Counts,
}

/// What happened to the connections of an upstream, for its metrics.
#[derive(Debug, Default)]
pub struct Counts {
    /// Connections opened.
    pub connected: AtomicU64,
    /// Connections that could not be opened.
    pub refused: AtomicU64,
    /// Requests sent again after a connection had died while idle.
    pub replayed: AtomicU64,
    /// Look-ups of addresses that failed.
    pub unresolved: AtomicU64,
}

/// A request as it goes out.
#[derive(Debug)]
pub struct Outgoing {
    /// Path and query.
    pub uri: Uri,
    /// All headers but `Host`.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
    /// How much of the path is the target's own.
    prefix: usize,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// No address is known.
    #[error("no address: {0}")]
    Unresolved(String),
    /// No address took a connection; nothing was sent.
    #[error("cannot connect to {0}")]
    Unreachable(String),
    /// The connection was lost before an answer.
    #[error("{0} closed the connection before it answered ({1})")]
    Reset(SocketAddr, String),
    /// What came is not HTTP.
    #[error("{0} did not answer with well-formed HTTP ({1})")]
    Malformed(SocketAddr, String),
}

impl Upstream {
    /// An upstream named `name` in metrics and logs, at `urls`, with a shelf of connections for each of `workers`.
    /// A task of the current runtime looks after it until it is dropped.
    pub fn new(name: Arc<str>, urls: Vec<BaseUrl>, settings: UpstreamSettings, workers: usize) -> Arc<Self> {
        let balancer = Balancer::new(urls, workers);
        let looked_up = watch::Sender::new(balancer.is_literal().then_some(Ok(())));
        let upstream = Arc::new(Self { name, settings, balancer, looked_up, counts: Counts::default() });
        tokio::spawn(look_after(Arc::downgrade(&upstream)));
        upstream
    }

    /// Its name in metrics and logs.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What happened to its connections so far.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Connections: all that are open, and those of them that are idle.
    pub fn connections(&self) -> (usize, usize) {
        let each = self.balancer.addresses();
        each.iter().map(|address| address.connections()).fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    }

    /// The addresses in use now.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.balancer.addresses().iter().map(|address| address.socket()).collect()
    }

    /// Sends `request` on a connection of `worker` and waits for the head of the answer.
    ///
    /// After `last_start` nothing is tried a second time. `sent` becomes true when bytes may have gone out.
    pub async fn send(
        &self,
        worker: usize,
        request: &Outgoing,
        last_start: Instant,
        sent: &AtomicBool,
    ) -> Result<(response::Parts, Exchange), SendError> {
        let address = self.next_address().await?;
        if let Some(connection) = address.take(worker) {
            let lease = self.lease(worker, Arc::clone(&address), connection);
            sent.store(true, Ordering::Relaxed);
            match lease.exchange(request).await {
                Err(SendError::Reset(..)) if Instant::now() <= last_start => {
                    self.counts.replayed.fetch_add(1, Ordering::Relaxed);
                }
                done => return done,
            }
        }
        let lease = self.connect(worker, address, last_start).await?;
        sent.store(true, Ordering::Relaxed);
        lease.exchange(request).await
    }

    /// The address whose turn it is.
    async fn next_address(&self) -> Result<Arc<Address>, SendError> {
        match self.balancer.next(Instant::now()) {
            Some(address) => Ok(address),
            None => self.first_address().await,
        }
    }

    /// A new connection to `first`, or else to the first of the others that takes one.
    async fn connect(&self, worker: usize, first: Arc<Address>, last_start: Instant) -> Result<Lease, SendError> {
        let mut failures = Vec::new();
        // Their order is taken now: it changes with each refusal.
        let others = self.balancer.in_turn(Instant::now()).filter(|other| !Arc::ptr_eq(other, &first));
        let others: Vec<_> = others.collect();
        for address in std::iter::once(first).chain(others) {
            match Connection::open(address.socket(), self.settings.connect_timeout).await {
                Ok(connection) => {
                    self.counts.connected.fetch_add(1, Ordering::Relaxed);
                    address.opened();
                    return Ok(self.lease(worker, address, connection));
                }
                Err(error) => {
                    self.counts.refused.fetch_add(1, Ordering::Relaxed);
                    address.refused(Instant::now());
                    failures.push(format!("{}: {error}", address.socket()));
                }
            }
            if Instant::now() > last_start {
                break;
            }
        }
        Err(SendError::Unreachable(failures.join(", ")))
    }

    /// Waits for the first look-up, right after the target became known.
    async fn first_address(&self) -> Result<Arc<Address>, SendError> {
        let mut looked_up = self.looked_up.subscribe();
        let outcome = looked_up.wait_for(Option::is_some).await.map_or(None, |outcome| outcome.clone());
        self.balancer.next(Instant::now()).ok_or_else(|| {
            let why = outcome.and_then(Result::err).unwrap_or_else(|| "the host name has no address".into());
            SendError::Unresolved(why)
        })
    }

    fn lease(&self, worker: usize, address: Arc<Address>, connection: Connection) -> Lease {
        Lease { connection: Some(connection), address, worker, max_idle: self.settings.max_idle }
    }
}

/// Looks addresses up again and closes what is idle for too long, as long as the upstream exists.
async fn look_after(upstream: Weak<Upstream>) {
    let mut next_look_up = Instant::now();
    loop {
        let Some(upstream) = upstream.upgrade() else { return };
        let now = Instant::now();
        if !upstream.balancer.is_literal() && now >= next_look_up {
            look_up(&upstream).await;
            next_look_up = now + upstream.settings.resolve_every;
        }
        for address in upstream.balancer.addresses().iter() {
            address.sweep(now, upstream.settings.idle_timeout);
        }
        let pause = SWEEP_EVERY.min(upstream.settings.resolve_every);
        drop(upstream);
        tokio::time::sleep(pause).await;
    }
}

async fn look_up(upstream: &Upstream) {
    let outcome = upstream.balancer.resolve().await.map_err(|error| error.to_string());
    if let Err(error) = &outcome {
        upstream.counts.unresolved.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(upstream = upstream.name(), error, "cannot look up the addresses; the last ones stay in use");
    }
    upstream.looked_up.send_replace(Some(outcome));
}

/// A connection in use. It goes back when an answer was read to its end; dropped before that, it is closed.
struct Lease {
    connection: Option<Connection>,
    address: Arc<Address>,
    worker: usize,
    max_idle: usize,
}

impl Lease {
    async fn exchange(mut self, request: &Outgoing) -> Result<(response::Parts, Exchange), SendError> {
        let socket = self.address.socket();
        let Some(connection) = &mut self.connection else {
            return Err(SendError::Reset(socket, "no connection".into()));
        };
        let mut outgoing = Request::new(Full::new(request.body.clone()));
        *outgoing.method_mut() = http::Method::POST;
        *outgoing.uri_mut() = request.uri.clone();
        *outgoing.headers_mut() = request.headers.clone();
        outgoing.headers_mut().insert(header::HOST, self.address.host().clone());
        let answer = connection.send(outgoing).await.map_err(|error| {
            let text = error.to_string();
            if error.is_parse() { SendError::Malformed(socket, text) } else { SendError::Reset(socket, text) }
        })?;
        let (head, body) = answer.into_parts();
        Ok((head, Exchange { body, socket, lease: Some(self) }))
    }

    fn give_back(mut self) {
        if let Some(mut connection) = self.connection.take() {
            if connection.is_reusable() {
                self.address.give(self.worker, connection, self.max_idle);
            } else {
                self.address.closed();
            }
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.connection.take().is_some() {
            self.address.closed();
        }
    }
}

/// The body of an answer, with the connection it comes on.
pub struct Exchange {
    body: Incoming,
    socket: SocketAddr,
    lease: Option<Lease>,
}

impl Exchange {
    /// The address that answered.
    pub fn socket(&self) -> SocketAddr {
        self.socket
    }
}

impl Body for Exchange {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = &mut *self;
        let Some(connection) = this.lease.as_mut().and_then(|lease| lease.connection.as_mut()) else {
            return Poll::Ready(None);
        };
        let frame = ready!(connection.poll_frame(&mut this.body, cx));
        match &frame {
            Some(Err(_)) => this.lease = None,
            Some(Ok(_)) if !this.body.is_end_stream() => {}
            Some(Ok(_)) | None => {
                if let Some(lease) = this.lease.take() {
                    lease.give_back();
                }
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.lease.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
