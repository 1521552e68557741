//! Who sends a request, found out before anything is done for it.

use http::request::Parts;

use super::{Gateway, Visit};
use crate::admission::authenticate::Denied;
use crate::admission::{Authentication, Caller, How, Peer};
use crate::response::{Failure, Reason};

impl Gateway {
    /// Finds out who the caller is, and takes what shows it out of the head.
    ///
    /// What a completion shows may be meant for where it goes: its headers are what its start asked for
    /// (`Nexus-Callback-…`). There what is wrong counts as not shown and stays, since a 401 would lose the completion for
    /// good; nobody gains by it, who could as well show nothing.
    pub(super) async fn authenticate(
        &self,
        authentication: &Authentication,
        visit: &mut Visit,
        peer: &Peer,
        head: &mut Parts,
        completes: bool,
    ) -> Result<(), Failure> {
        match authentication.authenticate(peer, &head.headers).await {
            Ok(caller) => {
                let how = caller.identity().map(|identity| identity.how);
                let result = if how.is_some() { "known" } else { "anonymous" };
                self.telemetry.count_authentication(how.map_or("none", How::name), result);
                // What nobody is known by is meant for where a completion goes.
                if !completes || matches!(how, Some(How::ApiKey | How::Jwt)) {
                    authentication.strip(&mut head.headers);
                }
                recognize(visit, caller);
                Ok(())
            }
            Err(denied) => {
                let wrong = matches!(denied, Denied::Wrong { .. });
                let (how, why) = (denied.how().name(), denied.why());
                self.telemetry.count_authentication(how, if wrong { "wrong" } else { "unavailable" });
                tracing::debug!(peer = %peer.address, how, why, "a caller is not who it says, or nobody can tell");
                match denied {
                    Denied::Wrong { .. } if completes => {
                        recognize(visit, authentication.by_connection(peer));
                        Ok(())
                    }
                    Denied::Wrong { .. } => Err(Failure::new(Reason::Unauthenticated, "no valid credential")),
                    Denied::Unavailable { .. } => {
                        let message = "the credential cannot be checked at present";
                        Err(Failure::new(Reason::AuthenticationUnavailable, message))
                    }
                }
            }
        }
    }
}

fn recognize(visit: &mut Visit, caller: Caller) {
    if let Some(identity) = caller.identity() {
        visit.record.known_as(&identity.name, identity.namespace.as_ref(), identity.how.name());
    }
    visit.caller = caller;
}
