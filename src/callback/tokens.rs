//! Tokens of operations: sealed when an operation starts, opened when it is canceled.
//!
//! A sealed token says where its operation was started, and opens for the same endpoint, service, operation and caller
//! only; where nobody is asked who calls, for whoever has it. So a cancel finds its operation wherever the endpoint leads
//! by now, and nobody makes up a token or uses another one's.

use std::borrow::Cow;
use std::sync::Arc;

use http::Response;
use http::request::Parts;

use super::About;
use super::seal::{Bound, Keyring, MAX_OPERATION_TOKEN, Opened, Operation, Refused, TargetRef};
use crate::body::Content;
use crate::nexus::path::decode;
use crate::nexus::{Method, Path, callback};

/// Seals tokens of operations and opens them.
pub struct Tokens {
    keyring: Arc<Keyring>,
}

/// The operation that a cancel is for.
#[derive(Debug)]
pub enum Canceled {
    /// It was started at this target; the path of the cancel as it is now.
    Running(TargetRef, Path),
    /// It was parked under this name.
    Parked(String),
    /// No gateway has sealed its token.
    Foreign,
}

impl Tokens {
    /// Seals with the first of these keys, and opens with all.
    pub fn new(keyring: Arc<Keyring>) -> Self {
        Self { keyring }
    }

    /// Seals the token of a start's 201 with the target that it came from. One that would be too long stays as it is, and
    /// so do all where tokens do not name their target.
    pub fn seal_started(&self, answer: Response<Content>, about: &About<'_>) -> Response<Content> {
        let (mut head, content) = answer.into_parts();
        let (Content::Whole(body), Some(target)) = (&content, &about.target) else {
            return Response::from_parts(head, content);
        };
        let sealed = callback::started_token(&head.headers, body).and_then(|token| {
            let operation = Operation { target: target.clone(), token };
            let sealed = self.keyring.seal_operation(&about.bound(), &operation);
            sealed
                .inspect_err(
                    |error| tracing::warn!(endpoint = about.endpoint, %error, "an operation token stays as it is"),
                )
                .ok()
        });
        let body = sealed.and_then(|sealed| callback::with_started_token(body, &mut head.headers, &sealed));
        Response::from_parts(head, body.map_or(content, Content::Whole))
    }

    /// Whether the token of a start's 201 looks as if another gateway had sealed it. Left as it is, its cancel would be
    /// taken for one whose key is not here yet.
    pub fn looks_sealed(answer: &Response<Content>) -> bool {
        let Content::Whole(body) = answer.body() else { return false };
        callback::started_token(answer.headers(), body).is_some_and(|token| Keyring::is_sealed(token.as_bytes()))
    }

    /// Whether the token of a cancel is so long that it was left as it is when its operation started at this target.
    pub fn leaves(&self, head: &Parts, path: &Path, about: &About<'_>, target: TargetRef) -> bool {
        let Some(token) = callback::cancel_token(path, head) else { return false };
        let operation = Operation { target, token: token.into() };
        Keyring::operation_len(&about.bound(), &operation) > MAX_OPERATION_TOKEN
    }

    /// Opens the token of a cancel, and puts the handler's own in its place. Where it may be `anyones`, whoever started the
    /// operation.
    pub fn open_cancel(
        &self,
        head: &mut Parts,
        path: &Path,
        about: &About<'_>,
        anyones: bool,
    ) -> Result<Canceled, Refused> {
        if path.method == Method::Start {
            return Ok(Canceled::Foreign);
        }
        let Some(token) = callback::cancel_token(path, head) else { return Ok(Canceled::Foreign) };
        let bound = about.bound();
        let opened = if anyones {
            self.keyring.open_operation_of_anyone(&bound, &token)
        } else {
            self.keyring.open_operation(&bound, &token)
        };
        match opened {
            Opened::Foreign => Ok(Canceled::Foreign),
            Opened::Refused(refused) => Err(refused),
            Opened::Ours(Operation { target: TargetRef::Parked { id }, .. }) => Ok(Canceled::Parked(id)),
            Opened::Ours(Operation { target, token }) => {
                let path = callback::with_cancel_token(path, head, &token).ok_or(Refused::Malformed)?;
                Ok(Canceled::Running(target, path))
            }
        }
    }
}

impl<'a> About<'a> {
    /// What the operation's token is bound to.
    pub(super) fn bound(&self) -> Bound<'a> {
        bound(self.endpoint, self.key, self.called())
    }
}

/// As [`About::bound`], where the caller is called already as seals call it.
pub(super) fn bound<'a>(endpoint: &'a str, key: &'a str, caller: Cow<'a, str>) -> Bound<'a> {
    let (service, operation) = key.split_once('/').unwrap_or((key, ""));
    let decoded = |part| decode(part).unwrap_or(Cow::Borrowed(part));
    Bound { endpoint, service: decoded(service), operation: decoded(operation), caller }
}
