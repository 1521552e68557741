//! Which endpoints exist and where they live: the configuration's own and those of any number of Temporal clusters.
//!
//! Each source delivers whole snapshots; the merged result is published in one piece. A source that fails keeps the
//! table it delivered last, for ever; how old that is, is a metric. Names and ids clash between sources by one rule: the
//! configuration first, then the clusters in their order.

use std::collections::HashSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::credentials::{Outward, Wallet};
use crate::nexus::BaseUrl;

mod copy;
mod look_up;
mod merge;
pub mod temporal;

use copy::Copies;
use look_up::LookUps;
pub use look_up::{LookUp, LookUpCounts};
pub use merge::{CONFIGURATION, Conflict, Entry, IDS, Snapshot};
use temporal::{Client, Listing};

/// Time between two attempts to learn the id of a cluster that is not a source of endpoints.
const IDENTIFY_EVERY: Duration = Duration::from_secs(60);

/// A Temporal cluster that requests can be forwarded to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterSettings {
    /// The name by which the configuration speaks of it.
    pub name: Arc<str>,
    /// Addresses of the frontend's HTTP port; all carry the same path.
    pub urls: Vec<BaseUrl>,
    /// Whether and how its Nexus endpoints are served by name.
    pub discover: Option<DiscoverSettings>,
    /// How it is met.
    pub outward: Outward,
}

/// How a cluster's endpoint registry is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiscoverSettings {
    /// Time between two polls, before jitter of a tenth.
    pub every: Duration,
    /// Whether External targets of that registry are served too.
    pub externals: bool,
}

/// Where requests for an endpoint go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A worker target of a cluster's own registry: dispatched there by the endpoint's id.
    Dispatch {
        /// Name of the cluster.
        cluster: Arc<str>,
        /// The endpoint's UUID in that cluster's registry.
        id: Box<str>,
        /// Namespace of the task queue, as the registry says; the cluster itself decides.
        namespace: Box<str>,
        /// The task queue, likewise.
        task_queue: Box<str>,
    },
    /// A task queue named by the configuration: dispatched by the task-queue route.
    Worker {
        /// Name of the cluster.
        cluster: Arc<str>,
        /// Namespace of the task queue.
        namespace: Box<str>,
        /// The task queue that workers poll.
        task_queue: Box<str>,
    },
    /// Any Nexus handler over HTTP.
    External {
        /// The base URL that `/{service}/{operation}` is appended to.
        url: BaseUrl,
    },
}

impl Target {
    /// The cluster that requests go to, if any.
    pub fn cluster(&self) -> Option<&Arc<str>> {
        match self {
            Self::Dispatch { cluster, .. } | Self::Worker { cluster, .. } => Some(cluster),
            Self::External { .. } => None,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dispatch { cluster, id, namespace, task_queue } => {
                write!(f, "cluster {cluster}, namespace {namespace}, task queue {task_queue}, by endpoint id {id}")
            }
            Self::Worker { cluster, namespace, task_queue } => {
                write!(f, "cluster {cluster}, namespace {namespace}, task queue {task_queue}")
            }
            Self::External { url } => write!(f, "external {url}"),
        }
    }
}

/// One endpoint as a source defines it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// The name that callers use.
    pub name: Box<str>,
    /// The UUID, where the source gives one.
    pub id: Option<Box<str>>,
    /// Where requests go.
    pub target: Target,
}

/// How a source of endpoints is doing.
#[derive(Clone, Debug)]
pub struct SourceStatus {
    /// Name of the cluster.
    pub name: Arc<str>,
    /// Endpoints it delivered last.
    pub endpoints: usize,
    /// Time since it was last read, or since the copy on disk was written; none before the first.
    pub age: Option<Duration>,
    /// Whether what is served comes from the copy on disk.
    pub from_copy: bool,
    /// Polls that failed.
    pub errors: u64,
    /// Why the last poll failed, if it did.
    pub last_error: Option<String>,
}

type Publish = Box<dyn Fn(&Snapshot) + Send + Sync>;

/// All sources and the table merged from them.
pub struct Registry {
    state: Mutex<State>,
    publish: Publish,
    copies: Copies,
    look_ups: LookUps,
    wallet: Arc<Wallet>,
    /// Where polls and look-ups run: not on the threads that carry requests.
    runtime: Handle,
}

#[derive(Default)]
struct State {
    configured: Vec<Definition>,
    clusters: Vec<Source>,
    conflicts: HashSet<Conflict>,
}

/// A cluster and what it said last.
struct Source {
    settings: ClusterSettings,
    client: Arc<Client>,
    task: AbortHandle,
    cluster_id: Option<Arc<str>>,
    endpoints: Vec<Definition>,
    /// Found by name since the last poll began: a poll that began earlier does not know them yet.
    looked_up: Vec<(Definition, Instant)>,
    read: Option<Instant>,
    /// Age of the copy on disk when it was loaded, and when that was.
    copied: Option<(Duration, Instant)>,
    errors: u64,
    last_error: Option<String>,
}

