//! Who sends a request, found out before anything is done for it.

use http::request::Parts;

use super::{Gateway, Visit};
use crate::admission::authenticate::Denied;
use crate::admission::{Authentication, Caller, How, Peer};
use crate::response::{Failure, Reason};
use crate::telemetry::Decision;

/// The bound's setting.
const WRONG_PER_PEER: &str = "authentication.max_wrong_per_peer";

impl Gateway {
    /// Finds out who the caller is, and takes what shows it out of the head.
    ///
    /// What a completion shows may be meant for where it goes: its headers are what its start asked for
    /// (`Nexus-Callback-…`). There what is wrong counts as not shown and stays, since a 401 would lose the completion for
    /// good; nobody gains by it, who could as well show nothing. What is right never goes there.
    pub(super) async fn authenticate(
        &self,
        authentication: &Authentication,
        visit: &mut Visit,
        peer: &Peer,
        head: &mut Parts,
        completes: bool,
    ) -> Result<(), Failure> {
        let caller = if completes {
            let told = authentication.authenticate_completion(peer, &mut head.headers).await;
            let (caller, denied) = told.map_err(|denied| self.refused(visit, peer, &denied))?;
            // A request counts once: as known where it shows itself who sends it.
            let how = caller.identity().map(|identity| identity.how);
            match denied {
                Some(denied) if !matches!(how, Some(How::ApiKey | How::Jwt)) => self.note_denied(peer, &denied),
                _ => self.count_authenticated(&caller),
            }
            caller
        } else {
            let caller = authentication.authenticate(peer, &head.headers).await;
            let caller = caller.map_err(|denied| self.refused(visit, peer, &denied))?;
            self.count_authenticated(&caller);
            authentication.strip(&mut head.headers);
            caller
        };
        if let Some(identity) = caller.identity() {
            visit.record.known_as(&identity.name, identity.namespace.as_ref(), identity.how.name());
        }
        visit.caller = caller;
        Ok(())
    }

    fn count_authenticated(&self, caller: &Caller) {
        let how = caller.identity().map(|identity| identity.how);
        let result = if how.is_some() { "known" } else { "anonymous" };
        self.telemetry.count_authentication(how.map_or("none", How::name), result);
    }

    fn note_denied(&self, peer: &Peer, denied: &Denied) {
        let result = match denied {
            Denied::Wrong { .. } => "wrong",
            Denied::Unavailable { .. } => "unavailable",
            Denied::TooMany { .. } => "too_many_wrong",
        };
        let (how, why) = (denied.how().name(), denied.why());
        self.telemetry.count_authentication(how, result);
        tracing::debug!(peer = %peer.address, how, why, "a caller is not who it says, or nobody can tell");
    }

    fn refused(&self, visit: &mut Visit, peer: &Peer, denied: &Denied) -> Failure {
        self.note_denied(peer, denied);
        visit.record.shown(denied.how().name());
        visit.record.decided(Decision::Unauthenticated, None);
        match denied {
            Denied::Wrong { .. } => Failure::new(Reason::Unauthenticated, "no valid credential"),
            Denied::Unavailable { .. } => {
                let message = "the credential cannot be checked at present";
                Failure::new(Reason::AuthenticationUnavailable, message)
            }
            Denied::TooMany { retry_after, .. } => {
                let why = "too many credentials from this address were wrong";
                Failure::refused(Reason::RateLimited, WRONG_PER_PEER, *retry_after, why)
            }
        }
    }
}
