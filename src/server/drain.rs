//! Tells connections that it is enough, and waits until they ended.
//!
//! hyper-util has the same for connections of hyper only; here a connection may be told by more than this: it is enough
//! as well when it would not be taken any more.

use std::time::Duration;

use tokio::sync::watch;

use super::terms::Lease;

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

/// One that is told.
pub(super) struct Watcher {
    drain: watch::Receiver<bool>,
    pub(super) lease: Lease,
}

/// Something of a connection that may outlive what it served.
pub(super) struct Remains {
    _waited_for: watch::Receiver<bool>,
}

impl Watcher {
    /// What is waited for as well, until it is dropped.
    pub(super) fn remains(&self) -> Remains {
        Remains { _waited_for: self.drain.clone() }
    }

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
        if *self.drain.borrow() {
            // Then all are cut together, and counted.
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::sync::Arc;
    use std::task::Poll;

    use tokio::time::timeout;

    use super::super::ListenerSettings;
    use super::super::terms::Terms;
    use super::*;
    use crate::admission::Trust;

    fn terms(trust: Trust) -> Arc<Terms> {
        let settings = ListenerSettings::plain(([127, 0, 0, 1], 1).into(), trust);
        Arc::new(Terms::new(&settings, None).expect("cleartext"))
    }

    #[tokio::test]
    async fn connections_are_told_once_and_waited_for() {
        let (drain, listener) = (Drain::new(), watch::Sender::new(terms(Trust::Trusted)));
        let watcher = || drain.watcher(Lease::new(listener.subscribe()));
        let (mut told, other) = (watcher(), watcher());
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
    async fn connections_are_told_when_they_would_not_be_taken_any_more() {
        let (drain, listener) = (Drain::new(), watch::Sender::new(terms(Trust::Trusted)));
        let mut told = drain.watcher(Lease::new(listener.subscribe()));
        {
            let mut enough = pin!(told.enough());
            let mut is_told = async || poll_fn(|cx| Poll::Ready(enough.as_mut().poll(cx).is_ready())).await;
            assert!(!is_told().await);
            listener.send_replace(terms(Trust::Trusted));
            assert!(!is_told().await, "nothing changed");
            listener.send_replace(terms(Trust::Untrusted));
            assert!(is_told().await);
        }
        told.enough().await;
        let mut other = drain.watcher(Lease::new(listener.subscribe()));
        drop(listener);
        other.enough().await;
    }

    #[tokio::test(start_paused = true)]
    async fn connections_are_told_when_what_their_clients_showed_expires() {
        let (drain, listener) = (Drain::new(), watch::Sender::new(terms(Trust::Trusted)));
        let (second, hour) = (Duration::from_secs(1), Duration::from_secs(3600));
        let watcher = |good_for| {
            let mut watcher = drain.watcher(Lease::new(listener.subscribe()));
            assert!(watcher.lease.shaken(Arc::default(), good_for, true));
            watcher
        };
        let (mut told, mut other) = (watcher(Some(hour)), watcher(None));
        // A change that does not matter to it puts nothing off.
        assert!(timeout(hour / 2, told.enough()).await.is_err());
        listener.send_replace(terms(Trust::Trusted));
        assert!(timeout(1799 * second, told.enough()).await.is_err());
        assert!(timeout(second, told.enough()).await.is_ok());
        assert!(timeout(hour / 2, told.is_late(hour)).await.is_err());
        assert!(timeout(hour, told.is_late(hour)).await.is_ok());
        assert!(timeout(1000 * hour, other.enough()).await.is_err());
        assert!(!watcher(Some(hour)).lease.shaken(Arc::default(), Some(Duration::ZERO), true), "it expired meanwhile");
    }
}
