//! Look-ups of one endpoint that the table does not have: it may have been created a moment ago.

use std::sync::Arc;
use std::time::Duration;

use moka::future::Cache;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::temporal::{Client, Key};
use super::{ClusterSettings, Registry};
use crate::nexus;

/// How long the outcome of a one-name look-up is kept, so that callers who repeat a wrong name cost a cluster one
/// request in this time. Short, because an endpoint that is created within it is still answered 404.
const LOOK_UP_TTL: Duration = Duration::from_millis(250);
/// One-name look-ups that wait for clusters at a time; what comes on top is told to come back.
const MAX_LOOK_UPS: usize = 16;
/// Names whose look-up is remembered at a time.
const MAX_REMEMBERED: u64 = 10_000;

/// What a one-name look-up found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LookUp {
    /// A source has the endpoint; the published table has it too.
    Found,
    /// Every source says that there is none.
    Absent,
    /// A source could not be asked.
    Unavailable(String),
}

/// The outcome of a look-up, and when it began.
#[derive(Clone)]
pub(super) struct Known {
    outcome: LookUp,
    began: Instant,
}

/// One-name look-ups by what they found.
#[derive(Debug, Default)]
pub struct LookUpCounts {
    /// A source had the endpoint.
    pub found: std::sync::atomic::AtomicU64,
    /// No source had it.
    pub absent: std::sync::atomic::AtomicU64,
    /// A source could not be asked.
    pub error: std::sync::atomic::AtomicU64,
}

pub(super) fn cache() -> Cache<Box<str>, Known> {
    Cache::builder().time_to_live(LOOK_UP_TTL).max_capacity(MAX_REMEMBERED).build()
}

pub(super) fn permits() -> Semaphore {
    Semaphore::new(MAX_LOOK_UPS)
}

impl Registry {
    /// Asks every source for one endpoint, by name or id, and brings the table up to date with what they say.
    /// Look-ups of the same name at the same time are one, and its outcome is kept for a quarter of a second.
    pub async fn look_up(self: &Arc<Self>, name: &str) -> LookUp {
        if !nexus::is_endpoint_name(name) && !nexus::is_endpoint_id(name) {
            return LookUp::Absent;
        }
        match self.look_ups.try_get_with(name.into(), self.ask(name)).await {
            Ok(known) => known.outcome,
            Err(why) => LookUp::Unavailable(why.to_string()),
        }
    }

    /// The same, but only with an outcome of after `since`: for those who know that what was said before is wrong.
    pub async fn look_up_since(self: &Arc<Self>, name: &str, since: Instant) -> LookUp {
        if self.look_ups.get(name).await.is_some_and(|known| known.began < since) {
            self.look_ups.invalidate(name).await;
        }
        match self.look_ups.try_get_with(name.into(), self.ask(name)).await {
            Ok(known) if known.began >= since => known.outcome,
            // It had begun before and ended just now.
            Ok(_) => self.ask(name).await.map_or_else(LookUp::Unavailable, |known| known.outcome),
            Err(why) => LookUp::Unavailable(why.to_string()),
        }
    }

    /// Asks on a task of its own: the caller may leave, and others may wait for the same name.
    fn ask(self: &Arc<Self>, name: &str) -> impl Future<Output = Result<Known, String>> + use<> {
        let (registry, name): (_, Box<str>) = (Arc::clone(self), name.into());
        async move {
            let began = Instant::now();
            let runtime = registry.runtime.clone();
            let asked = runtime.spawn(async move { registry.ask_sources(&name).await });
            match asked.await {
                Ok(LookUp::Unavailable(why)) => Err(why),
                Ok(outcome) => Ok(Known { outcome, began }),
                Err(error) => Err(error.to_string()),
            }
        }
    }

    /// One-name look-ups so far.
    pub fn look_up_counts(&self) -> &LookUpCounts {
        &self.counts
    }

    async fn ask_sources(&self, name: &str) -> LookUp {
        let Ok(_permit) = self.look_up_permits.try_acquire() else {
            return self.count(LookUp::Unavailable("too many look-ups at a time".into()));
        };
        let mut asked = JoinSet::new();
        for (at, (settings, client)) in self.discovering().into_iter().enumerate() {
            let key = Key::of(name);
            asked.spawn(async move {
                let began = Instant::now();
                let answer = client.find(&key).await;
                (at, settings, began, answer)
            });
        }
        let mut answers = asked.join_all().await;
        answers.sort_by_key(|(at, ..)| *at);

        let mut outcome = LookUp::Absent;
        for (_, settings, began, answer) in answers {
            match answer {
                Ok(found) => {
                    // One with a name of the form of an id is not served, by its id neither.
                    if found.as_ref().is_some_and(|found| !nexus::is_endpoint_id(&found.name)) {
                        outcome = LookUp::Found;
                    }
                    self.correct(&settings, name, began, found);
                }
                Err(error) => {
                    tracing::debug!(cluster = &*settings.name, %error, "a registry could not be asked for an endpoint");
                    if outcome == LookUp::Absent {
                        outcome = LookUp::Unavailable(format!("cluster {}: {error}", settings.name));
                    }
                }
            }
        }
        self.count(outcome)
    }

    fn discovering(&self) -> Vec<(ClusterSettings, Arc<Client>)> {
        let state = self.lock();
        let sources = state.clusters.iter().filter(|source| source.settings.discover.is_some());
        sources.map(|source| (source.settings.clone(), Arc::clone(&source.client))).collect()
    }

    /// Counts, and logs each power of two that failed: enough to be seen, too little for callers to fill a disk.
    fn count(&self, outcome: LookUp) -> LookUp {
        let counter = match &outcome {
            LookUp::Found => &self.counts.found,
            LookUp::Absent => &self.counts.absent,
            LookUp::Unavailable(_) => &self.counts.error,
        };
        let so_far = counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
        if let LookUp::Unavailable(why) = &outcome
            && so_far.is_power_of_two()
        {
            tracing::warn!(why, so_far, "look-ups of endpoints failed");
        }
        outcome
    }
}
