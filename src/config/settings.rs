//! The file and the flags turned into settings; checks what is mandatory and what has to fit together.

use super::expand::Environment;
use super::file::{self, File, Log, LogFormat, Upstream};
use super::inputs::Inputs;
use super::problem::Problem;
use super::report::Report;
use super::tree::Node;
use super::{Overrides, Settings, state};
use crate::park::StoreAt;
use crate::route::{PolicyRule, Selector, TokenRule};
use crate::telemetry::{self, LogSettings};
use crate::upstream::UpstreamSettings;

mod addresses;
mod admin;
mod authentication;
mod authorization;
mod callbacks;
mod outward;
mod park;
mod policies;
mod redis;
mod server;
mod targets;
mod tls;

/// The settings, of use only when no problem was added. `root` is where `file` was read from, with the files that
/// it names still to be read through `inputs`.
pub(super) fn build(
    file: File,
    overrides: &Overrides,
    environment: Environment<'_>,
    root: &Node,
    inputs: &mut Inputs,
    problems: &mut Vec<Problem>,
) -> Settings {
    let mut report = Report::new(root, inputs, problems);
    let admin = file.admin.unwrap_or_default();
    let (listen, address) = addresses::build(file.listen, admin.address.as_ref(), overrides, &mut report);
    let admin = admin::build(admin, address, &mut report);
    let clusters = targets::clusters(file.clusters, &overrides.clusters, &mut report);
    let (endpoints, externals) = targets::endpoints(file.endpoints, &clusters, &mut report);
    let callers = outward::callers(file.callers, &mut report);
    let signs = callers.is_some() || report.is_known_bad("callers");
    outward::refuse_unsigned(&clusters, &externals, signs, &mut report);
    let authorization = authorization::build(file.authorization, &mut report);
    let policies = policies::build(file.policies, &mut report);
    let has_store = file.redis.is_some() || report.is_known_bad("redis");
    if !has_store {
        policies::refuse_shared_without_store(&policies, &mut report);
    }
    let lists = |list: fn(&file::Callbacks) -> bool| file.callbacks.as_ref().is_some_and(list);
    let has_keys = lists(|callbacks| callbacks.keys.is_some()) || report.is_known_bad("callbacks");
    let has_allow = lists(|callbacks| callbacks.allow.as_ref().is_some_and(|list| !list.is_empty()));
    let is_guarded = file.authentication.is_some() || report.is_known_bad("authentication");
    let callbacks = callbacks::build(file.callbacks, &clusters, &mut report);
    let can_relay = callbacks.public_url.is_some() || report.is_known_bad("callbacks");
    policies::refuse_relay_without_url(&policies, can_relay, &mut report);
    policies::refuse_sticky(&policies, can_relay, is_guarded, &mut report);
    let server = server::build(file.server.unwrap_or_default());
    policies::refuse_little_room(&policies, server.process.max_queued_bytes, &mut report);
    let state = overrides
        .state
        .clone()
        .or_else(|| Some(file.state?.directory?.0))
        .or_else(|| state::default_directory(environment));
    let parking = park::build(file.park, &mut report);
    park::refuse_shared_without_keys(&parking, has_keys, &mut report);
    policies::refuse_park_direct(&policies, can_relay, &mut report);
    let is_unknown = report.is_known_bad("clusters") || report.is_known_bad("callbacks");
    if can_relay && clusters.is_empty() && !has_allow && !is_unknown {
        policies::refuse_park_without_destination(&policies, &mut report);
    }
    let is_unknown = report.is_known_bad("state") || report.is_known_bad("park");
    if parking.store == StoreAt::Embedded && state.is_none() && !is_unknown {
        policies::refuse_park_without_folder(&policies, &mut report);
    }
    if !report.is_known_bad("park") {
        policies::refuse_park_beyond_all(&policies, &parking, &mut report);
    }
    policies::refuse_park_little_room(&policies, server.max_head, &mut report);
    let authentication = authentication::build(file.authentication, &mut report);
    Settings {
        listen,
        authentication,
        admin,
        server,
        endpoints,
        externals,
        callers,
        clusters,
        authorization,
        policies,
        callbacks,
        upstream: upstream(file.upstream.unwrap_or_default()),
        redis: file.redis.and_then(|file| redis::build(file, &mut report)),
        parking,
        state,
        log: log(file.log.unwrap_or_default()),
    }
}

/// Whether any operation's token may have to be sealed, whoever relays its completion.
fn seals_tokens(policies: &[PolicyRule], is_guarded: bool) -> bool {
    let leaves_all = |rule: &PolicyRule| rule.selector == Selector::default() && rule.tokens == Some(TokenRule::Any);
    policies.iter().any(|rule| rule.tokens == Some(TokenRule::Sealed)) || is_guarded && !policies.iter().any(leaves_all)
}

impl Settings {
    /// Whether any operation's token may have to be sealed, whoever relays its completion.
    pub fn seals_tokens(&self) -> bool {
        seals_tokens(&self.policies, self.authentication.is_some())
    }
}

fn upstream(file: Upstream) -> UpstreamSettings {
    let default = UpstreamSettings::default();
    UpstreamSettings {
        connect_timeout: file.connect_timeout.map_or(default.connect_timeout, |value| value.0),
        idle_timeout: file.idle_timeout.map_or(default.idle_timeout, |value| value.0),
        max_idle: file.max_idle.map_or(default.max_idle, |value| value.0),
        max_streams: file.max_streams.map_or(default.max_streams, |value| value.0),
        ping_every: file.ping_every.map_or(default.ping_every, |value| value.0),
        resolve_every: file.resolve_every.map_or(default.resolve_every, |value| value.0),
        slow_start: file.slow_start.map_or(default.slow_start, |value| value.0),
        probe_every: file.probe_every.map_or(default.probe_every, |value| value.0),
        eject_after: file.eject_after.map_or(default.eject_after, |value| narrow(value.0)),
        eject_for: file.eject_for.map_or(default.eject_for, |value| value.0),
        panic_threshold: file.panic_threshold.map_or(default.panic_threshold, |value| value.0),
    }
}

/// The bounds of every count that goes through here lie far below.
fn narrow(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn log(file: Log) -> LogSettings {
    let default = LogSettings::default();
    let format = |format| match format {
        LogFormat::Text => telemetry::LogFormat::Text,
        LogFormat::Json => telemetry::LogFormat::Json,
    };
    LogSettings {
        level: file.level.map_or(default.level, |value| value.0),
        format: file.format.map_or(default.format, format),
        access_log: file.access_log.map(|value| value.0),
        audit_log: file.audit_log.map(|value| value.0),
    }
}
