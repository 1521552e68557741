//! Handshakes of TLS, on the thread of their connection: bounded in time, in number, and in number for one peer.
//!
//! A handshake costs far more than a request, so there are turns. Whoever comes while all are taken waits, for no longer
//! than a handshake may take; a peer can hold a quarter of the turns only, and one that has sent nothing holds none.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use super::places::network;
use crate::telemetry::Handshake;
use crate::telemetry::Telemetry;
use crate::tls::{Accepted, ServerTls};

/// The first byte of a record that a handshake begins with (RFC 8446 §5.1).
const HANDSHAKE: u8 = 22;

/// Turns for handshakes, on all threads together.
pub(super) struct Handshakes {
    max: usize,
    all: Arc<Semaphore>,
    /// Whoever holds a turn or waits for one: no more of them than there are connections.
    peers: Arc<Mutex<HashMap<IpAddr, Share>>>,
}

/// The turns of one peer.
struct Share {
    turns: Arc<Semaphore>,
    users: usize,
}

impl Handshakes {
    /// So many at a time.
    pub(super) fn new(max: usize) -> Self {
        Self { max, all: Arc::new(Semaphore::new(max)), peers: Arc::default() }
    }

    pub(super) fn max(&self) -> usize {
        self.max
    }

    /// Waits for a turn. Turns are given in the order in which they were asked for, but for those of peers whose share
    /// is used up.
    async fn turn(&self, peer: IpAddr) -> Turn {
        let user = User::new(&self.peers, network(peer), self.max.div_ceil(4));
        let own = Arc::clone(&user.turns).acquire_owned().await;
        let one_of_all = Arc::clone(&self.all).acquire_owned().await;
        Turn { _user: user, _own: own.ok(), _one_of_all: one_of_all.ok() }
    }
}

/// A turn; the next one's when it is dropped.
struct Turn {
    _user: User,
    // Semaphores are never closed: there always is a permit.
    _own: Option<OwnedSemaphorePermit>,
    _one_of_all: Option<OwnedSemaphorePermit>,
}

/// Somebody who holds or awaits a turn of a peer.
struct User {
    peers: Arc<Mutex<HashMap<IpAddr, Share>>>,
    peer: IpAddr,
    turns: Arc<Semaphore>,
}

impl User {
    fn new(peers: &Arc<Mutex<HashMap<IpAddr, Share>>>, peer: IpAddr, share: usize) -> Self {
        let mut locked = peers.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Share { turns: Arc::new(Semaphore::new(share)), users: 0 };
        let entry = locked.entry(peer).or_insert_with(new);
        entry.users += 1;
        Self { peers: Arc::clone(peers), peer, turns: Arc::clone(&entry.turns) }
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = peers.get_mut(&self.peer) {
            share.users -= 1;
            if share.users == 0 {
                peers.remove(&self.peer);
            }
        }
    }
}

/// Shakes hands within `limit`; none where that came to nothing, which is counted, and logged where it may help.
pub(super) async fn shake(
    tls: &ServerTls,
    stream: TcpStream,
    handshakes: &Handshakes,
    limit: Duration,
    telemetry: &Telemetry,
) -> Option<Accepted<TcpStream>> {
    let peer = stream.peer_addr().ok()?.ip();
    let deadline = Instant::now() + limit;
    let mut first = [0];
    match timeout_at(deadline, stream.peek(&mut first)).await {
        // Who leaves without a word is a probe, most of the time.
        Ok(Ok(0) | Err(_)) => return None,
        Ok(Ok(_)) => {}
        Err(_) => return ended(Handshake::TimedOut, peer, "the client sent nothing", telemetry),
    }
    let Ok(turn) = timeout_at(deadline, handshakes.turn(peer)).await else {
        return ended(Handshake::Refused, peer, "no turn came in time: see server.max_handshakes", telemetry);
    };
    let shaken = timeout_at(deadline, tls.accept(stream)).await;
    drop(turn);
    match shaken {
        Ok(Ok(accepted)) => {
            telemetry.tls.count(Handshake::Ok);
            Some(accepted)
        }
        Ok(Err(error)) => ended(Handshake::Failed, peer, &reason(&error, first[0]), telemetry),
        Err(_) => ended(Handshake::TimedOut, peer, "the client did not end it in time", telemetry),
    }
}

fn reason(error: &io::Error, first: u8) -> String {
    let hint = if first == HANDSHAKE { "" } else { " (the client does not speak TLS)" };
    format!("{error}{hint}")
}

/// Counts, and logs each power of two for everybody: enough to be seen, too little to fill a disk.
fn ended(result: Handshake, peer: IpAddr, error: &str, telemetry: &Telemetry) -> Option<Accepted<TcpStream>> {
    let (so_far, result) = (telemetry.tls.count(result), result.name());
    if so_far.is_power_of_two() {
        tracing::warn!(%peer, result, error, so_far, "a TLS handshake came to nothing");
    } else {
        tracing::debug!(%peer, result, error, "a TLS handshake came to nothing");
    }
    None
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn peer(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    async fn has_turn(handshakes: &Handshakes, from: &str) -> Option<Turn> {
        tokio::time::timeout(Duration::from_millis(1), handshakes.turn(peer(from))).await.ok()
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_holds_a_quarter_of_the_turns_and_all_peers_hold_no_more_than_there_are() {
        let handshakes = Handshakes::new(8);
        let mut held = Vec::new();
        for (from, gets) in
            [("10.0.0.1", 2), ("::ffff:10.0.0.2", 2), ("2001:db8::1", 2), ("10.0.0.3", 2), ("10.0.0.4", 0)]
        {
            for number in 0..3 {
                let turn = has_turn(&handshakes, from).await;
                assert_eq!(turn.is_some(), number < gets, "{from}: {number}");
                held.extend(turn);
            }
        }
        assert!(has_turn(&handshakes, "2001:db8::2").await.is_none(), "the same network");
        held.remove(0);
        assert!(has_turn(&handshakes, "10.0.0.2").await.is_none(), "its share is used up");
        assert!(has_turn(&handshakes, "10.0.0.4").await.is_some());
        held.clear();
        assert!(handshakes.peers.lock().unwrap().is_empty(), "nothing is kept of those that left");
        assert_eq!(handshakes.all.available_permits(), 8);
    }

    #[tokio::test(start_paused = true)]
    async fn there_is_a_turn_for_everybody_with_few_as_well() {
        let handshakes = Handshakes::new(1);
        assert!(has_turn(&handshakes, "10.0.0.1").await.is_some());
    }
}
