//! `callbacks`.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::file::ClientTls;
use crate::config::shape::Allow;
use crate::config::value::{AllowedUrl, Checked, DAY, KeyId, KeySecret, MINUTE, PublicUrl, Segment, Time};

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Callbacks {
    /// How the clusters of handlers reach this gateway: `http://HOST[:PORT][/PATH]` or `https://…`, up to 500 characters. Left out:
    /// completions do not go through it.
    pub(in crate::config) public_url: Option<Checked<PublicUrl>>,
    /// The keys that seal callbacks and tokens of operations: the first seals, all open. Gateways that stand in for each
    /// other have the same ones. Left out: where something is sealed, one is made and kept in the state folder.
    pub(in crate::config) keys: Option<Vec<Option<SealKey>>>,
    /// Where completions may be sent, besides the configured clusters. Left out: nowhere else.
    pub(in crate::config) allow: Option<Vec<Option<Allow>>>,
    /// Whether the token in a caller's callback is sealed, so that no handler can read or use it. Default: true.
    pub(in crate::config) seal_token: Option<bool>,
    /// How long a completion may come back after a start without `Operation-Timeout`, 1m to 365d. Default: 90d.
    pub(in crate::config) expires_after: Option<Checked<Time<MINUTE, { 365 * DAY }>>>,
    /// The cluster that takes completions addressed to `/nexus/callback` and `/namespaces/NAMESPACE/nexus/callback`.
    /// Left out: there are no such routes.
    pub(in crate::config) home: Option<Checked<Segment>>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct SealKey {
    /// What logs and metrics call it: 1 to 64 letters, digits, `.`, `-` and `_`. Mandatory.
    pub(in crate::config) id: Option<Checked<KeyId>>,
    /// 32 random bytes in base64, made by `nexus-gateway keys new`; best written as `${env:NAME}` or `${file:/path}`.
    /// Mandatory.
    pub(in crate::config) secret: Option<Checked<KeySecret>>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct AllowKeys {
    /// `http://HOST[:PORT]` or `https://…`: a name, `*.` before a name, an address or a network such as `10.0.0.0/8`; `*` as the port:
    /// any. Mandatory.
    pub(in crate::config) url: Option<Checked<AllowedUrl>>,
    /// Whether the host may have addresses of private networks. Default: false.
    pub(in crate::config) private: Option<bool>,
    /// How what the entry allows is met where its URL begins with `https`. Left out: the system's authorities are
    /// believed, and no certificate is shown.
    pub(in crate::config) tls: Option<ClientTls>,
}
