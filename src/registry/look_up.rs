//! Look-ups of one endpoint that the table does not have: it may have been created a moment ago.
//!
//! Callers choose when they come and what they are for. So those of one name at a time are one, its outcome is kept for a
//! moment, and there is a bound on how many wait for clusters at a time: of all callers, and of each.

use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::temporal::{Client, Key};
use super::{ClusterSettings, Registry};
use crate::gates::Account;
use crate::nexus;

/// How long the outcome of a look-up is kept, so that callers who repeat a name cost a cluster one request in this time.
/// Short, because an endpoint that is created within it is still answered 404.
const TTL: Duration = Duration::from_millis(250);
/// Names whose look-up is remembered at a time.
const MAX_REMEMBERED: u64 = 10_000;
/// Look-ups that wait for clusters at a time; what comes on top is told to come back.
const MAX_WAITING: usize = 32;
/// How many of them are one caller's, so that it takes several to leave none to others.
const MAX_PER_CALLER: usize = 8;

/// What a one-name look-up found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LookUp {
    /// A source has the endpoint; the published table has it too.
    Found,
    /// Every source says that there is none.
    Absent,
    /// A source could not be asked. Says which and why, for an operator.
    Unavailable(String),
    /// No source was asked: too many look-ups wait already, of all callers or of this one.
    TooMany,
}

/// Look-ups of now and of a moment ago.
pub(super) struct LookUps {
    known: moka::future::Cache<Box<str>, Known>,
    /// Tells those who wait that one source has answered.
    answered: Notify,
    places: Arc<Places>,
    counts: LookUpCounts,
}

/// The outcome of a look-up, and when it began.
#[derive(Clone)]
struct Known {
    outcome: LookUp,
    began: Instant,
}

/// Look-ups by what they found.
#[derive(Debug, Default)]
pub struct LookUpCounts {
    /// A source had the endpoint.
    pub found: AtomicU64,
    /// No source had it.
    pub absent: AtomicU64,
    /// A source could not be asked, or there were too many look-ups.
    pub error: AtomicU64,
}

impl LookUps {
    pub(super) fn new() -> Self {
        let known = moka::future::Cache::builder().time_to_live(TTL).max_capacity(MAX_REMEMBERED).build();
        Self { known, answered: Notify::new(), places: Arc::default(), counts: LookUpCounts::default() }
    }

    /// Counts, and logs each power of two that failed: enough to be seen, too little for callers to fill a disk.
    fn count(&self, outcome: &LookUp) {
        let (counter, why) = match outcome {
            LookUp::Found => (&self.counts.found, None),
            LookUp::Absent => (&self.counts.absent, None),
            LookUp::Unavailable(why) => (&self.counts.error, Some(&**why)),
            LookUp::TooMany => (&self.counts.error, Some("too many at a time")),
        };
        let so_far = counter.fetch_add(1, Ordering::Relaxed) + 1;
        if let Some(why) = why.filter(|_| so_far.is_power_of_two()) {
            tracing::warn!(why, so_far, "look-ups of endpoints failed");
        }
    }
}

impl Registry {
    /// Asks every source for one endpoint, by name or id, and brings the table up to date with what they say.
    /// Look-ups of the same name at the same time are one, and its outcome is kept for a quarter of a second. `by` is who
    /// wants to know.
    pub async fn look_up(self: &Arc<Self>, name: &str, by: &Account) -> LookUp {
        if !nexus::is_endpoint_name(name) && !nexus::is_endpoint_id(name) {
            return LookUp::Absent;
        }
        self.known_or_asked(name, by).await.outcome
    }

    /// The same, but only with an outcome of after `since`: for those who know that what was said before is wrong, until
    /// `is_settled` says that the table has what they want, which may be before every source has answered. Those who come
    /// while a look-up is under way wait for the next one together, if they still have to when it ends.
    pub async fn look_up_since(
        self: &Arc<Self>,
        name: &str,
        by: &Account,
        since: Instant,
        is_settled: impl Fn() -> bool,
    ) -> LookUp {
        // Twice at most: what begins from now on began after `since`.
        loop {
            if self.look_ups.known.get(name).await.is_some_and(|known| known.began < since) {
                self.look_ups.known.invalidate(name).await;
            }
            let mut asked = pin!(self.known_or_asked(name, by));
            let known = loop {
                let answered = self.look_ups.answered.notified();
                if is_settled() {
                    return LookUp::Found;
                }
                // In this order: whoever need not wait any more must not ask in the place of one who left.
                tokio::select! {
                    biased;
                    () = answered => {}
                    known = &mut asked => break known,
                }
            };
            if known.began >= since {
                return known.outcome;
            }
        }
    }

