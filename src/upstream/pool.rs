//! One address of a target: its idle connections, its load and its health.
//!
//! Each worker thread has a shelf of connections of its own, so that a connection stays on the thread whose event loop
//! knows it and the lock on a shelf is never contended. What every request touches is an atomic; the lock on the health
//! is taken only where something is or was wrong.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use http::uri::Authority;
use http::{HeaderValue, Uri};
use tokio::time::Instant;

use super::balancer::Balancer;
use super::connection::Connection;
use super::http2::Open;
use super::{http1, http2};
use crate::resilience::balance::{self, Candidate, Latency};
use crate::resilience::health::{ByHand, Change, Health, HealthSettings, State};
use crate::tls::Protocol;

/// One socket address of a target.
pub(super) struct Address {
    socket: SocketAddr,
    host: HeaderValue,
    /// None where it is met without TLS.
    secured: Option<Secured>,
    /// What a probe asks for; none where a connect is all that can be tried.
    probe: Option<Uri>,
    shelves: Box<[Mutex<Shelf>]>,
    open: Arc<AtomicUsize>,
    created: Instant,
    load: Load,
    health: Mutex<Health>,
    /// Told when the health changes.
    balancer: Weak<Balancer>,
}

/// What is known of an address that is met with TLS.
pub(super) struct Secured {
    /// Whom its certificate has to be for.
    name: Box<str>,
    /// What HTTP/2 calls it.
    authority: Authority,
    /// Whether it agreed to HTTP/1.1 last, so that connections to it cannot be shared.
    only_http1: AtomicBool,
    /// By worker; held while one connects, so that those who come meanwhile share what comes of it.
    dialing: Box<[Dialing]>,
}

/// When the last connect failed, and why.
type Dialing = tokio::sync::Mutex<Option<(Instant, Arc<str>)>>;

impl Secured {
    /// One whose certificate has to be for `name`.
    pub(super) fn new(name: Box<str>, authority: Authority, workers: usize) -> Self {
        let dialing = (0..workers.max(1)).map(|_| Dialing::default()).collect();
        Self { name, authority, only_http1: AtomicBool::new(false), dialing }
    }
}

/// A worker's connections.
#[derive(Default)]
struct Shelf {
    idle: Vec<Idle>,
    /// Those of HTTP/2, in use or not.
    shared: Vec<Arc<http2::Connection>>,
}

/// On a cache line of its own, since all threads write here and the rest is only read.
#[repr(align(64))]
#[derive(Default)]
struct Load {
    in_flight: AtomicUsize,
    /// A [`Latency`]. Of two threads that write at the same time one may win.
    latency: AtomicU64,
    /// Milliseconds after `created` since when the address is up.
    up_since: AtomicU32,
    /// Whether a good answer would change its health.
    troubled: AtomicBool,
}

struct Idle {
    connection: http1::Connection,
    since: Instant,
}

/// An address as it is now.
#[derive(Clone, Debug, PartialEq)]
pub struct AddressStatus {
    /// The address.
    pub socket: SocketAddr,
    /// Whether it can be used.
    pub state: State,
    /// What somebody said by hand.
    pub by_hand: Option<ByHand>,
    /// How long it is in this state.
    pub since: Duration,
    /// Why it is.
    pub reason: String,
    /// Requests on their way to it.
    pub in_flight: usize,
    /// Smoothed time to an answer's head; none where nothing was answered yet.
    pub latency: Option<Duration>,
    /// Connections that are open.
    pub open: usize,
    /// Those of them that are idle.
    pub idle: usize,
    /// Time until the next probe, if one is planned.
    pub next_probe: Option<Duration>,
    /// How often it was ejected.
    pub ejections: u64,
    /// Probes that were answered.
    pub probes_ok: u64,
    /// Probes that were not.
    pub probes_failed: u64,
}

impl Address {
    /// An address without connections; `host` is what a `Host` header says to it.
    pub(super) fn new(
        socket: SocketAddr,
        host: HeaderValue,
        secured: Option<Secured>,
        probe: Option<Uri>,
        workers: usize,
        health: HealthSettings,
        balancer: Weak<Balancer>,
    ) -> Self {
        let created = Instant::now();
        Self {
            socket,
            host,
            secured,
            probe,
            shelves: (0..workers.max(1)).map(|_| Mutex::default()).collect(),
            open: Arc::default(),
            created,
            load: Load::default(),
            health: Mutex::new(Health::new(created, health, fastrand::u64(..))),
            balancer,
        }
    }

    /// The socket address.
    pub(super) fn socket(&self) -> SocketAddr {
        self.socket
    }

    /// What a `Host` header says to it.
    pub(super) fn host(&self) -> &HeaderValue {
        &self.host
    }

