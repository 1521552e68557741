//! Global rate limits on a real Redis server: three gateways' limits, each with a connection of its own.

use std::num::NonZeroU32;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;

use nexus_gateway::gates::rate_limit::Why;
use nexus_gateway::gates::{RateLimit, Shared, StoreSettings};
use nexus_gateway::resilience::rate_limit::{OnFailure, Rate, Scope, StoreUrl};
use nexus_gateway::resilience::{Per, RateLimitSettings};
use nexus_gateway::tls::{ClientTlsSettings, KeyPair, Roots};
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

#[path = "support/certificates.rs"]
mod certificates;

use certificates::{Authority, For, Issued};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// A server that ends with the test.
struct Redis {
    port: u16,
    process: Option<Child>,
    /// What it is started with besides.
    more: Vec<String>,
}

impl Redis {
    async fn start() -> Self {
        Self::start_with(|port| vec!["--port".into(), port.to_string()]).await
    }

    /// One that speaks TLS only, and that with those who show a certificate of `authority`.
    async fn start_with_tls(folder: &Path, authority: &Authority, own: &Issued) -> Self {
        let file = |name: &str, text: &str| {
            let path = folder.join(name);
            std::fs::write(&path, text).expect("a file can be written");
            path.display().to_string()
        };
        let files = [("ca-cert", &authority.pem), ("cert", &own.chain), ("key", &own.key)];
        let files = files.map(|(name, text)| [format!("--tls-{name}-file"), file(name, text)]).concat();
        let ports = |port: u16| ["--port".into(), "0".into(), "--tls-port".into(), port.to_string()];
        Self::start_with(|port| [&ports(port)[..], &files].concat()).await
    }

    async fn start_with(more: impl FnOnce(u16) -> Vec<String>) -> Self {
        Log::keep();
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = free.local_addr().expect("an address").port();
        drop(free);
        let mut redis = Self { port, process: None, more: more(port) };
        redis.start_again().await;
        redis
    }

    async fn start_again(&mut self) {
        let process = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(&self.more)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server, of the Debian package redis-server, has to be installed for this test");
        self.process = Some(process);
        let mut tries = 0;
        while tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_err() {
            tries += 1;
            assert!(tries < 500, "redis-server does not listen");
            sleep(10 * MS).await;
        }
    }

    fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("it can be ended");
            process.wait().expect("it ends");
        }
    }

    async fn store(&self) -> Arc<Shared> {
        self.store_with(SECOND).await
    }

    /// A store that may take `timeout`: long where a busy machine must not look like a failure.
    async fn store_with(&self, timeout: Duration) -> Arc<Shared> {
        let store = self.shared("redis://127.0.0.1", ClientTlsSettings::default(), timeout);
        until(|| store.status().up).await;
        store
    }

    /// The store as it is met at `base`, which lacks the port.
    fn shared(&self, base: &str, tls: ClientTlsSettings, timeout: Duration) -> Arc<Shared> {
        let url = StoreUrl::new(format!("{base}:{}", self.port));
        Arc::new(Shared::new(&StoreSettings { url, tls, timeout }, Handle::current()).expect("an address"))
    }

    fn query(&self, command: &[&str]) -> String {
        let port = self.port.to_string();
        let answer = Command::new("redis-cli").args(["-p", &port]).args(command).output().expect("redis-cli is there");
        String::from_utf8_lossy(&answer.stdout).trim().to_owned()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn until(condition: impl Fn() -> bool) {
    let mut tries = 0;
    while !condition() {
        tries += 1;
        assert!(tries < 1000, "it does not come true");
        sleep(10 * MS).await;
    }
}

fn settings(requests: u32, burst: u32, max_wait: Duration) -> RateLimitSettings {
    RateLimitSettings {
        per: Per::OPERATION,
        rate: Rate { requests: NonZeroU32::new(requests).expect("not 0"), every: SECOND },
        burst: NonZeroU32::new(burst).expect("not 0"),
        max_wait,
        max_queue: 1000,
        headers: false,
        scope: Scope::Global,
        on_failure: OnFailure::Local,
    }
}

async fn three_gateways(redis: &Redis, settings: &RateLimitSettings) -> Vec<(Arc<RateLimit>, Arc<Shared>)> {
    let mut gateways = Vec::new();
    for _ in 0..3 {
        let store = redis.store().await;
        let limit = RateLimit::global(settings.clone(), "a".into(), Arc::clone(&store));
        gateways.push((Arc::new(limit), store));
    }
    gateways
}

/// Requests that come as fast as they are served, `clients` at a time, until `stop`; counts what went.
fn load(limit: &Arc<RateLimit>, clients: usize, stop: &Arc<AtomicBool>, tasks: &mut JoinSet<(u32, u32)>) {
    for _ in 0..clients {
        let (limit, stop) = (Arc::clone(limit), Arc::clone(stop));
        tasks.spawn(async move {
            let (mut went, mut refused) = (0, 0);
            while !stop.load(Ordering::Relaxed) {
                if limit.admit(Instant::now() + 10 * SECOND).await.is_ok() {
                    went += 1;
                } else {
                    refused += 1;
                    sleep(MS).await;
                }
                tokio::task::yield_now().await;
            }
            (went, refused)
        });
    }
}

/// The share of the limit that three gateways with so many clients each let through in three seconds.
async fn share(settings: RateLimitSettings, clients: [usize; 3]) -> f64 {
    let redis = Redis::start().await;
    let gateways = three_gateways(&redis, &settings).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut tasks = JoinSet::new();
    let began = Instant::now();
    for ((limit, _), clients) in gateways.iter().zip(clients) {
        load(limit, clients, &stop, &mut tasks);
    }
    sleep(3 * SECOND).await;
    let admitted: u64 = gateways.iter().map(|(limit, _)| limit.status().admitted).sum();
    let elapsed = began.elapsed();
    stop.store(true, Ordering::Relaxed);
    while tasks.join_next().await.is_some() {}

    let rate = f64::from(settings.rate.requests.get()) / settings.rate.every.as_secs_f64();
    let most = rate * elapsed.as_secs_f64() + f64::from(settings.burst.get());
    let decisions: Vec<_> = gateways.iter().map(|(_, store)| store.status()).collect();
    let each: Vec<_> = gateways.iter().map(|(limit, _)| limit.status().admitted).collect();
    let share = f64::from(u32::try_from(admitted).expect("few")) / most;
    println!("{rate}/s burst {}: {admitted} of {most:.0} ({share:.3}), {each:?}, {decisions:?}", settings.burst);
    assert!(decisions.iter().all(|store| store.errors == 0));
    share
}

#[tokio::test]
async fn three_gateways_together_let_through_what_one_limit_gives() {
    for (rate, burst, max_wait, clients) in [
        // All full, and waiting.
        (1000, 50, SECOND, [40, 40, 40]),
        // One has most of the demand, one has little.
        (1000, 50, SECOND, [40, 2, 1]),
        // Nobody waits.
        (1000, 50, Duration::ZERO, [20, 20, 20]),
        // A fast limit with little saved, and a slow one.
        (5000, 10, SECOND, [60, 60, 60]),
        (50, 1, SECOND, [5, 5, 5]),
    ] {
        let share = share(settings(rate, burst, max_wait), clients).await;
        assert!((0.95..=1.05).contains(&share), "{rate}/s, burst {burst}, {max_wait:?}, {clients:?}: {share}");
    }
}

#[tokio::test]
async fn the_common_request_asks_nobody_and_nothing_stays_in_the_store() {
    let redis = Redis::start().await;
    let store = redis.store().await;
    let limit = RateLimit::global(settings(10_000, 1000, SECOND), "a".into(), Arc::clone(&store));
    let mut delayed = 0;
    for number in 0..600 {
        limit.admit(Instant::now() + SECOND).await.expect("a turn");
        sleep(MS).await;
        if number == 99 {
            delayed = limit.status().delayed;
        }
    }
    let (delayed, decisions) = (limit.status().delayed - delayed, store.status().decisions);
    println!("{delayed} of 500 requests waited for the store, {decisions} decisions");
    assert!(delayed <= 10 && decisions < 300, "{delayed} of 500 requests waited for the store, {decisions} decisions");
    sleep(300 * MS).await;
    assert_eq!(redis.query(&["DBSIZE"]), "0");
}

#[tokio::test]
async fn gateways_of_equal_demand_have_equal_shares() {
    for max_wait in [Duration::ZERO, SECOND] {
        let redis = Redis::start().await;
        let gateways = three_gateways(&redis, &settings(1000, 50, max_wait)).await;
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for (limit, _) in &gateways {
            load(limit, 20, &stop, &mut tasks);
        }
        sleep(2 * SECOND).await;
        stop.store(true, Ordering::Relaxed);
        while tasks.join_next().await.is_some() {}
        let each: Vec<_> = gateways.iter().map(|(limit, _)| limit.status().admitted).collect();
        println!("{max_wait:?}: {each:?}");
        assert!(each.iter().min() > each.iter().max().map(|most| most / 2).as_ref(), "{max_wait:?}: {each:?}");
    }
}

#[tokio::test]
async fn one_that_leaves_while_the_store_is_asked_costs_no_turn() {
    let redis = Redis::start().await;
    let limit = RateLimit::global(settings(1, 1, Duration::ZERO), "a".into(), redis.store().await);
    let limit = Arc::new(limit);
    let leaver = Arc::clone(&limit);
    let leaver = tokio::spawn(async move { leaver.admit(Instant::now() + SECOND).await });
    tokio::task::yield_now().await;
    assert_eq!(limit.status().waiting, 1);
    leaver.abort();
    limit.admit(Instant::now() + SECOND).await.expect("the only turn is still there");
}

#[tokio::test]
async fn workers_with_runtimes_of_their_own_share_a_limit() {
    let redis = Redis::start().await;
    let limit = Arc::new(RateLimit::global(settings(500, 10, SECOND), "a".into(), redis.store().await));
    let workers = [(); 2].map(|()| {
        let limit = Arc::clone(&limit);
        tokio::task::spawn_blocking(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                for _ in 0..100 {
                    limit.admit(Instant::now() + SECOND).await.expect("a turn");
                }
            });
        })
    });
    for worker in workers {
        worker.await.expect("no panic");
    }
    let status = limit.status();
    assert_eq!((status.admitted, status.waiting), (200, 0));
}

