//! Where an endpoint led when an operation was started, which need not be where it leads now.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::{Endpoint, Router, destination};
use crate::callback::seal::TargetRef;
use crate::nexus::BaseUrl;
use crate::registry::Target;

impl Endpoint {
    /// The target by its name, which outlives this definition.
    pub fn target_ref(&self) -> TargetRef {
        match &self.entry.definition.target {
            Target::Dispatch { cluster, namespace, task_queue, .. }
            | Target::Worker { cluster, namespace, task_queue } => TargetRef::Worker {
                cluster: cluster.to_string(),
                namespace: namespace.to_string(),
                task_queue: task_queue.to_string(),
            },
            Target::External { url } => TargetRef::External { url: url.to_string() },
        }
    }
}

impl Router {
    /// The same endpoint with another target; none where that is a cluster that is not configured any more.
    pub fn leading_to(&self, endpoint: &Endpoint, target: &TargetRef) -> Option<Arc<Endpoint>> {
        let target = match target {
            TargetRef::Worker { cluster, namespace, task_queue } => Target::Worker {
                cluster: cluster.as_str().into(),
                namespace: namespace.as_str().into(),
                task_queue: task_queue.as_str().into(),
            },
            TargetRef::External { url } => Target::External { url: BaseUrl::parse(url).ok()? },
            TargetRef::Parked { .. } => return None,
        };
        let table = self.table.load();
        let purse = self.purse(&endpoint.entry, &target, &endpoint.plan);
        let mut entry = endpoint.entry.clone();
        entry.definition.target = target;
        let (key, prefix) = destination(&entry, &endpoint.plan)?;
        let upstream = table.upstreams.get(&key).cloned().unwrap_or_else(|| self.new_upstream(&key, &endpoint.plan));
        Some(Arc::new(Endpoint {
            prefix: prefix.into(),
            upstream,
            purse,
            plan: Arc::clone(&endpoint.plan),
            gates: Arc::clone(&endpoint.gates),
            metrics: Arc::clone(&endpoint.metrics),
            operations: ArcSwap::default(),
            entry,
        }))
    }

    /// The first address of a cluster.
    pub fn url_of_cluster(&self, name: &str) -> Option<BaseUrl> {
        self.table.load().plan.clusters.get(name)?.first().cloned()
    }
}
