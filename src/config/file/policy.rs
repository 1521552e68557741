//! One entry of `policies`.

use schemars::JsonSchema;
use serde::Deserialize;

use super::Park;
use crate::config::shape::{Switched, Toggled};
use crate::config::value::{
    CallerName, CallerNamespace, Checked, Count, EndpointName, HOUR, MIB, MINUTE, OrOff, Percent, Period, RateOf,
    Segment, Size, Time,
};

/// `off`, or a mapping of keys.
pub(in crate::config) type Setting<T> = Option<Toggled<T>>;

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Policy {
    /// Which requests; left out or empty: every request.
    pub(in crate::config) r#match: Option<Match>,
    /// Longest time from the request's head to the answer's last byte, up to 1h. Default: 10s.
    pub(in crate::config) timeout: Option<Checked<Time<1, HOUR>>>,
    /// Largest request body, up to 64MiB. Default: 2MiB.
    pub(in crate::config) max_request_body: Option<Checked<Size<1, { 64 * MIB }>>>,
    /// Largest answer body, up to 64MiB. Default: 2MiB.
    pub(in crate::config) max_response_body: Option<Checked<Size<1, { 64 * MIB }>>>,
    /// Whether requests wait while every address of the target is down, up to their deadline less the 2.1s that an
    /// attempt needs. Default: true.
    pub(in crate::config) hold: Option<bool>,
    /// How many requests may go in a time, or `off`. Default: any number.
    pub(in crate::config) rate_limit: Setting<RateLimit>,
    /// How many requests may be on their way at a time, or `off`. Default: any number.
    pub(in crate::config) concurrency: Setting<Concurrency>,
    /// What is sent again after it failed, or `off`. Default: the defaults of its keys.
    pub(in crate::config) retry: Setting<Retry>,
    /// When an operation that keeps failing is not asked for a while, or `off`. Default: never.
    pub(in crate::config) breaker: Setting<Breaker>,
    /// Whether starts that did not get through are parked: answered as started, kept, and finished when the target is
    /// able. `on`, `off`, or a mapping of keys. Only relayed starts with a callback and a request id of the caller's own,
    /// of at most 64 bytes. What changes for callers: a `NexusOperationStarted` event appears, and a synchronous operation
    /// may take longer than 10s. A handler may run more than once, as ever. Default: off.
    pub(in crate::config) park: Option<Switched<Park>>,
    /// Whether completions come back through the gateway, or go from the handler's cluster straight to the caller's.
    /// Default: relay with a `callbacks.public_url`, else direct.
    pub(in crate::config) callbacks: Option<Callback>,
    /// Whether operation tokens name the target that they came from, so that a cancel finds it after its endpoint moved.
    /// Default: true where callbacks are relayed or tokens are sealed.
    pub(in crate::config) sticky: Option<bool>,
    /// Which tokens started operations have. `sealed`: only those that this gateway makes of the handlers' own, and a cancel
    /// with another one, or of another caller, is answered 404. `any`: those of handlers pass where nothing else seals
    /// them, and so do cancels with them. Default: sealed where there is `authentication`, else any.
    pub(in crate::config) tokens: Option<Tokens>,
    /// Whether stack traces and causes are cut from the failures that callers get: those of handlers, of operations that
    /// failed, and of failed completions. Type, message and retryability stay; a body that is no failure becomes one.
    /// Default: off.
    pub(in crate::config) redact: Option<Redact>,
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::config) enum Tokens {
    Sealed,
    Any,
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::config) enum Redact {
    On,
    Off,
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::config) enum Callback {
    Relay,
    Direct,
}

/// Of two rules that match, the one that names more keys is asked first; of as many, the one that names the operation,
/// then the service, then the endpoint; else the one that stands first.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Match {
    /// A caller's name, or the IP address from which one without a name connects. Left out: every caller.
    pub(in crate::config) caller: Option<Checked<CallerName>>,
    /// The namespace that a caller with a name calls from. Left out: every namespace, known or not.
    pub(in crate::config) caller_namespace: Option<Checked<CallerNamespace>>,
    /// An endpoint's name. Left out: every endpoint.
    pub(in crate::config) endpoint: Option<Checked<EndpointName>>,
    /// A service's name. Left out: every service.
    pub(in crate::config) service: Option<Checked<Segment>>,
    /// An operation's name. Left out: every operation.
    pub(in crate::config) operation: Option<Checked<Segment>>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RateLimit {
    /// What has a limit of its own; an empty list: one limit for all requests of the rule. Default: [endpoint].
    pub(in crate::config) per: Option<Vec<Option<Part>>>,
    /// So many requests a second, minute or hour: `500/s`, `10/m`, `100/h`; up to 1000000. Mandatory.
    pub(in crate::config) rate: Option<Checked<RateOf>>,
    /// Requests that may go at once after a pause, 1 to 1000000. Default: what the rate gives in 100ms, at least 1.
    pub(in crate::config) burst: Option<Checked<Count<1, 1_000_000>>>,
    /// Longest time that a request waits for its turn; 0s: none waits. Less than the timeout leaves. Default: 500ms.
    pub(in crate::config) max_wait: Option<Checked<Time<0, HOUR>>>,
    /// Requests that may wait for their turn at a time, 0 to 1000000. Default: 1000.
    pub(in crate::config) max_queue: Option<Checked<Count<0, 1_000_000>>>,
    /// Whether answers say what is left, in `RateLimit` and `RateLimit-Policy`. Default: false.
    pub(in crate::config) headers: Option<bool>,
    /// Whether each gateway keeps the limit by itself, or all that use the same `redis` share it. Default: local.
    pub(in crate::config) scope: Option<Scope>,
    /// What holds while the store of a global limit cannot be asked: each gateway keeps it by itself, everything goes,
    /// or nothing goes. Default: local.
    pub(in crate::config) on_failure: Option<OnFailure>,
}

