//! The data port: accept, deal connections out to the worker threads, drain.
//!
//! One thread accepts for all listeners and hands each connection to the worker whose turn it is; a worker is a
//! thread with an event loop of its own, and a connection stays with it. What a connection may take is bounded by
//! [`ServerSettings`]; what its requests may take is not known here.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::admission::{Peer, Trust};
use crate::gates::ProcessSettings;
use crate::gateway::Gateway;
use crate::telemetry::{Refused, Telemetry};
use crate::tls::{ClientAuth, ServerTlsSettings};

mod answer;
mod connection;
mod cuts;
mod drain;
mod frames;
mod handshake;
mod http2;
mod layer;
mod linger;
mod message;
mod pace;
mod places;
mod preface;
mod pulse;
pub mod strict;
mod terms;
mod unread;
mod worker;

use connection::Speaks;
use cuts::{Conduct, Cuts};
use handshake::Handshakes;
pub use http2::Http2Settings;
use places::{Place, Places};
use terms::{Lease, Terms};
use unread::AllUnread;
use worker::{Accepted, Security};

/// Pause after an accept that failed: out of file descriptors, most of the time.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Bytes of answers that the operating system takes ahead of what a caller reads. By itself Linux takes up to 4 MiB of each
/// connection, of memory that all connections of the machine share.
#[cfg(target_os = "linux")]
const UNSENT: u32 = 128 << 10;
/// Connections that wait to be accepted, per listener.
const BACKLOG: u32 = 1024;

/// One address that callers connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerSettings {
    /// Where to listen; port 0 takes a free one.
    pub address: SocketAddr,
    /// Whether callers there may steer Temporal's internals.
    pub trust: Trust,
    /// TLS, and nothing else; none: cleartext.
    pub tls: Option<ServerTlsSettings>,
    /// Whether HTTP/2 is spoken, besides HTTP/1.1.
    pub http2: bool,
}

impl ListenerSettings {
    /// HTTP/1.1 in cleartext.
    pub fn plain(address: SocketAddr, trust: Trust) -> Self {
        Self { address, trust, tls: None, http2: false }
    }
}

/// Bounds of the data port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSettings {
    /// Connections at a time over all listeners.
    pub max_connections: usize,
    /// Connections at a time of one IP address, or of one IPv6 network of 64 bits.
    pub max_connections_per_peer: usize,
    /// Connections of one peer in a second that may be cut for what they did over HTTP/2, and ten times as many at once.
    /// Beyond, no new one of it is taken for a while. Low enough that work made and thrown away stays small; high enough
    /// that one bad client hardly bars others behind the same address.
    pub max_cuts_per_peer: u32,
    /// Largest request head in bytes (request line and headers).
    pub max_head: usize,
    /// Most headers of a request.
    pub max_headers: usize,
    /// Longest target of a request, in bytes. What Temporal takes may be long: names of 1000 bytes, a callback of 1000 and an
    /// operation token of 4096, each up to three times as long where it is escaped.
    pub max_uri: usize,
    /// Longest time for a request head to arrive, from its first byte.
    pub head_timeout: Duration,
    /// Longest time for a TLS handshake, from the connection on.
    pub handshake_timeout: Duration,
    /// TLS handshakes of one peer that are under way at a time; further ones wait.
    pub max_handshakes_per_peer: usize,
    /// Longest time that a connection stays open without a request. Longer than the 90 s after which Go clients close idle connections, so that it is them who close.
    pub idle_timeout: Duration,
    /// Bytes of answers that wait at a time for callers to take them: where it is more, the connections are cut that have
    /// waited longest, or taken too little for longest.
    pub max_unread_bytes: usize,
    /// Requests that a connection serves before its caller is told to open another one.
    pub max_requests_per_connection: usize,
    /// Connections that speak HTTP/2.
    pub http2: Http2Settings,
    /// Longest time that requests in flight may go on after SIGTERM.
    pub grace: Duration,
    /// Worker threads; read at start only.
    pub workers: usize,
    /// Requests in flight, and the bytes of their bodies.
    pub process: ProcessSettings,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            max_connections_per_peer: 1000,
            max_cuts_per_peer: 10,
            max_head: 64 << 10,
            max_headers: 100,
            max_uri: 32 << 10,
            head_timeout: Duration::from_secs(10),
            handshake_timeout: Duration::from_secs(10),
            max_handshakes_per_peer: 64,
            idle_timeout: Duration::from_secs(180),
            max_unread_bytes: 256 << 20,
            max_requests_per_connection: 100_000,
            http2: Http2Settings::default(),
            grace: Duration::from_secs(25),
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            process: ProcessSettings::default(),
        }
    }
}

