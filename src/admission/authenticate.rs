//! Who sends a request, by what it shows: the client certificate of its connection, a token, an API key.
//!
//! Knows connections' peers and headers. Must not know what anybody may do: that is another stage's. Whoever shows nothing
//! is anonymous; whoever shows something that is wrong is refused, since it cannot have been meant. A header that is
//! configured to carry credentials belongs to the gateway, and passes on to nobody; only of a completion's does what is
//! wrong pass.

use std::borrow::Cow;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName};

use super::authorize::ANONYMOUS;
use super::{Caller, How, Identity, Peer};

mod api_key;
mod certificate;
mod jwks;
mod jwt;
mod pattern;
mod shown;
mod wrong;

pub use api_key::{ApiKey, ApiKeySettings, NewApiKey};
pub use certificate::{CertificateRule, Field};
pub use jwks::{Algorithm, JwksStatus, JwksUrl, KeySet, KeySource};
pub use jwt::{ClaimPath, JwtSettings};
pub use pattern::{IdentityPattern, MAX_PATTERN, Read};

use api_key::ApiKeys;
use jwt::{Tokens, is_token};
use shown::{Shown, read, shown};

/// Longest name of a caller, in bytes.
pub const MAX_NAME: usize = 256;

/// How many signatures from one peer may turn out wrong in a second by default. With the usual kinds of keys that is less
/// than a hundredth of one processor's time.
const WRONG_PER_PEER: NonZeroU32 = NonZeroU32::new(100).unwrap();

/// By what callers are known. Something is configured in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthenticationSettings {
    /// Client certificates, by the first rule that fits. None: they name nobody.
    pub certificates: Vec<CertificateRule>,
    /// API keys.
    pub api_keys: Option<ApiKeySettings>,
    /// Issuers of tokens.
    pub jwt: Vec<JwtSettings>,
    /// How many signatures of tokens from one peer may turn out wrong in a second; none: any number.
    pub max_wrong_per_peer: Option<NonZeroU32>,
}

impl Default for AuthenticationSettings {
    fn default() -> Self {
        Self { certificates: Vec::new(), api_keys: None, jwt: Vec::new(), max_wrong_per_peer: Some(WRONG_PER_PEER) }
    }
}

impl AuthenticationSettings {
    /// Whether callers may have a namespace by them.
    pub fn tell_namespaces(&self) -> bool {
        let mut keys = self.api_keys.iter().flat_map(|settings| &settings.keys);
        self.certificates.iter().any(|rule| rule.pattern.has_namespace())
            || self.jwt.iter().any(|issuer| issuer.namespace.is_some() || issuer.pattern.has_namespace())
            || keys.any(|key| key.namespace.is_some())
    }
}

/// Finds out who sends a request.
pub struct Authentication {
    certificates: Vec<CertificateRule>,
    api_keys: ApiKeys,
    tokens: Tokens,
    /// Those of tokens first.
    places: Vec<Place>,
}

/// A header that carries credentials.
struct Place {
    header: HeaderName,
    tokens: bool,
    keys: bool,
}

/// Why nobody is known although something was shown. The words are for logs, never for the sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied {
    /// It is wrong.
    Wrong {
        /// What was shown.
        how: How,
        /// What is wrong with it.
        why: Cow<'static, str>,
    },
    /// It may be right, but that cannot be seen at present.
    Unavailable {
        /// What was shown.
        how: How,
        /// Why not.
        why: Cow<'static, str>,
    },
    /// Too much that its peer showed was wrong, for it to be looked at now.
    TooMany {
        /// What was shown.
        how: How,
        /// When it is.
        retry_after: Duration,
    },
}

impl Denied {
    fn wrong(how: How, why: impl Into<Cow<'static, str>>) -> Self {
        Self::Wrong { how, why: why.into() }
    }

    /// What was shown.
    pub fn how(&self) -> How {
        match self {
            Self::Wrong { how, .. } | Self::Unavailable { how, .. } | Self::TooMany { how, .. } => *how,
        }
    }

    /// Why, for logs.
    pub fn why(&self) -> &str {
        match self {
            Self::Wrong { why, .. } | Self::Unavailable { why, .. } => why,
            Self::TooMany { .. } => "too many of its peer's were wrong",
        }
    }
}

impl Authentication {
    /// By these settings. What others before it fetched and remembered stays where the settings of it do. Where keys have
    /// to be fetched, that begins on the current runtime, and ends with the last that uses them.
    pub fn new(settings: &AuthenticationSettings, before: Option<&Self>) -> Self {
        Self {
            certificates: settings.certificates.clone(),
            api_keys: ApiKeys::new(settings.api_keys.iter().flat_map(|settings| &settings.keys)),
            tokens: Tokens::new(settings, before.map(|before| &before.tokens)),
            places: places(settings),
        }
    }

