//! `policies[].park` and `park`.

use schemars::JsonSchema;
use serde::Deserialize;

use super::ClientTls;
use crate::config::value::{Checked, Count, DAY, GIB, KIB, ParkStore, SECOND, Size, Time};

/// Operations, and bytes of requests, that may be parked.
type Operations = Checked<Count<1, 10_000_000>>;
type Bytes = Checked<Size<KIB, { 1024 * GIB }>>;

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Park {
    /// The ends that lead to it, after the ordinary attempts. Default: all of them.
    pub(in crate::config) on: Option<Vec<Option<End>>>,
    /// Operations of an endpoint that are parked at a time, 1 to 10000000; further ones fail as without parking.
    /// Default: 100000.
    pub(in crate::config) max: Option<Operations>,
    /// Bytes of an endpoint's requests that are parked at a time, 1KiB to 1024GiB; no less than the largest request
    /// has. Default: 256MiB.
    pub(in crate::config) max_bytes: Option<Bytes>,
    /// How long an operation stays parked before it fails, 1s to 90d; its own `Operation-Timeout` may be shorter.
    /// Default: 24h.
    pub(in crate::config) max_age: Option<Checked<Time<SECOND, { 90 * DAY }>>>,
}

#[derive(Clone, Copy, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum End {
    /// The target could not be reached, or the connection to it was lost.
    Unreachable,
    /// The operation's breaker is open.
    BreakerOpen,
    /// There was no turn under the rate limit.
    RateLimited,
    /// There was no place under the concurrency limit.
    Saturated,
    /// The target answered that it is worth trying again, or answered nothing in time.
    RetryableFailure,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Parking {
    /// `embedded`, a file in the state folder, or `postgres://[USER[:PASSWORD]@]HOST[:PORT][/DATABASE]`, a database that
    /// gateways with the same `callbacks.keys` share, any of which finishes what another one parked; with TLS where it ends in
    /// `?sslmode=verify-full`. A password is best written as `${env:NAME}` or `${file:/path}`, percent-encoded. Default:
    /// embedded.
    pub(in crate::config) store: Option<Checked<ParkStore>>,
    /// How the database is met over TLS. Read at start only.
    pub(in crate::config) tls: Option<ClientTls>,
    /// Operations of all endpoints that are parked at a time, 1 to 10000000; no less than any policy's own `max`.
    /// Default: 1000000.
    pub(in crate::config) max: Option<Operations>,
    /// Bytes of all endpoints' requests that are parked at a time, 1KiB to 1024GiB; no less than any policy's own
    /// `max_bytes`. Default: 4GiB.
    pub(in crate::config) max_bytes: Option<Bytes>,
}
