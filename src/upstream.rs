//! One attempt at one target: pick an address, send, hand out the answer.
//!
//! Knows addresses, connections and HTTP. Must not know which endpoint a request is for, what a policy says or
//! what an answer means. Two losses are healed here because a direct connection would not have had them: an address
//! that refuses a connection gives way to the next one, and a request that was lost with a connection that had been
//! idle, or that its target surely did not act on, goes out once more on another one. What is to be concluded of an address's health, and which one is picked, are
//! rules of `resilience`; here is what they are fed with, and who obeys them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Uri, response};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::nexus::BaseUrl;
use crate::resilience::Deadline;
use crate::resilience::health::HealthSettings;
pub use crate::resilience::health::{ByHand, State};
use crate::tls::ClientTlsSettings;

mod balancer;
mod care;
mod connection;
mod dial;
mod exchange;
mod http1;
mod http2;
mod pool;
mod rewrite;
mod stream;
#[cfg(test)]
mod tests;

use balancer::Balancer;
use connection::Connection;
pub use connection::Torn;
use dial::{Dialed, Dialer};
pub use exchange::Exchange;
use exchange::{Again, Lease, Unanswered};
pub use pool::AddressStatus;
use pool::{Address, Turn};
pub use rewrite::Crossing;
pub use stream::{Connect, Connecting, Io, Stream, Tcp};

/// Shortest time between two probes of an address.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);

/// How often a request is sent again that was lost without being acted on.
const MAX_AGAIN: usize = 3;

/// How connections to targets are made and kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamSettings {
    /// Longest time for one connect, TLS included.
    pub connect_timeout: Duration,
    /// Idle connections older than this are closed. Below the two minutes after which Temporal frontends close them.
    pub idle_timeout: Duration,
    /// Idle connections kept per worker thread and address.
    pub max_idle: usize,
    /// Requests at a time on one HTTP/2 connection, where the target allows as many.
    pub max_streams: usize,
    /// A PING follows after an HTTP/2 connection was silent for so long.
    pub ping_every: Duration,
    /// Time between two DNS look-ups of a host name.
    pub resolve_every: Duration,
    /// Time in which a new or recovered address comes to its whole share of requests; zero: it has it at once.
    pub slow_start: Duration,
    /// Longest time between two probes of an address that is down or ejected.
    pub probe_every: Duration,
    /// Failures in a row that eject an address which has others beside it; zero: none is ejected.
    pub eject_after: u32,
    /// How long the first ejection lasts; repeated ones last longer, up to a minute.
    pub eject_for: Duration,
    /// Ejections are ignored when less than so many percent of the addresses that are not down would be left.
    pub panic_threshold: u32,
}

/// How to find out whether an address that takes no requests is well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Probe {
    /// As a Temporal frontend: it says what it is below the base URL. Any answer below 500 will do.
    SystemInfo,
    /// As anything: it takes a connection.
    Connect,
}

impl Default for UpstreamSettings {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(2),
            idle_timeout: Duration::from_secs(90),
            max_idle: 256,
            max_streams: 100,
            ping_every: Duration::from_secs(20),
            resolve_every: Duration::from_secs(10),
            slow_start: Duration::from_secs(10),
            probe_every: Duration::from_millis(250),
            eject_after: 5,
            eject_for: Duration::from_secs(5),
            panic_threshold: 50,
        }
    }
}

impl UpstreamSettings {
    fn health(&self) -> HealthSettings {
        // Probing without a pause would be an attack.
        let probe_every = self.probe_every.max(SHORTEST_PAUSE);
        HealthSettings { probe_every, eject_after: self.eject_after, eject_for: self.eject_for }
    }
}

/// A target's addresses and the connections to them.
pub struct Upstream {
    settings: UpstreamSettings,
    dialer: Arc<Dialer>,
    balancer: Arc<Balancer>,
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
    /// Requests sent again after a connection had died while idle, or because their target said that it did not act on
    /// them.
    pub replayed: AtomicU64,
    /// Look-ups of addresses that failed.
    pub unresolved: AtomicU64,
}

