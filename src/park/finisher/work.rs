//! One row, from being claimed to being settled.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::is_closing;
use crate::park::clock::millis;
use crate::park::counts::Counted;
use crate::park::health::PAUSE;
use crate::park::store::{Next, Owner, Row, State, Which, Write, Written};
use crate::park::{Delivered, Ending, Finish, Park, Sent};
use crate::resilience::drain::{Outcome, backoff};

/// The first wait of a row that failed; each next one doubles.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The longest wait of a row that was sent, or whose completion was, and failed.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

pub(super) struct Work<F> {
    pub(super) park: Arc<Park>,
    pub(super) finish: Arc<F>,
    pub(super) owner: Owner,
    pub(super) closing: tokio::sync::watch::Receiver<bool>,
}

/// How often what came of a row is written while it is closing, before it is left to who takes the row on then: that one
/// sends it once more.
const LAST_TRIES: u32 = 3;

/// How it ended.
pub(super) struct Ended {
    pub(super) outcome: Outcome,
    /// The lanes that have a row now, and when it is due, in milliseconds since 1970.
    pub(super) due: Vec<(Box<str>, u64)>,
    /// Whether it expired and cannot be ended here. It was not settled: what has expired is claimed at once where nobody
    /// has it, whenever it is due, so it is kept until the lease ends. Another process may be able to end it.
    pub(super) is_stuck: bool,
}

impl Ended {
    pub(super) fn new(outcome: Outcome, due: Vec<(Box<str>, u64)>) -> Self {
        Self { outcome, due, is_stuck: false }
    }
}

impl<F: Finish> Work<F> {
    /// Finishes a row, as far as that is possible now.
    pub(super) async fn finish(self, row: Row) -> Ended {
        if row.expires <= self.park.now() {
            return self.expire(row).await;
        }
        match row.state {
            State::Waiting => self.send(row).await,
            State::Done => self.deliver(row).await,
            State::Started if row.cancel => self.cancel(row).await,
            State::Started => self.again(row.clone(), Outcome::Unknown, row.expires, row.tries).await,
        }
    }

    async fn send(&self, row: Row) -> Ended {
        match self.finish.send(&row).await {
            Sent::Finished => self.remove(&row).await,
            Sent::Ended(ending) => self.done(&row, ending).await,
            Sent::Started { content, expires } => self.started(row, content, expires).await,
            Sent::Busy { after } => self.behind(row, Outcome::NotNow(after)).await,
            Sent::NotNow { after } => {
                let (due, tries) = (row.due, row.tries);
                self.again(row, Outcome::NotNow(after), due, tries).await
            }
            Sent::Failed => self.behind(row, Outcome::Failed).await,
        }
    }

    async fn deliver(&self, row: Row) -> Ended {
        match self.finish.deliver(&row).await {
            Delivered::Finished => self.remove(&row).await,
            Delivered::NotNow { down } => {
                self.behind(row, if down { Outcome::NotNow(None) } else { Outcome::Failed }).await
            }
        }
    }

    /// The mark is in the row, so that a cancel is not lost with the process that tries it.
    async fn cancel(&self, row: Row) -> Ended {
        if !self.finish.cancel(&row).await {
            return self.behind(row, Outcome::Failed).await;
        }
        self.settle(&row, Next::CancelSent).await;
        Ended::new(Outcome::Went, Vec::new())
    }

    async fn expire(&self, row: Row) -> Ended {
        match row.state {
            State::Waiting => match self.finish.expire(&row).await {
                Sent::Finished => {}
                Sent::Ended(ending) => return self.done(&row, ending).await,
                Sent::Started { .. } | Sent::Busy { .. } | Sent::NotNow { .. } | Sent::Failed => {
                    return Ended { is_stuck: true, ..Ended::new(Outcome::Unknown, Vec::new()) };
                }
            },
            State::Started => {}
            State::Done => {
                let (id, endpoint) = (row.id, &row.endpoint);
                tracing::warn!(%id, %endpoint, tries = row.tries, "a completion expired that was never delivered");
            }
        }
        Ended { outcome: Outcome::Unknown, ..self.remove(&row).await }
    }

