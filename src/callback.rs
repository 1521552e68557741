//! Completions on their way back: sealed on the start, opened and forwarded when the handler's cluster sends them.
//!
//! Nothing is kept: all that a completion needs to come home is sealed into its URL and its token, so that any replica
//! that has the keys can carry any completion. Knows URLs, tokens and keys. Must not know how a request was admitted or
//! how a completion is sent.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderMap;

use crate::credentials::Purse;
use crate::nexus::callback::{self, MAX_HEADERS};
use crate::nexus::{BaseUrl, headers, timeout};
use crate::upstream::Outgoing;

pub mod destination;
pub mod home;
pub mod keys;
pub mod parked;
pub mod seal;
pub mod tokens;

use destination::{Destination, Destinations, Forbidden};
use seal::codec::Writer;
use seal::{Keyring, Operation, Origin, Refused, TargetRef, TooLong};
use tokens::Tokens;

/// How much longer than its operation a seal holds: a handler's cluster sends a completion again and again.
const BEYOND_OPERATION: Duration = Duration::from_secs(24 * 3600);

/// Longest request id that goes along, in bytes: Temporal's have 36.
const MAX_REQUEST_ID: usize = 64;

/// Longest name of a caller that goes along as it is, in bytes.
const MAX_CALLER: usize = 32;

/// What holds for completions, and the keys of all seals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallbackSettings {
    /// How handlers' clusters reach this gateway; none where completions do not go through it.
    pub public_url: Option<BaseUrl>,
    /// The keys: the first seals, all open.
    pub keys: Vec<seal::Key>,
    /// Where completions may be sent, besides the configured clusters.
    pub allow: Vec<destination::Allowed>,
    /// Whether the token that the caller's cluster put into its callback is sealed as well.
    pub seal_token: bool,
    /// How long a seal holds where a start has no `Operation-Timeout`.
    pub expires_after: Duration,
    /// The cluster that takes completions addressed to `/nexus/callback` and `/namespaces/NS/nexus/callback`.
    pub home: Option<Arc<str>>,
}

impl Default for CallbackSettings {
    fn default() -> Self {
        Self {
            public_url: None,
            keys: Vec::new(),
            allow: Vec::new(),
            seal_token: true,
            expires_after: Duration::from_secs(90 * 24 * 3600),
            home: None,
        }
    }
}

/// How completions go through this gateway.
pub struct Completions {
    /// What seals and opens tokens of operations.
    pub tokens: Option<Tokens>,
    /// Those that were sealed on their start.
    pub relay: Option<Callbacks>,
    /// The cluster that takes those that were not.
    pub home: Option<BaseUrl>,
    /// Where either may go.
    pub destinations: Arc<Destinations>,
    /// The clusters of the configuration, which are shown who delivers.
    pub homes: Vec<home::Home>,
}

impl Completions {
    /// What a destination is shown of the gateway's own: nothing, unless it is where a configured cluster takes
    /// completions.
    pub fn purse(&self, destination: &Destination) -> Option<&Purse> {
        self.homes.iter().find(|home| home.takes(destination)).map(home::Home::purse)
    }
}

/// Seals callbacks and opens them.
pub struct Callbacks {
    settings: CallbackSettings,
    public_url: String,
    keyring: Arc<Keyring>,
    destinations: Arc<Destinations>,
}

/// An operation as a start, its answer or a cancel names it.
pub struct About<'a> {
    /// The endpoint's name.
    pub endpoint: &'a str,
    /// `{service}/{operation}` as the caller wrote it.
    pub key: &'a str,
    /// Who calls.
    pub caller: &'a str,
    /// The namespace that it calls from, where that is known.
    pub namespace: Option<&'a str>,
    /// Where it goes, if its cancels shall follow it there.
    pub target: Option<TargetRef>,
}

