//! Many sources, one table: who wins a name.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Definition, Target};

/// The name of the source that the configuration itself is.
pub const CONFIGURATION: &str = "configuration";

/// What one cluster says.
pub(super) struct Part<'a> {
    pub(super) name: &'a Arc<str>,
    pub(super) cluster_id: Option<&'a Arc<str>>,
    pub(super) endpoints: &'a [Definition],
}

/// An endpoint of the merged table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What its source says.
    pub definition: Definition,
    /// [`CONFIGURATION`], or the name of the cluster that defines it.
    pub source: Arc<str>,
    /// Id of the cluster that requests go to, where known.
    pub cluster_id: Option<Arc<str>>,
}

/// A name that two sources define.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The name.
    pub name: Box<str>,
    /// The source whose definition is served.
    pub winner: Arc<str>,
    /// The source whose definition is served by id only.
    pub loser: Arc<str>,
}

/// The whole table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// What is served by name, and by id where there is one.
    pub by_name: Vec<Entry>,
    /// What lost its name to another source: served by id only.
    pub by_id_only: Vec<Entry>,
    /// Names that more than one source defines.
    pub conflicts: Vec<Conflict>,
}

/// The configuration's endpoints first, then those of the clusters in their order.
pub(super) fn merge(configured: &[Definition], clusters: &[Part<'_>]) -> Snapshot {
    let configuration: Arc<str> = CONFIGURATION.into();
    let mut snapshot = Snapshot::default();
    let mut winners: HashMap<&str, &Arc<str>> = HashMap::new();
    let own = configured.iter().map(|definition| (&configuration, definition));
    let discovered =
        clusters.iter().flat_map(|part| part.endpoints.iter().map(move |definition| (part.name, definition)));

    for (source, definition) in own.chain(discovered) {
        let cluster_id = |cluster| clusters.iter().find(|part| part.name == cluster)?.cluster_id.cloned();
        let entry = Entry {
            cluster_id: definition.target.cluster().and_then(cluster_id),
            definition: definition.clone(),
            source: Arc::clone(source),
        };
        match winners.get(&*definition.name) {
            None => {
                winners.insert(&definition.name, source);
                snapshot.by_name.push(entry);
            }
            Some(winner) => {
                let (winner, loser) = (Arc::clone(winner), Arc::clone(source));
                snapshot.conflicts.push(Conflict { name: definition.name.clone(), winner, loser });
                snapshot.by_id_only.push(entry);
            }
        }
    }
    snapshot
}

impl Definition {
    /// Whether requests go to a Temporal cluster, rather than to any Nexus handler.
    pub fn is_temporal(&self) -> bool {
        !matches!(self.target, Target::External { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(name: &str, cluster: &Arc<str>, id: &str) -> Definition {
        let (namespace, task_queue) = ("ns".into(), "tq".into());
        let target = Target::Dispatch { cluster: Arc::clone(cluster), id: id.into(), namespace, task_queue };
        Definition { name: name.into(), id: Some(id.into()), target }
    }

    fn served(snapshot: &Snapshot) -> Vec<(&str, &str)> {
        snapshot.by_name.iter().map(|entry| (&*entry.definition.name, &*entry.source)).collect()
    }

    #[test]
    fn the_configuration_wins_then_the_clusters_in_order() {
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let own = [definition("one", &a, "0")];
        let of_a = [definition("one", &a, "1"), definition("two", &a, "2")];
        let of_b = [definition("two", &b, "3"), definition("three", &b, "4")];
        let id: Arc<str> = "id-b".into();
        let clusters = [
            Part { name: &a, cluster_id: None, endpoints: &of_a },
            Part { name: &b, cluster_id: Some(&id), endpoints: &of_b },
        ];
        let snapshot = merge(&own, &clusters);
        assert_eq!(served(&snapshot), [("one", "configuration"), ("two", "a"), ("three", "b")]);
        assert_eq!(snapshot.by_name[2].cluster_id, Some(id));

        let lost: Vec<_> = snapshot.conflicts.iter().map(|c| (&*c.name, &*c.winner, &*c.loser)).collect();
        assert_eq!(lost, [("one", "configuration", "a"), ("two", "a", "b")]);
        let by_id: Vec<_> = snapshot.by_id_only.iter().filter_map(|entry| entry.definition.id.as_deref()).collect();
        assert_eq!(by_id, ["1", "3"]);
    }
}
