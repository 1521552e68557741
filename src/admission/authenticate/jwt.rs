//! JSON Web Tokens (RFC 7519), signed with keys of issuers that are trusted (RFC 8725).
//!
//! What a token says of itself chooses among what is configured, and adds nothing to it: the issuer its settings and keys,
//! the algorithm one of those that its issuer uses. A token that was checked is remembered by its hash while it holds, so
//! that a caller's next request costs no signature; one that is wrong is not, so that nobody can fill the memory. How many
//! signatures from one peer are checked in vain is bounded.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::HeaderName;
use moka::sync::Cache;

use super::api_key::sha256;
use super::wrong::WrongOnes;
use super::{AuthenticationSettings, Denied, IdentityPattern, is_printable};
use crate::admission::{How, Identity};

mod token;

use super::jwks::fetched::Keeper;
use super::jwks::{Algorithm, JwksStatus, KeySet, KeySource};
use token::Token;
pub(super) use token::is_token;

/// Tokens that are remembered at a time.
const REMEMBERED: u64 = 10_000;

/// How long a token is remembered at most.
const REMEMBERED_FOR: Duration = Duration::from_secs(300);

/// Keys that are tried for a token: all that it may be by, where it does not say which one signed it.
const MAX_TRIED: usize = 4;

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
    pub keys: KeySource,
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
    issuers: Vec<Issuer>,
    remembered: Cache<[u8; 32], Arc<Known>>,
    wrong: WrongOnes,
}

struct Issuer {
    settings: JwtSettings,
    keys: Keys,
}

enum Keys {
    Set(KeySet),
    Kept(Arc<Keeper>),
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

/// Why a token is not believed.
enum Refusal {
    Wrong(&'static str),
    /// Its key may be one of those that cannot be fetched.
    Unavailable,
    /// Its signature was not checked, and is not before so long.
    TooMany(Duration),
}

impl From<&'static str> for Refusal {
    fn from(why: &'static str) -> Self {
        Self::Wrong(why)
    }
}

impl Tokens {
    /// What checks tokens by these settings, and goes on with what was fetched and remembered before where that still holds.
    pub(super) fn new(settings: &AuthenticationSettings, before: Option<&Self>) -> Self {
        let issuers: Vec<_> = settings.jwt.iter().map(|settings| Issuer::new(settings, before)).collect();
        let same = |before: &&Self| {
            before.issuers.iter().map(|issuer| &issuer.settings).eq(issuers.iter().map(|issuer| &issuer.settings))
        };
        let remembered = before.filter(same).map_or_else(
            || Cache::builder().max_capacity(REMEMBERED).time_to_live(REMEMBERED_FOR).build(),
            |before| before.remembered.clone(),
        );
        let max_wrong = settings.max_wrong_per_peer;
        let wrong = before.map(|before| &before.wrong).filter(|wrong| wrong.is_for(max_wrong));
        let wrong = wrong.cloned().unwrap_or_else(|| WrongOnes::new(max_wrong));
        Self { issuers, remembered, wrong }
    }

    /// How it stands with the keys that are fetched.
    pub(super) fn statuses(&self) -> impl Iterator<Item = JwksStatus> {
        self.issuers.iter().filter_map(|issuer| issuer.keeper()).map(|keeper| keeper.status())
    }

    /// Whose token `text` is, which `peer` shows in `header`.
    pub(super) async fn identify(
        &self,
        peer: IpAddr,
        header: &HeaderName,
        text: &str,
    ) -> Result<Arc<Identity>, Denied> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.identify_at(peer, header, text, now).await
    }

    async fn identify_at(
        &self,
        peer: IpAddr,
        header: &HeaderName,
        text: &str,
        now: Duration,
    ) -> Result<Arc<Identity>, Denied> {
        let hash = sha256(text.as_bytes());
        if let Some(known) = self.remembered.get(&hash)
            && self.issuers[known.issuer].still_believes(&known, header, now)
        {
            return Ok(Arc::clone(&known.identity));
        }
        let wrong = |why: &'static str| Denied::wrong(How::Jwt, why);
        let token = Token::read(text).map_err(wrong)?;
        let (number, issuer) = self.issuer_of(header, &token).map_err(wrong)?;
        let checking = Checking { peer, wrong: &self.wrong };
        let known = issuer.check(number, &token, now, checking).await.map_err(|refusal| {
            let name = &issuer.settings.issuer;
            match refusal {
                Refusal::Wrong(why) => Denied::wrong(How::Jwt, format!("{name}: {why}")),
                Refusal::Unavailable => {
                    Denied::Unavailable { how: How::Jwt, why: format!("{name}: its keys cannot be fetched").into() }
                }
                Refusal::TooMany(retry_after) => Denied::TooMany { how: How::Jwt, retry_after },
            }
        })?;
        let identity = Arc::clone(&known.identity);
        self.remembered.insert(hash, Arc::new(known));
        Ok(identity)
    }

