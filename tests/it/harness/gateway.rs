//! A gateway in this process, on free ports, for one test.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use nexus_gateway::admin::AdminSettings;
use nexus_gateway::admission::Trust;
use nexus_gateway::config::Settings;
use nexus_gateway::credentials::Outward;
use nexus_gateway::nexus::BaseUrl;
use nexus_gateway::registry::{ClusterSettings, Definition, DiscoverSettings, Target};
use nexus_gateway::route::PolicyRule;
use nexus_gateway::run::Running;
use nexus_gateway::server::{ListenerSettings, ServerSettings};
use nexus_gateway::telemetry::LogTarget;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::caller::{Caller, Request, get};
use super::cluster::Cluster;
use super::handler::Handler;
use super::message::{GUARD, Message};
use super::metrics::Metrics;
use super::planted::Watch;

/// A gateway; its worker threads end with it.
pub(crate) struct Gateway {
    // Dropped first.
    _watch: Watch,
    pub(crate) running: Running,
    _state: TempDir,
}

impl Gateway {
    pub(crate) async fn start(mut settings: Settings) -> Self {
        let state = tempfile::tempdir().expect("a temporary folder");
        settings.state.get_or_insert_with(|| state.path().into());
        Self::with(settings, state).await
    }

    /// Without a state folder, unless the settings name one.
    pub(crate) async fn stateless(settings: Settings) -> Self {
        Self::with(settings, tempfile::tempdir().expect("a temporary folder")).await
    }

    async fn with(mut settings: Settings, state: TempDir) -> Self {
        let log = |name| LogTarget::File(state.path().join(name));
        settings.log.access_log.get_or_insert_with(|| log("access.log"));
        settings.log.audit_log.get_or_insert_with(|| log("audit.log"));
        let mut watch = Watch::begin(&settings.log);
        let running = Running::start(settings).await.expect("free ports can be bound");
        watch.ask(running.admin());
        Self { _watch: watch, running, _state: state }
    }

    /// With one endpoint `pay` that leads to `handler`, which is no Temporal cluster.
    pub(crate) async fn before(handler: &Handler) -> Self {
        Self::start(leading_to(handler)).await
    }

    /// With the endpoints of `cluster`, by name.
    pub(crate) async fn serving(cluster: &Cluster) -> Self {
        Self::start(Settings { clusters: vec![discovered("home", cluster.url())], ..settings() }).await
    }

    pub(crate) fn data(&self) -> SocketAddr {
        self.running.data_addresses()[0]
    }

    pub(crate) async fn connect(&self) -> Caller {
        Caller::connect(self.data()).await
    }

    /// Sends a request on a new connection and reads its answer.
    pub(crate) async fn call(&self, request: &Request) -> Message {
        self.connect().await.call(request).await
    }

    /// Asks the admin port.
    pub(crate) async fn admin(&self, path: &str) -> Message {
        self.ask_admin(&get(path)).await
    }

    /// Sends any request to the admin port.
    pub(crate) async fn ask_admin(&self, request: &Request) -> Message {
        Caller::connect(self.running.admin_address()).await.call(&request.clone().host("localhost")).await
    }

    pub(crate) async fn metrics(&self) -> Metrics {
        Metrics::new(self.admin("/metrics").await.text())
    }

    /// Waits until the sum of a metric over all series with these labels is `expected`. Counting ends a little after
    /// the last byte of an answer.
    pub(crate) async fn counts(&self, metric: &str, labels: &[(&str, &str)], expected: f64) {
        self.counted(metric, labels, |sum| (sum - expected).abs() < f64::EPSILON, expected).await;
    }

    /// The same, for what goes on growing.
    pub(crate) async fn counts_at_least(&self, metric: &str, labels: &[(&str, &str)], expected: f64) {
        self.counted(metric, labels, |sum| sum >= expected, expected).await;
    }

