//! `authorization`.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::value::{Checked, EndpointPattern, NamePattern};

/// Names, or patterns in which `*` stands for any characters or none and `?` for one.
pub(in crate::config) type Names<K = NamePattern> = Option<Vec<Option<Checked<K>>>>;

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Authorization {
    /// Who may call what: a request may go that fits one of the rules. Left out or empty: none may.
    pub(in crate::config) rules: Option<Vec<Option<AllowRule>>>,
    /// Who may send completions. Left out: whoever has a sealed callback, and nobody to the home cluster.
    pub(in crate::config) completions: Option<AllowCompletions>,
    /// Whether a caller that may call nothing of an endpoint is told so, by 403. Default: false, it is answered 404, as
    /// if there were no such endpoint.
    pub(in crate::config) tell_forbidden: Option<bool>,
}

/// `callers` or `namespaces` is mandatory; what else is left out fits every name.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct AllowRule {
    /// Names of callers, such as `orders`, `team-*` or `*`. Only the word `anonymous` stands for those without a
    /// credential. Left out: every known caller.
    pub(in crate::config) callers: Names,
    /// Namespaces that callers call from, for those of whom it is known. Left out: any, or none.
    pub(in crate::config) namespaces: Names,
    /// Names of endpoints. Left out: every endpoint.
    pub(in crate::config) endpoints: Names<EndpointPattern>,
    /// Names of services. Left out: every service.
    pub(in crate::config) services: Names,
    /// Names of operations. Left out: every operation.
    pub(in crate::config) operations: Names,
}

/// One of the two is mandatory.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct AllowCompletions {
    /// Names of callers; `anonymous` stands for those without a credential. Left out: every known caller.
    pub(in crate::config) callers: Names,
    /// Namespaces that callers call from. Left out: any, or none.
    pub(in crate::config) namespaces: Names,
}
