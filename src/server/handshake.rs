//! Handshakes of TLS, on the thread of their connection: bounded in time, and in number for one peer.
//!
//! Whoever sent nothing yet, or has to send more, costs memory only. Of those that do, a peer has so many at a time, and
//! further ones wait for their place: a peer that stalls keeps nobody waiting but itself. What costs far more than a
//! request is the cryptography. Of that a thread does a piece at a time, in the order in which they were asked for, and
//! between two of them everything else goes on.

use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use crate::admission::network;
use crate::telemetry::Handshake;
use crate::telemetry::Telemetry;
use crate::tls::{Accepted, ServerTls};

/// The first byte of a record that a handshake begins with (RFC 8446 §5.1).
const HANDSHAKE: u8 = 22;

/// Handshakes that are under way, on all threads together.
pub(super) struct Handshakes {
    max: usize,
    /// Peers that have one under way or waiting: no more of them than there are connections.
    peers: Arc<Mutex<HashMap<IpAddr, Share>>>,
}

/// The places of one peer.
struct Share {
    places: Arc<Semaphore>,
    users: usize,
}

impl Handshakes {
    /// So many of one peer at a time.
    pub(super) fn new(max: usize) -> Self {
        Self { max, peers: Arc::default() }
    }

    pub(super) fn max(&self) -> usize {
        self.max
    }

    /// Waits for a place among those of the peer.
    async fn place(&self, peer: IpAddr) -> Place {
        let user = User::new(&self.peers, network(peer), self.max);
        let permit = Arc::clone(&user.places).acquire_owned().await;
        Place { _user: user, _permit: permit.ok() }
    }
}

/// A place; the next one's when it is dropped.
struct Place {
    _user: User,
    // Semaphores are never closed: there always is a permit.
    _permit: Option<OwnedSemaphorePermit>,
}

/// Somebody who has or awaits a place of a peer.
struct User {
    peers: Arc<Mutex<HashMap<IpAddr, Share>>>,
    peer: IpAddr,
    places: Arc<Semaphore>,
}

impl User {
    fn new(peers: &Arc<Mutex<HashMap<IpAddr, Share>>>, peer: IpAddr, max: usize) -> Self {
        let mut locked = peers.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Share { places: Arc::new(Semaphore::new(max)), users: 0 };
        let entry = locked.entry(peer).or_insert_with(new);
        entry.users += 1;
        Self { peers: Arc::clone(peers), peer, places: Arc::clone(&entry.places) }
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

/// Turns for cryptography on one thread.
#[derive(Clone)]
pub(super) struct Turns(Arc<Semaphore>);

impl Turns {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }

    /// Does `work`, each piece that can be done without waiting in a turn of its own.
    async fn take<F: Future>(&self, work: F) -> F::Output {
        let mut work = pin!(work);
        loop {
            let turn = self.0.acquire().await;
            // What else is ready comes first, once.
            tokio::task::yield_now().await;
            let done = poll_fn(|cx| Poll::Ready(work.as_mut().poll(cx))).await;
            drop(turn);
            match done {
                Poll::Ready(output) => return output,
                Poll::Pending => woken().await,
            }
        }
    }
}

/// Waits until what was polled just now, in the same task, has something new to say.
async fn woken() {
    let mut is_first = true;
    poll_fn(|_| if std::mem::take(&mut is_first) { Poll::Pending } else { Poll::Ready(()) }).await;
}

/// Shakes hands within `limit`; none where that came to nothing, which is counted, and logged where it may help.
pub(super) async fn shake(
    tls: &ServerTls,
    stream: TcpStream,
    handshakes: &Handshakes,
    turns: &Turns,
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
    let Ok(place) = timeout_at(deadline, handshakes.place(peer)).await else {
        let error = "its peer has too many under way: see server.max_handshakes_per_peer";
        return ended(Handshake::Refused, peer, error, telemetry);
    };
    let shaken = timeout_at(deadline, turns.take(tls.accept(stream))).await;
    drop(place);
    match shaken {
        Ok(Ok(accepted)) => {
            telemetry.tls.count(Handshake::Ok);
            Some(accepted)
        }
        Ok(Err(error)) => ended(Handshake::Failed, peer, &reason(&error, first[0]), telemetry),
        Err(_) => ended(Handshake::TimedOut, peer, "it was not over in time", telemetry),
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

    async fn has_place(handshakes: &Handshakes, from: &str) -> Option<Place> {
        tokio::time::timeout(Duration::from_millis(1), handshakes.place(peer(from))).await.ok()
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_has_its_places_and_takes_nobody_elses() {
        let handshakes = Handshakes::new(2);
        let mut held = Vec::new();
        for from in ["10.0.0.1", "::ffff:10.0.0.2", "2001:db8::1"] {
            for number in 0..3 {
                let place = has_place(&handshakes, from).await;
                assert_eq!(place.is_some(), number < 2, "{from}: {number}");
                held.extend(place);
            }
        }
        assert!(has_place(&handshakes, "2001:db8::2").await.is_none(), "the same network");
        held.remove(0);
        assert!(has_place(&handshakes, "10.0.0.2").await.is_none(), "its places are taken");
        assert!(has_place(&handshakes, "10.0.0.1").await.is_some());
        held.clear();
        assert!(handshakes.peers.lock().unwrap().is_empty(), "nothing is kept of those that left");
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_holds_no_turn() {
        let turns = Turns::new();
        let (tell, told) = tokio::sync::oneshot::channel();
        let waiting = tokio::spawn({
            let turns = turns.clone();
            async move { turns.take(told).await }
        });
        let stuck = tokio::spawn({
            let turns = turns.clone();
            async move { turns.take(std::future::pending::<()>()).await }
        });
        tokio::task::yield_now().await;
        assert_eq!(tokio::time::timeout(Duration::from_secs(1), turns.take(async { 1 })).await, Ok(1));
        tell.send(2).unwrap();
        let told = tokio::time::timeout(Duration::from_secs(1), waiting).await;
        assert_eq!(told.expect("it is woken").unwrap(), Ok(2));
        stuck.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn between_two_turns_everything_else_goes_on() {
        let turns = Turns::new();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let held = Arc::clone(&turns.0).acquire_owned().await.unwrap();
        for _ in 0..3 {
            let (turns, seen) = (turns.clone(), Arc::clone(&seen));
            tokio::spawn(async move { turns.take(async { seen.lock().unwrap().push("handshake") }).await });
        }
        tokio::task::yield_now().await;
        drop(held);
        // Two that always have something to do for each other.
        let (ball, other_ball) = (Arc::new(tokio::sync::Notify::new()), Arc::new(tokio::sync::Notify::new()));
        let player = |here: &Arc<tokio::sync::Notify>, there: &Arc<tokio::sync::Notify>| {
            let (here, there, seen) = (Arc::clone(here), Arc::clone(there), Arc::clone(&seen));
            tokio::spawn(async move {
                for _ in 0..500 {
                    here.notified().await;
                    seen.lock().unwrap().push("request");
                    there.notify_one();
                }
            })
        };
        let (first, second) = (player(&ball, &other_ball), player(&other_ball, &ball));
        ball.notify_one();
        first.await.unwrap();
        second.await.unwrap();
        let seen = seen.lock().unwrap();
        assert_eq!(seen.iter().filter(|what| **what == "handshake").count(), 3, "{seen:?}");
        assert!(seen.windows(2).all(|two| two != ["handshake", "handshake"]), "{seen:?}");
    }
}