/// How far the process is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Not at all.
    Serving,
    /// No new connections; requests in flight go on.
    Draining,
    /// Whatever is left is cut.
    Ending,
}

/// The data port.
pub struct Server {
    shared: Arc<Shared>,
    listeners: Mutex<HashMap<SocketAddr, Listener>>,
    threads: Vec<std::thread::JoinHandle<()>>,
    /// Whether connections that come are taken, or wait.
    accepting: watch::Sender<bool>,
}

/// While this lives, connections that come wait.
pub struct Pause<'a>(&'a watch::Sender<bool>);

impl Drop for Pause<'_> {
    fn drop(&mut self) {
        self.0.send_replace(true);
    }
}

/// What listeners and workers have in common.
struct Shared {
    settings: ArcSwap<ServerSettings>,
    handshakes: ArcSwap<Handshakes>,
    telemetry: Arc<Telemetry>,
    inboxes: Vec<mpsc::UnboundedSender<Accepted>>,
    turn: AtomicUsize,
    open: Arc<AtomicUsize>,
    places: Arc<Places>,
    cuts: Arc<Cuts>,
}

struct Listener {
    /// Dropped, it tells connections that it is gone.
    terms: watch::Sender<Arc<Terms>>,
    bound: SocketAddr,
    /// What was said of it last.
    warning: Option<&'static str>,
    task: AbortHandle,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A listener that is ready, but not in force yet.
pub struct Bound {
    terms: Terms,
    /// None where it is bound already.
    socket: Option<TcpListener>,
}

impl Server {
    /// Starts the worker threads. `phase` tells them when to stop.
    pub fn start(
        settings: ServerSettings,
        gateway: &Arc<Gateway>,
        telemetry: Arc<Telemetry>,
        phase: &watch::Receiver<Phase>,
    ) -> io::Result<Self> {
        let (mut inboxes, mut threads, unread) = (Vec::new(), Vec::new(), AllUnread::default());
        for id in 0..settings.workers.max(1) {
            let (inbox, work) = mpsc::unbounded_channel();
            inboxes.push(inbox);
            let (gateway, telemetry) = (Arc::clone(gateway), Arc::clone(&telemetry));
            threads.push(worker::start(id, work, gateway, telemetry, phase.clone(), unread.other())?);
        }
        let handshakes = ArcSwap::from_pointee(Handshakes::new(settings.max_handshakes_per_peer));
        let settings = ArcSwap::from_pointee(settings);
        let (turn, open) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
        let (places, cuts) = (Arc::default(), Arc::default());
        let shared = Shared { settings, handshakes, telemetry, inboxes, turn, open, places, cuts };
        let accepting = watch::Sender::new(true);
        Ok(Self { shared: Arc::new(shared), listeners: Mutex::default(), threads, accepting })
    }

    /// Makes ready what `wanted` asks for, all or nothing: binds what is not bound yet.
    pub fn bind(&self, wanted: &[ListenerSettings]) -> Result<Vec<Bound>, (SocketAddr, io::Error)> {
        let listeners = self.lock();
        let ready = |settings: &ListenerSettings| {
            let before = listeners.get(&settings.address);
            let terms = Terms::new(settings, before.map(|before| Arc::clone(&before.terms.borrow())).as_deref())?;
            let socket = if before.is_some() { None } else { Some(bind(settings.address)?) };
            Ok(Bound { terms, socket })
        };
        wanted.iter().map(|settings| ready(settings).map_err(|error| (settings.address, error))).collect()
    }

    /// Lets connections that come wait.
    pub fn pause(&self) -> Pause<'_> {
        self.accepting.send_replace(false);
        Pause(&self.accepting)
    }