    /// Who sends a request with these headers over the connection of `peer`. What a request shows names its sender rather
    /// than the certificate of its connection, which may be a proxy's, and a token does rather than a key; but each must be
    /// right by itself.
    pub async fn authenticate(&self, peer: &Peer, headers: &HeaderMap) -> Result<Caller, Denied> {
        let owner = self.owner(peer)?;
        let mut sender = None;
        for place in &self.places {
            let shown = self.identify(place, peer, headers).await?;
            sender = sender.or(shown);
        }
        Ok(sender.or(owner).map_or_else(|| Caller::anonymous(peer), |identity| Caller::known(peer, identity)))
    }

    /// Who sends a completion, whose headers may be meant for where it goes. Each line that may show a credential is judged
    /// by itself: what is right says who it is and goes out of `headers`, what is wrong counts as not shown and stays. The
    /// first that is wrong is told as well. Fails where one may be right and nobody can tell.
    pub async fn authenticate_completion(
        &self,
        peer: &Peer,
        headers: &mut HeaderMap,
    ) -> Result<(Caller, Option<Denied>), Denied> {
        let (owner, mut wrong) = self.owner(peer).map_or_else(|denied| (None, Some(denied)), |owner| (owner, None));
        let mut sender = None;
        for place in &self.places {
            let mut others = Vec::new();
            for line in headers.get_all(&place.header) {
                let identified = match read(line, &place.header, place.how()) {
                    Ok(text) => self.identify_text(place, peer, text).await,
                    Err(denied) => Err(denied),
                };
                match identified {
                    Ok(identity) => sender = sender.or(Some(identity)),
                    Err(denied @ Denied::Wrong { .. }) => {
                        wrong.get_or_insert(denied);
                        others.push(line.clone());
                    }
                    Err(denied) => return Err(denied),
                }
            }
            headers.remove(&place.header);
            for line in others {
                headers.append(&place.header, line);
            }
        }
        let sender = sender.or(owner);
        Ok((sender.map_or_else(|| Caller::anonymous(peer), |identity| Caller::known(peer, identity)), wrong))
    }

    /// Whose certificate the connection has. One that names nobody is as wrong as any other credential.
    fn owner(&self, peer: &Peer) -> Result<Option<Arc<Identity>>, Denied> {
        let Some(certificate) = peer.certificate.as_ref().filter(|_| !self.certificates.is_empty()) else {
            return Ok(None);
        };
        let owner = certificate::identify(&self.certificates, certificate);
        owner.map(Some).ok_or_else(|| Denied::wrong(How::Certificate, "no rule says whose it is"))
    }

    /// Who is known by the header of `place`.
    async fn identify(&self, place: &Place, peer: &Peer, headers: &HeaderMap) -> Result<Option<Arc<Identity>>, Denied> {
        match shown(headers, &place.header, place.how())? {
            Shown::Nothing => Ok(None),
            Shown::Text(text) => self.identify_text(place, peer, text).await.map(Some),
        }
    }

    /// Who is known by a text at `place`. Where it may be either, its form says which it is.
    async fn identify_text(&self, place: &Place, peer: &Peer, text: &str) -> Result<Arc<Identity>, Denied> {
        let token = place.tokens && (!place.keys || is_token(text));
        if token {
            self.tokens.identify(peer.address.ip(), &place.header, text).await
        } else {
            self.api_keys.identify(text)
        }
    }

    /// How it stands with the keys of tokens that are fetched.
    pub fn key_sets(&self) -> impl Iterator<Item = JwksStatus> {
        self.tokens.statuses()
    }

    /// Takes what carries credentials for the gateway out of `headers`.
    pub fn strip(&self, headers: &mut HeaderMap) {
        for place in &self.places {
            headers.remove(&place.header);
        }
    }
}

impl Place {
    /// What is wrong there, unless its form says which it is.
    fn how(&self) -> How {
        if self.tokens { How::Jwt } else { How::ApiKey }
    }
}

fn places(settings: &AuthenticationSettings) -> Vec<Place> {
    let mut places: Vec<Place> = Vec::new();
    for JwtSettings { header, .. } in &settings.jwt {
        if places.iter().all(|place| place.header != *header) {
            places.push(Place { header: header.clone(), tokens: true, keys: false });
        }
    }
    if let Some(ApiKeySettings { header, .. }) = &settings.api_keys {
        match places.iter_mut().find(|place| place.header == *header) {
            Some(place) => place.keys = true,
            None => places.push(Place { header: header.clone(), tokens: false, keys: true }),
        }
    }
    places
}

/// Whether somebody may be called so: 1 to [`MAX_NAME`] printable ASCII characters, none of them a space at either end.
pub fn is_name(text: &str) -> bool {
    is_printable(text) && text != ANONYMOUS
}

/// Whether a caller's namespace may be called so, likewise.
pub fn is_printable(text: &str) -> bool {
    (1..=MAX_NAME).contains(&text.len()) && text.bytes().all(|byte| matches!(byte, b' '..=b'~')) && text.trim() == text
}

#[cfg(test)]
mod tests;

#[cfg(test)]
#[path = "../../tests/support/tokens.rs"]
mod testing;
