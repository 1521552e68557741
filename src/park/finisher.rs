//! Takes rows on that are due, has each finished in a task of its own, and settles it by what came of that.
//!
//! Which lane is next is for [`Drain`] to say. Calls of the store are tasks as well, so that none holds up the others. A
//! row is claimed under a name that is renewed for as long as rows of that name are on their way. Where it is not known
//! what was claimed, or a row is not settled, later claims are made under another name: what nobody has then comes due again.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{self, JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::clock::millis;
use super::commit::PATIENCE;
use super::health::PAUSE;
use super::news::Heard;
use super::store::{Id, Next, Owner, Row, Store, StoreError};
use super::{Finish, Park, in_time};
use crate::resilience::drain::{Bounds, Drain, Look, Outcome, Ticket, Turn};

mod flight;
mod work;

pub(super) use flight::Flight;
use work::{Ended, Work};

/// For how long a claimed row is nobody else's, unless it is renewed.
pub(super) const LEASE: Duration = Duration::from_secs(10);
/// Claims that are being made at a time.
const MOST_CLAIMS: usize = 8;
/// Bytes of rows in flight, about: as many as fewer rows than the usual bound have.
const MOST_BYTES: u64 = 64 << 20;
/// Rows in flight, however large they are.
const LEAST_ROWS: usize = 8;
/// Rows that are being ended at a time because they expired.
const MOST_EXPIRING: usize = 64;
/// How often all lanes of the store and what expired are looked at, or as often as keeps it from doing little else.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// However long that takes.
const LOOK_RARELY: Duration = Duration::from_secs(30);
/// How long nothing is claimed that expired once such a row could not be ended here. Longer than a lease, so that others
/// come to it.
const STUCK_PAUSE: Duration = Duration::from_secs(2 * LEASE.as_secs());
/// How long looking at all lanes may take.
const LOOK_PATIENCE: Duration = Duration::from_secs(60);

pub(super) struct Finisher<F> {
    park: Arc<Park>,
    store: Arc<dyn Store>,
    finish: Arc<F>,
    closing: watch::Receiver<bool>,
    drain: Drain,
    tasks: JoinSet<Came>,
    /// What each of the tasks is for.
    jobs: HashMap<task::Id, Job>,
    /// Rows that are on their way.
    rows: HashSet<Id>,
    claims: usize,
    expiring: usize,
    /// Nothing is claimed before: the store failed.
    store_pause: Option<Instant>,
    /// When to look at all lanes; none while that is being done.
    look_at: Option<Instant>,
    /// When to look for what expired; none while that is being done.
    expire_at: Option<Instant>,
    /// Nothing that expired is claimed before.
    expire_pause: Instant,
}

enum Job {
    Look(Look, Instant),
    Claim(Turn, Owner),
    ClaimExpired(usize, Owner),
    Row { id: Id, lane: Box<str>, ticket: Option<Ticket>, owner: Owner },
    GiveBack,
}

enum Came {
    Lanes(Result<Vec<(Box<str>, u64)>, StoreError>),
    Rows(Result<Vec<Row>, StoreError>),
    Ended(Ended),
    GivenBack,
}

impl<F: Finish> Finisher<F> {
    pub(super) fn new(park: Arc<Park>, store: Arc<dyn Store>, finish: Arc<F>, closing: watch::Receiver<bool>) -> Self {
        let now = Instant::now();
        Self {
            park,
            store,
            finish,
            closing,
            drain: Drain::new(Bounds::default(), fastrand::u64(..)),
            tasks: JoinSet::new(),
            jobs: HashMap::new(),
            rows: HashSet::new(),
            claims: 0,
            expiring: 0,
            store_pause: None,
            look_at: Some(now),
            expire_at: Some(now),
            expire_pause: now,
        }
    }

    /// Goes on until it is closing and nothing is on its way any more.
    pub(super) async fn run(mut self) {
        let mut closing = self.closing.clone();
        loop {
            let closed = is_closing(&closing);
            if closed && self.tasks.is_empty() {
                return;
            }
            if !closed {
                self.begin_what_is_due();
            }
            self.park.flight.report(self.rows.len(), self.drain.lanes());
            let wake_at = self.wake_at();
            tokio::select! {
                Some(ended) = self.tasks.join_next_with_id() => self.take(ended),
                () = sleep_until(wake_at), if !closed => {}
                () = self.park.news.wait() => self.hear(),
                _ = closing.wait_for(|closing| *closing), if !closed => {}
            }
        }
    }

    fn begin_what_is_due(&mut self) {
        let now = Instant::now();
        if self.look_at.is_some_and(|at| at <= now) {
            self.look_at = None;
            self.look(now);
        }
        if self.store_pause.is_some_and(|end| end > now) {
            return;
        }
        self.store_pause = None;
        let finish = Arc::clone(&self.finish);
        let is_able = finish.is_able();
        if self.expire_at.is_some_and(|at| at <= now) && self.expiring < MOST_EXPIRING {
            if is_able {
                self.expire_at = None;
                self.claim_expired(MOST_EXPIRING - self.expiring);
            } else {
                self.expire_at = Some(now + LOOK_EVERY);
            }
        }
        while self.claims < MOST_CLAIMS
            && let Some(turn) = self.drain.next(now, |lane| is_able && finish.is_ready(lane))
        {
            self.claim(turn);
        }
    }