    async fn counted(&self, metric: &str, labels: &[(&str, &str)], enough: impl Fn(f64) -> bool, expected: f64) {
        let began = Instant::now();
        loop {
            let metrics = self.metrics().await;
            if enough(metrics.sum(metric, labels)) {
                return;
            }
            let lines = metrics.lines(metric);
            assert!(began.elapsed() < GUARD, "{metric}{labels:?} never became {expected}:\n{lines}");
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Waits until a request is answered with this status, and returns that answer.
    pub(crate) async fn until_status(&self, request: &Request, status: u16) -> Message {
        let began = Instant::now();
        loop {
            let answer = self.call(request).await;
            if answer.status() == status {
                return answer;
            }
            assert!(began.elapsed() < GUARD, "no {status} came; the last answer was {answer:?} {}", answer.text());
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Waits until the gateway says that requests may be sent to it.
    pub(crate) async fn until_ready(&self) {
        let began = Instant::now();
        while self.admin("/readyz").await.status() != 200 {
            assert!(began.elapsed() < GUARD, "the gateway never became ready");
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Waits until nobody listens at an address any more.
pub(crate) async fn refused_at(address: SocketAddr) {
    let began = Instant::now();
    while TcpStream::connect(address).await.is_ok() {
        assert!(began.elapsed() < GUARD, "{address} still takes connections");
        tokio::time::sleep(PAUSE).await;
    }
}

/// Waits until a condition holds.
pub(crate) async fn eventually(condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < GUARD, "the condition never came true");
        tokio::time::sleep(PAUSE).await;
    }
}

/// Time between two looks at a condition.
pub(crate) const PAUSE: Duration = Duration::from_millis(10);

/// Settings for a test: free loopback ports, one worker thread, nothing to serve.
pub(crate) fn settings() -> Settings {
    let free: SocketAddr = (Ipv4Addr::LOCALHOST, 0).into();
    Settings {
        listen: vec![ListenerSettings::plain(free, Trust::Trusted)],
        admin: AdminSettings::at(free),
        server: ServerSettings { workers: 1, ..ServerSettings::default() },
        state: None,
        ..Settings::default()
    }
}

/// Settings with one endpoint `pay` that leads to `handler`.
pub(crate) fn leading_to(handler: &Handler) -> Settings {
    Settings { endpoints: vec![external("pay", &handler.url())], ..settings() }
}

/// An endpoint outside of any Temporal cluster.
pub(crate) fn external(name: &str, url: &str) -> Definition {
    Definition { name: name.into(), id: None, target: Target::External { url: base_url(url) } }
}

/// An endpoint on a task queue of the cluster `home`.
pub(crate) fn worker(name: &str) -> Definition {
    let (namespace, task_queue) = ("pay ns".into(), "pay/tq".into());
    Definition { name: name.into(), id: None, target: Target::Worker { cluster: "home".into(), namespace, task_queue } }
}

/// A cluster whose endpoints are not served.
pub(crate) fn undiscovered(name: &str, urls: &[String]) -> ClusterSettings {
    ClusterSettings {
        name: name.into(),
        urls: urls.iter().map(|url| base_url(url)).collect(),
        discover: None,
        outward: Outward::default(),
    }
}

/// A cluster whose endpoints are served, but for its externals. Polled so seldom that a test sees one poll only.
pub(crate) fn discovered(name: &str, url: String) -> ClusterSettings {
    let discover = Some(DiscoverSettings { every: Duration::from_secs(3600), externals: false });
    ClusterSettings { discover, ..undiscovered(name, &[url]) }
}

/// The same cluster, polled all the time.
pub(crate) fn polled(name: &str, url: String) -> ClusterSettings {
    let discover = Some(DiscoverSettings { every: PAUSE, externals: false });
    ClusterSettings { discover, ..undiscovered(name, &[url]) }
}

/// The same settings with a policy for every request.
pub(crate) fn under(settings: Settings, rule: PolicyRule) -> Settings {
    Settings { policies: vec![rule], ..settings }
}

/// The same settings with requests that do not wait for a target that is down.
pub(crate) fn unheld(settings: Settings) -> Settings {
    under(settings, PolicyRule { hold: Some(false), ..PolicyRule::default() })
}

/// A rule that allows this much time only.
pub(crate) fn within(timeout: Duration) -> PolicyRule {
    PolicyRule { timeout: Some(timeout), ..PolicyRule::default() }
}

fn base_url(url: &str) -> BaseUrl {
    BaseUrl::parse(url).expect("a base URL")
}
