//! A worker thread: an event loop and its share of the connections.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::MissedTickBehavior;

use super::connection::{Connection, Speaks};
use super::cuts::Conduct;
use super::drain::{Drain, Watcher};
use super::handshake::{self, Handshakes, Turns};
use super::pace::Pace;
use super::pulse::{Patience, Pulse, Ticks};
use super::terms::Lease;
use super::unread::{AllUnread, beyond};
use super::{OpenConnection, Phase, ServerSettings};
use crate::admission::Peer;
use crate::gateway::Gateway;
use crate::telemetry::Telemetry;
use crate::tls::{self, Protocol, ServerTls};

/// Time between two looks at the connections.
const TICK: Duration = Duration::from_millis(500);
/// New connections that are taken at once.
const AT_ONCE: usize = 4;
/// Of so many that wait one more has its turn at a time: of large answers, whose callers wait; and of ends.
const ANSWERS: usize = 64;
const ENDS: usize = 256;

/// A connection on its way to a worker.
pub(super) struct Accepted {
    pub(super) stream: std::net::TcpStream,
    pub(super) peer: Peer,
    pub(super) security: Security,
    pub(super) settings: Arc<ServerSettings>,
    pub(super) conduct: Conduct,
    pub(super) lease: Lease,
    pub(super) open: OpenConnection,
}

/// How a connection begins.
pub(super) enum Security {
    /// With what is spoken.
    Cleartext(Speaks),
    /// With a handshake, which says what is spoken.
    Tls(ServerTls, Arc<Handshakes>),
}

/// Starts worker `id`.
pub(super) fn start(
    id: usize,
    inbox: mpsc::UnboundedReceiver<Accepted>,
    gateway: Arc<Gateway>,
    telemetry: Arc<Telemetry>,
    phase: watch::Receiver<Phase>,
    unread: AllUnread,
) -> io::Result<std::thread::JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (ticks, turns, watched) = (Arc::default(), Turns::new(), Vec::new());
    std::thread::Builder::new().name(format!("worker-{id}")).spawn(move || {
        runtime.block_on(async {
            let (answers, ends) = (Pace::begin(ANSWERS), Pace::begin(ENDS));
            let worker = Worker { id, gateway, telemetry, ticks, turns, answers, ends, unread, watched, reaping: None };
            worker.run(inbox, phase).await;
        });
    })
}

struct Worker {
    id: usize,
    gateway: Arc<Gateway>,
    telemetry: Arc<Telemetry>,
    ticks: Arc<Ticks>,
    turns: Turns,
    answers: Pace,
    ends: Pace,
    unread: AllUnread,
    watched: Vec<WatchedConnection>,
    /// What closes those that are overdue.
    reaping: Option<AbortHandle>,
}

/// A connection as the reaper sees it.
#[derive(Clone)]
struct WatchedConnection {
    pulse: Arc<Pulse>,
    settings: Arc<ServerSettings>,
    task: AbortHandle,
}

