//! The store that gateways share: Redis or Valkey.
//!
//! Knows one connection, whether it works, and the one script that takes turns from a bucket. Must not know requests.
//! The connection is made and mended in the background, on the runtime that was given; a store that cannot be asked
//! counts as down until a trial in the background succeeds, so no request waits for one that is known to be away.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, ConnectionAddr, RedisError, Script};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use crate::resilience::rate_limit::StoreUrl;
use crate::tls::{ClientTls, ClientTlsSettings};

/// How long the store is left alone after a failure before it is tried again; the next trials have the same distance.
pub const RETRY: Duration = Duration::from_millis(500);

/// How long a decision may take where the configuration does not say.
pub const TIMEOUT: Duration = Duration::from_millis(50);

/// How long it may take to connect, log in and take one turn for trial.
const CONNECT: Duration = Duration::from_secs(1);

const PREFIX: &str = "nexus-gateway:limit:";

/// Keys of a bucket longer than this end in a hash, in bytes.
const MAX_KEY: usize = 128;

/// The store of limits that several gateways share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreSettings {
    /// Where it is: `redis://`, or `rediss://` over TLS.
    pub url: StoreUrl,
    /// How it is met over TLS.
    pub tls: ClientTlsSettings,
    /// Longest time for one decision of the store.
    pub timeout: Duration,
}

/// A Redis or Valkey server, shared by all limits of the process.
pub struct Shared {
    store: Arc<Store>,
    supervisor: JoinHandle<()>,
}

/// The address of a store is not one.
#[derive(Debug, thiserror::Error)]
#[error("not the address of a Redis or Valkey server (redis[s]://[user:password@]host[:port][/database])")]
pub struct BadUrl;

/// How the store does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreStatus {
    /// Whether it can be asked.
    pub up: bool,
    /// Decisions made by it.
    pub decisions: u64,
    /// Decisions that it owed.
    pub errors: u64,
}

impl Shared {
    /// Uses the server of these settings by tasks on `handle`. Neither waits for the server nor fails where it is away.
    pub fn new(settings: &StoreSettings, handle: Handle) -> Result<Self, BadUrl> {
        let (client, secure) = client(settings.url.reveal())?;
        let tls = secure.then(|| ClientTls::new(&settings.tls, &[]));
        let store = Arc::new(Store {
            // The address alone: the whole URL may hold a password.
            name: client.get_connection_info().addr().to_string(),
            script: Script::new(include_str!("shared/take.lua")),
            link: watch::Sender::new(Link::Starting),
            down: AtomicBool::new(false),
            decisions: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            timeout: settings.timeout,
            handle,
            tls,
        });
        let supervisor = store.handle.spawn(Arc::clone(&store).supervise(client));
        Ok(Self { store, supervisor })
    }

    /// How it does now.
    pub fn status(&self) -> StoreStatus {
        StoreStatus {
            up: matches!(&*self.store.link.borrow(), Link::Up(..)),
            decisions: self.store.decisions.load(Ordering::Relaxed),
            errors: self.store.errors.load(Ordering::Relaxed),
        }
    }

    pub(super) fn store(&self) -> &Arc<Store> {
        &self.store
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.supervisor.abort();
    }
}

/// Whether `url` is one of a server, as `Shared` takes it.
pub fn check(url: &str) -> Result<(), BadUrl> {
    client(url).map(drop)
}

/// Whether the server at `url`, which was checked, is met over TLS.
pub fn is_over_tls(url: &StoreUrl) -> bool {
    client(url.reveal()).is_ok_and(|(_, secure)| secure)
}

/// A client of the server at `url`, and whether it is met over TLS: what the client knows of that is left out.
fn client(url: &str) -> Result<(Client, bool), BadUrl> {
    let (scheme, rest) = url.split_once("://").ok_or(BadUrl)?;
    let secure = match scheme.to_ascii_lowercase().as_str() {
        "redis" => false,
        // The fragment is where clients are told to believe everybody.
        "rediss" if !rest.contains('#') => true,
        _ => return Err(BadUrl),
    };
    let client = Client::open(format!("redis://{rest}")).map_err(|_| BadUrl)?;
    Ok((client, secure))
}

