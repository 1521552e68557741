//! The keys of an issuer that are fetched from its URL, by one task: again and again, and when a token names a key that is
//! not there. The last good set holds for as long as it is not too old, whatever its server says meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue};
use http::{StatusCode, Uri};
use moka::sync::Cache;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until, timeout};

use super::{KeySet, MAX_SET};
use crate::admission::authenticate::api_key::sha256;
use crate::fetch::{Bounds, Fetcher, shown};
use crate::secret::Secret;
use crate::tls::ClientTlsSettings;

/// What one answer may take.
const BOUNDS: Bounds = Bounds { bytes: MAX_SET, time: Duration::from_secs(10) };

/// The least time between the beginnings of two fetches: tokens with made-up keys cost the issuer no more than that.
/// Meanwhile nobody can tell a made-up key from one that was published since.
const GAP: Duration = Duration::from_secs(10);

/// Most names of keys that are remembered because they were not there.
const MAX_MISSED: u64 = 1000;

/// How long a request waits for a fetch at most.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where an issuer publishes its keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwksUrl {
    /// The URL; no redirect from it is followed.
    pub url: Uri,
    /// Time from one fetch to the next.
    pub every: Duration,
    /// How long a set holds without a newer one.
    pub max_age: Duration,
    /// How the server is met.
    pub tls: ClientTlsSettings,
    /// A token that it is shown.
    pub bearer: Option<Secret>,
}

/// How it stands with the keys of a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwksStatus {
    /// Whose they are.
    pub issuer: Arc<str>,
    /// Fetches that brought a set.
    pub ok: u64,
    /// Fetches that did not.
    pub failed: u64,
    /// Since when the set is what it is, or is known to be still; none where there is none.
    pub age: Option<Duration>,
}

/// Keeps the set of a URL.
pub(in crate::admission::authenticate) struct Keeper {
    issuer: Arc<str>,
    settings: JwksUrl,
    shared: Arc<Shared>,
    /// Since when keys are asked for that were not there, by the hash of their names.
    missed: Cache<[u8; 32], Instant>,
    task: AbortHandle,
}

struct Shared {
    state: watch::Sender<State>,
    ok: AtomicU64,
    failed: AtomicU64,
}

struct State {
    /// The last good set, and when it was asked for.
    good: Option<(KeySet, Instant)>,
    progress: Progress,
    /// When the last fetch began.
    began: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// Or about to: whoever sets it has it fetched.
    Fetching,
    Fetched,
    Failed,
}

impl Keeper {
    /// A keeper that begins to fetch at once, on the current runtime, and ends when it is dropped.
    pub(in crate::admission::authenticate) fn begin(issuer: &Arc<str>, settings: &JwksUrl) -> Arc<Self> {
        let state = State { good: None, progress: Progress::Fetching, began: Instant::now() };
        let shared =
            Arc::new(Shared { state: watch::Sender::new(state), ok: AtomicU64::new(0), failed: AtomicU64::new(0) });
        let (issuer, settings) = (Arc::clone(issuer), settings.clone());
        let task = tokio::spawn(keep(Arc::clone(&issuer), settings.clone(), Arc::clone(&shared))).abort_handle();
        Arc::new(Self { issuer, settings, shared, missed: Cache::new(MAX_MISSED), task })
    }

    /// Whether it does what another one for these settings would do.
    pub(in crate::admission::authenticate) fn is_for(&self, issuer: &str, settings: &JwksUrl) -> bool {
        *self.issuer == *issuer && self.settings == *settings
    }

    /// The set in force, if there is one that is young enough.
    pub(in crate::admission::authenticate) fn current(&self) -> Option<KeySet> {
        let state = self.shared.state.borrow();
        let young = |asked: &Instant| asked.elapsed() < self.settings.max_age;
        state.good.as_ref().filter(|(_, asked)| young(asked)).map(|(set, _)| set.clone())
    }