/// Why a start's callback cannot be relayed. The message is for the caller's developer.
#[derive(Debug, thiserror::Error)]
pub enum Unsealable {
    /// `temporal://system` of a cluster that is not known here.
    #[error(
        "the callback temporal://system can only be delivered by the caller's own cluster, which this gateway does not know"
    )]
    System,
    /// Completions may not be sent there. Why says what is allowed and where names lead, and is not for everybody.
    #[error("completions may not be sent to the callback URL")]
    Forbidden(#[source] Forbidden),
    /// Sealed, the callback URL is longer than Temporal takes.
    #[error("the callback URL is too long to be relayed: sealed, it exceeds Temporal's {max} characters by {by}", max = .0.max, by = .0.by)]
    TooLong(TooLong),
    /// Sealed, the callback headers are larger than Temporal takes.
    #[error(
        "the callback headers are too large to be relayed: with a sealed token, they exceed Temporal's {MAX_HEADERS} bytes by {0}"
    )]
    Headers(usize),
    /// The request cannot carry the sealed callback.
    #[error("the request cannot carry a sealed callback")]
    Malformed,
}

/// A completion that was opened.
pub struct Homeward {
    /// Where it came from.
    pub origin: Origin,
    /// Where it goes.
    pub destination: Destination,
    /// How long ago its start was sealed.
    pub lag: Duration,
}

impl Callbacks {
    /// Relays callbacks with `keys`, of which there is at least one; none where the settings do not say so.
    pub fn new(settings: CallbackSettings, keyring: Arc<Keyring>, destinations: Arc<Destinations>) -> Option<Self> {
        let public_url = settings.public_url.as_ref()?.to_string();
        Some(Self { settings, public_url, keyring, destinations })
    }

    /// Seals the callback of a start. False where it has none. `home` gives the URL of the cluster that it comes from,
    /// where that is known.
    pub fn seal_start(
        &self,
        start: &mut Outgoing,
        about: About<'_>,
        home: impl Fn() -> Option<BaseUrl>,
    ) -> Result<bool, Unsealable> {
        let query = start.uri.query().unwrap_or_default().to_owned();
        let Some(url) = callback::callback_of(Some(&query)) else { return Ok(false) };
        let url = if callback::is_system_callback(&url) {
            let cluster = home().ok_or(Unsealable::System)?;
            format!("{cluster}/nexus/callback")
        } else {
            url.into_owned()
        };
        let destination = Destination::parse(&url).map_err(Unsealable::Forbidden)?;
        self.destinations.find(&destination).map_err(Unsealable::Forbidden)?;
        let origin = self.origin(url, about, &start.headers);
        self.put_sealed(start, &query, &origin)?;
        start.headers.remove(&headers::CALLBACK_SOURCE);
        Ok(true)
    }

    fn origin(&self, url: String, about: About<'_>, start: &HeaderMap) -> Origin {
        let issued = unix_now();
        let operation = start.get(&headers::OPERATION_TIMEOUT).and_then(|value| value.to_str().ok());
        let operation = operation.and_then(timeout::parse_operation);
        let holds =
            operation.map_or(self.settings.expires_after, |operation| operation.saturating_add(BEYOND_OPERATION));
        Origin {
            url,
            endpoint: format!("{}/{}", about.endpoint, about.key),
            caller: about.called().into_owned(),
            target: about.target.map(|target| target.to_string()).unwrap_or_default(),
            issued,
            expires: issued.saturating_add(holds.as_secs()),
            request_id: request_id(start),
        }
    }

    fn put_sealed(&self, start: &mut Outgoing, query: &str, origin: &Origin) -> Result<(), Unsealable> {
        let sealed = self.keyring.seal_callback(origin);
        let url = seal::callback_url(&self.public_url, &sealed).map_err(Unsealable::TooLong)?;
        if self.settings.seal_token {
            let seal = |token: &[u8]| Some(self.keyring.seal_token(token, &origin.url));
            callback::seal_callback_token(&mut start.headers, seal).ok_or(Unsealable::Malformed)?;
            let size = callback::callback_headers_size(&start.headers);
            if size > MAX_HEADERS {
                return Err(Unsealable::Headers(size - MAX_HEADERS));
            }
        }
        let set = callback::set_query(&mut start.uri, &callback::with_callback(query, &url));
        if set { Ok(()) } else { Err(Unsealable::Malformed) }
    }

