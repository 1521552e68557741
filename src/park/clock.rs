//! Milliseconds since 1970, and when a time comes.
//!
//! The store compares times of several processes, so it needs wall-clock time, as it is now: a clock that was read once
//! and goes on by itself stays behind after the machine was suspended, and does not follow a step of the wall clock. By
//! such a clock a process would renew its claims until times that are past for others, who would take its rows on. Waits
//! are by tokio's clock, and short, so that a step that happens meanwhile is noticed. Only tests with paused time need
//! milliseconds that are derived from tokio's clock: there a wait of a second is a second later for the store as well.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// Beyond this a due time is looked at again before it comes.
const FAR: Duration = Duration::from_secs(3600);

#[derive(Clone, Copy, Debug)]
pub(super) enum Clock {
    /// Follows the wall clock.
    Wall,
    /// Goes on by tokio's clock, from when it was made.
    #[cfg(test)]
    Tokio { base: Instant, base_unix_ms: u64 },
}

impl Clock {
    pub(super) fn new() -> Self {
        Self::Wall
    }

    #[cfg(test)]
    pub(super) fn of_tokio() -> Self {
        Self::Tokio { base: Instant::now(), base_unix_ms: unix_ms() }
    }

    pub(super) fn now(self) -> u64 {
        match self {
            Self::Wall => unix_ms(),
            #[cfg(test)]
            Self::Tokio { base, base_unix_ms } => base_unix_ms + millis(base.elapsed()),
        }
    }

    /// When this time comes, an hour from now at the latest.
    pub(super) fn instant(self, unix_ms: u64) -> Instant {
        let wait = Duration::from_millis(unix_ms.saturating_sub(self.now()));
        Instant::now() + wait.min(FAR)
    }
}

fn unix_ms() -> u64 {
    millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_follows_the_wall_clock_and_not_the_one_of_timers() {
        let begun = unix_ms();
        let (wall, tokio) = (Clock::new(), Clock::of_tokio());
        tokio::time::advance(Duration::from_secs(7200)).await;
        assert!(tokio.now() >= begun + 7_200_000);
        assert!(wall.now() < begun + 3_600_000, "timers are two hours further, the wall clock is not");
        for (clock, now) in [(wall, wall.now()), (tokio, tokio.now())] {
            let wait = clock.instant(now + 600_000) - Instant::now();
            assert!(wait <= Duration::from_secs(600) && wait > Duration::from_secs(300), "{clock:?}: {wait:?}");
            assert_eq!(clock.instant(0), Instant::now(), "what is past comes now");
            assert_eq!(clock.instant(u64::MAX), Instant::now() + FAR);
        }
    }
}
