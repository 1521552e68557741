//! Who had connections cut lately, and so many that no new one is taken for a while.
//!
//! A connection is cut only after it has made work, and the next one may make as much: without this the bounds of a
//! connection would be worth as much as a new connection costs, which is nothing.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::admission::network;
use crate::telemetry::Telemetry;

/// How many seconds' worth of cuts may come at once, and how many more are held against who goes on.
const BURST: u32 = 10;
const DEBT: u32 = 10;
/// Peers that are remembered: those that come on top are not, until others are forgotten.
const PEERS: usize = 1 << 16;
/// Time between two looks for what can be forgotten, where there are so many.
const SWEEP: Duration = Duration::from_secs(1);

/// Cuts by peer. Those that are as good as new are not in it, or soon will not be.
#[derive(Default)]
pub(super) struct Cuts(Mutex<Recent>);

#[derive(Default)]
struct Recent {
    /// When each would be as good as new.
    good_from: HashMap<IpAddr, Instant>,
    swept: Option<Instant>,
}

impl Cuts {
    /// A connection of `peer` was cut, of which `a_second` may be.
    pub(super) fn add(&self, peer: IpAddr, a_second: u32, now: Instant) {
        let peer = network(peer);
        let mut recent = self.lock();
        if !recent.good_from.contains_key(&peer) && !recent.has_room(now) {
            return;
        }
        let good_from = recent.good_from.entry(peer).or_insert(now);
        let longest = Duration::from_secs((BURST + DEBT).into());
        *good_from = ((*good_from).max(now) + Duration::from_secs(1) / a_second.max(1)).min(now + longest);
    }

    /// Whether a new connection of `peer` may be taken.
    pub(super) fn allow(&self, peer: IpAddr, now: Instant) -> bool {
        let recent = self.lock();
        if recent.good_from.is_empty() {
            return true;
        }
        let good_from = recent.good_from.get(&network(peer));
        good_from.is_none_or(|good_from| good_from.saturating_duration_since(now) <= Duration::from_secs(BURST.into()))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Recent> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Recent {
    /// Whether one more can be remembered. Now and then forgets those that can be.
    fn has_room(&mut self, now: Instant) -> bool {
        let is_due = |swept| now.saturating_duration_since(swept) >= SWEEP;
        if self.swept.is_none_or(is_due) {
            self.swept = Some(now);
            self.good_from.retain(|_, good_from| *good_from > now);
        }
        self.good_from.len() < PEERS
    }
}

/// What one connection is held to.
pub(super) struct Conduct {
    peer: IpAddr,
    a_second: u32,
    cuts: Arc<Cuts>,
    telemetry: Arc<Telemetry>,
    was_cut: AtomicBool,
}

impl Conduct {
    pub(super) fn new(peer: IpAddr, a_second: u32, cuts: Arc<Cuts>, telemetry: Arc<Telemetry>) -> Self {
        Self { peer, a_second, cuts, telemetry, was_cut: AtomicBool::new(false) }
    }

    /// The connection is cut, which counts once.
    pub(super) fn cut(&self, reason: &str) {
        if !self.was_cut.swap(true, Ordering::Relaxed) {
            self.telemetry.cut(reason);
            self.cuts.add(self.peer, self.a_second, Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn peer(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn so_many_are_cut_at_once_and_so_many_a_second() {
        let (cuts, now, bad) = (Cuts::default(), Instant::now(), peer("2001:db8::1"));
        for _ in 0..50 {
            assert!(cuts.allow(bad, now));
            cuts.add(bad, 5, now);
        }
        assert!(cuts.allow(bad, now), "a bucket that is just empty");
        cuts.add(bad, 5, now);
        assert!(!cuts.allow(bad, now));
        assert!(!cuts.allow(peer("2001:db8::2"), now), "it is the same network");
        assert!(cuts.allow(peer("2001:db8:0:1::1"), now), "it is another one");
        assert!(!cuts.allow(bad, now + SECOND / 6));
        for second in 1..10 {
            let now = now + second * SECOND;
            for _ in 0..5 {
                assert!(cuts.allow(bad, now), "{second}");
                cuts.add(bad, 5, now);
            }
            assert!(!cuts.allow(bad, now), "{second}");
        }
    }

    #[test]
    fn who_was_cut_without_end_is_taken_again_after_ten_seconds() {
        let (cuts, now, bad) = (Cuts::default(), Instant::now(), peer("10.0.0.1"));
        (0..100_000).for_each(|_| cuts.add(bad, 10, now));
        assert!(!cuts.allow(bad, now + 9 * SECOND));
        assert!(cuts.allow(bad, now + 10 * SECOND));
    }

    #[test]
    fn no_more_peers_are_remembered_than_there_is_room_for_and_none_for_long() {
        let (cuts, now) = (Cuts::default(), Instant::now());
        let of = |number: usize| IpAddr::from(u32::try_from(number).expect("a small number").to_be_bytes());
        (0..PEERS + 10).for_each(|number| cuts.add(of(number), 1, now));
        assert_eq!(cuts.lock().good_from.len(), PEERS);
        cuts.add(of(PEERS), 1, now + 2 * SECOND);
        assert_eq!(cuts.lock().good_from.len(), 1);
    }
}
