//! What one attempt says: of its target, and of another attempt.
//!
//! A 424 and an error that is not retryable are answers like any other. What connections do is the addresses' matter,
//! not the operation's. A 429 says that the target lives and is busy: nothing about failing.

use http::Response;

use crate::body::Content;
use crate::nexus::ErrorType;
use crate::resilience::breaker::{Cause, Verdict};
use crate::resilience::retry::Loss;
use crate::response::{Answered, Failure, Outcome, Reason};

/// An answer as the caller will get it, with its meaning; or the failure in its place.
pub(super) type Shaped = Result<(Response<Content>, Outcome), Failure>;

/// What is to be learned from an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Judgement {
    /// For the operation's breaker; nothing where the attempt says nothing about the operation.
    pub(super) verdict: Option<Verdict>,
    /// Why another attempt may go better; none where it would not.
    pub(super) loss: Option<Loss>,
    /// Whether the target was too busy, or did not answer as a healthy one does.
    pub(super) strained: bool,
}

impl Judgement {
    /// Judges an attempt. `had_time` says whether it had enough for a healthy target to answer: a caller that gives too
    /// little must not make a target look bad.
    pub(super) fn of(attempt: &Shaped, had_time: bool) -> Self {
        match attempt {
            Ok((_, Outcome::HandlerError(answered))) if answered.retryable => Self::of_error(*answered, had_time),
            Ok(_) => Self::success(),
            Err(failure) => Self::of_failure(failure.reason, had_time),
        }
    }

    fn of_error(answered: Answered, had_time: bool) -> Self {
        match answered.kind {
            Some(ErrorType::ResourceExhausted) => {
                Self { verdict: None, loss: Some(Loss::ResourceExhausted), strained: true }
            }
            Some(ErrorType::Unavailable) => Self::failure(Cause::Handler, Loss::Unavailable),
            Some(ErrorType::UpstreamTimeout) if !answered.from_worker => Self::timeout(Cause::NoWorker, had_time),
            Some(ErrorType::UpstreamTimeout | ErrorType::RequestTimeout) => Self::timeout(Cause::Timeout, had_time),
            _ => Self { strained: false, ..Self::failure(Cause::Handler, Loss::Internal) },
        }
    }

    fn of_failure(reason: Reason, had_time: bool) -> Self {
        match reason {
            Reason::UpstreamUnreachable => Self { verdict: None, loss: Some(Loss::Connect), strained: true },
            Reason::UpstreamReset => Self { verdict: None, loss: Some(Loss::Reset), strained: true },
            // Who stands before the target lost it: as little is known as of a connection that was lost.
            Reason::UpstreamBadGateway => Self::failure(Cause::Infrastructure, Loss::Reset),
            Reason::UpstreamNotNexus => Self::failure(Cause::Infrastructure, Loss::Unavailable),
            Reason::UpstreamGatewayTimeout => Self::timeout(Cause::Timeout, had_time),
            Reason::UpstreamStatus | Reason::UpstreamMalformed => Self::failure(Cause::Infrastructure, Loss::Internal),
            // The deadline is over: there is no time for another attempt.
            Reason::UpstreamTimeout => Self { loss: None, ..Self::timeout(Cause::Timeout, had_time) },
            Reason::UpstreamTooLarge => Self::success(),
            _ => Self { verdict: None, loss: None, strained: false },
        }
    }

    fn success() -> Self {
        Self { verdict: Some(Verdict::Success), loss: None, strained: false }
    }

    /// The time was over for whoever should have answered.
    fn timeout(cause: Cause, had_time: bool) -> Self {
        let loss = Some(Loss::Timeout);
        if had_time { Self::failure(cause, Loss::Timeout) } else { Self { verdict: None, loss, strained: false } }
    }

    fn failure(cause: Cause, loss: Loss) -> Self {
        Self { verdict: Some(Verdict::Failure(cause)), loss: Some(loss), strained: true }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type End = Result<Outcome, Reason>;

    const fn error(kind: Option<ErrorType>, retryable: bool, from_worker: bool) -> Outcome {
        Outcome::HandlerError(Answered { kind, retryable, from_worker, from_nexus: true })
    }

    fn judge(end: End, had_time: bool) -> Judgement {
        let answer = |outcome| (Response::new(Content::Whole(bytes::Bytes::new())), outcome);
        Judgement::of(&end.map(answer).map_err(|reason| Failure::new(reason, "why")), had_time)
    }

    const FAILED: fn(Cause) -> Option<Verdict> = |cause| Some(Verdict::Failure(cause));

    #[test]
    fn each_end_of_an_attempt_says_what_it_should() {
        use ErrorType as E;
        for (end, verdict, loss) in [
            (Ok(Outcome::Succeeded), Some(Verdict::Success), None),
            (Ok(Outcome::OperationFailed), Some(Verdict::Success), None),
            (Ok(error(Some(E::NotFound), false, true)), Some(Verdict::Success), None),
            (Ok(error(Some(E::Internal), false, true)), Some(Verdict::Success), None),
            (Ok(error(Some(E::ResourceExhausted), true, true)), None, Some(Loss::ResourceExhausted)),
            (Ok(error(Some(E::Unavailable), true, true)), FAILED(Cause::Handler), Some(Loss::Unavailable)),
            (Ok(error(Some(E::UpstreamTimeout), true, false)), FAILED(Cause::NoWorker), Some(Loss::Timeout)),
            (Ok(error(Some(E::UpstreamTimeout), true, true)), FAILED(Cause::Timeout), Some(Loss::Timeout)),
            (Ok(error(Some(E::RequestTimeout), true, false)), FAILED(Cause::Timeout), Some(Loss::Timeout)),
            (Ok(error(Some(E::Internal), true, true)), FAILED(Cause::Handler), Some(Loss::Internal)),
            (Ok(error(None, true, false)), FAILED(Cause::Handler), Some(Loss::Internal)),
            (Err(Reason::UpstreamUnreachable), None, Some(Loss::Connect)),
            (Err(Reason::UpstreamReset), None, Some(Loss::Reset)),
            (Err(Reason::UpstreamBadGateway), FAILED(Cause::Infrastructure), Some(Loss::Reset)),
            (Err(Reason::UpstreamGatewayTimeout), FAILED(Cause::Timeout), Some(Loss::Timeout)),
            (Err(Reason::UpstreamMalformed), FAILED(Cause::Infrastructure), Some(Loss::Internal)),
            (Err(Reason::UpstreamTooLarge), Some(Verdict::Success), None),
            (Err(Reason::UpstreamTimeout), FAILED(Cause::Timeout), None),
            (Err(Reason::DeadlineExceeded), None, None),
        ] {
            let judged = judge(end, true);
            assert_eq!((judged.verdict, judged.loss), (verdict, loss), "{end:?}");
        }
    }

    #[test]
    fn a_caller_that_gives_too_little_time_makes_no_target_look_bad() {
        let judged = judge(Err(Reason::UpstreamTimeout), false);
        assert_eq!(judged, Judgement { verdict: None, loss: None, strained: false });
    }
}
