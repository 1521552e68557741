//! Parking by a policy: defaults, and what has to be there for it.

use std::collections::BTreeMap;

use crate::config::file::{self, End};
use crate::config::report::Report;
use crate::config::settings::policies::limits::distinct;
use crate::config::settings::policies::on;
use crate::config::shape::Switched;
use crate::config::tree::item_path;
use crate::config::units::format_size;
use crate::park::ParkingSettings;
use crate::resilience::park::{ParkOn, ParkReason, ParkSettings};
use crate::route::{Decided, Policies, PolicyRule, Toggle};

pub(super) fn park(
    setting: Option<Switched<file::Park>>,
    path: &str,
    report: &mut Report<'_>,
) -> Option<Toggle<ParkSettings>> {
    let Some(file) = setting?.0 else { return Some(Toggle::Off) };
    let default = ParkSettings::default();
    Some(Toggle::On(ParkSettings {
        on: file.on.map_or(default.on, |list| ends(list, &format!("{path}.on"), report)),
        max: file.max.map_or(default.max, |value| value.0),
        max_bytes: file.max_bytes.map_or(default.max_bytes, |value| value.0),
        max_age: file.max_age.map_or(default.max_age, |value| value.0),
    }))
}

fn ends(list: Vec<Option<End>>, path: &str, report: &mut Report<'_>) -> ParkOn {
    let ends = distinct(list, path, report);
    if ends.is_empty() {
        report.add(path, "lists no end that leads to parking; write `park: off`");
    }
    ParkOn::of(ends.into_iter().map(|end| match end {
        End::Unreachable => ParkReason::Unreachable,
        End::BreakerOpen => ParkReason::BreakerOpen,
        End::RateLimited => ParkReason::RateLimited,
        End::Saturated => ParkReason::Saturated,
        End::RetryableFailure => ParkReason::RetryableFailure,
    }))
}

/// The rules that park, with the paths of the setting.
fn parking(rules: &[PolicyRule]) -> impl Iterator<Item = (String, &PolicyRule, &ParkSettings)> {
    let rules = rules.iter().enumerate();
    rules.filter_map(|(index, rule)| Some((path_of(index, "park"), rule, on(rule.park.as_ref())?)))
}

fn path_of(rule: usize, key: &str) -> String {
    format!("{}.{key}", item_path("policies", rule))
}

/// What is parked is completed later by the callback, which has to lead here. What is relayed is said as for
/// [`refuse_sticky`](super::refuse_sticky).
pub(in crate::config::settings) fn refuse_park_direct(rules: &[PolicyRule], can_relay: bool, report: &mut Report<'_>) {
    if !can_relay {
        for (path, ..) in parking(rules) {
            let message = "only relayed operations can be parked, and none are without a public URL; write \
                `public_url: http://HOST:PORT` under `callbacks`, or remove it";
            report.add(&path, message);
        }
        return;
    }
    let is_unknown = |index| ["match", "callbacks"].map(|key| path_of(index, key));
    if (0..rules.len()).flat_map(is_unknown).any(|path| report.is_known_bad(&path)) {
        return;
    }
    let policies = Policies::new(rules.to_vec());
    for (path, rule, _) in parking(rules) {
        let relay = policies.explain_selector(&rule.selector).relay;
        if let Some(rule) = relay.rule.filter(|_| !relay.value) {
            let direct = path_of(rule, "callbacks");
            let place = report.place(&direct);
            let message = format!(
                "only relayed operations can be parked, and these are not (`{direct}`, {place}); write `relay` there, or \
                remove this"
            );
            report.add(&path, message);
        }
    }
}

/// Completions go to known clusters and to what is allowed besides; with neither, no start could be parked.
pub(in crate::config::settings) fn refuse_park_without_destination(rules: &[PolicyRule], report: &mut Report<'_>) {
    for (path, ..) in parking(rules) {
        let message = "there is nowhere to send the completions of what is parked; write the callers' clusters under \
            `clusters`, or `allow: [\"http://HOST:PORT\"]` under `callbacks`";
        report.add(&path, message);
    }
}

/// What is not kept in a database is kept in the state folder.
pub(in crate::config::settings) fn refuse_park_without_folder(rules: &[PolicyRule], report: &mut Report<'_>) {
    for (path, ..) in parking(rules) {
        let message = "there is no state folder to keep what is parked in; write `state: { directory: /PATH }`, or \
            `park: { store: postgres://USER@HOST/DATABASE }`";
        report.add(&path, message);
    }
}

/// One endpoint cannot have more than all of them together.
pub(in crate::config::settings) fn refuse_park_beyond_all(
    rules: &[PolicyRule],
    all: &ParkingSettings,
    report: &mut Report<'_>,
) {
    for (path, _, one) in parking(rules) {
        if one.max > all.max {
            refuse_beyond("max", &path, [one.max, all.max].map(|count| count.to_string()), report);
        }
        if one.max_bytes > all.max_bytes {
            refuse_beyond("max_bytes", &path, [one.max_bytes, all.max_bytes].map(format_size), report);
        }
    }
}

fn refuse_beyond(key: &str, policy: &str, [one, all]: [String; 2], report: &mut Report<'_>) {
    let (path, of_all) = (format!("{policy}.{key}"), format!("park.{key}"));
    let one = if report.is_written(&path) { one } else { format!("{one}, the default,") };
    let place = if report.is_written(&of_all) { report.place(&of_all).to_string() } else { "the default".into() };
    let message = format!(
        "{one} is more than `{of_all}` lets all endpoints have together, {all} ({place}); write at most `{all}`, or a \
        larger `{of_all}`"
    );
    report.add(&path, message);
}

/// The largest request must find room, or it never can be parked. Which bodies may come, is asked of each rule as for
/// [`refuse_long_waits`](super::refuse_long_waits).
pub(in crate::config::settings) fn refuse_park_little_room(
    rules: &[PolicyRule],
    max_head: usize,
    report: &mut Report<'_>,
) {
    let is_unknown = |index| ["match", "park", "max_request_body"].map(|key| path_of(index, key));
    if (0..rules.len()).flat_map(is_unknown).any(|path| report.is_known_bad(&path)) {
        return;
    }
    for (rule, (room, body)) in little_rooms(rules, max_head) {
        let whose = body.rule.map(|index| path_of(index, "max_request_body"));
        let whose = whose.map_or_else(|| "the default".into(), |path| format!("`{path}`, {}", report.place(&path)));
        let [room, needed, head, body] = [room, body.value + max_head, max_head, body.value].map(format_size);
        let message = format!(
            "{room} has no room for the largest request, with a body of {body} ({whose}) and a head of {head}; write at \
            least `{needed}`"
        );
        report.add(&path_of(rule, "park.max_bytes"), message);
    }
}

/// The rules by which a request may be too large to be parked, each with its room and the largest body.
fn little_rooms(rules: &[PolicyRule], max_head: usize) -> BTreeMap<usize, (usize, Decided<usize>)> {
    let policies = Policies::new(rules.to_vec());
    let mut found = BTreeMap::new();
    for decision in rules.iter().map(|rule| policies.explain_selector(&rule.selector)) {
        let Some(park) = decision.park.value else { continue };
        let (room, body) = (park.settings.max_bytes, decision.max_request_body);
        if room < body.value + max_head {
            let (_, largest) = found.entry(park.rule).or_insert((room, body));
            if largest.value < body.value {
                *largest = body;
            }
        }
    }
    found
}
