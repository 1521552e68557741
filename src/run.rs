//! A running gateway: everything built and wired, reconfigured, drained.
//!
//! What is made here is passed down; there is no global state. A new configuration is taken whole or not at all:
//! whatever can fail is done before anything is changed.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};

use crate::admin::{Admin, AdminSettings, Live, Rules as AdminRules};
use crate::admission::{Authentication, Authorization};
use crate::callback::destination::{Allowed, Destinations};
use crate::callback::home::Home;
use crate::callback::seal::{Key, Keyring};
use crate::callback::tokens::Tokens;
use crate::callback::{Callbacks, Completions, keys};
use crate::config::{self, Settings};
use crate::credentials::Wallet;
use crate::gates::Gates;
use crate::gateway::Gateway;
use crate::registry::Registry;
use crate::route::{Plan, Router};
use crate::server::{Bound, Phase, Server};
use crate::telemetry::{LineWriter, LogSettings, LogTarget, Telemetry};

mod parking;

use parking::Parking;

/// How long the store of parked operations may take to open before requests are served without it.
const OPENING: Duration = Duration::from_secs(3);

/// Why settings that are well-formed cannot be put in force.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// An address cannot be bound.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the operating system says.
        source: io::Error,
    },
    /// The certificates of the admin port cannot be used.
    #[error("cannot use admin.tls: {0}")]
    AdminTls(String),
    /// The access log or the audit log cannot be opened.
    #[error("cannot open the {which} log {path}: {source}")]
    Log {
        /// `access` or `audit`.
        which: &'static str,
        /// Where it should be.
        path: String,
        /// What the operating system says.
        source: io::Error,
    },
    /// The key of callbacks and tokens cannot be read or made.
    #[error("cannot use a key for callbacks and tokens of operations: {0}; set `callbacks.keys`, or `state.directory`")]
    Key(io::Error),
    /// A thread cannot be started.
    #[error("cannot start a worker thread: {0}")]
    Thread(io::Error),
}

/// A gateway that serves.
pub struct Running {
    router: Arc<Router>,
    registry: Arc<Registry>,
    telemetry: Arc<Telemetry>,
    gates: Arc<Gates>,
    gateway: Arc<Gateway>,
    server: Server,
    phase: watch::Sender<Phase>,
    current: Mutex<Current>,
    parking: Mutex<Option<Parking>>,
    /// The key of seals that none was configured for. It outlives reloads: what was started under it may still run.
    made: OnceLock<Key>,
    /// The shelf of connections of what finishes parked operations, beside those of the worker threads.
    shelf: usize,
}

/// What is in force.
struct Current {
    settings: Settings,
    admin: AdminPort,
}

struct AdminPort {
    bound: SocketAddr,
    live: Arc<Live>,
    task: AbortHandle,
}

impl Drop for AdminPort {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// How draining went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// Every request in flight was answered.
    Clean,
    /// So many connections were cut when the time was over.
    Cut(usize),
}

impl Running {
    /// Starts a gateway on the current runtime, with worker threads of its own.
    pub async fn start(settings: Settings) -> Result<Self, ApplyError> {
        let telemetry = Telemetry::new();
        telemetry.last_reload_successful.set(1);
        let gates = Gates::new(&settings.server.process);
        let shelf = settings.server.workers;
        let router = Arc::new(Router::new(Arc::clone(&telemetry), Arc::clone(&gates), shelf + 1));
        let publish_to = Arc::clone(&router);
        let registry = Registry::new(
            move |snapshot| publish_to.apply(snapshot),
            settings.state.clone(),
            Arc::clone(router.wallet()),
        );
        let gateway = Arc::new(Gateway::new(
            Arc::clone(&router),
            Arc::clone(&registry),
            Arc::clone(&telemetry),
            Arc::clone(&gates),
        ));
        let (phase, in_phase) = watch::channel(Phase::Serving);
        let server = Server::start(settings.server.clone(), &gateway, Arc::clone(&telemetry), &in_phase)
            .map_err(ApplyError::Thread)?;

        // The admin port first: a probe that comes while the data ports are bound is told that nothing is ready.
        let admin = Admin {
            router: Arc::clone(&router),
            registry: Arc::clone(&registry),
            telemetry: Arc::clone(&telemetry),
            gates: Arc::clone(&gates),
            gateway: Arc::clone(&gateway),
            phase: in_phase,
        };
        let data = server.bind(&settings.listen).map_err(bind_error)?;
        let admin = serve_admin(admin, &settings.admin).await?;
        let (access, audit) = (open_access_log(&settings.log)?, open_audit_log(&settings.log)?);
        telemetry.log_to(access);
        telemetry.audit_to(audit);

        let current = Mutex::new(Current { settings: settings.clone(), admin });
        let (parking, made) = (Mutex::default(), OnceLock::new());
        let running =
            Self { router, registry, telemetry, gates, gateway, server, phase, current, parking, made, shelf };
        let completions = running.completions(&settings)?;
        running.put_in_force(&settings, data, Some(completions));
        running.park(&settings).await?;
        Ok(running)
    }

