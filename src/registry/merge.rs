//! Many sources, one table: who wins a name, and who an id.
//!
//! Callers write either into the same place, so that no text may be a name of one endpoint and the id of another: a
//! cluster would answer what is meant for another one. Names of the form of an id are the configuration's alone.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Definition, Target};
use crate::nexus::is_endpoint_id;

/// The name of the source that the configuration itself is.
pub const CONFIGURATION: &str = "configuration";
/// In the place of a source: what a discovered name of the form of an id loses to.
pub const IDS: &str = "ids";

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

/// A name or an id that is another's already.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Conflict {
    /// The name or id.
    pub name: Box<str>,
    /// The source whose definition is served, or [`IDS`].
    pub winner: Arc<str>,
    /// The source whose definition is served by its id only, or by its name only, or not at all.
    pub loser: Arc<str>,
}

/// The whole table. No text leads to two endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// What is served by name, and by id where there is one.
    pub by_name: Vec<Entry>,
    /// What lost its name to another source: served by id only.
    pub by_id_only: Vec<Entry>,
    /// What lost its id to another source: served by name only.
    pub by_name_only: Vec<Entry>,
    /// Names and ids that more than one source defines.
    pub conflicts: Vec<Conflict>,
}

/// The configuration's endpoints first, then those of the clusters in their order.
pub(super) fn merge(configured: &[Definition], clusters: &[Part<'_>]) -> Snapshot {
    let (configuration, ids): (Arc<str>, Arc<str>) = (CONFIGURATION.into(), IDS.into());
    let mut snapshot = Snapshot::default();
    let (mut by_name, mut by_id) = (Taken::default(), Taken::default());
    for definition in configured.iter().filter(|definition| is_endpoint_id(&definition.name)) {
        // An operator may give any name; then no cluster has it as an id.
        by_id.insert(&definition.name, &configuration);
    }
    let own = configured.iter().map(|definition| (&configuration, definition, None));
    let discovered = clusters.iter().flat_map(|part| {
        let of_id_form = |definition: &Definition| is_endpoint_id(&definition.name).then_some(&ids);
        part.endpoints.iter().map(move |definition| (part.name, definition, of_id_form(definition)))
    });

    for (source, definition, never) in own.chain(discovered) {
        let (name, id) = (&*definition.name, definition.id.as_deref());
        let has_name = by_name.get(name).copied().or(never);
        let has_id = never.or_else(|| by_id.get(id?).copied());
        let mut lost = |text: &str, winner: &Arc<str>| {
            let (winner, loser) = (Arc::clone(winner), Arc::clone(source));
            snapshot.conflicts.push(Conflict { name: text.into(), winner, loser });
        };
        match (has_name, has_id) {
            (Some(winner), _) => lost(name, winner),
            (None, Some(winner)) => lost(id.unwrap_or_default(), winner),
            (None, None) => {}
        }
        let cluster_id = |cluster| clusters.iter().find(|part| part.name == cluster)?.cluster_id.cloned();
        let entry = Entry {
            cluster_id: definition.target.cluster().and_then(cluster_id),
            definition: definition.clone(),
            source: Arc::clone(source),
        };
        if has_name.is_none() {
            by_name.insert(name, source);
        }
        if let (None, Some(id)) = (has_id, id) {
            by_id.insert(id, source);
        }
        match (has_name, has_id) {
            (None, None) => snapshot.by_name.push(entry),
            (Some(_), None) => snapshot.by_id_only.push(entry),
            (None, Some(_)) => snapshot.by_name_only.push(entry),
            (Some(_), Some(_)) => {}
        }
    }
    snapshot
}

/// Who has a name or an id.
type Taken<'a> = HashMap<&'a str, &'a Arc<str>>;

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

    fn uuid(number: u32) -> String {
        format!("c7679e62-b5fe-4ebc-9ae3-{number:012}")
    }

    fn names(entries: &[Entry]) -> Vec<&str> {
        entries.iter().map(|entry| &*entry.definition.name).collect()
    }

    #[test]
    fn a_discovered_name_of_the_form_of_an_id_is_not_served() {
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let (of_a, of_b) = ([definition("one", &a, &uuid(1))], [definition(&uuid(1), &b, &uuid(2))]);
        let part = |name, endpoints| Part { name, cluster_id: None, endpoints };
        for clusters in [[part(&a, &of_a), part(&b, &of_b)], [part(&b, &of_b), part(&a, &of_a)]] {
            let snapshot = merge(&[], &clusters);
            assert_eq!(served(&snapshot), [("one", "a")]);
            assert!(snapshot.by_id_only.is_empty() && snapshot.by_name_only.is_empty());
            let lost: Vec<_> = snapshot.conflicts.iter().map(|c| (&*c.name, &*c.winner, &*c.loser)).collect();
            assert_eq!(lost, [(&*uuid(1), "ids", "b")]);
        }
    }

    #[test]
    fn an_id_is_the_first_source_s_also_where_that_lost_the_name() {
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let (of_a, of_b) = ([definition("one", &a, &uuid(1))], [definition("two", &b, &uuid(1))]);
        let clusters = [
            Part { name: &a, cluster_id: None, endpoints: &of_a },
            Part { name: &b, cluster_id: None, endpoints: &of_b },
        ];
        let own = [Definition { id: None, ..definition("one", &a, "") }];
        let snapshot = merge(&own, &clusters);
        assert_eq!(served(&snapshot), [("one", "configuration")]);
        assert_eq!((names(&snapshot.by_id_only), names(&snapshot.by_name_only)), (vec!["one"], vec!["two"]));
        let lost: Vec<_> = snapshot.conflicts.iter().map(|c| (&*c.name, &*c.winner, &*c.loser)).collect();
        assert_eq!(lost, [("one", "configuration", "a"), (&*uuid(1), "a", "b")]);
    }

    #[test]
    fn a_name_of_the_configuration_may_have_the_form_of_an_id_and_is_no_cluster_s_id_then() {
        let a: Arc<str> = "a".into();
        let own = [Definition { id: None, ..definition(&uuid(1), &a, "") }];
        let of_a = [definition("one", &a, &uuid(1)), definition(&uuid(1), &a, &uuid(2))];
        let snapshot = merge(&own, &[Part { name: &a, cluster_id: None, endpoints: &of_a }]);
        assert_eq!(served(&snapshot), [(&*uuid(1), "configuration")]);
        assert_eq!(names(&snapshot.by_name_only), ["one"]);
        assert!(snapshot.by_id_only.is_empty());
        assert!(snapshot.conflicts.iter().all(|conflict| *conflict.winner == *CONFIGURATION));
    }
}
