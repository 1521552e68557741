//! Tells connections that it is enough, and waits until they ended.
//!
//! hyper-util has the same for connections of hyper only; here a connection may be told by more than this.

use tokio::sync::watch;

/// The one that tells.
pub(super) struct Drain(watch::Sender<bool>);

impl Drain {
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(false))
    }

    /// Watches for a connection, which is waited for until this is dropped.
    pub(super) fn watcher(&self) -> Watcher {
        Watcher(self.0.subscribe())
    }

    /// Tells all connections, and waits until there is none.
    pub(super) async fn drained(self) {
        self.0.send_replace(true);
        self.0.closed().await;
    }
}

/// One that is told.
pub(super) struct Watcher(watch::Receiver<bool>);

impl Watcher {
    /// Waits until it is enough.
    pub(super) async fn enough(&mut self) {
        // Who tells is gone only together with its connections.
        let _ = self.0.wait_for(|enough| *enough).await;
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::task::Poll;

    use super::*;

    #[tokio::test]
    async fn connections_are_told_once_and_waited_for() {
        let drain = Drain::new();
        let (mut told, other) = (drain.watcher(), drain.watcher());
        let mut drained = pin!(drain.drained());
        let mut is_drained = async || poll_fn(|cx| Poll::Ready(drained.as_mut().poll(cx).is_ready())).await;
        assert!(!is_drained().await);
        told.enough().await;
        drop(told);
        assert!(!is_drained().await, "one is still there");
        drop(other);
        assert!(is_drained().await);
    }
}
