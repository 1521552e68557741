//! How many signatures from one peer may turn out wrong: to check one costs far more than to make one up.
//!
//! Only what has to be checked is bounded: a token that is remembered as right is not, so that the others behind the
//! address of whoever makes tokens up go on with theirs.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use moka::sync::Cache;
use tokio::time::Instant;

use crate::admission::network;

/// Peers that are remembered at a time. One that is forgotten begins anew, as one more would.
const MAX_PEERS: u64 = 10_000;

/// How long a peer is remembered after its last wrong one; by then nothing of it counts any more.
const IDLE: Duration = Duration::from_secs(60);

/// What wrong ones use up comes back within this time.
const SPAN: Duration = Duration::from_secs(1);

/// The wrong signatures of each peer, as one clock each that they put forward (GCRA).
#[derive(Clone)]
pub(super) struct WrongOnes {
    /// What one of them costs; none: nothing.
    cost: Option<Duration>,
    peers: Cache<IpAddr, Arc<Mutex<Instant>>>,
}

impl WrongOnes {
    /// So many of a peer in a second; none: any number.
    pub(super) fn new(max: Option<NonZeroU32>) -> Self {
        let cost = max.map(|max| SPAN / max.get());
        Self { cost, peers: Cache::builder().max_capacity(MAX_PEERS).time_to_idle(IDLE).build() }
    }

    /// Whether it bounds as one of `max` does.
    pub(super) fn is_for(&self, max: Option<NonZeroU32>) -> bool {
        self.cost == max.map(|max| SPAN / max.get())
    }

    /// Whether a signature from `peer` may be checked; if not, how soon one may.
    pub(super) fn may_check(&self, peer: IpAddr) -> Result<(), Duration> {
        let Some(until) = self.peers.get(&network(peer)) else { return Ok(()) };
        let until = *until.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = until.saturating_duration_since(Instant::now() + SPAN);
        if wait.is_zero() { Ok(()) } else { Err(wait) }
    }

    /// So many checks of a signature from `peer` were in vain.
    pub(super) fn count(&self, peer: IpAddr, checks: u32) {
        let Some(cost) = self.cost else { return };
        let now = Instant::now();
        let until = self.peers.get_with(network(peer), || Arc::new(Mutex::new(now)));
        let mut until = until.lock().unwrap_or_else(PoisonError::into_inner);
        *until = now.max(*until) + cost * checks;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_has_so_many_and_they_come_back() {
        let (wrong, peer) = (WrongOnes::new(NonZeroU32::new(10)), ip("2001:db8::1"));
        for _ in 0..10 {
            assert_eq!(wrong.may_check(peer), Ok(()));
            wrong.count(peer, 1);
        }
        assert_eq!(wrong.may_check(peer), Ok(()), "the last one ends now");
        wrong.count(peer, 3);
        assert_eq!(wrong.may_check(peer), Err(Duration::from_millis(300)));
        assert!(wrong.may_check(ip("2001:db8::2")).is_err(), "of the same network");
        assert_eq!(wrong.may_check(ip("2001:db8:0:1::1")), Ok(()));
        tokio::time::advance(Duration::from_millis(300)).await;
        assert_eq!(wrong.may_check(peer), Ok(()));
        tokio::time::advance(Duration::from_secs(3600)).await;
        wrong.count(peer, 10);
        assert_eq!(wrong.may_check(peer), Ok(()), "a pause saves up no more than there is");
        wrong.count(peer, 1);
        assert_eq!(wrong.may_check(peer), Err(Duration::from_millis(100)));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_bound_nothing_counts() {
        let wrong = WrongOnes::new(None);
        wrong.count(ip("10.0.0.1"), u32::MAX);
        assert_eq!(wrong.may_check(ip("10.0.0.1")), Ok(()));
        assert_eq!(wrong.peers.iter().count(), 0);
    }
}
