//! What is right in a configuration, and good to know before it is put in force.

use super::Settings;
use super::problem::quoted_list;
use crate::route::Toggle;

/// What `check` says of settings that are right, one line each.
pub fn notes(settings: &Settings) -> Vec<String> {
    if settings.policies.iter().any(|rule| matches!(rule.park, Some(Toggle::On(_)))) {
        of_parking(settings)
    } else {
        Vec::new()
    }
}

/// Which callers parking is for: a start is parked only if its completion may be sent to its callback.
fn of_parking(settings: &Settings) -> Vec<String> {
    let clusters = quoted_list(settings.clusters.iter().map(|cluster| &*cluster.name));
    let allowed: Vec<_> = settings.callbacks.allow.iter().map(ToString::to_string).collect();
    let allowed = quoted_list(allowed.iter().map(String::as_str));
    let mut destinations = Vec::new();
    if !clusters.is_empty() {
        destinations.push(format!("the configured clusters ({clusters})"));
    }
    if !allowed.is_empty() {
        destinations.push(format!("what `callbacks.allow` lists ({allowed})"));
    }
    let system = if clusters.is_empty() { "no cluster: none is configured" } else { "the configured clusters only" };
    vec![
        format!(
            "parked operations can be completed at {}; starts with a callback elsewhere are not parked",
            destinations.join(" and ")
        ),
        format!("parked operations with the callback temporal://system can be completed for {system}"),
    ]
}
