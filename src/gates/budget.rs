//! The retry budget of an endpoint, shared by the threads.

use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

use crate::resilience::retry;

/// See [`retry::Budget`].
pub struct Budget(Mutex<retry::Budget>);

impl Budget {
    /// A budget of so many percent.
    pub fn new(percent: u32) -> Self {
        Self(Mutex::new(retry::Budget::new(percent)))
    }

    /// A request came.
    pub fn request(&self, now: Instant) {
        self.lock().request(now);
    }

    /// Takes one retry out, if there is one.
    pub fn take(&self, now: Instant) -> bool {
        self.lock().take(now)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, retry::Budget> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