    /// Whom its certificate has to be for; none where it is met without TLS.
    pub(super) fn tls_name(&self) -> Option<&str> {
        self.secured.as_ref().map(|secured| &*secured.name)
    }

    /// What HTTP/2 calls it; none where it is met without TLS.
    pub(super) fn authority(&self) -> Option<&Authority> {
        self.secured.as_ref().map(|secured| &secured.authority)
    }

    /// What it agreed to speak.
    pub(super) fn speaks(&self, protocol: Protocol) {
        if let Some(secured) = &self.secured {
            secured.only_http1.store(protocol == Protocol::Http1, Ordering::Relaxed);
        }
    }

    /// Held while `worker` connects; none where a connection is for one request only.
    pub(super) fn dialing(&self, worker: usize) -> Option<&Dialing> {
        let secured = self.secured.as_ref().filter(|secured| !secured.only_http1.load(Ordering::Relaxed))?;
        Some(&secured.dialing[worker % secured.dialing.len()])
    }

    /// What a probe asks for; none where a connect is all that can be tried.
    pub(super) fn probe(&self) -> Option<&Uri> {
        self.probe.as_ref()
    }

    /// The idle connection used last that still lives, or a place on one that is shared, if any.
    pub(super) fn take(&self, worker: usize) -> Option<Connection> {
        loop {
            let popped = self.shelf(worker).idle.pop();
            let Some(mut idle) = popped else { break };
            if idle.connection.is_reusable() {
                return Some(Connection::Http1(idle.connection));
            }
            self.closed();
        }
        self.secured.as_ref()?;
        self.enter(worker).map(Connection::Http2)
    }

    /// A place on a connection that is shared. The first that has one, so that what is too many becomes idle.
    pub(super) fn enter(&self, worker: usize) -> Option<http2::Place> {
        let mut kept = self.shelf(worker);
        kept.shared.retain(|connection| !connection.is_over());
        kept.shared.iter().find_map(http2::Connection::enter)
    }

    /// Shares a connection among the requests of `worker`, of which one has its place now.
    pub(super) fn share(&self, worker: usize, connection: Arc<http2::Connection>) -> Option<http2::Place> {
        let mut kept = self.shelf(worker);
        let place = connection.enter();
        kept.shared.push(connection);
        place
    }

    /// Puts a connection back that can be used again.
    pub(super) fn give(&self, worker: usize, connection: http1::Connection, max_idle: usize) {
        let mut kept = self.shelf(worker);
        if kept.idle.len() < max_idle {
            kept.idle.push(Idle { connection, since: Instant::now() });
        } else {
            drop(kept);
            self.closed();
        }
    }

    /// Closes idle connections that are dead or older than `idle_timeout`.
    pub(super) fn sweep(&self, now: Instant, idle_timeout: Duration) {
        for worker in 0..self.shelves.len() {
            let mut kept = self.shelf(worker);
            let before = kept.idle.len();
            kept.idle.retain_mut(|one| {
                now.saturating_duration_since(one.since) < idle_timeout && one.connection.is_reusable()
            });
            self.open.fetch_sub(before - kept.idle.len(), Ordering::Relaxed);
            let is_old = |one: &http2::Connection| one.idle_for(now).is_some_and(|idle| idle >= idle_timeout);
            kept.shared.retain(|one| !one.is_over() && !is_old(one));
        }
    }

    /// Counts a connection of HTTP/2 as open.
    pub(super) fn open(&self) -> Open {
        Open::count(&self.open)
    }

    /// A connection of HTTP/1.1 was opened.
    pub(super) fn opened(&self) {
        self.open.fetch_add(1, Ordering::Relaxed);
    }

    /// It took a connection; the connect began at `began`.
    pub(super) fn connected(&self, began: Instant, now: Instant) {
        if self.is_troubled() {
            self.note(|health| health.connected(began, now));
        }
    }

    /// A request that was sent at `began` was answered by who should.
    pub(super) fn answered_well(&self, began: Instant, now: Instant) {
        if self.is_troubled() {
            self.note(|health| health.answered(began, now));
        }
    }

    /// A request that was sent at `began` was not answered by who should.
    pub(super) fn failed(&self, began: Instant, now: Instant, why: &str) {
        let is_alone = self.is_alone();
        self.note(|health| health.failed(began, now, why, is_alone));
    }

