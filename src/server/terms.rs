//! On what terms a listener takes connections, and whether one that it took may stay: where it would be let in now, too, and
//! trusted as much. That ends when the terms change, or when what its client showed expires.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::ListenerSettings;
use crate::tls::{Protocol, ServerTls};

/// What a listener's settings come to.
pub(super) struct Terms {
    pub(super) settings: ListenerSettings,
    /// None: cleartext.
    pub(super) tls: Option<ServerTls>,
}

impl Terms {
    /// What was made of the same settings before is kept: clients can resume their sessions.
    pub(super) fn new(settings: &ListenerSettings, before: Option<&Self>) -> io::Result<Self> {
        let same = |before: &&Self| (&before.settings.tls, before.settings.http2) == (&settings.tls, settings.http2);
        let kept = before.filter(same).map(|before| before.tls.clone());
        let protocols: &[_] = if settings.http2 { &[Protocol::Http2, Protocol::Http1] } else { &[Protocol::Http1] };
        let tls = match (kept, &settings.tls) {
            (Some(kept), _) => kept,
            (None, Some(tls)) => Some(ServerTls::new(tls, protocols).map_err(io::Error::other)?),
            (None, None) => None,
        };
        Ok(Self { settings: settings.clone(), tls })
    }
}

/// How a connection got in.
enum Shown {
    /// By nothing.
    Cleartext,
    /// It is not in yet.
    Shaking,
    /// By TLS, with these certificates, or without any.
    Tls { certificates: Arc<[CertificateDer<'static>]>, is_tls13: bool },
}

/// A connection's right to stay.
pub(super) struct Lease {
    terms: watch::Receiver<Arc<Terms>>,
    /// Those that it is known to meet.
    met: Arc<Terms>,
    shown: Shown,
    /// When the first of the certificates that were shown expires.
    expires: Option<Instant>,
}

impl Lease {
    /// That of a connection which is taken now.
    pub(super) fn new(mut terms: watch::Receiver<Arc<Terms>>) -> Self {
        let met = Arc::clone(&terms.borrow_and_update());
        let shown = if met.tls.is_some() { Shown::Shaking } else { Shown::Cleartext };
        Self { terms, met, shown, expires: None }
    }

    /// On what terms.
    pub(super) fn terms(&self) -> &Terms {
        &self.met
    }

    /// Its handshake is over, in which it showed `certificates` that are `good_for` so long; whether it is in.
    pub(super) fn shaken(
        &mut self,
        certificates: Arc<[CertificateDer<'static>]>,
        good_for: Option<Duration>,
        is_tls13: bool,
    ) -> bool {
        self.shown = Shown::Tls { certificates, is_tls13 };
        self.expires = good_for.and_then(|good_for| Instant::now().checked_add(good_for));
        self.holds()
    }

    /// Waits until the connection may not stay.
    pub(super) async fn is_over(&mut self) {
        while self.holds() {
            let end = self.expires;
            let expired = async {
                match end {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = self.terms.changed() => if changed.is_err() {
                    // The listener is gone.
                    return;
                },
                () = expired => {}
            }
        }
    }

    fn holds(&mut self) -> bool {
        if self.expires.is_some_and(|expires| Instant::now() >= expires) {
            return false;
        }
        let now = Arc::clone(&self.terms.borrow_and_update());
        if Arc::ptr_eq(&now, &self.met) {
            return true;
        }
        if now.settings.trust != self.met.settings.trust {
            return false;
        }
        let (Some(asks), Some(tls)) = (&now.settings.tls, &now.tls) else {
            self.met = now;
            return true;
        };
        match &self.shown {
            Shown::Cleartext => return false,
            // Asked again when it is over.
            Shown::Shaking => return true,
            Shown::Tls { certificates, is_tls13 } => {
                let asked = self.met.settings.tls.as_ref().map(|tls| &tls.clients);
                let is_known = asked == Some(&asks.clients) || tls.admits(certificates);
                if !is_known || asks.only_tls13 && !is_tls13 {
                    return false;
                }
            }
        }
        self.met = now;
        true
    }
}