/// A request as it goes out.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// Path and query.
    pub uri: Uri,
    /// All headers but `Host`.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
    /// How much of the path is the target's own.
    prefix: usize,
    /// The time that the caller gave, if any, and until when that is.
    timeout: Option<(Duration, Deadline)>,
    /// What the target is shown of the gateway's own: added as the request goes out, and kept nowhere else.
    shown: HeaderMap,
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
    /// An upstream named `name` in metrics and logs, at `urls`, with a shelf of connections for each of `workers`. Those that
    /// begin with `https` are met with `tls`.
    /// Tasks of the current runtime look after it until it is dropped.
    pub fn new(
        name: Arc<str>,
        urls: Vec<BaseUrl>,
        probe: Probe,
        settings: UpstreamSettings,
        workers: usize,
        connector: Arc<dyn Connect>,
        tls: &ClientTlsSettings,
    ) -> Arc<Self> {
        let dialer = Arc::new(Dialer::new(connector, &urls, tls, settings.clone()));
        let balancer = Balancer::new(name, urls, probe, &settings, workers);
        let looked_up = watch::Sender::new(balancer.is_literal().then_some(Ok(())));
        let upstream = Arc::new(Self { settings, dialer, balancer, looked_up, counts: Counts::default() });
        care::begin(&upstream);
        upstream
    }

    /// Its name in metrics and logs.
    pub fn name(&self) -> &str {
        self.balancer.name()
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

    /// How each address is.
    pub fn addresses_status(&self, now: Instant) -> Vec<AddressStatus> {
        let all = self.balancer.addresses();
        all.iter().map(|address| address.status(now, all.len() < 2)).collect()
    }

    /// Takes the address out or keeps it in, whatever happens; or, with none, leaves it to what happens again. False
    /// where there is no such address. Forgotten when the address goes, or the settings of upstreams change.
    pub fn set_by_hand(&self, socket: SocketAddr, hand: Option<ByHand>) -> bool {
        let Some(address) = self.address(socket) else { return false };
        address.note(|health| health.set_by_hand(hand, Instant::now()));
        // One that was down by itself and now is so by hand is no last resort any more.
        self.balancer.choose();
        true
    }

    /// What to think of an answer 502, 503 or 504 from `socket` to a request that was sent at `began`: did whoever
    /// should answer do so, or else, why is it the address's fault? Other answers speak for themselves, and so does a
    /// connection that is lost.
    pub fn report(&self, socket: SocketAddr, began: Instant, outcome: Result<(), &str>) {
        let Some(address) = self.address(socket) else { return };
        match outcome {
            Ok(()) => address.answered_well(began, Instant::now()),
            Err(why) => address.failed(began, Instant::now(), why),
        }
    }

    /// Whether an address can be used.
    pub fn is_usable(&self) -> bool {
        self.balancer.is_usable()
    }

    /// Waits until an address can be used, but not beyond `until`; returns how long that took. At once where nothing
    /// is wrong.
    pub async fn usable(&self, until: Instant) -> Result<Duration, SendError> {
        if self.balancer.is_usable() {
            return Ok(Duration::ZERO);
        }
        let began = Instant::now();
        let mut usable = self.balancer.usable();
        match timeout_at(until, usable.wait_for(|usable| *usable)).await {
            Ok(Ok(_)) => Ok(began.elapsed()),
            // The sender lives as long as the balancer.
            Ok(Err(_)) | Err(_) => Err(self.why_unusable(Instant::now())),
        }
    }

    fn why_unusable(&self, now: Instant) -> SendError {
        let addresses = self.addresses_status(now);
        if addresses.is_empty() {
            return self.unresolved();
        }
        let each = addresses.iter().map(|address| {
            let seconds = address.since.as_secs_f64();
            format!("{} (down for {seconds:.1} s: {})", address.socket, address.reason)
        });
        SendError::Unreachable(each.collect::<Vec<_>>().join(", "))
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
        let began = Instant::now();
        let turn = self.turn(began).await?;
        // What is boxed is rare and would make every request's future larger.
        let Some(connection) = turn.address().take(worker) else {
            return Box::pin(self.send_afresh(worker, turn, request, last_start, sent)).await;
        };
        sent.store(true, Ordering::Relaxed);
        match self.lease(worker, turn, connection, true).exchange(request, began).await {
            Err(lost) if lost.again.is_some() => {
                Box::pin(self.send_again(worker, lost, request, last_start, sent)).await
            }
            done => done.map_err(|lost| lost.error),
        }
    }

    /// Sends `request` on a new connection.
    async fn send_afresh(
        &self,
        worker: usize,
        first: Turn,
        request: &Outgoing,
        last_start: Instant,
        sent: &AtomicBool,
    ) -> Result<(response::Parts, Exchange), SendError> {
        let lease = self.connect(worker, first, last_start).await?;
        sent.store(true, Ordering::Relaxed);
        match lease.exchange(request, Instant::now()).await {
            Err(lost) => self.send_again(worker, lost, request, last_start, sent).await,
            Ok(answer) => Ok(answer),
        }
    }

    /// Sends `request` on another connection as long as its loss allows it, and nothing else.
    async fn send_again(
        &self,
        worker: usize,
        mut lost: Unanswered,
        request: &Outgoing,
        last_start: Instant,
        sent: &AtomicBool,
    ) -> Result<(response::Parts, Exchange), SendError> {
        let mut replayed = false;
        for _ in 0..MAX_AGAIN {
            let now = Instant::now();
            let Some(again) = lost.again.take().filter(|_| now <= last_start) else { break };
            let turn = match again {
                Again::Afresh(address) => {
                    replayed = true;
                    Turn::begin(&address)
                }
                Again::Elsewhere => self.turn(now).await?,
            };
            self.counts.replayed.fetch_add(1, Ordering::Relaxed);
            let lease = self.connect(worker, turn, last_start).await?;
            sent.store(true, Ordering::Relaxed);
            match lease.exchange(request, Instant::now()).await {
                Ok((head, mut exchange)) => {
                    exchange.replayed = replayed;
                    return Ok((head, exchange));
                }
                Err(next) => lost = next,
            }
        }
        Err(lost.error)
    }

    /// A turn at the address that is best.
    async fn turn(&self, now: Instant) -> Result<Turn, SendError> {
        match self.balancer.turn(now) {
            Some(turn) => Ok(turn),
            None => self.first_turn().await,
        }
    }

    /// A new connection where `turn` leads, or else to the first of the others that takes one. Those that are down are
    /// tried only where all are, since a mark may be stale.
    async fn connect(&self, worker: usize, mut turn: Turn, last_start: Instant) -> Result<Lease, SendError> {
        let last_resort = !self.balancer.is_usable();
        let (mut tried, mut failures) = (Vec::new(), Vec::new());
        loop {
            let address = turn.address();
            match self.open(worker, address).await {
                Ok(connection) => return Ok(self.lease(worker, turn, connection, false)),
                Err(why) => failures.push(format!("{}: {why}", address.socket())),
            }
            let now = Instant::now();
            tried.push(address.socket());
            let next = self.balancer.turn_beside(&tried, last_resort, now).filter(|_| now <= last_start);
            turn = next.ok_or_else(|| SendError::Unreachable(failures.join(", ")))?;
        }
    }

    /// A new connection, or a place on one that somebody else opened while this waited for its turn to do so. Whoever
    /// waited for one that failed has failed with it.
    async fn open(&self, worker: usize, address: &Address) -> Result<Connection, Arc<str>> {
        let Some(dialing) = address.dialing(worker) else { return self.dial(worker, address).await };
        let came = Instant::now();
        let (mut last, waited) = match dialing.try_lock() {
            Ok(last) => (last, false),
            Err(_) => (dialing.lock().await, true),
        };
        if let Some(place) = address.enter(worker) {
            return Ok(Connection::Http2(place));
        }
        if address.dialing(worker).is_none() {
            // It turned out to speak HTTP/1.1.
            drop(last);
            return self.dial(worker, address).await;
        }
        if let Some((_, why)) = last.as_ref().filter(|(at, _)| waited && *at >= came) {
            return Err(Arc::clone(why));
        }
        let opened = self.dial(worker, address).await;
        *last = opened.as_ref().err().map(|why| (Instant::now(), Arc::clone(why)));
        opened
    }

    async fn dial(&self, worker: usize, address: &Address) -> Result<Connection, Arc<str>> {
        let began = Instant::now();
        let dialed = self.dialer.dial(address, self.settings.connect_timeout).await;
        let now = Instant::now();
        let opened = dialed.map_err(|error| error.to_string()).and_then(|dialed| match dialed {
            Dialed::Http1(connection) => {
                address.opened();
                Ok(Connection::Http1(connection))
            }
            Dialed::Http2(connection) => {
                let place = address.share(worker, connection);
                place.map(Connection::Http2).ok_or_else(|| "the connection was closed at once".to_owned())
            }
        });
        match opened {
            Ok(connection) => {
                self.counts.connected.fetch_add(1, Ordering::Relaxed);
                address.connected(began, now);
                Ok(connection)
            }
            Err(why) => {
                self.counts.refused.fetch_add(1, Ordering::Relaxed);
                address.note(|health| health.refused(began, now, &why));
                Err(why.into())
            }
        }
    }

    /// Waits for the first look-up, right after the target became known.
    async fn first_turn(&self) -> Result<Turn, SendError> {
        let mut looked_up = self.looked_up.subscribe();
        // The sender lives as long as this does.
        let _ = looked_up.wait_for(Option::is_some).await;
        self.balancer.turn(Instant::now()).ok_or_else(|| self.why_unusable(Instant::now()))
    }

    fn unresolved(&self) -> SendError {
        let outcome = self.looked_up.borrow().clone();
        SendError::Unresolved(match outcome {
            Some(Err(why)) => why,
            Some(Ok(())) => "the host name has no address".into(),
            None => "the host name is still being looked up".into(),
        })
    }

    fn address(&self, socket: SocketAddr) -> Option<Arc<Address>> {
        self.balancer.addresses().iter().find(|address| address.socket() == socket).cloned()
    }

    fn lease(&self, worker: usize, turn: Turn, connection: Connection, reused: bool) -> Lease {
        Lease::new(turn, connection, worker, self.settings.max_idle, reused)
    }
}