    /// A connection of HTTP/1.1 was closed.
    pub(super) fn closed(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    /// An answer's head took `sample`.
    pub(super) fn took(&self, sample: Duration, now: Instant) {
        let known = Latency::from_word(self.load.latency.load(Ordering::Relaxed));
        self.load.latency.store(known.observed(sample, self.millis(now)).to_word(), Ordering::Relaxed);
    }

    /// Somebody waited so long for an answer and left. An answer that takes long is never seen otherwise.
    pub(super) fn took_at_least(&self, sample: Duration, now: Instant) {
        if self.latency(now).is_none_or(|known| sample > known) {
            self.took(sample, now);
        }
    }

    /// What there is to know when it may be its turn.
    pub(super) fn candidate(&self, now: Instant, slow_start: Duration) -> Candidate {
        let (millis, up_since) = (self.millis(now), self.load.up_since.load(Ordering::Relaxed));
        let age = Duration::from_millis(u64::from(millis.wrapping_sub(up_since)));
        Candidate {
            latency: Latency::from_word(self.load.latency.load(Ordering::Relaxed)).seconds(millis),
            in_flight: self.load.in_flight.load(Ordering::Relaxed),
            weight: balance::weight(age, slow_start),
        }
    }

    fn is_troubled(&self) -> bool {
        self.load.troubled.load(Ordering::Relaxed)
    }

    /// Takes a note in its health, and tells the balancer if that changed its state.
    pub(super) fn note(&self, note: impl FnOnce(&mut Health) -> Option<Change>) {
        let mut health = self.health();
        let change = note(&mut health);
        self.load.troubled.store(health.is_troubled(), Ordering::Relaxed);
        let Some(change) = change else { return };
        if change.to == State::Up {
            self.load.up_since.store(self.millis(health.since()), Ordering::Relaxed);
        }
        // Logged under the lock, so that the lines come in the order of what happened.
        log(self.balancer.upgrade().as_deref().map_or("", Balancer::name), self.socket, &change, health.reason());
        drop(health);
        if let Some(balancer) = self.balancer.upgrade() {
            balancer.choose();
        }
    }

    /// Whether there is no other address.
    pub(super) fn is_alone(&self) -> bool {
        self.balancer.upgrade().is_none_or(|balancer| balancer.addresses().len() < 2)
    }

    /// Whether it can be used.
    pub(super) fn state(&self) -> State {
        self.health().state()
    }

    /// How it is.
    pub(super) fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All there is to see.
    pub(super) fn status(&self, now: Instant, is_alone: bool) -> AddressStatus {
        let (open, idle) = self.connections();
        let health = self.health();
        let counts = health.counts();
        AddressStatus {
            socket: self.socket,
            state: health.state(),
            by_hand: health.by_hand(),
            since: now.saturating_duration_since(health.since()),
            reason: health.reason().to_owned(),
            in_flight: self.load.in_flight.load(Ordering::Relaxed),
            latency: self.latency(now),
            open,
            idle,
            next_probe: health.next_probe(is_alone).map(|at| at.saturating_duration_since(now)),
            ejections: counts.ejections,
            probes_ok: counts.probes_ok,
            probes_failed: counts.probes_failed,
        }
    }

    fn latency(&self, now: Instant) -> Option<Duration> {
        let latency = Latency::from_word(self.load.latency.load(Ordering::Relaxed));
        latency.seconds(self.millis(now)).map(Duration::from_secs_f32)
    }

    /// Connections: all that are open, and those of them that are idle.
    pub(super) fn connections(&self) -> (usize, usize) {
        let now = Instant::now();
        let idle = |kept: &Shelf| {
            kept.idle.len() + kept.shared.iter().filter(|one| !one.is_over() && one.idle_for(now).is_some()).count()
        };
        let idle = (0..self.shelves.len()).map(|worker| idle(&self.shelf(worker))).sum();
        (self.open.load(Ordering::Relaxed), idle)
    }

    fn shelf(&self, worker: usize) -> MutexGuard<'_, Shelf> {
        self.shelves[worker % self.shelves.len()].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wraps after 49 days, which costs a measurement at most.
    #[expect(clippy::cast_possible_truncation, reason = "wraps")]
    fn millis(&self, at: Instant) -> u32 {
        at.saturating_duration_since(self.created).as_millis() as u32
    }
}

fn log(upstream: &str, address: SocketAddr, change: &Change, reason: &str) {
    let seconds = change.lasted.as_secs_f64();
    match change.to {
        State::Up if change.from == State::Down => {
            tracing::info!(upstream, %address, reason, down_seconds = seconds, "the address is up again");
        }
        State::Up => tracing::info!(upstream, %address, reason, ejected_seconds = seconds, "the address is used again"),
        State::Down => tracing::warn!(upstream, %address, reason, "the address is down"),
        State::Ejected => tracing::warn!(upstream, %address, reason, "the address is ejected"),
    }
}

/// A request's turn at an address; the request counts as in flight as long as this lives.
pub(super) struct Turn {
    address: Arc<Address>,
}

impl Turn {
    /// A request goes to `address`.
    pub(super) fn begin(address: &Arc<Address>) -> Self {
        address.load.in_flight.fetch_add(1, Ordering::Relaxed);
        Self { address: Arc::clone(address) }
    }

    /// Where it goes.
    pub(super) fn address(&self) -> &Arc<Address> {
        &self.address
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.address.load.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
