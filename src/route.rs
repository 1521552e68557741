//! Where a name leads: the table of endpoints, swapped whole.
//!
//! A lookup reads the table in force and never waits. When the registry or the configuration changes, a new table is
//! built beside it; what did not change is carried over with its connections, metrics and known operations.

use std::collections::{BTreeMap, HashMap};
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::runtime::Handle;

use crate::credentials::{Outward, Purse, SignerSettings, Wallet};
use crate::gates::{CallerKey, Gates, StoreSettings};
use crate::nexus::BaseUrl;
use crate::nexus::path::decode;
use crate::registry::{CONFIGURATION, ClusterSettings, Conflict, Entry, Snapshot, Target};
use crate::telemetry::{EndpointMetrics, OperationMetrics, Telemetry};
use crate::tls::ClientTlsSettings;
use crate::upstream::{Connect, Probe, Tcp, Upstream, UpstreamSettings};

mod elsewhere;
mod governed;
mod policy;

pub use governed::{Gated, Governed};
pub use policy::{Decided, Decision, ForCallers, Policies, Policy, PolicyRule, Ruled, Selector, Toggle, TokenRule};

/// Operations remembered per endpoint. Callers choose the names, so there is a bound; beyond it an operation's policy
/// is found anew for each request.
const MAX_OPERATIONS: usize = 1_000;
/// What need not be escaped in a path segment: RFC 3986's unreserved characters.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What the configuration says of routing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The rules of `policies`.
    pub policies: Policies,
    /// The addresses of each cluster.
    pub clusters: HashMap<Arc<str>, Vec<BaseUrl>>,
    /// How each cluster is met.
    pub outward: HashMap<Arc<str>, Outward>,
    /// How external targets are met, by the endpoint's name.
    pub externals: BTreeMap<Box<str>, Outward>,
    /// How the names of callers are signed.
    pub signer: Option<SignerSettings>,
    /// How connections are made and kept.
    pub upstream: UpstreamSettings,
    /// The store of global limits: another one makes them others, and with them what was found for operations.
    pub store: Option<StoreSettings>,
}

impl Plan {
    /// Routing to these clusters, under these rules.
    pub fn new(
        clusters: &[ClusterSettings],
        externals: BTreeMap<Box<str>, Outward>,
        rules: Vec<PolicyRule>,
        upstream: UpstreamSettings,
        store: Option<StoreSettings>,
    ) -> Self {
        let addresses = clusters.iter().map(|cluster| (Arc::clone(&cluster.name), cluster.urls.clone()));
        let outward = clusters.iter().map(|cluster| (Arc::clone(&cluster.name), cluster.outward.clone()));
        Self {
            policies: Policies::new(rules),
            clusters: addresses.collect(),
            outward: outward.collect(),
            externals,
            signer: None,
            upstream,
            store,
        }
    }
}

impl Plan {
    /// How an external target of an entry is met. One that a cluster's registry names is not the configuration's, be its
    /// name the same; neither is where the endpoint led before.
    fn external(&self, entry: &Entry, target: &Target) -> Option<&Outward> {
        let own = *entry.source == *CONFIGURATION && origin(target) == origin(&entry.definition.target);
        self.externals.get(&entry.definition.name).filter(|_| own)
    }
}

/// Finds endpoints; takes new tables.
pub struct Router {
    table: ArcSwap<Table>,
    plan: Mutex<Arc<Plan>>,
    telemetry: Arc<Telemetry>,
    gates: Arc<Gates>,
    workers: usize,
    connector: Arc<dyn Connect>,
    wallet: Arc<Wallet>,
    runtime: Handle,
}

/// All endpoints, as they are for a moment.
#[derive(Default)]
pub struct Table {
    plan: Arc<Plan>,
    by_name: ByText<Endpoint>,
    by_id: ByText<Endpoint>,
    upstreams: HashMap<UpstreamKey, Arc<Upstream>>,
    conflicts: Vec<Conflict>,
}

/// What requests are looked up in. Seeded at random; a caller can add to none of them without end, so a faster hash
/// than the standard one, which withstands crafted keys, will do.
type ByText<T> = HashMap<Box<str>, Arc<T>, foldhash::quality::RandomState>;

/// What makes two upstreams the same: their addresses, what is there, and by which certificates both sides know each
/// other. With another certificate it is another upstream, and requests in flight finish on the connections of the old
/// one.
#[derive(PartialEq, Eq)]
struct UpstreamKey {
    name: Arc<str>,
    urls: Vec<BaseUrl>,
    probe: Probe,
    tls: ClientTlsSettings,
}

