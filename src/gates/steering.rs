//! What somebody says of breakers by hand. It holds until it is taken back, for the breaker that there is and for those
//! that a reload or an idle time puts in its place.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

use super::{Breaker, Gates, Key};
use crate::resilience::BreakerSettings;
use crate::resilience::breaker::Transition;

/// What can be said of a breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steer {
    /// It refuses everything.
    Trip,
    /// It keeps everything waiting.
    Hold,
    /// It closes, and does what its requests say.
    Reset,
}

impl Steer {
    fn apply(self, breaker: &Breaker, now: Instant) -> Option<Transition> {
        match self {
            Self::Trip => breaker.trip(now),
            Self::Hold => breaker.hold(now),
            Self::Reset => breaker.reset(now),
        }
    }
}

/// A breaker that was steered.
pub struct Steered {
    /// What it is for.
    pub key: Arc<Key<BreakerSettings>>,
    /// Itself.
    pub breaker: Arc<Breaker>,
    /// How its state changed.
    pub transition: Option<Transition>,
}

/// What was said and not taken back, by endpoint, service and operation.
#[derive(Default)]
pub(super) struct Said(Mutex<HashMap<[Box<str>; 3], Steer>>);

impl Said {
    /// A breaker for `key`, in the state that was said of it.
    pub(super) fn breaker(&self, key: &Key<BreakerSettings>) -> Breaker {
        let breaker = Breaker::new(key.settings.clone(), fastrand::u64(..));
        if let Some(steer) = self.lock().get(&key.labels().map(Box::from)) {
            steer.apply(&breaker, Instant::now());
        }
        breaker
    }

    fn say(&self, key: &Key<BreakerSettings>, steer: Steer) {
        let labels = key.labels().map(Box::from);
        match steer {
            Steer::Reset => self.lock().remove(&labels),
            Steer::Trip | Steer::Hold => self.lock().insert(labels, steer),
        };
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<[Box<str>; 3], Steer>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gates {
    /// Steers the breakers whose keys are `wanted`, of those that some operation has or that were steered before.
    pub fn steer(&self, wanted: impl Fn(&Key<BreakerSettings>) -> bool, steer: Steer, now: Instant) -> Vec<Steered> {
        let found = self.breakers.shared().into_iter().filter(|(key, _)| wanted(key));
        found
            .map(|(key, breaker)| {
                self.said.say(&key, steer);
                // Shown, though no operation may have it.
                self.breakers.pin(&key, steer != Steer::Reset);
                let transition = steer.apply(&breaker, now);
                Steered { key, breaker, transition }
            })
            .collect()
    }
}