impl Worker {
    /// Serves what comes until told to drain, then what is left until it is done or told to end.
    async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Accepted>, mut phase: watch::Receiver<Phase>) {
        let connections = Drain::new();
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(accepted) = inbox.recv() => {
                    self.serve(accepted, &connections);
                    for accepted in (1..AT_ONCE).map_while(|_| inbox.try_recv().ok()) {
                        self.serve(accepted, &connections);
                    }
                    // With many that come at once, what is open already goes on meanwhile.
                    tokio::task::yield_now().await;
                }
                _ = ticks.tick() => self.reap(),
                _ = phase.wait_for(|phase| *phase >= Phase::Draining) => break,
            }
        }
        // What was accepted before the listeners closed is served, too.
        inbox.close();
        while let Ok(accepted) = inbox.try_recv() {
            self.serve(accepted, &connections);
        }
        let mut drained = pin!(connections.drained());
        tokio::select! {
            () = &mut drained => {}
            _ = phase.wait_for(|phase| *phase == Phase::Ending) => {}
        }
    }

    fn serve(&mut self, accepted: Accepted, connections: &Drain) {
        let Accepted { stream, peer, security, settings, conduct, lease, open } = accepted;
        let stream = match TcpStream::from_std(stream).and_then(|stream| stream.set_nodelay(true).map(|()| stream)) {
            Ok(stream) => stream,
            Err(error) => return tracing::debug!(%error, "a connection was lost before its first request"),
        };
        let pulse = Arc::new(Pulse::new(&self.ticks));
        let connection = Connection {
            worker: self.id,
            gateway: Arc::clone(&self.gateway),
            telemetry: Arc::clone(&self.telemetry),
            peer,
            settings: Arc::clone(&settings),
            conduct: Arc::new(conduct),
            pulse: Arc::clone(&pulse),
            answers: self.answers.clone(),
            ends: self.ends.clone(),
        };
        let watcher = connections.watcher(lease);
        let task = match security {
            Security::Cleartext(speaks) => tokio::spawn(connection.serve(stream, speaks, watcher, open)),
            Security::Tls(tls, handshakes) => {
                let turns = self.turns.clone();
                tokio::spawn(async move {
                    serve_tls(connection, stream, &tls, &handshakes, &turns, watcher, open).await;
                })
            }
        };
        self.watched.push(WatchedConnection { pulse, settings, task: task.abort_handle() });
    }

    /// Closes connections whose answers are too large together, and those that hold on for too long.
    fn reap(&mut self) {
        self.ticks.advance();
        self.cut_unread();
        self.watched.retain(|connection| !connection.task.is_finished());
        if self.reaping.as_ref().is_none_or(AbortHandle::is_finished) {
            self.reaping = self.close_overdue();
        }
    }

    /// Closes connections of which too much waits to be read.
    fn cut_unread(&mut self) {
        let mut unread = Vec::new();
        for (index, connection) in self.watched.iter().enumerate() {
            unread.extend(connection.pulse.unread().map(|unread| (unread, index)));
        }
        // What holds for the last one that came is what is in force.
        let settings = self.watched.last().map(|connection| Arc::clone(&connection.settings));
        let bytes = unread.iter().map(|(unread, _)| unread.bytes).sum();
        // Without any the room does not matter, but others are to know that nothing waits here.
        let (max, threads) = settings.map_or((0, 1), |settings| (settings.max_unread_bytes, settings.workers));
        let room = self.unread.room(bytes, max, threads);
        for index in beyond(unread, room) {
            self.watched[index].task.abort();
            self.telemetry.cut("unread_bytes");
        }
    }

    /// Closes connections that wait for too long for a request, or for an answer to be taken; each takes a turn, and what is
    /// returned is done with all.
    fn close_overdue(&self) -> Option<AbortHandle> {
        let overdue: Vec<_> = self.watched.iter().filter(|connection| connection.is_overdue()).cloned().collect();
        if overdue.is_empty() {
            return None;
        }
        let turns: Vec<_> = overdue.iter().map(|_| self.ends.turn()).collect();
        let telemetry = Arc::clone(&self.telemetry);
        let closing = async move {
            for (connection, turn) in overdue.into_iter().zip(turns) {
                turn.await;
                // A request may have come meanwhile.
                if !connection.task.is_finished() && connection.is_overdue() {
                    connection.task.abort();
                    telemetry.connections_reaped.inc();
                }
            }
        };
        Some(tokio::spawn(closing).abort_handle())
    }
}

impl WatchedConnection {
    fn is_overdue(&self) -> bool {
        let ServerSettings { head_timeout: head, idle_timeout: idle, ref process, .. } = *self.settings;
        self.pulse.is_overdue(TICK, Patience { idle, head, answer: process.body_timeout })
    }
}

/// Shakes hands, and serves what comes then. Who has not shaken hands when the process ends has asked for nothing yet.
async fn serve_tls(
    mut connection: Connection,
    stream: TcpStream,
    tls: &ServerTls,
    handshakes: &Handshakes,
    turns: &Turns,
    mut watcher: Watcher,
    open: OpenConnection,
) {
    let limit = connection.settings.handshake_timeout;
    let accepted = tokio::select! {
        accepted = handshake::shake(tls, stream, handshakes, turns, limit, &connection.telemetry) => accepted,
        () = watcher.enough() => return,
    };
    let is_in = |accepted: &tls::Accepted<TcpStream>| {
        watcher.lease.shaken(Arc::clone(&accepted.certificates), accepted.good_for, accepted.is_tls13)
    };
    if let Some(accepted) = accepted.filter(is_in) {
        connection.peer.certificate = accepted.certificate;
        let speaks = match accepted.protocol {
            Protocol::Http1 => Speaks::Http1,
            Protocol::Http2 => Speaks::Http2,
        };
        connection.serve(accepted.stream, speaks, watcher, open).await;
    }
}