    /// Puts new settings in force, whole or not at all.
    pub async fn apply(&self, settings: Settings) -> Result<(), ApplyError> {
        let before = self.lock().settings.clone();
        let data = self.server.bind(&settings.listen).map_err(bind_error)?;
        let moved = settings.admin.address != before.admin.address;
        let admin = if moved { Some(serve_admin(self.admin(), &settings.admin).await?) } else { None };
        let rules = AdminRules::new(&settings.admin).map_err(ApplyError::AdminTls)?;
        let access =
            (settings.log.access_log != before.log.access_log).then(|| open_access_log(&settings.log)).transpose()?;
        let audit =
            (settings.log.audit_log != before.log.audit_log).then(|| open_audit_log(&settings.log)).transpose()?;
        let completions = (!same_completions(&before, &settings)).then(|| self.completions(&settings)).transpose()?;
        if let Some(access) = access {
            self.telemetry.log_to(access);
        }
        if let Some(audit) = audit {
            self.telemetry.audit_to(audit);
        }
        warn_of_restart(&before, &settings);
        self.warn_of_dropped_keys(&before, &settings);
        warn_of_strangers(&before, &settings);
        self.put_in_force(&settings, data, completions);
        {
            let mut current = self.lock();
            match admin {
                Some(admin) => current.admin = admin,
                None => current.admin.live.change(rules),
            }
            current.settings = settings.clone();
        }
        self.park(&settings).await
    }

    fn completions(&self, settings: &Settings) -> Result<Completions, ApplyError> {
        let keys = keys(settings, &self.made).map_err(ApplyError::Key)?;
        Ok(completions(settings, keys, self.router.wallet()))
    }

    /// In an order in which nobody gets in who does not get in before or after: listeners first, so that connections end
    /// whose terms do, and new ones only when all the rest is in force, too.
    fn put_in_force(&self, settings: &Settings, data: Vec<Bound>, completions: Option<Completions>) {
        let _pause = self.server.pause();
        let guarded = settings.authentication.is_some() || settings.authorization.is_some();
        self.server.configure(settings.server.clone(), guarded, data);
        if let Some(completions) = completions {
            self.gateway.complete_by(completions);
        }
        self.know_and_authorize(settings);
        // Before the table, whose new operations look for their gates.
        self.gates.configure(&settings.server.process, settings.redis.as_ref());
        let (policies, upstream) = (settings.policies.clone(), settings.upstream.clone());
        let plan =
            Plan::new(&settings.clusters, settings.externals.clone(), policies, upstream, settings.redis.clone());
        self.router.configure(Plan { signer: settings.callers.clone(), ..plan });
        self.registry.configure(&settings.clusters, settings.endpoints.clone());
        self.note_expiries(settings);
    }

    /// In an order in which nobody who may come in before and after is turned away between: rules hold only once callers
    /// can be known, and callers are known for as long as rules hold.
    fn know_and_authorize(&self, settings: &Settings) {
        let authentication = settings.authentication.as_ref();
        let authorization = Authorization::new(settings.authorization.as_ref(), authentication.is_some());
        if let Some(authentication) = authentication {
            self.gateway.authenticate_by(Some(Arc::new(Authentication::new(
                authentication,
                self.gateway.authentication().as_deref(),
            ))));
            self.gateway.authorize_by(authorization);
        } else {
            self.gateway.authorize_by(authorization);
            self.gateway.authenticate_by(None);
        }
    }

