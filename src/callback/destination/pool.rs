//! The upstreams of destinations: one for each origin that completions went to lately.
//!
//! Origins come from URLs that others wrote, so their number is bounded. Where there are more, those that are used often
//! stay, and the others begin anew each time.

use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio::time::sleep;

use super::allow::{met_by, reach};
use super::check::{Checked, Reach};
use super::{Allowed, Destination, Forbidden};
use crate::nexus::BaseUrl;
use crate::upstream::{Connect, Probe, Tcp, Upstream, UpstreamSettings};

/// Origins that are kept.
const MAX_ORIGINS: u64 = 1_000;
/// An origin that no completion went to for so long is forgotten, and its connections are closed.
const MAX_IDLE: Duration = Duration::from_secs(600);
/// Time between two looks for origins to forget.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// Finds where to send completions.
pub struct Destinations {
    allow: Vec<Allowed>,
    settings: UpstreamSettings,
    workers: usize,
    connector: Arc<dyn Connect>,
    runtime: Handle,
    origins: Cache<Place, Arc<Origin>>,
    sweeper: AbortHandle,
}

/// An origin, as far as the same entries are for it: a cluster's callback routes and its other paths are met in other ways.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Place {
    origin: BaseUrl,
    /// The entries for the path and not for any, by their places among all.
    entries: Box<[usize]>,
}

struct Origin {
    reach: Arc<Reach>,
    upstream: Arc<Upstream>,
}

impl Destinations {
    /// Destinations that `allow` allows, for so many worker threads. Tasks of the current runtime look after them.
    pub fn new(allow: Vec<Allowed>, settings: UpstreamSettings, workers: usize) -> Self {
        Self::with_connector(allow, settings, workers, Arc::new(Tcp))
    }

    /// The same, with connections that `connector` makes; it is asked only for addresses that are allowed.
    pub fn with_connector(
        allow: Vec<Allowed>,
        settings: UpstreamSettings,
        workers: usize,
        connector: Arc<dyn Connect>,
    ) -> Self {
        let runtime = Handle::current();
        let origins = Cache::builder().max_capacity(MAX_ORIGINS).time_to_idle(MAX_IDLE).build();
        let sweeper = runtime.spawn(sweep(origins.clone())).abort_handle();
        Self { allow, settings, workers, connector, runtime, origins, sweeper }
    }

    /// The upstream for a destination, or why there is none. Never waits: the addresses of a new name are not known
    /// yet. Where all of them turn out to be forbidden, a request fails as if it could not connect, and whoever then
    /// asks here again is told why.
    pub fn find(&self, destination: &Destination) -> Result<Arc<Upstream>, Forbidden> {
        let begin = || self.begin(destination).map(Arc::new);
        let found = self.origins.try_get_with(self.place(destination), begin);
        let origin = found.map_err(|why| Forbidden::clone(&why))?;
        origin.check(destination)?;
        Ok(Arc::clone(&origin.upstream))
    }

    /// Origins that are kept now.
    pub fn origins(&self) -> u64 {
        self.origins.run_pending_tasks();
        self.origins.entry_count()
    }

    fn place(&self, destination: &Destination) -> Place {
        let allow = self.allow.iter().enumerate();
        let entries = allow.filter(|(_, entry)| entry.is_for_this_path_only(destination)).map(|(index, _)| index);
        Place { origin: destination.origin.clone(), entries: entries.collect() }
    }

    fn begin(&self, destination: &Destination) -> Result<Origin, Forbidden> {
        let reach = Arc::new(reach(&self.allow, destination)?);
        let connector = Arc::new(Checked::new(Arc::clone(&reach), Arc::clone(&self.connector)));
        let (name, urls) = (destination.origin.authority().into(), vec![destination.origin.clone()]);
        let _runtime = self.runtime.enter();
        let (settings, tls) = (self.settings.clone(), met_by(&self.allow, destination).cloned().unwrap_or_default());
        let upstream = Upstream::new(name, urls, Probe::Connect, settings, self.workers, connector, &tls);
        Ok(Origin { reach, upstream })
    }
}

impl Origin {
    /// Whether there is an address to connect to, as far as is known.
    fn check(&self, destination: &Destination) -> Result<(), Forbidden> {
        let mut class = None;
        for socket in self.upstream.addresses() {
            match self.reach.check(socket.ip()) {
                Ok(()) => return Ok(()),
                Err(refused) => class = Some(refused),
            }
        }
        match class {
            Some(class) => Err(Forbidden::PrivateAddress { origin: destination.to_string().into(), class }),
            None => Ok(()),
        }
    }
}

/// Without this an origin would be forgotten only when another one is asked for.
async fn sweep(origins: Cache<Place, Arc<Origin>>) {
    loop {
        sleep(SWEEP_EVERY).await;
        origins.run_pending_tasks();
    }
}

impl Drop for Destinations {
    fn drop(&mut self) {
        self.sweeper.abort();
    }
}
