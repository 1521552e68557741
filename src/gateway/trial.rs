//! One attempt under way: what it was let go by, and what those are told of it, however it ends.

use std::time::Duration;

use tokio::time::Instant;

use super::attempts::Journey;
use super::judge::Judgement;
use crate::gates::breaker::Pass;
use crate::gates::concurrency::Permit;
use crate::resilience::adaptive::Outcome;
use crate::resilience::retry::Loss;
use crate::resilience::{Deadline, FLOOR};
use crate::response::{Failure, Reason};
use crate::telemetry::Telemetry;

/// A caller that leaves with no more than this left waited for its answer until its own clock said that it was late.
const NEARLY_OVER: Duration = Duration::from_millis(500);

/// An attempt that may go.
pub(super) struct Trial<'a> {
    telemetry: &'a Telemetry,
    journey: &'a Journey<'a>,
    pub(super) began: Instant,
    pass: Option<Pass>,
    permit: Option<Permit>,
    told: bool,
}

impl<'a> Trial<'a> {
    /// An attempt that begins now. None is made after its deadline: a process that was stopped for a while wakes up
    /// with many such requests.
    pub(super) fn begin(
        telemetry: &'a Telemetry,
        journey: &'a Journey<'a>,
        (pass, permit): (Option<Pass>, Option<Permit>),
    ) -> Result<Self, Failure> {
        let began = Instant::now();
        if began >= journey.deadline.at() {
            return Err(super::late(&journey.deadline, false));
        }
        Ok(Self { telemetry, journey, began, pass, permit, told: false })
    }

    /// Whether it has enough time for a healthy target to answer.
    pub(super) fn has_time(&self) -> bool {
        self.journey.deadline.at() - self.began >= FLOOR
    }

    /// Tells the gates that let the attempt go what came of it; returns its place, for as long as the answer takes.
    pub(super) fn end(mut self, judgement: Judgement) -> Option<Permit> {
        self.tell(judgement);
        self.permit.take()
    }

    fn tell(&mut self, judgement: Judgement) {
        self.told = true;
        let now = Instant::now();
        // An attempt that did not reach the target says nothing about how much it can bear.
        if let Some(permit) = self.permit.as_ref().filter(|_| judgement.loss != Some(Loss::Connect)) {
            permit.sample(now - self.began, if judgement.strained { Outcome::Dropped } else { Outcome::Ok });
        }
        let (Some(pass), Some(verdict)) = (self.pass.take(), judgement.verdict) else { return };
        if let Some(transition) = pass.record(now, verdict) {
            self.telemetry.breaker_changed(self.journey.names(), &transition);
        }
    }
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        if !self.told && self.has_time() && is_nearly_over(&self.journey.deadline) {
            self.tell(Judgement::of(&Err(Failure::new(Reason::UpstreamTimeout, "")), true));
        }
    }
}

fn is_nearly_over(deadline: &Deadline) -> bool {
    deadline.at().saturating_duration_since(Instant::now()) <= NEARLY_OVER
}
