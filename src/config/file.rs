//! The file's own shape: what may be written, under which names, within which bounds.
//!
//! Everything is optional, since what is wrong is taken out before the rest is read. What is mandatory, and what has to
//! fit together, is checked by `settings`. The JSON Schema is made from these types; their doc comments are its texts.

use schemars::JsonSchema;
use serde::Deserialize;

use super::shape::{Discover, Named, Urls};
use super::value::{
    Address, AdminToken, Checked, Count, FieldValue, Folder, GIB, HOUR, KIB, LogLevel, LogPlace, MIB, MINUTE, Percent,
    SECOND, Segment, Size, Store, Time, Url,
};

mod authentication;
mod authorization;
mod callbacks;
mod outward;
mod park;
mod policy;
mod tls;

pub(super) use authentication::{ApiKey, ApiKeys, Authentication, CertificateRule, Jwks, Jwt};
pub(super) use authorization::{AllowCompletions, AllowRule, Authorization, Names};
pub(super) use callbacks::{AllowKeys, Callbacks, SealKey};
pub(super) use outward::{CallerHeader, Callers, ClientAuth, CredentialHeader, Credentials, OAuth2, Passed, Shown};
pub(super) use park::{End, Park, Parking};
pub(super) use policy::{
    Breaker, Callback, Cause, Concurrency, Level, OnFailure, Part, Policy, RateLimit, Redact, Retry, Scope, Setting,
    Tokens,
};
pub(super) use tls::{ClientCertificates, ClientTls, ServerTls};

