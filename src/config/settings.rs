//! The file and the flags turned into settings; checks what is mandatory and what has to fit together.

use super::expand::Environment;
use super::file::{File, Log, LogFormat, Server, Upstream};
use super::problem::Problem;
use super::report::Report;
use super::tree::Node;
use super::{Overrides, Settings, state};
use crate::server::ServerSettings;
use crate::telemetry::{self, LogSettings};
use crate::upstream::UpstreamSettings;

mod addresses;
mod policies;
mod targets;

/// The settings, of use only when no problem was added. `root` is where `file` was read from.
pub(super) fn build(
    file: File,
    overrides: &Overrides,
    environment: Environment<'_>,
    root: &Node,
    problems: &mut Vec<Problem>,
) -> Settings {
    let mut report = Report::new(root, problems);
    let (listen, admin) = addresses::build(file.listen, file.admin, overrides, &mut report);
    let clusters = targets::clusters(file.clusters, &overrides.clusters, &mut report);
    Settings {
        listen,
        admin,
        server: server(file.server.unwrap_or_default()),
        endpoints: targets::endpoints(file.endpoints, &clusters, &mut report),
        clusters,
        policies: policies::build(file.policies, &mut report),
        upstream: upstream(file.upstream.unwrap_or_default()),
        state: overrides
            .state
            .clone()
            .or_else(|| Some(file.state?.directory?.0))
            .or_else(|| state::default_directory(environment)),
        log: log(file.log.unwrap_or_default()),
    }
}

fn server(file: Server) -> ServerSettings {
    let default = ServerSettings::default();
    ServerSettings {
        max_connections: file.max_connections.map_or(default.max_connections, |value| value.0),
        max_head: file.max_head.map_or(default.max_head, |value| value.0),
        head_timeout: file.head_timeout.map_or(default.head_timeout, |value| value.0),
        idle_timeout: file.idle_timeout.map_or(default.idle_timeout, |value| value.0),
        grace: file.grace.map_or(default.grace, |value| value.0),
        workers: file.workers.map_or(default.workers, |value| value.0),
    }
}

fn upstream(file: Upstream) -> UpstreamSettings {
    let default = UpstreamSettings::default();
    UpstreamSettings {
        connect_timeout: file.connect_timeout.map_or(default.connect_timeout, |value| value.0),
        idle_timeout: file.idle_timeout.map_or(default.idle_timeout, |value| value.0),
        max_idle: file.max_idle.map_or(default.max_idle, |value| value.0),
        resolve_every: file.resolve_every.map_or(default.resolve_every, |value| value.0),
    }
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
    }
}