    /// When something may be due that nobody tells of.
    fn wake_at(&self) -> Instant {
        let expire_at = self.expire_at.filter(|_| self.expiring < MOST_EXPIRING);
        let drain_at = self.drain.wake_at().filter(|_| self.claims < MOST_CLAIMS);
        let claim_at = expire_at.into_iter().chain(drain_at).min();
        let claim_at = claim_at.map(|at| self.store_pause.map_or(at, |end| end.max(at)));
        let latest = Instant::now() + LOOK_EVERY;
        self.look_at.into_iter().chain(claim_at).min().unwrap_or(latest)
    }

    fn look(&mut self, now: Instant) {
        let (look, store) = (self.drain.look(), Arc::clone(&self.store));
        self.begin(Job::Look(look, now), async move { Came::Lanes(in_time(LOOK_PATIENCE, store.lanes()).await) });
    }

    fn claim(&mut self, turn: Turn) {
        let (now, lease) = self.claiming();
        let owner = self.park.flight.hold_newest();
        let (store, lane, at_most) = (Arc::clone(&self.store), turn.lane.clone(), turn.at_most);
        self.begin(Job::Claim(turn, owner), async move {
            Came::Rows(in_time(PATIENCE, store.claim(&lane, at_most, owner, now, lease)).await)
        });
    }

    fn claim_expired(&mut self, at_most: usize) {
        let (now, lease) = self.claiming();
        // One that cannot be ended here must not be renewed for as long as others take.
        let owner = self.park.flight.hold_new();
        let store = Arc::clone(&self.store);
        self.begin(Job::ClaimExpired(at_most, owner), async move {
            Came::Rows(in_time(PATIENCE, store.claim_expired(at_most, owner, now, lease)).await)
        });
    }

    fn claiming(&mut self) -> (u64, u64) {
        self.claims += 1;
        let now = self.park.now();
        (now, now.saturating_add(millis(LEASE)))
    }

    fn begin(&mut self, job: Job, task: impl Future<Output = Came> + Send + 'static) {
        let id = self.tasks.spawn(task).id();
        self.jobs.insert(id, job);
    }

    fn take(&mut self, ended: Result<(task::Id, Came), JoinError>) {
        let (id, came) = match ended {
            Ok((id, came)) => (id, Some(came)),
            Err(error) => (error.id(), None),
        };
        match (self.jobs.remove(&id), came) {
            (Some(Job::Look(look, begun)), Some(Came::Lanes(lanes))) => self.looked(look, begun, lanes),
            (Some(Job::Look(..)), _) => self.look_at = Some(Instant::now() + LOOK_EVERY),
            (Some(Job::Claim(turn, owner)), came) => self.claimed(&turn, owner, rows_of(came)),
            (Some(Job::ClaimExpired(asked, owner)), came) => self.claimed_expired(asked, owner, rows_of(came)),
            (Some(Job::Row { id, lane, ticket, owner }), came) => self.row_ended(id, &lane, ticket, owner, came),
            (Some(Job::GiveBack) | None, _) => {}
        }
    }

    fn looked(&mut self, look: Look, begun: Instant, lanes: Result<Vec<(Box<str>, u64)>, StoreError>) {
        let now = Instant::now();
        self.look_at = Some(now + LOOK_EVERY);
        match lanes {
            Ok(lanes) => {
                self.look_at = Some(now + (begun.elapsed() * 20).clamp(LOOK_EVERY, LOOK_RARELY));
                self.park.health.read_went();
                let clock = self.park.clock;
                self.drain.set_rows(rows_in_flight(self.park.book.row_bytes()));
                self.drain.seen(look, lanes.iter().map(|(lane, due)| (&**lane, clock.instant(*due))));
                self.park.flight.report_paused(self.drain.paused(now));
            }
            Err(error) => self.park.health.read_failed(&error),
        }
    }

    fn claimed(&mut self, turn: &Turn, owner: Owner, rows: Result<Vec<Row>, StoreError>) {
        self.claims -= 1;
        match self.known(rows) {
            Some(rows) => {
                let (asked, got) = (turn.at_most, rows.len());
                self.drain.claimed(turn, got);
                debug_assert!(got <= asked, "a store gives no more than it was asked for");
                for row in rows {
                    self.begin_row(row, Some(turn.ticket()), owner);
                }
            }
            None => self.drain.unclaimed(turn, Instant::now() + PAUSE),
        }
        self.park.flight.let_go(owner);
    }

