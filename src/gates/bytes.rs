//! A bound on the bytes of bodies that the process holds.
//!
//! Nobody waits here: bytes come free when requests end, and those that end may be the ones that want more. Must not know
//! whose bytes they are.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes that are held, and how many may be.
#[derive(Debug)]
pub struct Held {
    bytes: AtomicUsize,
    max: AtomicUsize,
}

impl Held {
    /// At most `max` bytes at a time.
    pub fn new(max: usize) -> Self {
        Self { bytes: AtomicUsize::new(0), max: AtomicUsize::new(max) }
    }

    /// Changes the bound. What is held already stays.
    pub fn set_max(&self, max: usize) {
        self.max.store(max, Ordering::Relaxed);
    }

    /// The bound, in bytes.
    pub fn max(&self) -> usize {
        self.max.load(Ordering::Relaxed)
    }

    /// Bytes that are held now.
    pub fn held(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Room for `bytes`, if there is. With a bound below `bytes` there never is.
    pub fn reserve(self: &Arc<Self>, bytes: usize) -> Option<Reservation> {
        self.take(bytes).then(|| Reservation { held: Arc::clone(self), bytes })
    }

    fn take(&self, bytes: usize) -> bool {
        let max = self.max();
        let grown = |held: usize| held.checked_add(bytes).filter(|held| *held <= max);
        // To ask for nothing is fine, even while more is held than may be since a reload.
        bytes == 0 || self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown).is_ok()
    }
}

/// Room for bytes. Dropped, it is free again.
#[derive(Debug)]
#[must_use]
pub struct Reservation {
    held: Arc<Held>,
    bytes: usize,
}

impl Reservation {
    /// Room for `bytes` more; false, and nothing changed, where there is none.
    pub fn grow(&mut self, bytes: usize) -> bool {
        let has_grown = self.held.take(bytes);
        if has_grown {
            self.bytes += bytes;
        }
        has_grown
    }

    /// Bytes that it has room for.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.held.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_dropped_is_free_again() {
        let held = Arc::new(Held::new(100));
        let mut first = held.reserve(60).unwrap();
        assert!(held.reserve(41).is_none());
        let second = held.reserve(40).unwrap();
        assert!(!first.grow(1));
        drop(second);
        assert!(first.grow(40));
        assert_eq!((first.bytes(), held.held()), (100, 100));
        drop(first);
        assert_eq!(held.held(), 0);
    }

    #[test]
    fn a_lower_bound_takes_nothing_away() {
        let held = Arc::new(Held::new(100));
        let mut first = held.reserve(60).unwrap();
        held.set_max(50);
        assert!(!first.grow(1));
        assert!(first.grow(0));
        assert!(held.reserve(1).is_none());
        drop(first);
        assert!(held.reserve(50).is_some());
    }

    #[test]
    fn threads_never_hold_more_together() {
        let held = Arc::new(Held::new(1000));
        std::thread::scope(|scope| {
            for seed in 0..4 {
                let held = Arc::clone(&held);
                scope.spawn(move || {
                    let mut rng = fastrand::Rng::with_seed(seed);
                    for _ in 0..20_000 {
                        let mut room = held.reserve(rng.usize(0..400));
                        let more = rng.usize(0..400);
                        let has_grown = room.as_mut().is_some_and(|room| room.grow(more));
                        assert!(!has_grown || held.held() >= more, "seed {seed}");
                        assert!(held.held() <= 1000, "seed {seed}");
                    }
                });
            }
        });
        assert_eq!(held.held(), 0);
    }

    proptest! {
        #[test]
        fn what_is_held_is_what_was_reserved(wanted in prop::collection::vec((any::<usize>(), any::<usize>()), 0..20)) {
            let held = Arc::new(Held::new(usize::MAX / 2));
            let mut all = Vec::new();
            for (first, more) in wanted {
                let Some(mut room) = held.reserve(first) else { continue };
                room.grow(more);
                all.push(room);
                prop_assert!(held.held() <= held.max());
                prop_assert_eq!(held.held(), all.iter().map(Reservation::bytes).sum::<usize>());
            }
            drop(all);
            prop_assert_eq!(held.held(), 0);
        }
    }
}
