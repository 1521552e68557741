//! Tells connections that it is enough, and waits until they ended.
//!
//! hyper-util has the same for connections of hyper only; here a connection may be told by more than this: it is enough
//! as well when the terms on which it was taken hold no more.

use std::time::Duration;

use tokio::sync::watch;

/// The one that tells.
pub(super) struct Drain(watch::Sender<bool>);

impl Drain {
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(false))
    }

    /// Watches for a connection, which is waited for until this is dropped.
    pub(super) fn watcher(&self, lease: Lease) -> Watcher {
        Watcher { drain: self.0.subscribe(), lease }
    }

    /// Tells all connections, and waits until there is none.
    pub(super) async fn drained(self) {
        self.0.send_replace(true);
        self.0.closed().await;
    }
}

/// Belongs to terms, and ends with them: dropped, it tells the connections that were taken on them.
pub(super) struct Lessor(watch::Sender<()>);

impl Lessor {
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(()))
    }

    pub(super) fn lease(&self) -> Lease {
        Lease(self.0.subscribe())
    }
}

/// What a connection has of the terms on which it was taken.
pub(super) struct Lease(watch::Receiver<()>);

impl Lease {
    async fn is_over(&mut self) {
        // Nothing is ever sent: what comes is the end.
        while self.0.changed().await.is_ok() {}
    }
}

/// One that is told.
pub(super) struct Watcher {
    drain: watch::Receiver<bool>,
    lease: Lease,
}

impl Watcher {
    /// Waits until it is enough.
    pub(super) async fn enough(&mut self) {
        tokio::select! {
            // Who tells is gone only together with its connections.
            _ = self.drain.wait_for(|enough| *enough) => {}
            () = self.lease.is_over() => {}
        }
    }

    /// Waits until the terms have been over for so long.
    pub(super) async fn is_late(&mut self, grace: Duration) {
        self.lease.is_over().await;
        tokio::time::sleep(grace).await;
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
        let (drain, lessor) = (Drain::new(), Lessor::new());
        let (mut told, other) = (drain.watcher(lessor.lease()), drain.watcher(lessor.lease()));
        let mut drained = pin!(drain.drained());
        let mut is_drained = async || poll_fn(|cx| Poll::Ready(drained.as_mut().poll(cx).is_ready())).await;
        assert!(!is_drained().await);
        told.enough().await;
        drop(told);
        assert!(!is_drained().await, "one is still there");
        drop(other);
        assert!(is_drained().await);
    }

    #[tokio::test]
    async fn connections_are_told_when_their_terms_end() {
        let drain = Drain::new();
        let (ending, other) = (Lessor::new(), Lessor::new());
        let (mut told, mut untold) = (drain.watcher(ending.lease()), drain.watcher(other.lease()));
        drop(ending);
        told.enough().await;
        let mut enough = pin!(untold.enough());
        assert!(poll_fn(|cx| Poll::Ready(enough.as_mut().poll(cx).is_pending())).await);
    }
}