    async fn known_or_asked(self: &Arc<Self>, name: &str, by: &Account) -> Known {
        let known = self.look_ups.known.try_get_with(name.into(), self.ask(name, by)).await;
        known.unwrap_or_else(|refused| Known::clone(&refused))
    }

    /// Asks on a task of its own: the caller may leave, and others may wait for the same name. An error is an outcome that
    /// is not worth remembering, since it cost nothing.
    fn ask(self: &Arc<Self>, name: &str, by: &Account) -> impl Future<Output = Result<Known, Known>> + use<> {
        let (registry, name, by): (_, Box<str>, _) = (Arc::clone(self), name.into(), by.network());
        async move {
            let began = Instant::now();
            let Some(place) = registry.look_ups.places.take(by) else {
                registry.look_ups.count(&LookUp::TooMany);
                return Err(Known { outcome: LookUp::TooMany, began });
            };
            let runtime = registry.runtime.clone();
            let asked = runtime.spawn(async move {
                let _place = place;
                let outcome = registry.ask_sources(&name).await;
                registry.look_ups.count(&outcome);
                outcome
            });
            match asked.await {
                Ok(outcome) => Ok(Known { outcome, began }),
                Err(error) => Err(Known { outcome: LookUp::Unavailable(error.to_string()), began }),
            }
        }
    }

    /// One-name look-ups so far.
    pub fn look_up_counts(&self) -> &LookUpCounts {
        &self.look_ups.counts
    }

    /// What one source says is in the table as soon as it has answered, however long others take.
    async fn ask_sources(self: &Arc<Self>, name: &str) -> LookUp {
        let mut asked = JoinSet::new();
        for (settings, client) in self.discovering() {
            let (registry, name): (_, Box<str>) = (Arc::clone(self), name.into());
            asked.spawn(async move { registry.ask_source(&settings, &client, &name).await });
        }
        let mut outcome = LookUp::Absent;
        while let Some(answer) = asked.join_next().await {
            match answer.unwrap_or_else(|error| LookUp::Unavailable(error.to_string())) {
                LookUp::Found => outcome = LookUp::Found,
                unavailable @ LookUp::Unavailable(_) if outcome == LookUp::Absent => outcome = unavailable,
                _ => {}
            }
        }
        outcome
    }

    async fn ask_source(&self, settings: &ClusterSettings, client: &Client, name: &str) -> LookUp {
        let began = Instant::now();
        match client.find(&Key::of(name)).await {
            Ok(found) => {
                // One with a name of the form of an id is not served, by its id neither.
                let is_served = found.as_ref().is_some_and(|found| !nexus::is_endpoint_id(&found.name));
                self.correct(settings, name, began, found);
                self.look_ups.answered.notify_waiters();
                if is_served { LookUp::Found } else { LookUp::Absent }
            }
            Err(error) => {
                tracing::debug!(cluster = &*settings.name, %error, "a registry could not be asked for an endpoint");
                LookUp::Unavailable(format!("cluster {}: {error}", settings.name))
            }
        }
    }

    fn discovering(&self) -> Vec<(ClusterSettings, Arc<Client>)> {
        let state = self.lock();
        let sources = state.clusters.iter().filter(|source| source.settings.discover.is_some());
        sources.map(|source| (source.settings.clone(), Arc::clone(&source.client))).collect()
    }
}

/// Who has look-ups that wait for clusters, once for each.
#[derive(Default)]
struct Places(Mutex<Vec<Account>>);

impl Places {
    fn take(self: &Arc<Self>, by: Account) -> Option<Place> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = taken.iter().filter(|other| **other == by).count();
        if own >= MAX_PER_CALLER || taken.len() >= MAX_WAITING {
            return None;
        }
        taken.push(by.clone());
        Some(Place { places: Arc::clone(self), by })
    }
}

/// The place of one look-up.
struct Place {
    places: Arc<Places>,
    by: Account,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = taken.iter().position(|other| *other == self.by) {
            taken.swap_remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn caller(address: &str) -> Account {
        let address: IpAddr = address.parse().expect("an address");
        Account::from(address)
    }

    #[test]
    fn one_caller_leaves_places_to_others_and_gives_its_own_back() {
        let places = Arc::<Places>::default();
        let first: Vec<_> = (0..MAX_PER_CALLER).map(|_| places.take(caller("10.0.0.1"))).collect();
        assert!(first.iter().all(Option::is_some));
        assert!(places.take(caller("10.0.0.1")).is_none());
        let others: Vec<_> = (0..MAX_WAITING).map(|n| places.take(caller(&format!("10.0.1.{n}")))).collect();
        assert_eq!(others.iter().flatten().count(), MAX_WAITING - MAX_PER_CALLER, "all together have a bound, too");
        drop((first, others));
        assert!(places.0.lock().expect("nobody panicked").is_empty());
    }
}