    /// From now on accepts at exactly those that are `bound`, under `settings`. Connections that are open stay as they
    /// are, but for those whose listener is gone, or would not let them in any more or trust them as much: they end after
    /// the requests that are in flight. `guarded` is whether the gateway asks who calls.
    pub fn configure(&self, settings: ServerSettings, guarded: bool, bound: Vec<Bound>) {
        let max_handshakes = settings.max_handshakes_per_peer;
        if self.shared.handshakes.load().max() != max_handshakes {
            self.shared.handshakes.store(Arc::new(Handshakes::new(max_handshakes)));
        }
        self.shared.settings.store(Arc::new(settings));
        let mut listeners = self.lock();
        listeners.retain(|address, listener| {
            let is_kept = bound.iter().any(|bound| bound.terms.settings.address == *address);
            if !is_kept {
                tracing::info!(address = %listener.bound, "data port closed");
            }
            is_kept
        });
        for Bound { terms, socket } in bound {
            let address = terms.settings.address;
            if let Some(listener) = listeners.get_mut(&address) {
                listener.change(terms);
            } else if let Some(listener) = socket.and_then(|socket| self.listen(terms, socket)) {
                listeners.insert(address, listener);
            }
        }
        for listener in listeners.values_mut() {
            listener.warn_of_strangers(guarded);
        }
    }

    fn listen(&self, terms: Terms, socket: TcpListener) -> Option<Listener> {
        let bound = socket.local_addr().ok()?;
        let (trust, tls) = (terms.settings.trust, terms.tls.is_some());
        tracing::info!(address = %bound, ?trust, tls, "data port listening");
        let terms = watch::Sender::new(Arc::new(terms));
        let accepting = accept(Arc::clone(&self.shared), socket, terms.subscribe(), self.accepting.subscribe());
        Some(Listener { terms, bound, warning: None, task: tokio::spawn(accepting).abort_handle() })
    }

