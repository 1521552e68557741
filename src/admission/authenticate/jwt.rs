//! JSON Web Tokens (RFC 7519), signed with keys of issuers that are trusted (RFC 8725).
//!
//! What a token says of itself chooses among what is configured, and adds nothing to it: the issuer its settings and keys,
//! the algorithm one of those that its issuer uses. A token that was checked is remembered by its hash while it holds, so
//! that a caller's next request costs no signature; one that is wrong is not, so that nobody can fill the memory.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::HeaderName;
use moka::sync::Cache;

use super::api_key::sha256;
use super::{Denied, IdentityPattern, is_printable};
use crate::admission::{How, Identity};

mod token;

use super::jwks::{Algorithm, KeySet};
use token::Token;
pub(super) use token::is_token;

/// Tokens that are remembered at a time.
const REMEMBERED: u64 = 10_000;

/// How long a token is remembered at most.
const REMEMBERED_FOR: Duration = Duration::from_secs(300);

/// Keys that are tried for a token that does not say which one signed it.
const MAX_TRIED: usize = 8;

/// An issuer whose tokens are believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtSettings {
    /// What its tokens have in `iss`; no other issuer has the same.
    pub issuer: Arc<str>,
    /// Of which a token has to have one in `aud`.
    pub audience: Vec<Box<str>>,
    /// How it signs.
    pub algorithms: Vec<Algorithm>,
    /// The keys that it signs with.
    pub keys: KeySet,
    /// The header that carries its tokens.
    pub header: HeaderName,
    /// What says the caller's name.
    pub name: ClaimPath,
    /// How that says it.
    pub pattern: IdentityPattern,
    /// What says the namespace that the caller calls from, unless the pattern does.
    pub namespace: Option<ClaimPath>,
    /// How far its clock and the gateway's may differ; at most 5 minutes.
    pub leeway: Duration,
}

/// Where in a token something is said: the name of a claim, and of what is inside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimPath(Arc<[Box<str>]>);

impl ClaimPath {
    /// The claim of the first name, in it the second, and so on.
    pub fn new(names: impl IntoIterator<Item = Box<str>>) -> Self {
        Self(names.into_iter().collect())
    }

    fn names(&self) -> &[Box<str>] {
        &self.0
    }
}

/// Checks tokens.
pub(super) struct Tokens {
    issuers: Vec<JwtSettings>,
    remembered: Cache<[u8; 32], Arc<Known>>,
}

/// A token that was right.
struct Known {
    identity: Arc<Identity>,
    /// Its number.
    issuer: usize,
    /// Those that it was checked with.
    keys: KeySet,
    /// Seconds since 1970.
    until: f64,
}

impl Tokens {
    pub(super) fn new(issuers: &[JwtSettings]) -> Self {
        let remembered = Cache::builder().max_capacity(REMEMBERED).time_to_live(REMEMBERED_FOR).build();
        Self { issuers: issuers.to_vec(), remembered }
    }

    /// Whose token `text` is, which is shown in `header`.
    pub(super) fn identify(&self, header: &HeaderName, text: &str) -> Result<Arc<Identity>, Denied> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.identify_at(header, text, now)
    }

    fn identify_at(&self, header: &HeaderName, text: &str, now: Duration) -> Result<Arc<Identity>, Denied> {
        let hash = sha256(text.as_bytes());
        if let Some(known) = self.remembered.get(&hash) {
            let issuer = &self.issuers[known.issuer];
            if issuer.header == *header && issuer.keys.is(&known.keys) && now.as_secs_f64() < known.until {
                return Ok(Arc::clone(&known.identity));
            }
        }
        let wrong = |why: &'static str| Denied::wrong(How::Jwt, why);
        let token = Token::read(text).map_err(wrong)?;
        let (number, issuer) = self.issuer_of(header, &token).map_err(wrong)?;
        let known = issuer.check(number, &token, now).map_err(|why| {
            let why = format!("{}: {why}", issuer.issuer);
            Denied::wrong(How::Jwt, why)
        })?;
        let identity = Arc::clone(&known.identity);
        self.remembered.insert(hash, Arc::new(known));
        Ok(identity)
    }

    fn issuer_of(&self, header: &HeaderName, token: &Token<'_>) -> Result<(usize, &JwtSettings), &'static str> {
        let issuer = token.issuer()?;
        let mut here = self.issuers.iter().enumerate().filter(|(_, settings)| settings.header == *header);
        here.find(|(_, settings)| *settings.issuer == *issuer).ok_or("its issuer is unknown")
    }
}

impl JwtSettings {
    /// What costs least is looked at first.
    fn check(&self, number: usize, token: &Token<'_>, now: Duration) -> Result<Known, &'static str> {
        if !self.algorithms.contains(&token.algorithm) {
            return Err("its algorithm is none that its issuer uses");
        }
        token.is_for(&self.audience)?;
        let until = token.holds(now, self.leeway)?;
        let identity = self.identity(token)?;
        check_signature(&self.keys, token)?;
        Ok(Known { identity, issuer: number, keys: self.keys.clone(), until })
    }

    fn identity(&self, token: &Token<'_>) -> Result<Arc<Identity>, &'static str> {
        let text = token.text(&self.name)?.ok_or("it does not say who the caller is")?;
        let read = self.pattern.read(text).ok_or("nobody may be called as it says")?;
        let namespace = self.namespace.as_ref().map(|path| token.text(path)).transpose()?.flatten();
        if !namespace.is_none_or(is_printable) {
            return Err("no namespace may be called as it says");
        }
        let namespace = read.namespace.or_else(|| namespace.map(Into::into));
        Ok(Arc::new(Identity { name: read.name, namespace, how: How::Jwt }))
    }
}

fn check_signature(keys: &KeySet, token: &Token<'_>) -> Result<(), &'static str> {
    let mut fitting = keys.fitting(token.key.as_deref(), token.algorithm).take(MAX_TRIED).peekable();
    if fitting.peek().is_none() {
        return Err("its key is unknown");
    }
    let signed = fitting.any(|key| key.signed(token.message, token.signature, token.algorithm));
    signed.then_some(()).ok_or("its signature is wrong")
}

#[cfg(test)]
mod tests;