#[derive(Clone, Copy, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(in crate::config) enum Part {
    Caller,
    Endpoint,
    Service,
    Operation,
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::config) enum Scope {
    Local,
    Global,
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::config) enum OnFailure {
    Local,
    Open,
    Closed,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Concurrency {
    /// What has a limit of its own; an empty list: one limit for all requests of the rule.
    /// Default: [endpoint, service, operation].
    pub(in crate::config) per: Option<Vec<Option<Part>>>,
    /// Requests on their way at a time, 1 to 1000000; the upper bound where the limit is adaptive. Mandatory.
    pub(in crate::config) max: Option<Checked<Count<1, 1_000_000>>>,
    /// Longest time that a request waits for a place; 0s: none waits. Less than the timeout leaves. Default: 500ms.
    pub(in crate::config) max_wait: Option<Checked<Time<0, HOUR>>>,
    /// Requests that may wait for a place at a time, 0 to 1000000. Default: 1000.
    pub(in crate::config) max_queue: Option<Checked<Count<0, 1_000_000>>>,
    /// Whether the limit is found by latency, up to `max`. Default: false.
    pub(in crate::config) adaptive: Option<bool>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Retry {
    /// Attempts in all, 1 to 10. Default: 2.
    pub(in crate::config) attempts: Option<Checked<Count<1, 10>>>,
    /// How long to wait before each further attempt.
    pub(in crate::config) backoff: Option<Backoff>,
    /// What is retried. Default: [connect, unavailable].
    pub(in crate::config) on: Option<Vec<Option<Cause>>>,
    /// Share of retries among all requests of the last ten seconds, per endpoint, up to 100%; or `off`. Default: 20%.
    pub(in crate::config) budget: Option<Checked<OrOff<Percent<0, 100>>>>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Backoff {
    /// Upper bound of the first wait, 1ms to 1m; each next one doubles. Waits are random, from zero to the bound.
    /// Default: 50ms.
    pub(in crate::config) initial: Option<Checked<Time<1, MINUTE>>>,
    /// Upper bound of every wait, up to 1m. Default: 1s.
    pub(in crate::config) max: Option<Checked<Time<1, MINUTE>>>,
}

#[derive(Clone, Copy, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum Cause {
    /// No connection: nothing was sent.
    Connect,
    /// The connection was lost before an answer, or a bare 502: the handler may have run.
    Reset,
    /// A retryable 503, or a cluster's answer that is not from Nexus.
    Unavailable,
    /// A retryable 520 or 408, or a 504.
    Timeout,
    /// A retryable 429.
    ResourceExhausted,
    /// A retryable 500, or a retryable error of an unknown type.
    Internal,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Breaker {
    /// Opens when at least this share of the requests of the window failed, 1% to 100%; or `off`. Default: 50%.
    pub(in crate::config) failure_rate: Option<Checked<OrOff<Percent<1, 100>>>>,
    /// Requests that the window must hold before the rate counts, 1 to 1000000. Default: 20.
    pub(in crate::config) min_requests: Option<Checked<Count<1, 1_000_000>>>,
    /// How far back the rate looks, 100ms to 1h. Default: 10s.
    pub(in crate::config) window: Option<Checked<Period<HOUR>>>,
    /// Opens after so many failures without a success between them, 1 to 1000000; or `off`. Default: off.
    pub(in crate::config) consecutive: Option<Checked<OrOff<Count<1, 1_000_000>>>>,
    /// How long it stays open the first time, give or take a fifth, 100ms to 1h; doubled each time that a probe fails.
    /// Default: 5s.
    pub(in crate::config) open_for: Option<Checked<Period<HOUR>>>,
    /// The longest that doubling makes of it, up to 24h. Default: 1m.
    pub(in crate::config) max_open_for: Option<Checked<Period<{ 24 * HOUR }>>>,
    /// Requests let through at a time to see whether it can close, 1 to 1000; so many successes close it. Default: 1.
    pub(in crate::config) probes: Option<Checked<Count<1, 1000>>>,
    /// What has a breaker of its own: each operation, each service or each endpoint. Default: operation.
    pub(in crate::config) per: Option<Level>,
    /// Whether requests wait for the recovery instead of being refused. Default: false.
    pub(in crate::config) hold: Option<bool>,
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::config) enum Level {
    Operation,
    Service,
    Endpoint,
}