    /// Opens a completion that came to `sealed`, and makes its headers what the caller's cluster expects.
    pub fn open_completion(&self, sealed: &str, head: &mut HeaderMap) -> Result<Homeward, Refused> {
        let now = unix_now();
        let origin = self.keyring.open_callback(sealed, now)?;
        let destination = Destination::parse(&origin.url).map_err(|_| Refused::Malformed)?;
        callback::clean_completion(head);
        let open = |text: &[u8]| match std::str::from_utf8(text) {
            Ok(text) => self.keyring.open_token(text, &origin.url),
            Err(_) => Err(Refused::Malformed),
        };
        // One that was sent while tokens were not sealed passes as it is.
        if head.get(&headers::CALLBACK_TOKEN).is_some_and(|token| Keyring::is_sealed(token.as_bytes())) {
            callback::open_callback_token(head, open)?;
        }
        self.wrap_completed(sealed, &origin, head);
        let lag = Duration::from_secs(now.saturating_sub(origin.issued));
        Ok(Homeward { origin, destination, lag })
    }

    /// The token that the caller knows from the start's answer; its own where there is no target in the seal.
    fn wrap_completed(&self, sealed: &str, origin: &Origin, head: &mut HeaderMap) {
        let token = head.get(&headers::OPERATION_TOKEN).and_then(|token| token.to_str().ok());
        let (Some(token), Some(target)) = (token, TargetRef::parse(&origin.target)) else { return };
        let (endpoint, key) = origin.endpoint.split_once('/').unwrap_or((&origin.endpoint, ""));
        let operation = match target {
            TargetRef::Parked { id } => Operation::parked(id),
            target => Operation { target, token: token.to_owned() },
        };
        let bound = tokens::bound(endpoint, key, Cow::Borrowed(&origin.caller));
        if let Ok(wrapped) = self.keyring.seal_operation_like(sealed, &bound, &operation) {
            headers::replace_operation_token(head, &wrapped);
        }
    }
}

/// What seals call a caller: by its name, or by what that and its namespace come to where the name is long or there is a
/// namespace, since the callback URL has little room. No two callers are called the same.
fn called<'a>(name: &'a str, namespace: Option<&str>) -> Cow<'a, str> {
    let shortened = |mark: &str, content: &[u8]| {
        let digest = digest::digest(&digest::SHA256, content);
        Cow::Owned(format!("{mark}{}", URL_SAFE_NO_PAD.encode(&digest.as_ref()[..18])))
    };
    match namespace {
        Some(namespace) => {
            let mut both = Writer::default();
            both.text(namespace);
            both.text(name);
            shortened("~~", both.bytes())
        }
        None if name.len() <= MAX_CALLER && !name.starts_with('~') => Cow::Borrowed(name),
        None => shortened("~", name.as_bytes()),
    }
}

impl<'a> About<'a> {
    /// What seals call its caller.
    fn called(&self) -> Cow<'a, str> {
        called(self.caller, self.namespace)
    }
}

/// As long as it is one of a usual length: the callback URL has little room.
fn request_id(start: &HeaderMap) -> String {
    let id = start.get(&headers::REQUEST_ID).and_then(|id| id.to_str().ok());
    id.filter(|id| id.len() <= MAX_REQUEST_ID).unwrap_or_default().to_owned()
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn callers_are_told_apart_in_little_room() {
        let long = ["a".repeat(MAX_CALLER + 1), "a".repeat(MAX_CALLER + 2), "~a".into()];
        let mut callers: Vec<(&str, Option<&str>)> = vec![("orders", None), ("default", None)];
        callers.extend(long.iter().map(|name| (&**name, None)));
        let namespaced = [("default", "prod"), ("default", "evil"), ("prod", "default"), ("ult", "defa"), ("rod", "p")];
        callers.extend(namespaced.map(|(name, namespace)| (name, Some(namespace))));
        let known: Vec<_> = callers.iter().map(|(name, namespace)| called(name, *namespace)).collect();
        // Nobody is called as another one is called here.
        let again = known.iter().filter(|text| text.starts_with('~')).map(|text| called(text, None));
        let all: HashSet<_> = known.iter().cloned().chain(again.collect::<Vec<_>>()).collect();
        assert_eq!(all.len(), known.len() + long.len() + namespaced.len(), "{all:?}");
        assert!(all.iter().all(|text| text.len() <= MAX_CALLER), "{all:?}");
    }

    /// Operations outlive the gateway that sealed them.
    #[test]
    fn callers_are_called_as_they_always_were() {
        assert_eq!(called("orders", None), "orders");
        assert_eq!(called(&"a".repeat(MAX_CALLER + 1), None), "~hSeFyAXHfnGiI0ClTp2Vkz7U");
        assert_eq!(called("default", Some("prod")), "~~MlT6sHik8ttAEaHmYsy8Oa-V");
    }
}