impl Registry {
    /// A registry that hands each new table to `publish` and keeps copies in `directory`, and shows clusters what
    /// `wallet` has for them. Its tasks run on the
    /// current runtime.
    pub fn new(
        publish: impl Fn(&Snapshot) + Send + Sync + 'static,
        directory: Option<PathBuf>,
        wallet: Arc<Wallet>,
    ) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            publish: Box::new(publish),
            copies: Copies::new(directory),
            look_ups: LookUps::new(),
            wallet,
            runtime: Handle::current(),
        })
    }

    /// Takes the sources that the configuration names. Those that did not change go on undisturbed.
    pub fn configure(self: &Arc<Self>, clusters: &[ClusterSettings], endpoints: Vec<Definition>) {
        let mut state = self.lock();
        let mut old = std::mem::take(&mut state.clusters);
        state.configured = endpoints;
        for settings in clusters {
            let kept = old.iter().position(|source| source.settings == *settings).map(|at| old.swap_remove(at));
            let source = kept.unwrap_or_else(|| {
                let mut source = self.add(settings);
                for before in &old {
                    source.inherit(before);
                }
                source
            });
            state.clusters.push(source);
        }
        for gone in old {
            gone.task.abort();
        }
        self.publish(&mut state);
    }

    /// How each source is doing, in their order.
    pub fn sources(&self) -> Vec<SourceStatus> {
        let discovering = |source: &&Source| source.settings.discover.is_some();
        self.lock().clusters.iter().filter(discovering).map(Source::status).collect()
    }

    /// The cluster that says to be the one of this id.
    pub fn cluster_of_id(&self, id: &str) -> Option<Arc<str>> {
        let state = self.lock();
        let found = state.clusters.iter().find(|source| source.cluster_id.as_deref() == Some(id));
        found.map(|source| Arc::clone(&source.settings.name))
    }

    /// Whether every source has been read once, or its copy was loaded.
    pub fn is_ready(&self) -> bool {
        self.sources().iter().all(|source| source.age.is_some())
    }

    /// Endpoints of the configuration itself.
    pub fn configured(&self) -> usize {
        self.lock().configured.len()
    }

    /// Names and ids that more than one source defines.
    pub fn conflicts(&self) -> usize {
        self.lock().conflicts.len()
    }

    /// Failed writes of copies to disk.
    pub fn copy_errors(&self) -> u64 {
        self.copies.errors()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new source: what its copy on disk says, and a task that reads it.
    fn add(self: &Arc<Self>, settings: &ClusterSettings) -> Source {
        let client = Arc::new(Client::new(settings, &self.wallet));
        let copy = settings.discover.as_ref().and_then(|_| self.copies.load(settings));
        let (age, listing) = copy.map_or((None, Listing::default()), |copy| (Some(copy.age), copy.listing));
        let task = self.runtime.spawn(keep_reading(Arc::downgrade(self), settings.clone(), Arc::clone(&client)));
        Source {
            settings: settings.clone(),
            client,
            task: task.abort_handle(),
            cluster_id: listing.cluster_id,
            endpoints: listing.endpoints,
            looked_up: Vec::new(),
            read: None,
            copied: age.map(|age| (age, Instant::now())),
            errors: 0,
            last_error: None,
        }
    }

    /// Merges what the sources say and hands it on. Under the lock, so that tables are published in order.
    fn publish(&self, state: &mut State) {
        let sources = state.clusters.iter().map(|source| merge::Part {
            name: &source.settings.name,
            cluster_id: source.cluster_id.as_ref(),
            endpoints: &source.endpoints,
        });
        let snapshot = merge::merge(&state.configured, &sources.collect::<Vec<_>>());
        let conflicts: HashSet<_> = snapshot.conflicts.iter().cloned().collect();
        for Conflict { name, winner, loser } in conflicts.difference(&state.conflicts) {
            let (endpoint, served, hidden) = (&**name, &**winner, &**loser);
            let what = "two sources define this name or id, or it is a name of the form of an id";
            tracing::warn!(endpoint, served, hidden, "{what}");
        }
        state.conflicts = conflicts;
        (self.publish)(&snapshot);
    }

    /// A source was read from end to end, beginning at `began`.
    fn apply(&self, settings: &ClusterSettings, began: Instant, listing: Listing) {
        let mut state = self.lock();
        let Some(source) = state.source(settings) else { return };
        if let Some(error) = source.last_error.take() {
            tracing::info!(cluster = &*settings.name, error, "the registry answers again");
        }
        let changed = source.take(began, listing);
        if changed || source.read.is_none() {
            let listing = Listing { cluster_id: source.cluster_id.clone(), endpoints: source.endpoints.clone() };
            tracing::info!(cluster = &*settings.name, endpoints = listing.endpoints.len(), "registry read");
            self.copies.save(settings, listing);
        }
        source.read = Some(Instant::now());
        if changed {
            self.publish(&mut state);
        }
    }

    /// A poll failed; what the source said last stays. Look-ups are no polls: callers choose when they come, and what
    /// they ask for.
    fn failed(&self, settings: &ClusterSettings, error: String) {
        let mut state = self.lock();
        let Some(source) = state.source(settings) else { return };
        source.errors += 1;
        if source.last_error.as_ref() != Some(&error) {
            tracing::warn!(cluster = &*settings.name, error, "cannot read the registry; what it said last stays");
        }
        source.last_error = Some(error);
    }

    /// Brings what is known of one name or id up to date.
    fn correct(&self, settings: &ClusterSettings, name: &str, began: Instant, found: Option<Definition>) {
        let mut state = self.lock();
        let Some(source) = state.source(settings) else { return };
        if source.correct(name, began, found) {
            self.publish(&mut state);
        }
    }
}