/// The name of a bucket in the store: bounded, and the same in every gateway.
pub(super) fn bucket_name(key: &str) -> String {
    if key.len() <= MAX_KEY {
        return format!("{PREFIX}{key}");
    }
    // A script's hash is the SHA-1 of its text.
    let hash = Script::new(key).get_hash().to_owned();
    let most = MAX_KEY - hash.len() - 1;
    let kept = (0..=most).rev().find_map(|end| key.get(..end)).unwrap_or_default();
    format!("{PREFIX}{kept}~{hash}")
}

/// What is asked of a bucket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask<'a> {
    pub(super) bucket: &'a str,
    pub(super) interval: Duration,
    pub(super) burst: u32,
    /// Turns, at most.
    pub(super) want: u32,
    /// How far in the future turns may lie.
    pub(super) ahead: Duration,
    /// How far in the future the turns of any gateway may lie.
    pub(super) furthest: Duration,
}

/// What was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) turns: u32,
    /// When the first turn conforms, in microseconds from now; where none was taken, when it would.
    pub(super) first: i64,
    /// Turns left in the bucket.
    pub(super) left: u32,
}

/// The store cannot be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Away;

pub(super) struct Store {
    name: String,
    script: Script,
    link: watch::Sender<Link>,
    down: AtomicBool,
    decisions: AtomicU64,
    errors: AtomicU64,
    timeout: Duration,
    handle: Handle,
    /// Over TLS, or why that cannot be spoken; none in cleartext.
    tls: Option<Result<ClientTls, String>>,
}

/// The connection, with a number that tells it from later ones.
enum Link {
    Starting,
    Up(u64, MultiplexedConnection),
    Down,
}

impl Link {
    fn generation(&self) -> Option<u64> {
        match self {
            Self::Starting => Some(0),
            Self::Up(generation, _) => Some(*generation),
            Self::Down => None,
        }
    }
}

impl Store {
    /// Whether it is known not to answer.
    pub(super) fn is_down(&self) -> bool {
        self.down.load(Ordering::Acquire)
    }

    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// One decision. Takes [`timeout`](Self::timeout) at most, and is to be called on [`handle`](Self::handle).
    pub(super) async fn take(&self, ask: Ask<'_>) -> Result<Taken, Away> {
        let mut generation = 0;
        let decision = timeout(self.timeout, async {
            let mut connection = self.connected(&mut generation).await?;
            Some(self.run(&mut connection, ask).await)
        });
        let failure = match decision.await {
            Ok(Some(Ok(taken))) => {
                self.decisions.fetch_add(1, Ordering::Relaxed);
                return Ok(taken);
            }
            Ok(Some(Err(error))) => error.to_string(),
            Ok(None) => "it is down".to_owned(),
            Err(_) => format!("no answer within {:?}", self.timeout),
        };
        self.errors.fetch_add(1, Ordering::Relaxed);
        self.fell(generation, &failure);
        Err(Away)
    }

    /// A task that asked for a decision ended without one: its runtime is gone.
    pub(super) fn abandoned(&self) {
        self.link.send_modify(|link| {
            self.is_now(link, Link::Down);
        });
    }

    async fn connected(&self, generation: &mut u64) -> Option<MultiplexedConnection> {
        let mut links = self.link.subscribe();
        let link = links.wait_for(|link| !matches!(link, Link::Starting)).await.ok()?;
        *generation = link.generation().unwrap_or(0);
        if let Link::Up(_, connection) = &*link { Some(connection.clone()) } else { None }
    }

    async fn run(&self, connection: &mut MultiplexedConnection, ask: Ask<'_>) -> Result<Taken, RedisError> {
        let mut call = self.script.key(ask.bucket);
        call.arg(micros(ask.interval)).arg(ask.burst).arg(ask.want);
        call.arg(micros(ask.ahead).floor()).arg(micros(ask.furthest));
        let (turns, first, left) = call.invoke_async(connection).await?;
        Ok(Taken { turns, first, left })
    }

    /// Counts as down from now on, unless it was mended since this connection was got.
    fn fell(&self, generation: u64, why: &str) {
        let first = self.link.send_if_modified(|link| {
            let same = link.generation() == Some(generation);
            if same {
                self.is_now(link, Link::Down);
            }
            same
        });
        if first {
            warn!(store = self.name, why, "the store of global limits is down");
        }
    }

