//! Who may come in, which endpoints it may know of, and what it may call.
//!
//! Who must not know of an endpoint is answered as if there were none, to the last byte, and nobody looks whether there
//! is one: neither the registry nor its state can be found out by asking for names.

use std::sync::Arc;

use http::request::Parts;

use super::{Gateway, Visit};
use crate::admission::authorize::{Asked, Completion, Denied, Who};
use crate::admission::{Authorization, Authorized};
use crate::nexus::Call;
use crate::nexus::path::decode;
use crate::response::{Failure, Reason};
use crate::route::Endpoint;
use crate::telemetry::Decision;

impl Gateway {
    /// From now on this decides who may call what.
    pub fn authorize_by(&self, authorization: Authorization) {
        self.authorization.store(Arc::new(authorization));
    }

    /// Whether the caller may come in at all.
    pub(super) fn let_in(&self, visit: &mut Visit) -> Result<(), Failure> {
        let admitted = self.authorization.load().admits(Who::from(&visit.caller));
        admitted.map_err(|denied| self.refuse(visit, denied, ""))
    }

    /// Whether the caller may know of an endpoint that it calls `name`, and that the table does not have.
    pub(super) fn may_know(&self, visit: &mut Visit, name: &str) -> Result<(), Failure> {
        let shown = self.authorization.load().shows(Who::from(&visit.caller), name);
        shown.map_err(|denied| self.refuse(visit, denied, name))?;
        visit.record.decided(Decision::Allowed, None);
        Ok(())
    }

    /// Whether the caller may call the operation of an endpoint. Before anything is kept of that operation: its name is
    /// the caller's word.
    pub(super) fn authorize(
        &self,
        visit: &mut Visit,
        endpoint: &Endpoint,
        head: &Parts,
        call: &Call,
    ) -> Result<Authorized, Failure> {
        let authorization = self.authorization.load();
        visit.record.target(&endpoint.entry().definition.target);
        if !authorization.decides() {
            visit.record.decided(Decision::Allowed, None);
            return Ok(Authorized::by_nobody());
        }
        let part = |range: &std::ops::Range<usize>| decode(&head.uri.path()[range.clone()]).unwrap_or_default();
        let (service, operation) = (part(&call.path.service), part(&call.path.operation));
        let asked = Asked { endpoint: endpoint.name(), service: &service, operation: &operation };
        let decided = authorization.decide(Who::from(&visit.caller), asked);
        let authorized = decided.map_err(|denied| self.refuse(visit, denied, &part(&call.path.endpoint)))?;
        self.allow(visit, &authorized);
        Ok(authorized)
    }

    /// Whether the caller may send a completion. What it is refused for may heal, since rules change: a 401 or 403 would
    /// make its cluster drop the completion for good, and the caller of the operation wait for ever.
    pub(super) fn authorize_completion(&self, visit: &mut Visit, way: Completion) -> Result<Authorized, Failure> {
        let authorization = self.authorization.load();
        let Some(authorized) = authorization.decide_completion(Who::from(&visit.caller), way) else {
            self.telemetry.decided(Decision::Forbidden);
            visit.record.decided(Decision::Forbidden, None);
            let message = "this caller may not send completions at present";
            return Err(Failure::new(Reason::CompletionForbidden, message));
        };
        if authorization.decides() {
            self.allow(visit, &authorized);
        } else {
            visit.record.decided(Decision::Allowed, None);
        }
        Ok(authorized)
    }

    fn allow(&self, visit: &mut Visit, authorized: &Authorized) {
        self.telemetry.decided(Decision::Allowed);
        visit.record.decided(Decision::Allowed, authorized.rule());
    }

    fn refuse(&self, visit: &mut Visit, denied: Denied, name: &str) -> Failure {
        let (decision, failure) = match denied {
            Denied::Unauthenticated => {
                (Decision::Unauthenticated, Failure::new(Reason::Unauthenticated, "no valid credential"))
            }
            Denied::Hidden => (Decision::Hidden, unknown(name)),
            Denied::Forbidden => {
                let message = "this caller may not call this operation";
                (Decision::Forbidden, Failure::new(Reason::Forbidden, message))
            }
        };
        self.telemetry.decided(decision);
        visit.record.decided(decision, None);
        failure
    }
}

/// The answer where there is no endpoint that is called `name`, as far as the caller may know.
pub(super) fn unknown(name: &str) -> Failure {
    Failure::new(Reason::UnknownEndpoint, format!("no Nexus endpoint is named {name:?}"))
}