impl State {
    fn source(&mut self, settings: &ClusterSettings) -> Option<&mut Source> {
        self.clusters.iter_mut().find(|source| source.settings == *settings)
    }
}

impl Source {
    /// Goes on with what was known of the same cluster under other settings: the last good table outlives a reload.
    fn inherit(&mut self, before: &Source) {
        let same = self.settings.name == before.settings.name && self.settings.urls == before.settings.urls;
        let (Some(discover), true) = (&self.settings.discover, same && before.settings.discover.is_some()) else {
            return;
        };
        let served = |known: &&Definition| discover.externals || known.is_temporal();
        self.endpoints = before.endpoints.iter().filter(served).cloned().collect();
        self.cluster_id.clone_from(&before.cluster_id);
        (self.read, self.copied) = (before.read, before.copied);
    }

    /// Takes what a poll that began at `began` delivered; true where it differs from what was known.
    fn take(&mut self, began: Instant, mut listing: Listing) -> bool {
        self.looked_up.retain(|(_, at)| *at >= began);
        for (definition, _) in &self.looked_up {
            if !listing.endpoints.iter().any(|known| known.id == definition.id) {
                listing.endpoints.push(definition.clone());
            }
        }
        // A cluster that does not tell its id this time still has the one it had.
        let cluster_id = listing.cluster_id.or_else(|| self.cluster_id.clone());
        let changed = self.endpoints != listing.endpoints || self.cluster_id != cluster_id;
        self.endpoints = listing.endpoints;
        self.cluster_id = cluster_id;
        changed
    }

    /// Takes what a look-up of one name or id said; true where it differs from what was known.
    fn correct(&mut self, key: &str, began: Instant, found: Option<Definition>) -> bool {
        if found.as_ref().is_some_and(|found| self.endpoints.contains(found)) {
            return false;
        }
        let concerns = |known: &Definition| {
            let same = |other: &Definition| *known.name == *other.name || known.id == other.id;
            *known.name == *key || known.id.as_deref() == Some(key) || found.as_ref().is_some_and(same)
        };
        let before = self.endpoints.len();
        self.endpoints.retain(|known| !concerns(known));
        self.looked_up.retain(|(known, _)| !concerns(known));
        let removed = self.endpoints.len() < before;
        let added = found.is_some();
        if let Some(found) = found {
            self.looked_up.push((found.clone(), began));
            self.endpoints.push(found);
        }
        removed || added
    }

    fn status(&self) -> SourceStatus {
        let copied = self.copied.map(|(age, loaded)| age + loaded.elapsed());
        SourceStatus {
            name: Arc::clone(&self.settings.name),
            endpoints: self.endpoints.len(),
            age: self.read.map(|read| read.elapsed()).or(copied),
            from_copy: self.read.is_none() && copied.is_some(),
            errors: self.errors,
            last_error: self.last_error.clone(),
        }
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Reads a cluster again and again, as long as the registry exists.
async fn keep_reading(registry: std::sync::Weak<Registry>, settings: ClusterSettings, client: Arc<Client>) {
    loop {
        let began = Instant::now();
        let read = match &settings.discover {
            Some(_) => client.list().await,
            None => client.identify().await,
        };
        let Some(registry) = registry.upgrade() else { return };
        match read {
            Ok(listing) => registry.apply(&settings, began, listing),
            Err(error) => registry.failed(&settings, error.to_string()),
        }
        drop(registry);
        let every = settings.discover.as_ref().map_or(IDENTIFY_EVERY, |discover| discover.every);
        tokio::time::sleep(every.mul_f64(0.9 + 0.2 * fastrand::f64())).await;
    }
}