/// Without the certificates: there are few upstreams of one name.
impl Hash for UpstreamKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.name, &self.urls, self.probe).hash(state);
    }
}

impl UpstreamKey {
    /// Certificates are of no account where no URL asks for them.
    fn new(name: Arc<str>, urls: Vec<BaseUrl>, probe: Probe, outward: Option<&Outward>) -> Self {
        let tls = outward.filter(|_| urls.iter().any(|url| url.tls)).map(|outward| outward.tls.clone());
        Self { name, urls, probe, tls: tls.unwrap_or_default() }
    }
}

/// An endpoint, ready for requests.
pub struct Endpoint {
    entry: Entry,
    /// Path before `{service}/{operation}`.
    prefix: Box<str>,
    upstream: Arc<Upstream>,
    purse: Purse,
    plan: Arc<Plan>,
    gates: Arc<Gates>,
    metrics: Arc<EndpointMetrics>,
    operations: ArcSwap<ByText<Operation>>,
}

/// An operation of an endpoint: what is found once and then kept.
pub struct Operation {
    /// The service, decoded.
    pub service: Box<str>,
    /// The operation, decoded.
    pub operation: Box<str>,
    /// What holds for its requests, by caller, and the gates that see to it.
    pub governed: ForCallers<Governed>,
    /// Its metrics.
    pub metrics: Arc<OperationMetrics>,
}

impl Router {
    /// A router with an empty table, for so many worker threads. What looks after upstreams runs on the current
    /// runtime.
    pub fn new(telemetry: Arc<Telemetry>, gates: Arc<Gates>, workers: usize) -> Self {
        Self::with_connector(telemetry, gates, workers, Arc::new(Tcp))
    }

    /// The same, with connections to targets that `connector` makes.
    pub fn with_connector(
        telemetry: Arc<Telemetry>,
        gates: Arc<Gates>,
        workers: usize,
        connector: Arc<dyn Connect>,
    ) -> Self {
        let runtime = Handle::current();
        let wallet = Wallet::new();
        Self {
            table: ArcSwap::default(),
            plan: Mutex::default(),
            telemetry,
            gates,
            workers,
            connector,
            wallet,
            runtime,
        }
    }

    /// The endpoint of this name, or else of this id; a table has no text that is both.
    pub fn find(&self, name: &str) -> Option<Arc<Endpoint>> {
        let table = self.table.load();
        table.by_name.get(name).or_else(|| table.by_id.get(name)).cloned()
    }

    /// What targets are shown.
    pub fn wallet(&self) -> &Arc<Wallet> {
        &self.wallet
    }

    /// The table in force.
    pub fn table(&self) -> Arc<Table> {
        self.table.load_full()
    }

    /// What holds for requests of `caller`, from this namespace, that name no endpoint of the table.
    pub fn default_policy(&self, caller: &CallerKey, namespace: Option<&str>) -> Policy {
        self.table.load().plan.policies.decide([""; 3], caller, namespace)
    }

    /// From the next table on this is the plan.
    pub fn configure(&self, plan: Plan) {
        let mut current = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        // The same plan again must not make every endpoint a new one.
        if **current != plan {
            self.wallet.sign_by(plan.signer.as_ref());
            *current = Arc::new(plan);
        }
    }

    /// Puts a new table in force.
    pub fn apply(&self, snapshot: &Snapshot) {
        let plan = Arc::clone(&self.plan.lock().unwrap_or_else(PoisonError::into_inner));
        let old = self.table.load_full();
        let mut table = Table { plan, conflicts: snapshot.conflicts.clone(), ..Table::default() };
        for entry in &snapshot.by_name {
            if let Some(endpoint) = self.endpoint(&old, &mut table, entry) {
                table.by_name.insert(entry.definition.name.clone(), Arc::clone(&endpoint));
                table.add_id(entry, endpoint);
            }
        }
        for entry in &snapshot.by_name_only {
            if let Some(endpoint) = self.endpoint(&old, &mut table, entry) {
                table.by_name.insert(entry.definition.name.clone(), endpoint);
            }
        }
        for entry in &snapshot.by_id_only {
            if let Some(endpoint) = self.endpoint(&old, &mut table, entry) {
                table.add_id(entry, endpoint);
            }
        }
        let table = Arc::new(table);
        self.table.store(Arc::clone(&table));
        self.telemetry.retain(|name| table.by_name.contains_key(name));
    }

