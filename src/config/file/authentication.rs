//! `authentication`.

use schemars::JsonSchema;
use serde::Deserialize;

use super::ClientTls;
use crate::config::shape::OneOrMore;
use crate::config::value::{
    AlgorithmName, Audience, CallerNamespace, Checked, ClaimName, Count, CredentialHeader, DAY, FilePath, IdentityName,
    IssuerName, KeysUrl, MINUTE, OrOff, Pattern, SECOND, SecretText, Sha256, Time,
};

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Authentication {
    /// How the client certificate of a connection names the caller: the first that fits, up to 100. One that none fits
    /// is wrong. Left out: certificates name nobody.
    pub(in crate::config) certificates: Option<Vec<Option<CertificateRule>>>,
    /// Keys that callers show in a header. Left out: none are known.
    pub(in crate::config) api_keys: Option<ApiKeys>,
    /// Issuers of JSON Web Tokens that callers show in a header, up to 16. Left out: none is believed.
    pub(in crate::config) jwt: Option<Vec<Option<Jwt>>>,
    /// How many signatures of tokens from one peer, an IPv4 address or an IPv6 /64, may turn out wrong in a second, 1 to
    /// 1000000; or `off`. Beyond it tokens from there that are not known already are answered 429 unchecked. Default: 100.
    pub(in crate::config) max_wrong_per_peer: Option<Checked<OrOff<Count<1, 1_000_000>>>>,
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

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Jwt {
    /// Who makes the tokens, as they say in `iss`. Each issuer stands here once. Mandatory.
    pub(in crate::config) issuer: Option<Checked<IssuerName>>,
    /// Whom the tokens are for: one of these has to be in `aud`. Mandatory.
    pub(in crate::config) audience: Option<OneOrMore<Audience>>,
    /// How the issuer signs: RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384 or `EdDSA`.
    /// Default: `[RS256, ES256, EdDSA]`.
    pub(in crate::config) algorithms: Option<Vec<Option<Checked<AlgorithmName>>>>,
    /// The issuer's public keys. Mandatory.
    pub(in crate::config) jwks: Option<Jwks>,
    /// The header that carries a token; `authorization`: after `Bearer`. It passes on to nobody. Default: authorization.
    pub(in crate::config) header: Option<Checked<CredentialHeader>>,
    /// What says the caller's name: a claim, or a list of names, each in what the one before it names. Default: sub.
    pub(in crate::config) name: Option<OneOrMore<ClaimName>>,
    /// How that says it: a pattern with `{name}`, and `{namespace}` or not. Default: '{name}'.
    pub(in crate::config) pattern: Option<Checked<Pattern>>,
    /// What says the Temporal namespace that the caller calls from, as `name`, where the pattern does not. A token may be
    /// without it. Left out: not known.
    pub(in crate::config) namespace: Option<OneOrMore<ClaimName>>,
    /// How far the clocks of issuer and gateway may differ, up to 5m. Default: 30s.
    pub(in crate::config) leeway: Option<Checked<Time<0, { 5 * MINUTE }>>>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Jwks {
    /// A file with a JSON Web Key Set of at most 100 keys and 1 MiB, read anew when it changes. This or `url`.
    pub(in crate::config) file: Option<Checked<FilePath>>,
    /// Where the issuer publishes such a set, with `https` unless it is a loopback address. It is fetched again and again,
    /// and when a token names a key that is not in it; the last good set holds meanwhile. This or `file`.
    pub(in crate::config) url: Option<Checked<KeysUrl>>,
    /// Time between two fetches of `url`, 10s to 24h. Default: 5m.
    pub(in crate::config) every: Option<Checked<Time<{ 10 * SECOND }, DAY>>>,
    /// How long a fetched set holds where no newer one can be fetched, 1m to 30d. Default: 24h.
    pub(in crate::config) max_age: Option<Checked<Time<MINUTE, { 30 * DAY }>>>,
    /// How the server of `url` is met. Left out: the system's authorities are believed, and no certificate is shown.
    pub(in crate::config) tls: Option<ClientTls>,
    /// A token that the server of `url` is shown, as `Authorization: Bearer TOKEN`; best written as `${file:/PATH}`. Left
    /// out: none.
    pub(in crate::config) bearer: Option<Checked<SecretText>>,
}
