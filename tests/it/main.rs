//! The gateway in one process with scripted neighbours: what callers, handlers and operators notice.

mod harness;

mod access_log;
mod admin;
mod answers;
mod audit;
mod authentication;
mod authorization;
mod breakers;
mod callbacks;
mod callers;
#[path = "../support/certificates.rs"]
mod certificates;
mod command_line;
mod concurrency;
mod credentials;
mod deadlines;
mod drain;
mod failures;
mod h2_abuse;
mod h2_smuggling;
mod headers;
mod hold;
mod http2;
mod jwt;
mod limits;
mod metrics;
mod parking;
mod paths;
mod rate_limits;
mod redaction;
mod registry;
mod registry_faults;
mod reload;
mod requests;
mod retries;
mod sealed_tokens;
mod secrets;
mod shedding;
mod smuggling;
mod strangers;
mod tls;
mod tls_completions;
mod tls_upstream;
#[path = "../support/tokens.rs"]
mod tokens;
mod upstream_faults;
mod warnings;