#[tokio::test]
async fn a_store_that_stops_and_returns_under_load_loses_no_request() {
    let mut redis = Redis::start().await;
    let gateways = three_gateways(&redis, &settings(2000, 100, 5 * SECOND)).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut tasks = JoinSet::new();
    for (limit, _) in &gateways {
        load(limit, 20, &stop, &mut tasks);
    }
    sleep(500 * MS).await;
    redis.stop();
    until(|| gateways.iter().all(|(_, store)| !store.status().up)).await;
    sleep(500 * MS).await;
    redis.start_again().await;
    until(|| gateways.iter().all(|(_, store)| store.status().up)).await;
    let before: Vec<_> = gateways.iter().map(|(_, store)| store.status().decisions).collect();
    until(|| gateways.iter().zip(&before).all(|((_, store), before)| store.status().decisions > *before)).await;
    stop.store(true, Ordering::Relaxed);
    let mut went = 0;
    while let Some(task) = tasks.join_next().await {
        let (admitted, refused) = task.expect("no panic");
        went += admitted;
        assert_eq!(refused, 0, "a request was lost");
    }
    assert!(went > 1000, "{went}");
    let log = Log::of(redis.port);
    let lines = |what: &str| log.iter().filter(|line| line.contains(what)).count();
    assert_eq!((lines("is down"), lines("is back"), log.len()), (3, 3, 6), "once for each gateway: {log:#?}");
}

/// What all tests here logged.
struct Log;

static LOGGED: Mutex<Vec<u8>> = Mutex::new(Vec::new());