    fn claimed_expired(&mut self, asked: usize, owner: Owner, rows: Result<Vec<Row>, StoreError>) {
        self.claims -= 1;
        let rows = self.known(rows).unwrap_or_default();
        let pause = if rows.len() == asked { Duration::ZERO } else { LOOK_EVERY };
        self.expire_at = Some(self.expire_pause.max(Instant::now() + pause));
        for row in rows {
            self.begin_row(row, None, owner);
        }
        self.park.flight.let_go(owner);
    }

    /// What was claimed, where that is known.
    fn known(&mut self, rows: Result<Vec<Row>, StoreError>) -> Option<Vec<Row>> {
        match &rows {
            // What changes nothing does not show that writes work.
            Ok(rows) if rows.is_empty() => self.park.health.read_went(),
            Ok(_) => self.park.health.write_went(0),
            Err(error) => {
                self.park.health.write_failed(error);
                self.park.flight.rename();
                self.store_pause = Some(Instant::now() + PAUSE);
            }
        }
        rows.ok()
    }

    fn begin_row(&mut self, row: Row, ticket: Option<Ticket>, owner: Owner) {
        if self.rows.contains(&row.id) {
            // Its lease lapsed, and it is still on its way. To give it back could let it go under who has it on its way:
            // that one may have the same name. So that claim stays, and ends with its lease.
            self.park.flight.rename();
            return self.pass_over(ticket, self.park.now().saturating_add(millis(LEASE)));
        }
        let work = Work {
            park: Arc::clone(&self.park),
            finish: Arc::clone(&self.finish),
            owner,
            closing: self.closing.clone(),
        };
        if is_closing(&self.closing) {
            // There is no time for it now.
            let again = Next::Again { due: row.due, tries: row.tries };
            self.pass_over(ticket, row.due);
            self.begin(Job::GiveBack, async move {
                work.give_back(&row, again).await;
                Came::GivenBack
            });
            return;
        }
        self.rows.insert(row.id);
        self.expiring += usize::from(ticket.is_none());
        self.park.flight.hold(owner);
        let job = Job::Row { id: row.id, lane: row.lane.clone(), ticket, owner };
        self.begin(job, async move { Came::Ended(work.finish(row).await) });
    }

    /// A row was claimed and is not finished; it is due again then.
    fn pass_over(&mut self, ticket: Option<Ticket>, due: u64) {
        if let Some(ticket) = ticket {
            let at = Some(self.park.clock.instant(due));
            self.drain.ended(ticket, Instant::now(), Outcome::Unknown, at);
        }
    }

    fn row_ended(&mut self, id: Id, lane: &str, ticket: Option<Ticket>, owner: Owner, came: Option<Came>) {
        let now = Instant::now();
        let ended = if let Some(Came::Ended(ended)) = came {
            ended
        } else {
            // It panicked, and nobody renews it any more.
            tracing::error!(%id, "finishing a parked operation failed by a bug; it is tried again");
            self.park.flight.rename();
            Ended::new(Outcome::Failed, vec![(lane.into(), self.park.now() + millis(LEASE))])
        };
        if ended.is_stuck {
            // As above, nobody renews it.
            self.park.flight.rename();
            self.expire_pause = now + STUCK_PAUSE;
            self.expire_at = self.expire_at.map(|at| at.max(self.expire_pause));
        }
        self.rows.remove(&id);
        self.park.flight.let_go(owner);
        for (lane, due) in &ended.due {
            self.drain.due(lane, self.park.clock.instant(*due));
        }
        match ticket {
            Some(ticket) => self.drain.ended(ticket, now, ended.outcome, None),
            None => self.expiring -= 1,
        }
    }

    fn hear(&mut self) {
        let Heard { due, hurry } = self.park.news.take();
        for (lane, at) in due {
            self.drain.due(&lane, self.park.clock.instant(at));
        }
        if hurry {
            self.drain.hurry();
            // One that is under way may have begun before.
            self.look_at = self.look_at.map(|_| Instant::now());
        }
    }
}

/// How many rows of this size may be in flight.
fn rows_in_flight(row_bytes: u64) -> usize {
    let rows = MOST_BYTES.checked_div(row_bytes).and_then(|rows| usize::try_from(rows).ok());
    rows.unwrap_or(usize::MAX).clamp(LEAST_ROWS, Bounds::default().rows)
}

fn rows_of(came: Option<Came>) -> Result<Vec<Row>, StoreError> {
    match came {
        Some(Came::Rows(rows)) => rows,
        _ => Err(StoreError("claiming failed by a bug".to_owned())),
    }
}

/// Nobody who could say so is left: that is closing as well.
fn is_closing(closing: &watch::Receiver<bool>) -> bool {
    *closing.borrow() || closing.has_changed().is_err()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_larger_rows_are_the_fewer_are_in_flight() {
        for (row_bytes, rows) in [(0, 256), (1_000, 256), (1 << 20, 64), (2 << 20, 32), (64 << 20, 8)] {
            assert_eq!(rows_in_flight(row_bytes), rows, "{row_bytes}");
        }
    }
}
