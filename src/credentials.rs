//! How the gateway shows a target who it is, and who asks.
//!
//! Each target has a [`Purse`]: what of its own the gateway puts on a request for it, and what of the caller's may stay.
//! A [`Wallet`] keeps the purses' live parts, such as a token, over reloads and for all who send. Knows headers, tokens and
//! token servers. Must not know what a request is for, or when one is sent.

use http::header::{AUTHORIZATION, COOKIE, HeaderMap, HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use std::sync::Arc;
use tokio::time::Instant;

use crate::admission::Identity;
use crate::tls::ClientTlsSettings;

mod oauth2;
mod public_key;
mod signer;
#[cfg(test)]
mod tests;
mod wallet;

pub use oauth2::{ClientAuth, OAuth2Settings};
pub use public_key::PublicKey;
pub use signer::{Signer, SignerSettings, SigningKey};
pub use wallet::{Refreshes, Wallet};

use oauth2::Keeper;

/// Who asks: a name, or a signed token that says it.
pub static CALLER: HeaderName = HeaderName::from_static("nexus-gateway-caller");
/// The Temporal namespace that it asks from.
pub static CALLER_NAMESPACE: HeaderName = HeaderName::from_static("nexus-gateway-caller-namespace");

/// What of a name is escaped in a header: so two names are never the same there.
const ESCAPED: &AsciiSet = &CONTROLS.add(b' ').add(b'%');

/// How a cluster or an external target is met.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outward {
    /// TLS, where its URL says `https`.
    pub tls: ClientTlsSettings,
    /// What shows it who the gateway is.
    pub credentials: Option<Credentials>,
    /// Further headers of every request for it; their values are not shown.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// What of the caller's own credentials it gets.
    pub pass: Pass,
    /// How it is told who asks.
    pub caller: CallerHeader,
}

/// What shows a target who the gateway is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// The same header on every request; its value is not shown.
    Header(HeaderName, HeaderValue),
    /// An access token that is fetched and renewed.
    OAuth2(Box<OAuth2Settings>),
}

/// Which headers for the gateway's own eyes a target gets all the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pass {
    /// `Authorization`.
    pub authorization: bool,
    /// `Cookie`.
    pub cookie: bool,
}

impl Pass {
    /// Drops what does not pass.
    pub fn clean(self, headers: &mut HeaderMap) {
        if !self.authorization {
            headers.remove(AUTHORIZATION);
        }
        if !self.cookie {
            headers.remove(COOKIE);
        }
    }
}

/// How a target is told who asks, where that is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CallerHeader {
    /// Not at all.
    Off,
    /// By name.
    #[default]
    Name,
    /// By a token that the gateway signs.
    Signed,
}

/// There is no token, and none could be had in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoCredentials;

/// What one target is shown.
pub struct Purse {
    headers: HeaderMap,
    token: Option<Arc<Keeper>>,
    pass: Pass,
    caller: CallerHeader,
    signer: Option<Arc<Signer>>,
}

impl Purse {
    fn new(outward: &Outward, token: Option<Arc<Keeper>>, signer: Option<Arc<Signer>>) -> Self {
        let mut headers: HeaderMap = outward.headers.iter().cloned().collect();
        if let Some(Credentials::Header(name, value)) = &outward.credentials {
            headers.insert(name, value.clone());
        }
        Self { headers, token, pass: outward.pass, caller: outward.caller, signer }
    }

    /// What of the caller's own credentials passes.
    pub fn pass(&self) -> Pass {
        self.pass
    }

    /// The headers of a request that goes now; none where there is no token to show yet.
    pub fn at_once(&self) -> Option<HeaderMap> {
        let mut headers = self.headers.clone();
        if let Some(token) = &self.token {
            headers.insert(AUTHORIZATION, token.current(Instant::now())?);
        }
        Some(headers)
    }

    /// The same, waiting for a first token until then; not where its server fails.
    pub async fn open(&self, until: Instant) -> Result<HeaderMap, NoCredentials> {
        if let Some(token) = &self.token {
            token.wait(until).await?;
        }
        self.at_once().ok_or(NoCredentials)
    }

    /// The target did not believe what it was shown: what can be renewed is.
    pub fn refused(&self) {
        if let Some(token) = &self.token {
            token.refused(Instant::now());
        }
    }

    /// Says in `headers` who asks for the endpoint. An anonymous caller has no such header.
    pub fn name_caller(&self, headers: &mut HeaderMap, caller: Option<&Identity>, endpoint: &str) {
        let Some(caller) = caller else { return };
        match self.caller {
            CallerHeader::Off => {}
            CallerHeader::Name => {
                put(headers, &CALLER, &caller.name);
                if let Some(namespace) = &caller.namespace {
                    put(headers, &CALLER_NAMESPACE, namespace);
                }
            }
            CallerHeader::Signed => {
                if let Some(signed) = self.signer.as_ref().and_then(|signer| signer.sign(caller, endpoint)) {
                    headers.insert(&CALLER, signed);
                }
            }
        }
    }
}

fn put(headers: &mut HeaderMap, name: &HeaderName, text: &str) {
    let escaped = utf8_percent_encode(text, ESCAPED).to_string();
    // What is escaped is visible ASCII.
    if let Ok(value) = HeaderValue::try_from(escaped) {
        headers.insert(name, value);
    }
}