    /// Addresses that are bound.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let mut addresses: Vec<_> = self.lock().values().map(|listener| listener.bound).collect();
        addresses.sort_unstable();
        addresses
    }

    /// Accepts no more.
    pub fn close(&self) {
        self.lock().clear();
    }

    /// Connections that are open; the count goes on when the server is joined.
    pub fn open_connections(&self) -> OpenConnections {
        OpenConnections(Arc::clone(&self.shared.open))
    }

    /// Waits for the worker threads, which end after the phase said so.
    pub async fn join(self) {
        let threads = self.threads;
        let joining = tokio::task::spawn_blocking(move || threads.into_iter().all(|thread| thread.join().is_ok()));
        if !joining.await.unwrap_or(false) {
            tracing::error!("a worker thread panicked");
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<SocketAddr, Listener>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listener {
    /// From now on takes connections on these terms.
    fn change(&mut self, terms: Terms) {
        let before = Arc::clone(&self.terms.borrow());
        if before.settings == terms.settings {
            return;
        }
        let address = self.bound;
        match (&before.settings.tls, &terms.settings.tls) {
            (Some(_), None) => tracing::warn!(%address, "TLS is gone: from now on this port takes cleartext only"),
            (None, Some(_)) => tracing::info!(%address, "from now on this port takes TLS only"),
            (Some(before), Some(now)) if before != now => tracing::info!(%address, "TLS of this port changed"),
            _ => {}
        }
        self.terms.send_replace(Arc::new(terms));
    }

    /// Says once that anybody may call, for as long as it is so.
    fn warn_of_strangers(&mut self, guarded: bool) {
        let warning = if guarded || self.bound.ip().is_loopback() {
            None
        } else {
            Some(strangers(&self.terms.borrow().settings))
        };
        if let Some(warning) = warning.filter(|_| warning != self.warning) {
            tracing::warn!(address = %self.bound, "{warning}: no authentication is configured");
        }
        self.warning = warning;
    }
}

fn strangers(settings: &ListenerSettings) -> &'static str {
    if settings.tls.as_ref().is_some_and(|tls| matches!(tls.clients, ClientAuth::Required(_))) {
        "everyone with a certificate of the clients' authorities may call every endpoint"
    } else {
        "everyone who reaches this port may call every endpoint"
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { tokio::net::TcpSocket::new_v4()? } else { tokio::net::TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    // Accepted connections have it from here.
    #[cfg(target_os = "linux")]
    socket2::SockRef::from(&socket).set_tcp_notsent_lowat(UNSENT)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn accept(
    shared: Arc<Shared>,
    socket: TcpListener,
    terms: watch::Receiver<Arc<Terms>>,
    mut accepting: watch::Receiver<bool>,
) {
    loop {
        match socket.accept().await {
            Ok((stream, peer)) => {
                // Who tells is gone only together with its listeners.
                let _ = accepting.wait_for(|accepting| *accepting).await;
                let lease = Lease::new(terms.clone());
                let trust = lease.terms().settings.trust;
                shared.deal(stream, Peer::connected(peer, trust), lease);
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

impl Shared {
    /// Hands a connection to the worker whose turn it is, or closes it where there are too many.
    fn deal(&self, stream: TcpStream, peer: Peer, lease: Lease) {
        let (settings, address) = (self.settings.load(), peer.address.ip());
        if !self.cuts.allow(address, Instant::now()) {
            return self.refuse(Refused::MaxCuts, address);
        }
        let Some(place) = self.places.take(address, settings.max_connections_per_peer) else {
            return self.refuse(Refused::MaxPerPeer, address);
        };
        let open = OpenConnection::count(&self.open, &self.telemetry, place);
        if self.open.load(Ordering::Relaxed) > settings.max_connections {
            return self.refuse(Refused::MaxConnections, address);
        }
        self.telemetry.connections_total.inc();
        let terms = lease.terms();
        let security = match &terms.tls {
            Some(tls) => Security::Tls(tls.clone(), self.handshakes.load_full()),
            None => Security::Cleartext(if terms.settings.http2 { Speaks::Either } else { Speaks::Http1 }),
        };
        match stream.into_std() {
            Ok(stream) => {
                let (cuts, telemetry) = (Arc::clone(&self.cuts), Arc::clone(&self.telemetry));
                let conduct = Conduct::new(address, settings.max_cuts_per_peer, cuts, telemetry);
                let accepted =
                    Accepted { stream, peer, security, settings: Arc::clone(&settings), conduct, lease, open };
                let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.inboxes.len();
                // A worker that is gone has its inbox closed; the connection is then dropped, which closes it.
                let _ = self.inboxes[turn].send(accepted);
            }
            Err(error) => tracing::warn!(%error, "cannot hand a connection over"),
        }
    }

    /// Counts a connection that is closed at once, and logs each power of two: enough to be seen, too little to fill a
    /// disk.
    fn refuse(&self, reason: Refused, peer: IpAddr) {
        let refused = self.telemetry.connections_refused.count(reason);
        if refused.is_power_of_two() {
            let setting = reason.name();
            tracing::warn!(setting, refused, %peer, "connections closed at once: a limit of server is reached");
        }
    }
}

/// How many connections are open.
pub struct OpenConnections(Arc<AtomicUsize>);

impl OpenConnections {
    /// So many, now.
    pub fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// A connection's place among those that are open.
struct OpenConnection {
    open: Arc<AtomicUsize>,
    telemetry: Arc<Telemetry>,
    _place: Place,
}

impl OpenConnection {
    fn count(open: &Arc<AtomicUsize>, telemetry: &Arc<Telemetry>, place: Place) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        telemetry.connections.inc();
        Self { open: Arc::clone(open), telemetry: Arc::clone(telemetry), _place: place }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
        self.telemetry.connections.dec();
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn little_is_taken_ahead_of_what_a_caller_reads() {
        let listener = bind(([127, 0, 0, 1], 0).into()).expect("a free port");
        let _caller = TcpStream::connect(listener.local_addr().expect("it is bound")).await.expect("it is open");
        let (accepted, _) = listener.accept().await.expect("a connection comes");
        assert_eq!(socket2::SockRef::from(&accepted).tcp_notsent_lowat().expect("it can be read"), UNSENT);
    }
}