    /// Changes the link and the flag that stands for it as one; says whether it was down before.
    fn is_now(&self, link: &mut Link, new: Link) -> bool {
        let down = matches!(new, Link::Down);
        *link = new;
        self.down.swap(down, Ordering::AcqRel)
    }

    /// Keeps a connection for as long as the store is used.
    async fn supervise(self: Arc<Self>, client: Client) {
        let mut links = self.link.subscribe();
        let mut generation = 0;
        loop {
            match timeout(CONNECT, self.connect(&client)).await {
                Ok(Ok(connection)) => {
                    generation += 1;
                    let mut was_down = false;
                    self.link.send_modify(|link| was_down = self.is_now(link, Link::Up(generation, connection)));
                    if was_down {
                        info!(store = self.name, "the store of global limits is back");
                    }
                    if links.wait_for(|link| matches!(link, Link::Down)).await.is_err() {
                        return;
                    }
                }
                Ok(Err(why)) => self.tried_in_vain(&why),
                Err(_) => self.tried_in_vain("no connection in time"),
            }
            sleep(RETRY).await;
        }
    }

    fn tried_in_vain(&self, why: &str) {
        debug!(store = self.name, why, "the store of global limits cannot be used");
        self.fell(0, why);
    }

    /// A connection that a decision was made on: one that only answers is not enough.
    async fn connect(&self, client: &Client) -> Result<MultiplexedConnection, String> {
        let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        let mut connection = match &self.tls {
            None => client.get_multiplexed_async_connection_with_config(&config).await.map_err(text)?,
            Some(tls) => self.connect_over(tls.as_ref()?, client, config).await?,
        };
        let bucket = format!("{PREFIX}~trial");
        let none = Duration::ZERO;
        let interval = Duration::from_micros(1);
        let ask = Ask { bucket: &bucket, interval, burst: 1, want: 1, ahead: none, furthest: none };
        self.run(&mut connection, ask).await.map_err(text)?;
        Ok(connection)
    }

    async fn connect_over(
        &self,
        tls: &ClientTls,
        client: &Client,
        config: AsyncConnectionConfig,
    ) -> Result<MultiplexedConnection, String> {
        let info = client.get_connection_info();
        let ConnectionAddr::Tcp(host, port) = info.addr() else { return Err("it has no host".into()) };
        let stream = TcpStream::connect((&**host, *port)).await.map_err(text)?;
        stream.set_nodelay(true).map_err(text)?;
        let (stream, _) = tls.connect(host, stream).await.map_err(text)?;
        let connected = MultiplexedConnection::new_with_config(info.redis_settings(), stream, config).await;
        let (connection, driver) = connected.map_err(text)?;
        // It ends with the connection.
        self.handle.spawn(driver);
        Ok(connection)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn text(error: impl ToString) -> String {
    error.to_string()
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_buckets_are_bounded_and_tell_keys_apart() {
        assert_eq!(bucket_name("caller=a"), "nexus-gateway:limit:caller=a");
        let long = |end: &str| bucket_name(&format!("{}{end}", "ü".repeat(5000)));
        assert!(long("a").len() <= PREFIX.len() + MAX_KEY, "{}", long("a"));
        assert_ne!(long("a"), long("b"));
        assert_eq!(long("a"), long("a"));
    }

    #[tokio::test]
    async fn the_address_is_checked_and_never_shown_with_its_password() {
        let shared = |url: &str| {
            let (url, tls) = (StoreUrl::new(url), ClientTlsSettings::default());
            Shared::new(&StoreSettings { url, tls, timeout: TIMEOUT }, Handle::current())
        };
        for bad in ["", "http://localhost", "redis://", "localhost:6379:1", "rediss://h#insecure", "rediss://"] {
            assert!(shared(bad).is_err(), "{bad}");
        }
        for scheme in ["redis", "rediss", "RedisS"] {
            let shared = shared(&format!("{scheme}://me:secret@127.0.0.1:1/3")).unwrap();
            assert_eq!((&*shared.store.name, shared.store.tls.is_some()), ("127.0.0.1:1", scheme != "redis"));
        }
    }
}