    fn issuer_of(&self, header: &HeaderName, token: &Token<'_>) -> Result<(usize, &Issuer), &'static str> {
        let issuer = token.issuer()?;
        let mut here = self.issuers.iter().enumerate().filter(|(_, known)| known.settings.header == *header);
        here.find(|(_, known)| *known.settings.issuer == *issuer).ok_or("its issuer is unknown")
    }
}

impl Issuer {
    fn new(settings: &JwtSettings, before: Option<&Tokens>) -> Self {
        let keys = match &settings.keys {
            KeySource::Set(set) => Keys::Set(set.clone()),
            KeySource::Url(url) => {
                let mut kept = before.into_iter().flat_map(|before| &before.issuers).filter_map(Self::keeper);
                let same = kept.find(|keeper| keeper.is_for(&settings.issuer, url)).cloned();
                Keys::Kept(same.unwrap_or_else(|| Keeper::begin(&settings.issuer, url)))
            }
        };
        Self { settings: settings.clone(), keys }
    }

    fn keeper(&self) -> Option<&Arc<Keeper>> {
        match &self.keys {
            Keys::Set(_) => None,
            Keys::Kept(keeper) => Some(keeper),
        }
    }

    fn keys(&self) -> Option<KeySet> {
        match &self.keys {
            Keys::Set(set) => Some(set.clone()),
            Keys::Kept(keeper) => keeper.current(),
        }
    }

    fn still_believes(&self, known: &Known, header: &HeaderName, now: Duration) -> bool {
        let same_keys = || self.keys().is_some_and(|keys| keys.is(&known.keys));
        self.settings.header == *header && now.as_secs_f64() < known.until && same_keys()
    }

    /// What costs least is looked at first, and nobody waits for keys for what is wrong anyway.
    async fn check(
        &self,
        number: usize,
        token: &Token<'_>,
        now: Duration,
        checking: Checking<'_>,
    ) -> Result<Known, Refusal> {
        let settings = &self.settings;
        if !settings.algorithms.contains(&token.algorithm) {
            return Err("its algorithm is none that its issuer uses".into());
        }
        token.is_for(&settings.audience)?;
        let until = token.holds(now, settings.leeway)?;
        let identity = settings.identity(token)?;
        let keys = self.check_signature(token, checking).await?;
        Ok(Known { identity, issuer: number, keys, until })
    }

    /// The keys by one of which the token is signed.
    async fn check_signature(&self, token: &Token<'_>, checking: Checking<'_>) -> Result<KeySet, Refusal> {
        let before = self.keys();
        let checked = checking.by(before.as_ref(), token)?;
        let Some(keeper) = self.keeper().filter(|_| checked == Checked::UnknownKey) else {
            return checked.into_result(before);
        };
        let is_known = keeper.renew(token.key.as_deref()).await;
        let keys = self.keys();
        let same = before.is_some_and(|before| keys.as_ref().is_some_and(|keys| keys.is(&before)));
        match if same { checked } else { checking.by(keys.as_ref(), token)? } {
            Checked::UnknownKey if !is_known => Err(Refusal::Unavailable),
            checked => checked.into_result(keys),
        }
    }
}

impl JwtSettings {
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

#[derive(Clone, Copy, PartialEq, Eq)]
enum Checked {
    Signed,
    Wrong,
    /// There is no such key, or none of those that it may be by.
    UnknownKey,
}

impl Checked {
    fn into_result(self, keys: Option<KeySet>) -> Result<KeySet, Refusal> {
        match self {
            Self::Signed => keys.ok_or(Refusal::Unavailable),
            Self::Wrong => Err("its signature is wrong".into()),
            Self::UnknownKey => Err("its key is unknown".into()),
        }
    }
}

/// Whose signature is checked, and what bounds that.
#[derive(Clone, Copy)]
struct Checking<'a> {
    peer: IpAddr,
    wrong: &'a WrongOnes,
}

impl Checking<'_> {
    /// Whether one of the keys that the token may be by signed it.
    fn by(self, keys: Option<&KeySet>, token: &Token<'_>) -> Result<Checked, Refusal> {
        let fitting = keys.into_iter().flat_map(|keys| keys.fitting(token.key.as_deref(), token.algorithm));
        let mut fitting = fitting.take(MAX_TRIED).peekable();
        if fitting.peek().is_none() {
            return Ok(Checked::UnknownKey);
        }
        self.wrong.may_check(self.peer).map_err(Refusal::TooMany)?;
        let mut in_vain = 0;
        for key in fitting {
            if key.signed(token.message, token.signature, token.algorithm) {
                return Ok(Checked::Signed);
            }
            in_vain += 1;
        }
        self.wrong.count(self.peer, in_vain);
        // Who names no key may have signed with one that is new.
        Ok(if token.key.is_none() { Checked::UnknownKey } else { Checked::Wrong })
    }
}

#[cfg(test)]
mod tests;
