//! The gateway in one process with scripted neighbours: what callers, handlers and operators notice.

mod harness;

mod access_log;
mod answers;
mod command_line;
mod deadlines;
mod drain;
mod failures;
mod headers;
mod limits;
mod metrics;
mod paths;
mod registry;
mod registry_faults;
mod reload;
mod requests;
mod upstream_faults;
