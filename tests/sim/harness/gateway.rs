//! A host that is a gateway: what `run` wires, over simulated sockets.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use nexus_gateway::admission::{Peer, Trust};
use nexus_gateway::credentials::Outward;
use nexus_gateway::gates::{Breaker, Gates, ProcessSettings};
use nexus_gateway::nexus::BaseUrl;
use nexus_gateway::registry::{ClusterSettings, Definition, Registry, Target};
use nexus_gateway::route::{Plan, Router};
use nexus_gateway::telemetry::Telemetry;
use turmoil::net::{TcpListener, TcpStream};

use super::wire::{ID, Sent, Wire};
use super::{Setting, handler, lock, now};

pub(crate) const PORT: u16 = 7280;

/// A gateway with one endpoint, `pay`, that leads to all handlers.
#[derive(Clone)]
pub(crate) struct Gateway {
    pub(crate) name: String,
    wire: Wire,
    /// When each request came.
    entered: Arc<Mutex<HashMap<u64, Duration>>>,
    inside: Arc<OnceLock<Inside>>,
}

struct Inside {
    telemetry: Arc<Telemetry>,
    gates: Arc<Gates>,
    router: Arc<Router>,
}

impl Gateway {
    pub(super) fn new(sim: &mut turmoil::Sim<'_>, number: usize, setting: &Setting) -> Self {
        let name = format!("gateway-{number}");
        let gateway = Self { name, wire: Wire::default(), entered: Arc::default(), inside: Arc::default() };
        let (host, setting) = (gateway.clone(), setting.clone());
        sim.host(&*gateway.name, move || host.clone().serve(setting.clone()));
        gateway
    }

    async fn serve(self, setting: Setting) -> turmoil::Result {
        let gateway = self.build(setting)?;
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).await?;
        loop {
            let (stream, peer) = listener.accept().await?;
            let peer = Peer::connected(peer, Trust::Untrusted);
            tokio::spawn(serve_connection(Arc::clone(&gateway), stream, peer, Arc::clone(&self.entered)));
        }
    }

    fn build(&self, setting: Setting) -> turmoil::Result<Arc<nexus_gateway::gateway::Gateway>> {
        let telemetry = Telemetry::new();
        let gates = Gates::new(&ProcessSettings::default());
        let connector = Arc::new(self.wire.clone());
        let router = Arc::new(Router::with_connector(Arc::clone(&telemetry), Arc::clone(&gates), 1, connector));
        let publish_to = Arc::clone(&router);
        let registry = Registry::new(move |snapshot| publish_to.apply(snapshot), None, Arc::clone(router.wallet()));

        let urls = (0..setting.handlers)
            .map(|n| BaseUrl::parse(&format!("http://{}:{}", turmoil::lookup(handler::name(n)), handler::PORT)));
        let cluster: Arc<str> = "handlers".into();
        let clusters = [ClusterSettings {
            name: Arc::clone(&cluster),
            urls: urls.collect::<Result<_, _>>()?,
            discover: None,
            outward: Outward::default(),
        }];
        router.configure(Plan::new(&clusters, BTreeMap::new(), vec![setting.policy], setting.upstream, None));
        let target = Target::Worker { cluster, namespace: "ns".into(), task_queue: "tq".into() };
        // The clusters are no sources: the registry reads over real sockets.
        registry.configure(&[], vec![Definition { name: "pay".into(), id: None, target }]);

        let gateway = nexus_gateway::gateway::Gateway::new(
            Arc::clone(&router),
            registry,
            Arc::clone(&telemetry),
            Arc::clone(&gates),
        );
        let inside = Inside { telemetry, gates, router };
        assert!(self.inside.set(inside).is_ok(), "a gateway starts once");
        Ok(Arc::new(gateway))
    }

    /// All that went out so far.
    pub(crate) fn sent(&self) -> Vec<Sent> {
        self.wire.sent()
    }

    /// When each request came.
    pub(crate) fn entered(&self) -> HashMap<u64, Duration> {
        lock(&self.entered).clone()
    }

    /// The breakers of operations.
    pub(crate) fn breakers(&self) -> Vec<Arc<Breaker>> {
        self.inside().gates.breakers.shared().into_iter().map(|(_, breaker)| breaker).collect()
    }

    /// The sum of a metric over all series that have `label`.
    pub(crate) fn metric(&self, name: &str, label: &str) -> f64 {
        let text = self.inside().telemetry.encode();
        let ours = text.lines().filter(|line| {
            let series = line.strip_prefix("nexus_gateway_").and_then(|line| line.strip_prefix(name));
            series.is_some_and(|rest| rest.starts_with(['{', ' ']) && rest.contains(label))
        });
        ours.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// Requests sent again because an idle connection had died.
    pub(crate) fn replayed(&self) -> u64 {
        let table = self.inside().router.table();
        table.upstreams().map(|upstream| upstream.counts().replayed.load(std::sync::atomic::Ordering::Relaxed)).sum()
    }

    /// All that requests hold, by name; nothing when none is on its way.
    pub(crate) fn held(&self) -> Vec<(String, f64)> {
        let Inside { gates, router, .. } = self.inside();
        let count = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
        let mut held = vec![
            ("requests in flight".to_owned(), self.metric("requests_in_flight", "")),
            ("bytes".into(), count(gates.bytes.held())),
        ];
        for stage in nexus_gateway::telemetry::Stage::ALL {
            held.push((
                format!("waiting at {}", stage.name()),
                self.metric("waiting", &format!("\"{}\"", stage.name())),
            ));
        }
        let limits = gates.concurrency.shared().into_iter().map(|(_, limit)| limit);
        for limit in limits.chain([Arc::clone(&gates.in_flight)]) {
            let status = limit.status();
            held.push(("places".into(), count(status.in_flight)));
            held.push(("waiting for a place".into(), count(status.waiting)));
        }
        for breaker in self.breakers() {
            held.push(("waiting at a breaker".into(), count(breaker.status(tokio::time::Instant::now()).waiting)));
        }
        for upstream in router.table().upstreams() {
            let (open, idle) = upstream.connections();
            held.push(("busy connections".into(), count(open - idle)));
            for address in upstream.addresses_status(tokio::time::Instant::now()) {
                held.push((format!("on their way to {}", address.socket), count(address.in_flight)));
            }
        }
        held.retain(|(_, count)| *count != 0.0);
        held
    }

    fn inside(&self) -> &Inside {
        self.inside.get().expect("the gateway was started")
    }
}

async fn serve_connection(
    gateway: Arc<nexus_gateway::gateway::Gateway>,
    stream: TcpStream,
    peer: Peer,
    entered: Arc<Mutex<HashMap<u64, Duration>>>,
) {
    let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let gateway = Arc::clone(&gateway);
        let id = request.headers().get(ID).and_then(|id| id.to_str().ok()?.parse().ok());
        lock(&entered).insert(id.expect("each request has an id"), now());
        let peer = peer.clone();
        async move { Ok::<_, Infallible>(gateway.serve(0, &peer, request).await) }
    });
    // A caller that leaves is an error here.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}