    /// The endpoint for an entry: the one there was, if nothing about it changed.
    fn endpoint(&self, old: &Table, new: &mut Table, entry: &Entry) -> Option<Arc<Endpoint>> {
        let id = entry.definition.id.as_deref();
        let known = old.by_name.get(&entry.definition.name).into_iter().chain(id.and_then(|id| old.by_id.get(id)));
        for endpoint in known {
            if endpoint.entry == *entry && endpoint.plan == new.plan {
                new.upstreams.entry(endpoint.upstream_key()?).or_insert_with(|| Arc::clone(&endpoint.upstream));
                return Some(Arc::clone(endpoint));
            }
        }
        let (key, prefix) = destination(entry, &new.plan)?;
        let reused = (old.plan.upstream == new.plan.upstream).then(|| old.upstreams.get(&key)).flatten();
        let upstream = new.upstreams.entry(key).or_insert_with_key(|key| match reused {
            Some(upstream) => Arc::clone(upstream),
            None => self.new_upstream(key, &new.plan),
        });
        Some(Arc::new(Endpoint {
            prefix: prefix.into(),
            upstream: Arc::clone(upstream),
            purse: self.purse(entry, &entry.definition.target, &new.plan),
            plan: Arc::clone(&new.plan),
            gates: Arc::clone(&self.gates),
            metrics: self.telemetry.endpoint(&entry.definition.name),
            operations: ArcSwap::default(),
            entry: entry.clone(),
        }))
    }

    /// What an entry's target is shown. An external one has credentials only where the configuration names both.
    fn purse(&self, entry: &Entry, target: &Target, plan: &Plan) -> Purse {
        let (setting, outward) = match target.cluster() {
            Some(cluster) => (format!("clusters.{cluster}"), plan.outward.get(cluster)),
            None => (format!("endpoints.{}", entry.definition.name), plan.external(entry, target)),
        };
        self.wallet.purse(&setting, outward.unwrap_or(&Outward::default()))
    }

    fn new_upstream(&self, key: &UpstreamKey, plan: &Plan) -> Arc<Upstream> {
        let _runtime = self.runtime.enter();
        let UpstreamKey { name, urls, probe, tls } = key;
        let (settings, connector) = (plan.upstream.clone(), Arc::clone(&self.connector));
        Upstream::new(Arc::clone(name), urls.clone(), *probe, settings, self.workers, connector, tls)
    }
}

/// The addresses of a target and the path before `{service}/{operation}`; none where the cluster is not configured.
fn destination(entry: &Entry, plan: &Plan) -> Option<(UpstreamKey, String)> {
    let cluster = |name: &Arc<str>| {
        let urls = plan.clusters.get(name)?.clone();
        let base = urls.first()?.path.clone();
        Some((UpstreamKey::new(Arc::clone(name), urls, Probe::SystemInfo, plan.outward.get(name)), base))
    };
    let escape = |segment| utf8_percent_encode(segment, SEGMENT).to_string();
    let target = &entry.definition.target;
    match target {
        Target::Dispatch { cluster: name, id, .. } => {
            let (key, base) = cluster(name)?;
            Some((key, format!("{base}/nexus/endpoints/{id}/services/")))
        }
        Target::Worker { cluster: name, namespace, task_queue } => {
            let (key, base) = cluster(name)?;
            let (namespace, task_queue) = (escape(namespace), escape(task_queue));
            Some((key, format!("{base}/namespaces/{namespace}/task-queues/{task_queue}/nexus-services/")))
        }
        Target::External { url } => {
            let origin = BaseUrl { path: "".into(), ..url.clone() };
            let key =
                UpstreamKey::new(url.authority().into(), vec![origin], Probe::Connect, plan.external(entry, target));
            Some((key, format!("{}/", url.path)))
        }
    }
}

/// Where an external target is, whatever its path.
fn origin(target: &Target) -> Option<(bool, &str, u16)> {
    match target {
        Target::External { url } => Some((url.tls, &*url.host, url.port)),
        Target::Dispatch { .. } | Target::Worker { .. } => None,
    }
}

