//! What a start, its answer and a cancel have to do with completions.

use std::sync::Arc;

use http::request::Parts;
use http::{HeaderMap, HeaderValue, Response};

use super::completion::unopened;
use super::{Gateway, Visit};
use crate::admission::Caller;
use crate::admission::authorize::ANONYMOUS;
use crate::body::Content;
use crate::callback::seal::Refused;
use crate::callback::tokens::Canceled;
use crate::callback::{About, Callbacks, Unsealable};
use crate::nexus::{Call, headers};
use crate::response::{Failure, Reason};
use crate::route::{Endpoint, Policy, TokenRule};
use crate::upstream::Outgoing;

/// What holds for the tokens of an operation.
#[derive(Clone, Copy)]
pub(super) struct TokenTerms {
    /// Whether those that are sealed name the target that they came from. Where every one is sealed, all do.
    pub(super) sticky: bool,
    /// Whether every one is sealed, and no cancel passes with another.
    pub(super) sealed: bool,
}

/// An operation as seals name it.
pub(super) fn about<'a>(caller: &'a Caller, endpoint: &'a Endpoint, key: &'a str, named: bool) -> About<'a> {
    let target = named.then(|| endpoint.target_ref());
    let (caller, namespace) = name_of(caller);
    About { endpoint: endpoint.name(), key, caller, namespace, target }
}

/// What seals know a caller by, and its namespace: an address is not what it keeps.
fn name_of(caller: &Caller) -> (&str, Option<&str>) {
    caller.identity().map_or((ANONYMOUS, None), |identity| (&*identity.name, identity.namespace.as_deref()))
}

/// Whether a start goes to another cluster than the one that it comes from, whose completions need no help.
pub(super) fn leaves_home(start: &HeaderMap, endpoint: &Endpoint) -> bool {
    let source = start.get(&headers::CALLBACK_SOURCE).map(HeaderValue::as_bytes);
    let target = endpoint.entry().cluster_id.as_deref().map(str::as_bytes);
    source.is_none() || source != target
}

impl Gateway {
    /// Seals the callback of a start. False where it has none.
    pub(super) fn seal_start(
        &self,
        callbacks: &Callbacks,
        about: About<'_>,
        source: Option<&HeaderValue>,
        start: &mut Outgoing,
    ) -> Result<bool, Failure> {
        let endpoint = about.endpoint;
        let home = || {
            let id = source?.to_str().ok()?;
            self.router.url_of_cluster(&self.registry.cluster_of_id(id)?)
        };
        let sealed = callbacks.seal_start(start, about, home);
        let sealed = sealed.map_err(|error| {
            let failure = Failure::new(Reason::BadCallback, error.to_string());
            match error {
                Unsealable::Forbidden(why) => failure.because(why.to_string()),
                _ => failure,
            }
        })?;
        if sealed {
            self.telemetry.sealed(endpoint);
        }
        Ok(sealed)
    }

    /// What holds for the tokens of an operation under its policy.
    pub(super) fn token_terms(&self, policy: &Policy) -> TokenTerms {
        let sealed = match policy.tokens {
            Some(rule) => rule == TokenRule::Sealed,
            None => self.authentication.load().is_some(),
        };
        TokenTerms { sticky: sealed || policy.sticky && policy.relay, sealed }
    }

    /// Lets a cancel follow its operation to where that was started, wherever the endpoint leads by now. The answer,
    /// where the operation was parked and the cancel ends here.
    pub(super) async fn follow_token(
        &self,
        visit: &mut Visit,
        head: &mut Parts,
        call: &mut Call,
        endpoint: &mut Arc<Endpoint>,
        terms: TokenTerms,
    ) -> Result<Option<Response<Content>>, Failure> {
        let completions = self.completions.load_full();
        let Some((completions, tokens)) = completions.as_ref().and_then(|all| Some((all, all.tokens.as_ref()?))) else {
            // As new settings are put in force, keys may come a moment after what needs them.
            return if terms.sealed { Err(unopened(Refused::UnknownKey)) } else { Ok(None) };
        };
        let key = call.path.key(head.uri.path()).to_owned();
        let of = |(caller, namespace)| About { endpoint: endpoint.name(), key: &key, caller, namespace, target: None };
        // Where nobody is asked who calls, whoever has a token is who was given it.
        let anyones = self.authentication.load().is_none();
        let mut opened = tokens.open_cancel(head, &call.path, &of(name_of(&visit.caller)), anyones);
        // What nobody in particular started is anybody's, also once callers have names.
        if opened.is_err() && visit.caller.identity().is_some() {
            opened = tokens.open_cancel(head, &call.path, &of((ANONYMOUS, None)), false);
        }
        let unknown = || Failure::new(Reason::UnknownToken, "no operation of this endpoint has this token");
        let is_left = |head: &Parts, call: &Call| {
            tokens.leaves(head, &call.path, &of(name_of(&visit.caller)), endpoint.target_ref())
        };
        // Where tokens pass as they are, they may be another gateway's.
        let seals = terms.sealed || terms.sticky && completions.relay.is_some();
        let opened = match opened {
            Err(_) if !seals => return Ok(None),
            Err(Refused::UnknownKey) if !terms.sealed && is_left(head, call) => return Ok(None),
            opened => opened,
        };
        let opened = opened.map_err(|refused| match refused {
            // Another replica, which wrapped it, may have read the new keys before this one.
            Refused::UnknownKey => unopened(refused),
            _ => unknown(),
        })?;
        match opened {
            // It may be one that its handler made, and anybody could have guessed.
            Canceled::Foreign if terms.sealed => Err(unknown()),
            Canceled::Foreign => Ok(None),
            Canceled::Parked(id) => self.cancel_parked(visit, head, call, endpoint, &id).await,
            Canceled::Running(target, path) => {
                call.path = path;
                if endpoint.target_ref() != target {
                    *endpoint = self.router.leading_to(endpoint, &target).ok_or_else(unknown)?;
                    visit.record.target(&endpoint.entry().definition.target);
                    // What its id leads to now is another target.
                    visit.by_name = false;
                }
                Ok(None)
            }
        }
    }
}
