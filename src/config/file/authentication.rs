//! `authentication`.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::value::{CallerNamespace, Checked, CredentialHeader, IdentityName, Pattern, Sha256};

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Authentication {
    /// How the client certificate of a connection names the caller: the first that fits, up to 100. One that none fits
    /// is wrong. Left out: certificates name nobody.
    pub(in crate::config) certificates: Option<Vec<Option<CertificateRule>>>,
    /// Keys that callers show in a header. Left out: none are known.
    pub(in crate::config) api_keys: Option<ApiKeys>,
}

/// One of these: a pattern with `{name}`, and `{namespace}` or not.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct CertificateRule {
    /// For the SPIFFE id: the one URI of the subject alternative name.
    pub(in crate::config) spiffe: Option<Checked<Pattern>>,
    /// For the DNS names of the subject alternative name: the first that fits.
    pub(in crate::config) dns: Option<Checked<Pattern>>,
    /// For the whole subject, such as `CN=orders, O=Example`.
    pub(in crate::config) subject: Option<Checked<Pattern>>,
    /// For the common name of the subject.
    pub(in crate::config) common_name: Option<Checked<Pattern>>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct ApiKeys {
    /// The header that carries a key; `authorization`: after `Bearer`. It passes on to nobody. Default: x-api-key.
    pub(in crate::config) header: Option<Checked<CredentialHeader>>,
    /// The keys, up to 10000, by their hashes. Mandatory.
    pub(in crate::config) keys: Option<Vec<Option<ApiKey>>>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct ApiKey {
    /// Whose key it is: 1 to 256 printable ASCII characters, not `anonymous`. Several keys may be of one caller. Mandatory.
    pub(in crate::config) name: Option<Checked<IdentityName>>,
    /// The Temporal namespace that it calls from. Left out: not known.
    pub(in crate::config) namespace: Option<Checked<CallerNamespace>>,
    /// SHA-256 of the key, 64 hexadecimal digits, made with the key by `nexus-gateway keys api`. Mandatory.
    pub(in crate::config) sha256: Option<Checked<Sha256>>,
}
