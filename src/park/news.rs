//! What requests tell the finisher.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// What happened since it was taken last.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// When a row of each of these lanes is due, in milliseconds since 1970.
    pub(super) due: HashMap<Box<str>, u64>,
    /// Whether everything is to be tried at once.
    pub(super) hurry: bool,
}

#[derive(Debug, Default)]
pub(super) struct News {
    heard: Mutex<Heard>,
    some: Notify,
    /// There is something to be removed.
    pub(super) removals: Notify,
    /// Something was removed.
    pub(super) removed: Notify,
}

impl News {
    pub(super) fn due(&self, lane: &str, at: u64) {
        let mut heard = self.heard();
        match heard.due.get_mut(lane) {
            Some(due) => *due = at.min(*due),
            None => {
                heard.due.insert(lane.into(), at);
            }
        }
        drop(heard);
        self.some.notify_one();
    }

    pub(super) fn hurry(&self) {
        self.heard().hurry = true;
        self.some.notify_one();
    }

    pub(super) async fn wait(&self) {
        self.some.notified().await;
    }

    pub(super) fn take(&self) -> Heard {
        std::mem::take(&mut *self.heard())
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