    /// Parks, if these settings want it. Once begun it goes on: something may be left.
    async fn park(&self, settings: &Settings) -> Result<(), ApplyError> {
        if let Some(parking) = &*self.parking.lock().unwrap_or_else(PoisonError::into_inner) {
            parking.park.configure(&settings.parking);
            return Ok(());
        }
        if !parking::is_wanted(settings) {
            return Ok(());
        }
        let parking = Parking::start(settings, &self.gateway, self.shelf).map_err(ApplyError::Thread)?;
        // The first start may already need it; without it everything else goes on.
        let _ = timeout(OPENING, parking.park.tried()).await;
        *self.parking.lock().unwrap_or_else(PoisonError::into_inner) = Some(parking);
        Ok(())
    }

    fn note_expiries(&self, settings: &Settings) {
        self.telemetry.tls.expire(config::expiries(settings));
        for note in config::expiring(settings, SystemTime::now()) {
            tracing::warn!("{note}");
        }
    }

    fn warn_of_dropped_keys(&self, before: &Settings, now: &Settings) {
        let is_gone = |key: &&Key| now.callbacks.keys.iter().all(|kept| kept.id != key.id);
        let made = self.made.get().filter(|_| before.callbacks.keys.is_empty() && !now.callbacks.keys.is_empty());
        for key in before.callbacks.keys.iter().chain(made).filter(is_gone) {
            self.telemetry.callback_keys_dropped.inc();
            let key = &*key.id;
            tracing::warn!(key, "a key of callbacks is gone: operations that were started under it cannot complete");
        }
    }

    /// Addresses of the data port.
    pub fn data_addresses(&self) -> Vec<SocketAddr> {
        self.server.addresses()
    }

    /// Address of the admin port.
    pub fn admin_address(&self) -> SocketAddr {
        self.lock().admin.bound
    }

    /// Metrics.
    pub fn telemetry(&self) -> &Telemetry {
        &self.telemetry
    }

    /// The table in force.
    pub fn router(&self) -> &Router {
        &self.router
    }

    /// The sources of endpoints.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// Takes no more connections and lets requests in flight end, for as long as the settings say or until `cut`.
    pub async fn drain(self, cut: impl Future<Output = ()>) -> Drained {
        let grace = self.lock().settings.server.grace;
        let open = self.server.open_connections();
        let began = Instant::now();
        tracing::info!(connections = open.count(), grace_seconds = grace.as_secs_f64(), "draining");
        self.phase.send_replace(Phase::Draining);
        self.server.close();

        let Self { server, phase, current, parking, .. } = self;
        let parking = parking.into_inner().unwrap_or_else(PoisonError::into_inner);
        let cut = async {
            tokio::select! {
                () = cut => {}
                () = tokio::time::sleep(grace) => {}
            }
        };
        let mut ending = phase.subscribe();
        let joined = async {
            // What is in flight may still have to be parked.
            server.join().await;
            if let Some(parking) = parking {
                tokio::select! {
                    () = parking.close() => {}
                    _ = ending.wait_for(|phase| *phase == Phase::Ending) => {}
                }
            }
        };
        let mut joined = std::pin::pin!(joined);
        let drained = tokio::select! {
            () = &mut joined => Drained::Clean,
            () = cut => Drained::Cut(open.count()),
        };
        if let Drained::Cut(connections) = drained {
            tracing::warn!(connections, "ending with requests in flight");
            phase.send_replace(Phase::Ending);
            joined.await;
        }
        drop(current);
        tracing::info!(seconds = began.elapsed().as_secs_f64(), "drained");
        drained
    }