    async fn remove(&self, row: &Row) -> Ended {
        self.settle(row, Next::Remove).await;
        Ended::new(Outcome::Went, Vec::new())
    }

    async fn done(&self, row: &Row, ending: Ending) -> Ended {
        let Ending { lane, content, holds } = ending;
        let due = self.park.now();
        let expires = due.saturating_add(millis(holds));
        self.settle(row, Next::Done { lane: lane.clone(), content, due, expires }).await;
        Ended::new(Outcome::Went, vec![(lane, due)])
    }

    async fn started(&self, row: Row, content: Vec<u8>, expires: u64) -> Ended {
        let now = self.park.now();
        let written = self.settle(&row, Next::Started { content, expires, now }).await;
        // Where its answer was lost the next look at all lanes shows what is due.
        Ended::new(Outcome::Went, if is_canceled(&written) { vec![(row.lane, now)] } else { Vec::new() })
    }

    /// Later, and after those that were not tried yet.
    async fn behind(&self, row: Row, outcome: Outcome) -> Ended {
        let (due, tries) = (self.after(row.tries), row.tries.saturating_add(1));
        self.again(row, outcome, due, tries).await
    }

    async fn again(&self, row: Row, outcome: Outcome, due: u64, tries: u32) -> Ended {
        let written = self.settle(&row, Next::Again { due, tries }).await;
        let mut ended = Ended::new(outcome, Vec::new());
        if !row.lane.is_empty() {
            ended.due.push((row.lane.clone(), due));
        }
        if row.state == State::Waiting && is_canceled(&written) {
            ended.due.extend(self.end_canceled(row).await);
        }
        ended
    }

    /// Ends a row that was canceled while it was on its way, and did not get through. Its lane may be paused for long,
    /// which is no reason to keep its caller waiting. Should this come to nothing, it ends when it is sent again.
    async fn end_canceled(&self, mut row: Row) -> Option<(Box<str>, u64)> {
        row.cancel = true;
        match self.finish.send(&row).await {
            Sent::Ended(ending) => {
                let lane = ending.lane.clone();
                self.park.end(row.id, ending).await.ok()?;
                Some((lane, self.park.now()))
            }
            Sent::Finished => {
                self.park.completed(row.id);
                None
            }
            Sent::Started { .. } | Sent::Busy { .. } | Sent::NotNow { .. } | Sent::Failed => {
                let now = self.park.now();
                let hurry = Write::Hurry { which: Which::One(row.id), now, at_most: 1 };
                self.park.writer.write(hurry, None).await.ok()?;
                Some((row.lane, now))
            }
        }
    }

    pub(super) async fn give_back(&self, row: &Row, again: Next) {
        self.settle(row, again).await;
    }

    /// Writes how a row goes on, until that is done or somebody else has the row.
    async fn settle(&self, row: &Row, next: Next) -> Written {
        let mut last_tries = LAST_TRIES;
        loop {
            let settle = Write::Settle { id: row.id, owner: self.owner, next: next.clone() };
            match self.park.writer.write(settle, Some(Counted::of(row))).await {
                Ok(written) => return written,
                Err(_) if is_closing(&self.closing) => {
                    last_tries -= 1;
                    if last_tries == 0 {
                        return Written::Gone;
                    }
                }
                Err(_) => {}
            }
            sleep(PAUSE).await;
        }
    }

    fn after(&self, tries: u32) -> u64 {
        let wait = backoff(FIRST_WAIT, LONGEST_WAIT, tries, fastrand::f64());
        self.park.now().saturating_add(millis(wait))
    }
}

fn is_canceled(written: &Written) -> bool {
    matches!(written, Written::Changed { cancel: true })
}