    /// Has the set fetched anew for a key of this name, unless that was done a moment ago, and waits for it. Whether it is
    /// known by then that the issuer has no such key: what was fetched before may lack one that was published since.
    pub(in crate::admission::authenticate) async fn renew(&self, key: Option<&str>) -> bool {
        let asked = Instant::now();
        let since = key.map_or(asked, |key| self.missed.get_with(sha256(key.as_bytes()), || asked));
        let mut comes = false;
        self.shared.state.send_if_modified(|state| {
            let due = state.progress != Progress::Fetching && state.began.elapsed() >= GAP;
            if due {
                (state.progress, state.began) = (Progress::Fetching, Instant::now());
            }
            comes = state.progress == Progress::Fetching;
            due
        });
        let tells = |state: &State| state.progress == Progress::Fetched && since <= state.began;
        let mut state = self.shared.state.subscribe();
        if !comes {
            return tells(&state.borrow());
        }
        let ended = state.wait_for(|state| state.progress != Progress::Fetching);
        matches!(timeout(PATIENCE, ended).await, Ok(Ok(state)) if tells(&state))
    }

    pub(in crate::admission::authenticate) fn status(&self) -> JwksStatus {
        let state = self.shared.state.borrow();
        JwksStatus {
            issuer: Arc::clone(&self.issuer),
            ok: self.shared.ok.load(Ordering::Relaxed),
            failed: self.shared.failed.load(Ordering::Relaxed),
            age: state.good.as_ref().map(|(_, asked)| asked.elapsed()),
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn keep(issuer: Arc<str>, settings: JwksUrl, shared: Arc<Shared>) {
    let (issuer, url) = (&*issuer, shown(&settings.url));
    let fetcher = Fetcher::new(&settings.tls);
    let mut last_why: Option<String> = None;
    let mut state = shared.state.subscribe();
    loop {
        let asked = Instant::now();
        shared.state.send_modify(|state| (state.progress, state.began) = (Progress::Fetching, asked));
        let outcome = match &fetcher {
            Ok(fetcher) => fetch(fetcher, &settings).await,
            Err(why) => Err(why.clone()),
        };
        let next = match outcome {
            Ok(set) => {
                shared.ok.fetch_add(1, Ordering::Relaxed);
                if last_why.take().is_some() {
                    tracing::info!(issuer, url, "the keys of tokens can be fetched again");
                }
                shared.state.send_modify(|state| {
                    // An equal set is not another one: what was checked with it stays checked.
                    let kept = state.good.take().map(|(old, _)| old).filter(|old| *old == set);
                    if kept.is_none() {
                        tracing::info!(issuer, url, "tokens are checked with keys that are new");
                    }
                    state.good = Some((kept.unwrap_or(set), asked));
                    state.progress = Progress::Fetched;
                });
                asked + settings.every
            }
            Err(why) => {
                shared.failed.fetch_add(1, Ordering::Relaxed);
                if last_why.as_ref() != Some(&why) {
                    tracing::warn!(
                        issuer,
                        url,
                        why,
                        "cannot fetch the keys of tokens; the last good ones hold until they are too old"
                    );
                }
                last_why = Some(why);
                shared.state.send_modify(|state| state.progress = Progress::Failed);
                asked + GAP.min(settings.every)
            }
        };
        tokio::select! {
            () = sleep_until(next) => {}
            _ = state.wait_for(|state| state.progress == Progress::Fetching) => {}
        }
    }
}

async fn fetch(fetcher: &Fetcher, settings: &JwksUrl) -> Result<KeySet, String> {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static("application/jwk-set+json, application/json"));
    if let Some(token) = &settings.bearer {
        let value = HeaderValue::try_from(format!("Bearer {}", token.reveal()));
        let mut value = value.map_err(|_| "the token for it cannot be sent")?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    let answer = fetcher.get(&settings.url, headers, BOUNDS).await?;
    if answer.status != StatusCode::OK {
        return Err(format!("it answers {}", answer.status.as_u16()));
    }
    let text = std::str::from_utf8(&answer.body).map_err(|_| "the answer is no text")?;
    KeySet::read(text).map_err(|why| format!("the answer {why}"))
}

#[cfg(test)]
mod tests;