    /// What the admin port shows.
    pub fn admin(&self) -> Admin {
        Admin {
            router: Arc::clone(&self.router),
            registry: Arc::clone(&self.registry),
            telemetry: Arc::clone(&self.telemetry),
            gates: Arc::clone(&self.gates),
            gateway: Arc::clone(&self.gateway),
            phase: self.phase.subscribe(),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The keys of seals, by these settings; the one that was made already where there is none in them. Where nothing is
/// sealed any more they open what was. Blocks on the file of a key.
fn keys(settings: &Settings, made: &OnceLock<Key>) -> io::Result<Vec<Key>> {
    if !settings.callbacks.keys.is_empty() {
        return Ok(settings.callbacks.keys.clone());
    }
    if let Some(key) = made.get() {
        return Ok(vec![key.clone()]);
    }
    let (state, seals) =
        (settings.state.as_deref(), settings.callbacks.public_url.is_some() || settings.seals_tokens());
    let key = if seals { Some(keys::load_or_generate(state)?) } else { keys::kept(state) };
    Ok(key.map(|key| made.get_or_init(|| key).clone()).into_iter().collect())
}

/// How completions go and tokens are sealed, by these settings.
fn completions(settings: &Settings, keys: Vec<Key>, wallet: &Wallet) -> Completions {
    let callbacks = &settings.callbacks;
    let clusters = settings
        .clusters
        .iter()
        .flat_map(|cluster| cluster.urls.iter().map(|url| Allowed::cluster(url).met_by(cluster.outward.tls.clone())));
    let allow = clusters.chain(callbacks.allow.iter().cloned()).collect();
    let destinations = Arc::new(Destinations::new(allow, settings.upstream.clone(), settings.server.workers + 1));
    let home = callbacks.home.as_ref().and_then(|home| {
        let cluster = settings.clusters.iter().find(|cluster| cluster.name == *home)?;
        cluster.urls.first().cloned()
    });
    let keyring = Keyring::new(keys).map(Arc::new);
    let relay =
        keyring.clone().and_then(|keyring| Callbacks::new(callbacks.clone(), keyring, Arc::clone(&destinations)));
    let tokens = keyring.map(Tokens::new);
    let homes =
        settings.clusters.iter().map(|cluster| Home::new(&cluster.name, &cluster.urls, &cluster.outward, wallet));
    Completions { tokens, relay, home, destinations, homes: homes.collect() }
}

/// Whether connections to destinations can stay.
fn same_completions(before: &Settings, now: &Settings) -> bool {
    fn parts(settings: &Settings) -> impl PartialEq {
        let urls: Vec<_> =
            settings.clusters.iter().map(|cluster| (&cluster.name, &cluster.urls, &cluster.outward)).collect();
        (&settings.callbacks, &settings.upstream, settings.seals_tokens(), urls)
    }
    parts(before) == parts(now)
}

async fn serve_admin(admin: Admin, settings: &AdminSettings) -> Result<AdminPort, ApplyError> {
    let address = settings.address;
    let live = Arc::new(Live::new(AdminRules::new(settings).map_err(ApplyError::AdminTls)?));
    let listening = async {
        let socket = TcpListener::bind(address).await?;
        let bound = socket.local_addr()?;
        Ok((socket, bound))
    };
    let (socket, bound) = listening.await.map_err(|source| ApplyError::Bind { address, source })?;
    tracing::info!(address = %bound, "admin port listening");
    let task = tokio::spawn(admin.serve(socket, Arc::clone(&live)));
    Ok(AdminPort { bound, live, task: task.abort_handle() })
}

fn open_access_log(settings: &LogSettings) -> Result<Option<LineWriter>, ApplyError> {
    open_log(settings.access_log.as_ref(), "access", "access-log")
}

fn open_audit_log(settings: &LogSettings) -> Result<Option<LineWriter>, ApplyError> {
    open_log(settings.audit_log.as_ref(), "audit", "audit-log")
}

fn open_log(
    target: Option<&LogTarget>,
    which: &'static str,
    thread: &'static str,
) -> Result<Option<LineWriter>, ApplyError> {
    target.map(|target| LineWriter::open(target, thread)).transpose().map_err(|source| {
        let path = match target {
            Some(LogTarget::File(path)) => path.display().to_string(),
            _ => "stdout".into(),
        };
        ApplyError::Log { which, path, source }
    })
}

fn bind_error((address, source): (SocketAddr, io::Error)) -> ApplyError {
    ApplyError::Bind { address, source }
}

/// Says that nobody is asked any more who calls; each port says then whom it lets in.
fn warn_of_strangers(before: &Settings, now: &Settings) {
    if before.authentication.is_some() && now.authentication.is_none() {
        tracing::warn!("authentication is not configured any more: callers are known by their addresses only");
    }
}

fn warn_of_restart(before: &Settings, now: &Settings) {
    let differ = [
        ("server.workers", before.server.workers != now.server.workers),
        ("state.directory", before.state != now.state),
        ("park.store", before.parking.store != now.parking.store),
        ("park.tls", before.parking.tls != now.parking.tls),
        ("log.format", before.log.format != now.log.format),
    ];
    for (setting, differs) in differ {
        if differs {
            tracing::warn!(setting, "changed, but read at start only: restart to put it in force");
        }
    }
}