impl Table {
    /// The endpoints, sorted by name.
    pub fn endpoints(&self) -> Vec<&Arc<Endpoint>> {
        let mut endpoints: Vec<_> = self.by_name.values().collect();
        endpoints.sort_by(|a, b| a.name().cmp(b.name()));
        endpoints
    }

    /// Names and ids that more than one source defines.
    pub fn conflicts(&self) -> &[Conflict] {
        &self.conflicts
    }

    /// The upstreams in use.
    pub fn upstreams(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        self.upstreams.values()
    }

    /// The rules in force.
    pub fn policies(&self) -> &Policies {
        &self.plan.policies
    }

    fn add_id(&mut self, entry: &Entry, endpoint: Arc<Endpoint>) {
        if let Some(id) = &entry.definition.id {
            self.by_id.insert(id.clone(), endpoint);
        }
    }
}

impl Endpoint {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.entry.definition.name
    }

    /// What its source says.
    pub fn entry(&self) -> &Entry {
        &self.entry
    }

    /// Whether the target is asked by the endpoint's id, which ends with the endpoint.
    pub fn is_dispatched_by_id(&self) -> bool {
        matches!(self.entry.definition.target, Target::Dispatch { .. })
    }

    /// Path before `{service}/{operation}` at the target.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// What its target is shown.
    pub fn purse(&self) -> &Purse {
        &self.purse
    }

    /// Where its requests go.
    pub fn upstream(&self) -> &Arc<Upstream> {
        &self.upstream
    }

    /// The operation of this key, `{service}/{operation}` as a caller wrote it.
    pub fn operation(&self, key: &str) -> Arc<Operation> {
        if let Some(known) = self.operations.load().get(key) {
            return Arc::clone(known);
        }
        let found = Arc::new(self.find_operation(key));
        // Rare, and two at the same time lose nothing but a little work.
        if self.operations.load().len() < MAX_OPERATIONS {
            self.operations.rcu(|known| {
                let mut known = ByText::clone(known);
                known.insert(key.into(), Arc::clone(&found));
                known
            });
        }
        found
    }

    fn find_operation(&self, key: &str) -> Operation {
        let (service, operation) = key.split_once('/').unwrap_or((key, ""));
        // A path that was read has no segment that cannot be decoded.
        let service = decode(service).unwrap_or_default();
        let operation = decode(operation).unwrap_or_default();
        let names = [self.name(), &service, &operation];
        let policies = self.plan.policies.decide_all(names);
        Operation {
            governed: policies.map(|policy| Governed::new(policy, &self.gates, names)),
            metrics: self.metrics.operation(&service, &operation),
            service: service.into(),
            operation: operation.into(),
        }
    }

    fn upstream_key(&self) -> Option<UpstreamKey> {
        destination(&self.entry, &self.plan).map(|(key, _)| key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gates::ProcessSettings;
    use crate::registry::Definition;

    const ID: &str = "7c679e62-b5fe-4ebc-9ae3-f5b952778b7d";

    fn entry(name: &str, target: Target, id: Option<&str>) -> Entry {
        let definition = Definition { name: name.into(), id: id.map(Into::into), target };
        Entry { definition, source: "configuration".into(), cluster_id: None }
    }

    fn dispatch(name: &str) -> Entry {
        let (namespace, task_queue) = ("ns".into(), "tq".into());
        entry(name, Target::Dispatch { cluster: "home".into(), id: ID.into(), namespace, task_queue }, Some(ID))
    }

    fn external(name: &str, url: &str) -> Entry {
        entry(name, Target::External { url: BaseUrl::parse(url).unwrap() }, None)
    }

    fn plan() -> Plan {
        let urls = vec![BaseUrl::parse("http://127.0.0.1:7243/base").unwrap()];
        Plan { clusters: HashMap::from([("home".into(), urls)]), ..Plan::default() }
    }

    fn router(entries: Vec<Entry>) -> Router {
        let router = Router::new(Telemetry::new(), Gates::new(&ProcessSettings::default()), 1);
        router.configure(plan());
        router.apply(&Snapshot { by_name: entries, ..Snapshot::default() });
        router
    }

    #[tokio::test]
    async fn each_target_has_its_route() {
        let (namespace, task_queue) = ("pay ns".into(), "a/b".into());
        let worker = entry("queue", Target::Worker { cluster: "home".into(), namespace, task_queue }, None);
        let router = router(vec![dispatch("id"), worker, external("ext", "http://h:1/p/")]);
        let prefix = |name| router.find(name).unwrap().prefix().to_owned();
        assert_eq!(prefix("id"), format!("/base/nexus/endpoints/{ID}/services/"));
        assert_eq!(prefix(ID), prefix("id"));
        assert_eq!(prefix("queue"), "/base/namespaces/pay%20ns/task-queues/a%2Fb/nexus-services/");
        assert_eq!(prefix("ext"), "/p/");
        assert!(router.find("none").is_none());
    }

    #[tokio::test]
    async fn what_did_not_change_stays_the_same_object() {
        let router = router(vec![dispatch("kept"), external("moved", "http://h:1"), external("gone", "http://g:1")]);
        let (kept, moved) = (router.find("kept").unwrap(), router.find("moved").unwrap());
        router.configure(plan());
        let entries = vec![dispatch("kept"), external("moved", "http://h:1/other")];
        router.apply(&Snapshot { by_name: entries, ..Snapshot::default() });
        assert!(Arc::ptr_eq(&kept, &router.find("kept").unwrap()));
        let now = router.find("moved").unwrap();
        assert!(!Arc::ptr_eq(&moved, &now) && Arc::ptr_eq(moved.upstream(), now.upstream()));
        assert!(router.find("gone").is_none());
        assert_eq!(router.table().upstreams().count(), 2);
    }

    #[tokio::test]
    async fn a_new_policy_reaches_operations_already_known_and_keeps_connections() {
        let router = router(vec![dispatch("pay")]);
        let policy = |endpoint: &Endpoint| {
            Arc::clone(
                &endpoint.operation("S/o").governed.of(&std::net::IpAddr::from([127, 0, 0, 1]).into(), None).policy,
            )
        };
        let before = router.find("pay").unwrap();
        assert_eq!(policy(&before).max_request_body, 2 << 20);
        let rule = PolicyRule { max_request_body: Some(5), ..PolicyRule::default() };
        router.configure(Plan { policies: Policies::new(vec![rule]), ..plan() });
        router.apply(&Snapshot { by_name: vec![dispatch("pay")], ..Snapshot::default() });
        let after = router.find("pay").unwrap();
        assert_eq!(policy(&after).max_request_body, 5);
        assert!(Arc::ptr_eq(before.upstream(), after.upstream()));
    }

    #[tokio::test]
    async fn another_certificate_makes_new_connections_only_where_it_is_used() {
        let met = |name: &str| -> Outward {
            let tls = ClientTlsSettings { server_name: Some(name.into()), ..ClientTlsSettings::default() };
            Outward { tls, ..Outward::default() }
        };
        let externals = |name: &str| BTreeMap::from([("safe".into(), met(name)), ("clear".into(), met(name))]);
        let entries = || vec![external("safe", "https://h:1"), external("clear", "http://h:2"), dispatch("pay")];
        let router = router(Vec::new());
        let upstreams = |name: &str| {
            router.configure(Plan { externals: externals(name), ..plan() });
            router.apply(&Snapshot { by_name: entries(), ..Snapshot::default() });
            ["safe", "clear", "pay"].map(|name| Arc::clone(router.find(name).unwrap().upstream()))
        };
        let (before, after) = (upstreams("a"), upstreams("b"));
        let kept: Vec<_> = before.iter().zip(&after).map(|(before, after)| Arc::ptr_eq(before, after)).collect();
        assert_eq!(kept, [false, true, true]);
    }

    #[tokio::test]
    async fn operations_are_known_by_their_decoded_names_and_bounded() {
        let router = router(vec![dispatch("pay")]);
        let endpoint = router.find("pay").unwrap();
        let operation = endpoint.operation("Ser%2Fvic%20e/op");
        assert_eq!((&*operation.service, &*operation.operation), ("Ser/vic e", "op"));
        for i in 0..2 * MAX_OPERATIONS {
            endpoint.operation(&format!("S/{i}"));
        }
        assert_eq!(endpoint.operations.load().len(), MAX_OPERATIONS);
        assert!(Arc::ptr_eq(&operation, &endpoint.operation("Ser%2Fvic%20e/op")));
    }

    #[tokio::test]
    async fn an_endpoint_of_a_cluster_that_is_not_configured_is_left_out() {
        let (namespace, task_queue) = ("ns".into(), "tq".into());
        let entry = entry("lost", Target::Worker { cluster: "other".into(), namespace, task_queue }, None);
        assert!(router(vec![entry]).find("lost").is_none());
    }
}