/// The configuration of nexus-gateway.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    /// Addresses that callers connect to. Default: 127.0.0.1:7280.
    pub(super) listen: Option<Vec<Option<Listener>>>,
    /// How it is found out who sends a request. Left out: callers are known by their addresses only.
    pub(super) authentication: Option<Authentication>,
    /// Where metrics, health and the endpoint table are served.
    pub(super) admin: Option<Admin>,
    /// Bounds of the data port.
    pub(super) server: Option<Server>,
    /// Temporal clusters that requests can be forwarded to, by a name of your choice.
    pub(super) clusters: Option<Named<Cluster>>,
    /// Endpoints defined here; they win over discovered ones of the same name.
    pub(super) endpoints: Option<Named<Endpoint>>,
    /// Which callers may call what. Left out: everybody may call everything, unless callers are authenticated; then
    /// nobody may call anything.
    pub(super) authorization: Option<Authorization>,
    /// How handlers are told who calls, where a target wants that signed.
    pub(super) callers: Option<Callers>,
    /// What holds for which requests: first match wins per setting, most specific selector first.
    pub(super) policies: Option<Vec<Option<Policy>>>,
    /// Completions of asynchronous operations on their way back to their callers. Left out: they do not go through the
    /// gateway.
    pub(super) callbacks: Option<Callbacks>,
    /// Where the starts that policies park are kept, and how many in all. May stay where no policy parks any more: what
    /// was parked before is finished.
    pub(super) park: Option<Parking>,
    /// Addresses of clusters and external handlers, and connections to them.
    pub(super) upstream: Option<Upstream>,
    /// A Redis or Valkey server, through which gateways share limits of global scope. Left out: none.
    pub(super) redis: Option<Redis>,
    /// What has to outlive the process.
    pub(super) state: Option<State>,
    /// The process's own log and the access log.
    pub(super) log: Option<Log>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Listener {
    /// IP:PORT; port 0 takes a free one.
    pub(super) address: Option<Checked<Address>>,
    /// Whether callers there may steer Temporal's internals by headers, and read in failures which address or cluster failed
    /// and how. Default: trusted on a loopback address.
    pub(super) trust: Option<Trust>,
    /// TLS; nothing else is spoken there then. Left out: cleartext.
    pub(super) tls: Option<ServerTls>,
    /// Whether HTTP/2 is spoken, besides HTTP/1.1. Default: true with TLS, false in cleartext.
    pub(super) http2: Option<bool>,
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Trust {
    Trusted,
    Untrusted,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Admin {
    /// IP:PORT. Beyond loopback it shows health and metrics only, unless there is a `token`, or `tls` with `clients`.
    /// Default: 127.0.0.1:7281.
    pub(super) address: Option<Checked<Address>>,
    /// What opens all of it, as `Authorization: Bearer TOKEN`, 16 to 512 characters; best written as `${file:/path}`.
    /// Left out: none.
    pub(super) token: Option<Checked<AdminToken>>,
    /// TLS. Who shows a certificate of one of the authorities of `clients` is let in as with the token. Left out: none.
    pub(super) tls: Option<ServerTls>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Server {
    /// Connections at a time over all listeners, 1 to 1000000. Default: 10000.
    pub(super) max_connections: Option<Checked<Count<1, 1_000_000>>>,
    /// Connections at a time of one IP address, or of one IPv6 network of 64 bits, 1 to 1000000. Default: 1000.
    pub(super) max_connections_per_peer: Option<Checked<Count<1, 1_000_000>>>,
    /// HTTP/2 connections of one peer in a second that may be cut for what they did, and ten times as many at once, 1 to
    /// 1000000. Beyond, no new connection of it is taken for some seconds. Default: 10.
    pub(super) max_cuts_per_peer: Option<Checked<Count<1, 1_000_000>>>,
    /// Largest request head, 4KiB to 1MiB. Default: 64KiB.
    pub(super) max_head: Option<Checked<Size<{ 4 * KIB }, MIB>>>,
    /// Most headers of a request, 16 to 1000. Default: 100.
    pub(super) max_headers: Option<Checked<Count<16, 1000>>>,
    /// Longest target of a request, 1KiB to 60KiB. Default: 32KiB.
    pub(super) max_uri: Option<Checked<Size<KIB, { 60 * KIB }>>>,
    /// Longest time for a request head to arrive, from its first byte, 1s to 1h. Default: 10s.
    pub(super) head_timeout: Option<Checked<Time<1000, HOUR>>>,
    /// Longest time for a TLS handshake, 100ms to 1m. Default: 10s.
    pub(super) handshake_timeout: Option<Checked<Time<100, MINUTE>>>,
    /// TLS handshakes of one peer that are under way at a time, 1 to 100000; further ones wait. Default: 64.
    pub(super) max_handshakes_per_peer: Option<Checked<Count<1, 100_000>>>,
    /// Longest time for a request body to arrive (the request's own time may end before), and for which an answer waits for
    /// its caller to take it, besides a second for each 16 KiB that were taken, 100ms to 1h. Default: 30s.
    pub(super) body_timeout: Option<Checked<Time<100, HOUR>>>,
    /// Longest time that a connection stays open without a request, 1s to 24h. Default: 3m.
    pub(super) idle_timeout: Option<Checked<Time<1000, { 24 * HOUR }>>>,
    /// Bytes of answers that wait at a time for callers to take them, 1MiB to 1024GiB; of more, the connections are cut that
    /// have waited longest, or taken too little for longest. Default: 256MiB.
    pub(super) max_unread_bytes: Option<Checked<Size<MIB, { 1024 * GIB }>>>,
    /// Requests that a connection serves before its caller is told to open another one, 1 to 1000000000.
    /// Default: 100000.
    pub(super) max_requests_per_connection: Option<Checked<Count<1, 1_000_000_000>>>,
    /// Connections that speak HTTP/2.
    pub(super) http2: Option<Http2>,
    /// Longest time for requests in flight after SIGTERM, up to 1h. Default: 25s.
    pub(super) grace: Option<Checked<Time<1, HOUR>>>,
    /// Worker threads, 1 to 1024; read at start only. Default: the number of cores.
    pub(super) workers: Option<Checked<Count<1, 1024>>>,
    /// Requests in flight at a time, 1 to 1000000. Default: 10000.
    pub(super) max_in_flight: Option<Checked<Count<1, 1_000_000>>>,
    /// Bytes of request bodies held at a time, up to 1024GiB; no less than the largest `max_request_body`.
    /// Default: 256MiB.
    pub(super) max_queued_bytes: Option<Checked<Size<1, { 1024 * GIB }>>>,
    /// Longest time that a request waits for a place in flight, up to 1m; 0s: none waits. Default: 1s.
    pub(super) max_wait: Option<Checked<Time<0, MINUTE>>>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Http2 {
    /// Requests at a time on one connection, 1 to 10000. Default: 100.
    pub(super) max_streams: Option<Checked<Count<1, 10_000>>>,
    /// Bytes of one request's body that a caller may send ahead, 16KiB to 16MiB. Default: 64KiB.
    pub(super) stream_window: Option<Checked<Size<{ 16 * KIB }, { 16 * MIB }>>>,
    /// The same for all requests of a connection, 64KiB to 64MiB. Default: 256KiB.
    pub(super) connection_window: Option<Checked<Size<{ 64 * KIB }, { 64 * MIB }>>>,
    /// Time between two pings, which tell whether the caller is still there, 1s to 1h. Default: 30s.
    pub(super) ping_every: Option<Checked<Time<1000, HOUR>>>,
    /// Longest time for a ping to be answered, 1s to 1m. Default: 20s.
    pub(super) ping_timeout: Option<Checked<Time<1000, MINUTE>>>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Cluster {
    /// The frontend's HTTP port. Several addresses are balanced; all have the same path.
    pub(super) url: Option<Urls>,
    /// Whether and how the cluster's Nexus endpoints are served by name. Default: true.
    pub(super) discover: Option<Discover>,
    /// How the cluster is met where its URL begins with `https`. Left out: the system's authorities are believed, and no
    /// certificate is shown.
    pub(super) tls: Option<ClientTls>,
    /// What shows the cluster who the gateway is: on the requests for its registry, on those that are forwarded, and on
    /// completions that go to its callback routes. Left out: nothing.
    pub(super) credentials: Option<Credentials>,
    /// Further headers of the same requests.
    pub(super) headers: Option<Named<Checked<FieldValue>>>,
    /// Which of the caller's own `authorization` and `cookie` pass to the cluster. Default: none.
    pub(super) pass: Option<Vec<Option<Passed>>>,
    /// How the cluster is told who calls, where that is known: in the header `Nexus-Gateway-Caller` by name, with
    /// `Nexus-Gateway-Caller-Namespace` beside it, or as a token signed by the key of `callers`. Default: header.
    pub(super) caller: Option<CallerHeader>,
    /// Whether credentials, headers whose values come from `${…}`, and what `pass` lets through may go over http:// to a
    /// host that is not a loopback one, readable and usable for everybody on the way. Default: false.
    pub(super) allow_cleartext: Option<bool>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DiscoverKeys {
    /// Time between two polls, 100ms to 1h. Default: 5s.
    pub(super) every: Option<Checked<Time<100, HOUR>>>,
    /// Whether External targets of that registry are served too. Default: false.
    pub(super) externals: Option<bool>,
}

/// Either `worker` or `external`.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Endpoint {
    /// A task queue in one of the clusters.
    pub(super) worker: Option<Worker>,
    /// Any Nexus handler over HTTP.
    pub(super) external: Option<External>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Worker {
    /// The name of a cluster. Mandatory.
    pub(super) cluster: Option<Checked<Segment>>,
    /// The namespace of the task queue. Mandatory.
    pub(super) namespace: Option<Checked<Segment>>,
    /// The task queue that the workers poll. Mandatory.
    pub(super) task_queue: Option<Checked<Segment>>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct External {
    /// What `/SERVICE/OPERATION` is appended to. Mandatory.
    pub(super) url: Option<Checked<Url>>,
    /// How it is met where its URL begins with `https`. Left out: the system's authorities are believed, and no
    /// certificate is shown.
    pub(super) tls: Option<ClientTls>,
    /// What shows the handler who the gateway is. Left out: nothing.
    pub(super) credentials: Option<Credentials>,
    /// Further headers of its requests.
    pub(super) headers: Option<Named<Checked<FieldValue>>>,
    /// Which of the caller's own `authorization` and `cookie` pass to the handler. Default: none.
    pub(super) pass: Option<Vec<Option<Passed>>>,
    /// How the handler is told who calls, as for a cluster. Default: header.
    pub(super) caller: Option<CallerHeader>,
    /// Whether secrets may go over http:// to a host that is not a loopback one, as for a cluster. Default: false.
    pub(super) allow_cleartext: Option<bool>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Upstream {
    /// Longest time for one connect, the TLS handshake included, up to 1m. Default: 2s.
    pub(super) connect_timeout: Option<Checked<Time<1, MINUTE>>>,
    /// Idle connections older than this are closed, up to 119s: Temporal frontends close them after 2m. Default: 90s.
    pub(super) idle_timeout: Option<Checked<Time<1, { 119 * SECOND }>>>,
    /// Idle connections kept per worker thread and address, 0 to 65536. Default: 256.
    pub(super) max_idle: Option<Checked<Count<0, 65_536>>>,
    /// Requests at a time on one HTTP/2 connection, where the target allows as many, 1 to 10000; beyond it another
    /// connection is opened. Default: 100.
    pub(super) max_streams: Option<Checked<Count<1, 10_000>>>,
    /// Silence on an HTTP/2 connection, in use or not, after which it is asked by a PING whether it lives, 1s to 1h.
    /// Without an answer within 5s it is closed. Default: 20s.
    pub(super) ping_every: Option<Checked<Time<1000, HOUR>>>,
    /// Time between two DNS look-ups of a host name, 100ms to 1h. Default: 10s.
    pub(super) resolve_every: Option<Checked<Time<100, HOUR>>>,
    /// Time in which the share of an address that is new, or healthy again, grows to the full one, up to 1h; 0s: at
    /// once. Default: 10s.
    pub(super) slow_start: Option<Checked<Time<0, HOUR>>>,
    /// Time between two probes of an address that is down, 50ms to 1m. Default: 250ms.
    pub(super) probe_every: Option<Checked<Time<50, MINUTE>>>,
    /// An address is ejected after so many failures in a row, up to 1000; 0: never. Default: 5.
    pub(super) eject_after: Option<Checked<Count<0, 1000>>>,
    /// How long an address stays ejected the first time, 100ms to 1h. Default: 5s.
    pub(super) eject_for: Option<Checked<Time<100, HOUR>>>,
    /// With less than this share of the addresses usable, ejections do not count; 0%: they always do. Default: 50%.
    pub(super) panic_threshold: Option<Checked<Percent<0, 100>>>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Redis {
    /// `redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE]`, or `rediss://` for TLS; one with a password is best written as
    /// `${env:NAME}` or `${file:/path}`. Mandatory.
    pub(super) url: Option<Checked<Store>>,
    /// How it is met where its URL is `rediss://`.
    pub(super) tls: Option<ClientTls>,
    /// Longest time for one decision, 1ms to 10s; after it `on_failure` holds. Default: 50ms.
    pub(super) timeout: Option<Checked<Time<1, { 10 * SECOND }>>>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    /// Default: `$STATE_DIRECTORY`, else `$XDG_STATE_HOME/nexus-gateway`, else `~/.local/state/nexus-gateway`.
    pub(super) directory: Option<Checked<Folder>>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_field_names, reason = "the fields are the file's keys")]
pub(super) struct Log {
    /// A level, or a filter such as `info,nexus_gateway=debug`. Default: info.
    pub(super) level: Option<Checked<LogLevel>>,
    /// Form of the log's lines. Default: text.
    pub(super) format: Option<LogFormat>,
    /// One JSON line per request: `stdout` or a file's path. Left out: none.
    pub(super) access_log: Option<Checked<LogPlace>>,
    /// One JSON line per decision who may call what, and per change by the admin port: `stdout` or a file's path. Left out:
    /// none.
    pub(super) audit_log: Option<Checked<LogPlace>>,
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum LogFormat {
    Text,
    Json,
}
