//! What targets are shown: `credentials` and what stands beside it, and `callers`.

use schemars::JsonSchema;
use serde::Deserialize;

use super::ClientTls;
use crate::config::shape::Named;
use crate::config::value::{Checked, FieldName, FieldValue, FilePath, PlainName, SecretText, TokenUrl};

/// Exactly one of `bearer`, `header` and `oauth2`.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Credentials {
    /// A token that goes out as `Authorization: Bearer TOKEN`; best written as `${file:/PATH}` or `${env:NAME}`.
    pub(in crate::config) bearer: Option<Checked<SecretText>>,
    /// Any other header, such as one for an API key.
    pub(in crate::config) header: Option<CredentialHeader>,
    /// An access token by OAuth 2.0 client credentials (RFC 6749 §4.4), fetched ahead of the last one's end.
    pub(in crate::config) oauth2: Option<OAuth2>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct CredentialHeader {
    /// The header's name. Mandatory.
    pub(in crate::config) name: Option<Checked<FieldName>>,
    /// Its value; best written as `${file:/PATH}` or `${env:NAME}`. Mandatory.
    pub(in crate::config) value: Option<Checked<FieldValue>>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct OAuth2 {
    /// The token endpoint. Mandatory.
    pub(in crate::config) token_url: Option<Checked<TokenUrl>>,
    /// Mandatory.
    pub(in crate::config) client_id: Option<Checked<PlainName>>,
    /// Best written as `${file:/PATH}` or `${env:NAME}`. Mandatory.
    pub(in crate::config) client_secret: Option<Checked<FieldValue>>,
    /// How id and secret are sent: `basic`, in an `Authorization` header, or `body`. Default: basic.
    pub(in crate::config) client_auth: Option<ClientAuth>,
    /// Scopes to ask for, with spaces between. Left out: none is named.
    pub(in crate::config) scope: Option<Checked<PlainName>>,
    /// The audience to ask for. Left out: none is named.
    pub(in crate::config) audience: Option<Checked<PlainName>>,
    /// How the token endpoint is met where its URL begins with `https`. Left out: the system's authorities are believed,
    /// and no certificate is shown.
    pub(in crate::config) tls: Option<ClientTls>,
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::config) enum ClientAuth {
    Basic,
    Body,
}

/// A header that is the caller's, and ends at the gateway where it is not passed.
#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::config) enum Passed {
    Authorization,
    Cookie,
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::config) enum CallerHeader {
    Off,
    Header,
    Signed,
}

/// What is said of a target beside its URL.
pub(in crate::config) struct Shown {
    pub(in crate::config) credentials: Option<Credentials>,
    pub(in crate::config) headers: Option<Named<Checked<FieldValue>>>,
    pub(in crate::config) pass: Option<Vec<Option<Passed>>>,
    pub(in crate::config) caller: Option<CallerHeader>,
    pub(in crate::config) allow_cleartext: Option<bool>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Callers {
    /// A PEM file: a private key of P-256 or Ed25519 in PKCS#8, which signs. Mandatory.
    pub(in crate::config) signing_key: Option<Checked<FilePath>>,
    /// Up to 10 further PEM files whose public keys are told beside its own, while keys change: public keys, or private ones
    /// as above. `signing_key` may be among them.
    pub(in crate::config) published_keys: Option<Vec<Option<Checked<FilePath>>>>,
    /// The `iss` of the tokens. Default: nexus-gateway.
    pub(in crate::config) issuer: Option<Checked<PlainName>>,
}