impl Log {
    fn keep() {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| tracing_subscriber::fmt().with_ansi(false).with_writer(|| Log).init());
    }

    /// The lines about the store at this port.
    fn of(port: u16) -> Vec<String> {
        let logged = LOGGED.lock().expect("no panic");
        let name = format!(":{port}\"");
        String::from_utf8_lossy(&logged).lines().filter(|line| line.contains(&name)).map(str::to_owned).collect()
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LOGGED.lock().expect("no panic").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn gateways_wait_for_the_same_turns_and_refuse_what_comes_too_late() {
    let redis = Redis::start().await;
    let gateways = three_gateways(&redis, &settings(1, 1, 500 * MS)).await;
    let until = || Instant::now() + 10 * SECOND;
    gateways[0].0.admit(until()).await.expect("the first turn");
    for (limit, _) in &gateways {
        let refused = limit.admit(until()).await.expect_err("the next comes in a second");
        assert_eq!(refused.why, Why::TooLong);
        assert!(refused.retry_after > 500 * MS && refused.waited < 400 * MS, "{refused:?}");
    }
    let asked: u64 = gateways.iter().map(|(_, store)| store.status().decisions).sum();
    for _ in 0..100 {
        gateways[1].0.admit(Instant::now()).await.expect_err("the next comes in a second");
    }
    let asked = gateways.iter().map(|(_, store)| store.status().decisions).sum::<u64>() - asked;
    assert!(asked <= 1, "{asked} questions for what is known");
}

#[tokio::test]
async fn a_server_that_only_answers_pings_is_down_until_it_can_decide() {
    let redis = Redis::start().await;
    let store = redis.store_with(50 * MS).await;
    let limit = RateLimit::global(settings(1000, 1000, SECOND), "a".into(), Arc::clone(&store));
    redis.query(&["CONFIG", "SET", "maxmemory", "1"]);
    while store.status().up {
        limit.admit(Instant::now() + SECOND).await.expect("by the local limit");
        sleep(MS).await;
    }
    sleep(700 * MS).await;
    assert!(!store.status().up, "it still cannot write");
    assert_eq!(store.status().errors, 1);
    redis.query(&["CONFIG", "SET", "maxmemory", "0"]);
    until(|| store.status().up).await;
}

#[tokio::test]
async fn a_server_is_met_over_tls_where_its_certificate_is_right_and_nowhere_else() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let authority = Authority::new("authority");
    let own = authority.issue(For { hosts: &["localhost", "redis.test"], ..For::default() });
    let client = authority.issue(For { common_name: "gateway", ..For::default() });
    let redis = Redis::start_with_tls(folder.path(), &authority, &own).await;
    let certificate = Some(KeyPair::read(&client.chain, &client.key).expect("they fit"));
    let believing = |pem: &str| ClientTlsSettings {
        roots: Some(Roots::read(pem).expect("an authority")),
        certificate: certificate.clone(),
        ..ClientTlsSettings::default()
    };
    let right = believing(&authority.pem);
    let named = ClientTlsSettings { server_name: Some("redis.test".into()), ..right.clone() };
    for (base, tls) in [("rediss://localhost", &right), ("rediss://127.0.0.1", &named)] {
        let store = redis.shared(base, tls.clone(), SECOND);
        until(|| store.status().up).await;
        let limit = RateLimit::global(settings(1000, 1000, SECOND), base.into(), Arc::clone(&store));
        limit.admit(Instant::now() + SECOND).await.expect("a turn");
        assert_eq!((store.status().decisions, store.status().errors), (1, 0), "{base}");
    }

    let wrong = [
        ("rediss://localhost", ClientTlsSettings::default(), "UnknownIssuer"),
        ("rediss://localhost", believing(&Authority::new("another").pem), "UnknownIssuer"),
        // Its certificate is for names only.
        ("rediss://127.0.0.1", right.clone(), "not valid for name"),
        ("rediss://localhost", ClientTlsSettings { certificate: None, ..right }, "CertificateRequired"),
        ("redis://localhost", ClientTlsSettings::default(), ""),
    ];
    for (base, tls, why) in wrong {
        let before = Log::of(redis.port).len();
        let store = redis.shared(base, tls, SECOND);
        until(|| Log::of(redis.port).len() > before).await;
        let logged = Log::of(redis.port).split_off(before).concat();
        assert!(!store.status().up && logged.contains(why), "{base}: {why} is not in {logged}");
    }
}
