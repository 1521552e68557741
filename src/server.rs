//! The data port: accept, deal connections out to the worker threads, drain.
//!
//! One thread accepts for all listeners and hands each connection to the worker whose turn it is; a worker is a
//! thread with an event loop of its own, and a connection stays with it. What a connection may take is bounded by
//! [`ServerSettings`]; what its requests may take is not known here.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

use crate::admission::{Peer, Trust};
use crate::gates::ProcessSettings;
use crate::gateway::Gateway;
use crate::telemetry::Telemetry;
use crate::tls::ServerTlsSettings;

mod connection;
mod drain;
mod http2;
mod message;
mod preface;
mod pulse;
mod worker;

use connection::Speaks;
pub use http2::Http2Settings;
use worker::Accepted;

/// Pause after an accept that failed: out of file descriptors, most of the time.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
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
    /// Largest request head in bytes (request line and headers).
    pub max_head: usize,
    /// Most headers of a request.
    pub max_headers: usize,
    /// Longest target of a request, in bytes.
    pub max_uri: usize,
    /// Longest time for a request head to arrive, from its first byte.
    pub head_timeout: Duration,
    /// Longest time that a connection stays open without a request, or with an answer that its caller does not read.
    /// Longer than the 90 s after which Go clients close idle connections, so that it is them who close.
    pub idle_timeout: Duration,
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
            max_head: 64 << 10,
            max_headers: 100,
            max_uri: 8 << 10,
            head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(180),
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
}

/// What listeners and workers have in common.
struct Shared {
    settings: ArcSwap<ServerSettings>,
    telemetry: Arc<Telemetry>,
    inboxes: Vec<mpsc::UnboundedSender<Accepted>>,
    turn: AtomicUsize,
    open: Arc<AtomicUsize>,
}

struct Listener {
    settings: Arc<ArcSwap<ListenerSettings>>,
    bound: SocketAddr,
    task: AbortHandle,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A listener that is bound but does not accept yet.
pub struct Bound {
    settings: ListenerSettings,
    socket: TcpListener,
}

impl Server {
    /// Starts the worker threads. `phase` tells them when to stop.
    pub fn start(
        settings: ServerSettings,
        gateway: &Arc<Gateway>,
        telemetry: Arc<Telemetry>,
        phase: &watch::Receiver<Phase>,
    ) -> io::Result<Self> {
        let (mut inboxes, mut threads) = (Vec::new(), Vec::new());
        for id in 0..settings.workers.max(1) {
            let (inbox, work) = mpsc::unbounded_channel();
            inboxes.push(inbox);
            threads.push(worker::start(id, work, Arc::clone(gateway), Arc::clone(&telemetry), phase.clone())?);
        }
        let settings = ArcSwap::from_pointee(settings);
        let shared =
            Shared { settings, telemetry, inboxes, turn: AtomicUsize::new(0), open: Arc::new(AtomicUsize::new(0)) };
        Ok(Self { shared: Arc::new(shared), listeners: Mutex::default(), threads })
    }

    /// Binds those of `wanted` that are not bound yet, all or none.
    pub fn bind(&self, wanted: &[ListenerSettings]) -> Result<Vec<Bound>, (SocketAddr, io::Error)> {
        let listeners = self.lock();
        let new = wanted.iter().filter(|wanted| !listeners.contains_key(&wanted.address));
        new.map(|settings| match bind(settings) {
            Ok(socket) => Ok(Bound { settings: settings.clone(), socket }),
            Err(error) => Err((settings.address, error)),
        })
        .collect()
    }

    /// From now on accepts at exactly `wanted`, of which `bound` are new, under `settings`.
    pub fn configure(&self, settings: ServerSettings, wanted: &[ListenerSettings], bound: Vec<Bound>) {
        self.shared.settings.store(Arc::new(settings));
        let mut listeners = self.lock();
        listeners.retain(|address, listener| {
            let kept = wanted.iter().find(|wanted| wanted.address == *address);
            if let Some(settings) = kept {
                listener.settings.store(Arc::new(settings.clone()));
            } else {
                tracing::info!(address = %listener.bound, "data port closed");
            }
            kept.is_some()
        });
        for Bound { settings, socket } in bound {
            let Ok(address) = socket.local_addr() else { continue };
            tracing::info!(%address, trust = ?settings.trust, "data port listening");
            if !address.ip().is_loopback() {
                tracing::warn!(%address, "everyone who reaches this port may call every endpoint: no authentication is configured");
            }
            let key = settings.address;
            let settings = Arc::new(ArcSwap::from_pointee(settings));
            let task = tokio::spawn(accept(Arc::clone(&self.shared), socket, Arc::clone(&settings)));
            listeners.insert(key, Listener { settings, bound: address, task: task.abort_handle() });
        }
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

fn bind(settings: &ListenerSettings) -> io::Result<TcpListener> {
    let address = settings.address;
    if settings.tls.is_some() {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "TLS is not spoken yet"));
    }
    let socket = if address.is_ipv4() { tokio::net::TcpSocket::new_v4()? } else { tokio::net::TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn accept(shared: Arc<Shared>, socket: TcpListener, settings: Arc<ArcSwap<ListenerSettings>>) {
    loop {
        match socket.accept().await {
            Ok((stream, peer)) => {
                let listener = settings.load();
                let speaks = if listener.http2 { Speaks::Either } else { Speaks::Http1 };
                shared.deal(stream, Peer::connected(peer, listener.trust), speaks);
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
    fn deal(&self, stream: TcpStream, peer: Peer, speaks: Speaks) {
        let settings = self.settings.load();
        let open = OpenConnection::count(&self.open, &self.telemetry);
        if self.open.load(Ordering::Relaxed) > settings.max_connections {
            let refused = &self.telemetry.connections_refused;
            refused.inc();
            // Each power of two: enough to be seen, too little to fill a disk.
            if refused.get().is_power_of_two() {
                let (limit, refused) = (settings.max_connections, refused.get());
                tracing::warn!(limit, refused, "connections closed at once: server.max_connections is reached");
            }
            return;
        }
        self.telemetry.connections_total.inc();
        let accepted =
            stream.into_std().map(|stream| Accepted { stream, peer, speaks, settings: Arc::clone(&settings), open });
        match accepted {
            Ok(accepted) => {
                let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.inboxes.len();
                // A worker that is gone has its inbox closed; the connection is then dropped, which closes it.
                let _ = self.inboxes[turn].send(accepted);
            }
            Err(error) => tracing::warn!(%error, "cannot hand a connection over"),
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
}

impl OpenConnection {
    fn count(open: &Arc<AtomicUsize>, telemetry: &Arc<Telemetry>) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        telemetry.connections.inc();
        Self { open: Arc::clone(open), telemetry: Arc::clone(telemetry) }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
        self.telemetry.connections.dec();
    }
}
