//! Which lane of parked rows gets the next turn, and how many rows it may take on.
//!
//! A lane that was told to wait pauses, longer each time, and begins again with one row; each row that goes well lets one
//! more be in flight. Turns go round the groups, which are endpoints, and within a group round its lanes. A group may
//! have as many rows in flight as are left free for others, so that one whose target hangs leaves room for the rest.
//!
//! Knows lanes by name, when their first row is due, and how rows ended. Must not know what a row is, nor where rows are
//! kept; how much a lane still has is for the store to say.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Duration;

use fastrand::Rng;
use tokio::time::Instant;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod walk;

/// How soon a lane that is not ready is looked at again, while few are.
pub const LOOK: Duration = Duration::from_millis(100);
/// How many lanes are looked at in that time; where there are more, each is looked at less often.
const LOOKS: usize = 100;
/// How soon each lane that is not ready is looked at again, however many there are.
const RAREST_LOOK: Duration = Duration::from_secs(5);
/// The first pause; each next one doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause that is not asked for.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// Bounds of a pause that is asked for: one of nothing would be a loop, and one of a day is nobody's plan.
const ASKED_PAUSE: [Duration; 2] = [Duration::from_millis(10), Duration::from_secs(300)];

/// How many rows may be in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Of all lanes.
    pub rows: usize,
    /// Of one lane, when all goes well.
    pub window: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { rows: 256, window: 64 }
    }
}

/// All lanes that have something to do.
#[derive(Debug)]
pub struct Drain {
    bounds: Bounds,
    rng: Rng,
    lanes: HashMap<u64, Lane>,
    lane_ids: HashMap<Box<str>, u64>,
    groups: HashMap<u64, Group>,
    group_ids: HashMap<Box<str>, u64>,
    /// Groups with a lane whose time has come; the one that waits for the longest first.
    ring: VecDeque<u64>,
    /// Lanes whose time has not come.
    timed: BTreeSet<(Instant, u64)>,
    /// Lanes that are looked at now and then.
    watched: usize,
    in_flight: usize,
    /// Names of lanes and groups are numbers that are used once.
    last_id: u64,
    looks: u64,
}

#[derive(Debug)]
struct Group {
    name: Box<str>,
    lanes: usize,
    in_flight: usize,
    /// Its lanes whose time has come.
    ring: VecDeque<u64>,
    in_ring: bool,
}

#[derive(Debug)]
struct Lane {
    name: Box<str>,
    group: u64,
    /// When the first of its rows that nobody has taken on is due, as far as is known.
    due: Option<Instant>,
    claiming: bool,
    in_flight: usize,
    /// Those of them that were taken on in this round. A round ends when the lane is told to wait.
    in_round: usize,
    round: u64,
    window: usize,
    pause: Option<Instant>,
    /// Pauses since something went well.
    step: u32,
    unready: bool,
    /// Not worth looking at before.
    look: Option<Instant>,
    place: Place,
    /// The look at the store in which something was heard of it last.
    news: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Idle,
    Timed(Instant),
    Ring,
}

/// A lane's turn: to be answered by [`Drain::claimed`] or [`Drain::unclaimed`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Whose turn it is.
    pub lane: Box<str>,
    /// How many rows it may take on; at least one.
    pub at_most: usize,
    ticket: Ticket,
    due: Instant,
}

/// A row in flight: to be given back to [`Drain::ended`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    lane: u64,
    round: u64,
}

/// A look at all lanes of the store, which takes a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look(u64);

/// How a row in flight ended, as far as its lane goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Its target took it.
    Went,
    /// The target takes nothing now; when it will, where that is known.
    NotNow(Option<Duration>),
    /// It failed; others need not.
    Failed,
    /// It says nothing about the lane.
    Unknown,
}

impl Turn {
    /// For each row that was taken on.
    pub fn ticket(&self) -> Ticket {
        self.ticket
    }
}

impl Drain {
    /// No lanes yet.
    pub fn new(bounds: Bounds, seed: u64) -> Self {
        Self {
            bounds,
            rng: Rng::with_seed(seed),
            lanes: HashMap::new(),
            lane_ids: HashMap::new(),
            groups: HashMap::new(),
            group_ids: HashMap::new(),
            ring: VecDeque::new(),
            timed: BTreeSet::new(),
            watched: 0,
            in_flight: 0,
            last_id: 0,
            looks: 0,
        }
    }

    /// From now on no more than so many rows of all lanes are taken on; those in flight stay.
    pub fn set_rows(&mut self, rows: usize) {
        self.bounds.rows = rows;
    }

    /// A row of this lane is due then.
    pub fn due(&mut self, lane: &str, at: Instant) {
        let id = self.id_of(lane);
        self.change(id, |lane| lane.due_by(at));
    }

    /// A look at the store begins: what is heard of a lane from now on is newer.
    pub fn look(&mut self) -> Look {
        self.looks += 1;
        Look(self.looks)
    }

    /// What the look showed: all lanes that have something, and when the first row of each is due. Others are forgotten,
    /// unless there is newer news of them.
    pub fn seen<'a>(&mut self, look: Look, lanes: impl IntoIterator<Item = (&'a str, Instant)>) {
        let mut seen = HashSet::new();
        for (name, at) in lanes {
            let id = self.id_of(name);
            seen.insert(id);
            let certain = self.lanes.get(&id).is_some_and(|lane| lane.is_known_by(look));
            self.change(id, |lane| if certain { lane.due = Some(at) } else { lane.due_by(at) });
        }
        let gone = |(id, lane): (&u64, &Lane)| (!seen.contains(id) && lane.is_known_by(look)).then_some(*id);
        let gone: Vec<_> = self.lanes.iter().filter_map(gone).collect();
        for id in gone {
            self.change(id, |lane| lane.due = None);
        }
    }

    /// Whose turn it is at `now`, among the lanes that are `ready`. A lane that becomes ready need not wait any longer
    /// for its pause to end.
    pub fn next(&mut self, now: Instant, ready: impl Fn(&str) -> bool) -> Option<Turn> {
        self.wake(now);
        let mut at = 0;
        while let Some(&id) = self.ring.get(at).filter(|_| self.in_flight < self.bounds.rows) {
            let share = self.share_of(id);
            if share == Some(0) {
                // It keeps its place, and is the first to be served once there is room.
                at += 1;
                continue;
            }
            self.ring.remove(at);
            if let Some(group) = self.groups.get_mut(&id) {
                group.in_ring = false;
            }
            let turn = share.and_then(|share| self.turn_of(id, share, now, &ready));
            self.enter(id);
            if turn.is_some() {
                return turn;
            }
        }
        None
    }

    /// So many rows were taken on. Fewer than it might have: there are no more.
    pub fn claimed(&mut self, turn: &Turn, got: usize) {
        let got = got.min(turn.at_most);
        self.leave(turn.ticket, turn.at_most - got);
        self.change(turn.ticket.lane, |lane| {
            lane.claiming = false;
            if got == turn.at_most {
                lane.due_by(turn.due);
            }
        });
    }

    /// Nobody knows what there is; worth trying again then.
    pub fn unclaimed(&mut self, turn: &Turn, again: Instant) {
        self.leave(turn.ticket, turn.at_most);
        self.change(turn.ticket.lane, |lane| {
            lane.claiming = false;
            lane.look = Some(again);
            lane.due_by(turn.due);
        });
    }

    /// A row in flight ended like this, and is due `again` then, where it stays in the lane.
    pub fn ended(&mut self, ticket: Ticket, now: Instant, outcome: Outcome, again: Option<Instant>) {
        self.leave(ticket, 1);
        let (most, jitter, look) = (self.bounds.window, self.rng.f64(), self.look_in());
        self.change(ticket.lane, |lane| {
            if let Some(again) = again {
                lane.due_by(again);
            }
            // What was sent before the lane was told to wait says nothing about the time after.
            if ticket.round == lane.round {
                lane.learn(now, outcome, most, jitter, look);
            }
        });
    }

    /// Ends all pauses.
    pub fn hurry(&mut self) {
        let all: Vec<_> = self.lanes.keys().copied().collect();
        for id in all {
            self.change(id, |lane| (lane.pause, lane.look) = (None, None));
        }
    }

    /// When [`next`](Self::next) may have something to say that it did not say when it was asked last, where nothing
    /// else happens before.
    pub fn wake_at(&self) -> Option<Instant> {
        self.timed.first().map(|(at, _)| *at)
    }

    /// Rows that are in flight, or may be by turns that were not answered yet.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Lanes that have something to do.
    pub fn lanes(&self) -> usize {
        self.lanes.len()
    }

    /// Lanes that wait for their target: for the end of a pause, or for it to be ready.
    pub fn paused(&self, now: Instant) -> usize {
        self.lanes.values().filter(|lane| lane.unready || lane.pause.is_some_and(|end| end > now)).count()
    }

    /// How soon a lane is looked at that cannot go now.
    fn look_in(&self) -> Duration {
        let rarer = u32::try_from(self.watched / LOOKS).unwrap_or(u32::MAX).max(1);
        LOOK.saturating_mul(rarer).min(RAREST_LOOK)
    }

    fn wake(&mut self, now: Instant) {
        while let Some(&(at, id)) = self.timed.first().filter(|(at, _)| *at <= now) {
            self.timed.remove(&(at, id));
            let Some(lane) = self.lanes.get_mut(&id) else { continue };
            lane.place = Place::Ring;
            let group = lane.group;
            if let Some(group) = self.groups.get_mut(&group) {
                group.ring.push_back(id);
            }
            self.enter(group);
        }
    }

    /// Puts a group with lanes whose time has come at the end of the ring.
    fn enter(&mut self, id: u64) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        if !group.ring.is_empty() && !std::mem::replace(&mut group.in_ring, true) {
            self.ring.push_back(id);
        }
    }

    /// How many more rows a group may take on. None where there is no such group.
    fn share_of(&self, id: u64) -> Option<usize> {
        let free = self.bounds.rows.saturating_sub(self.in_flight);
        let group = self.groups.get(&id)?;
        // Each row that it gets is one less for the others; and one alone may have the last place.
        let share = free.saturating_sub(group.in_flight).div_ceil(2);
        Some(if group.in_flight == 0 { share.max(1) } else { share })
    }

    fn turn_of(&mut self, group: u64, share: usize, now: Instant, ready: impl Fn(&str) -> bool) -> Option<Turn> {
        while let Some(id) = self.groups.get_mut(&group)?.ring.pop_front() {
            let (most, look) = (self.bounds.window, self.look_in());
            let Some(lane) = self.lanes.get_mut(&id) else { continue };
            lane.place = Place::Idle;
            let was_watched = lane.is_watched();
            // Asked first, since a lane that is back begins again.
            let room = if lane.may_go(now, look, &ready) { lane.room(most).min(share) } else { 0 };
            self.watched = self.watched + usize::from(lane.is_watched()) - usize::from(was_watched);
            if room > 0 {
                let due = lane.due.take().unwrap_or(now);
                lane.claiming = true;
                lane.in_flight += room;
                lane.in_round += room;
                self.in_flight += room;
                self.groups.get_mut(&group)?.in_flight += room;
                let ticket = Ticket { lane: id, round: lane.round };
                return Some(Turn { lane: lane.name.clone(), at_most: room, ticket, due });
            }
            self.put(id);
        }
        None
    }

    /// Gives places back.
    fn leave(&mut self, ticket: Ticket, rows: usize) {
        let Some(lane) = self.lanes.get_mut(&ticket.lane) else { return };
        lane.in_flight -= rows;
        if lane.round == ticket.round {
            lane.in_round -= rows;
        }
        self.in_flight -= rows;
        if let Some(group) = self.groups.get_mut(&lane.group) {
            group.in_flight -= rows;
        }
    }

    fn change(&mut self, id: u64, change: impl FnOnce(&mut Lane)) {
        let Some(lane) = self.lanes.get_mut(&id) else { return };
        let was_watched = lane.is_watched();
        change(lane);
        lane.news = self.looks;
        self.watched = self.watched + usize::from(lane.is_watched()) - usize::from(was_watched);
        self.put(id);
    }

    /// Puts a lane where it belongs: away, aside, or where its time is waited for.
    fn put(&mut self, id: u64) {
        let Some(lane) = self.lanes.get_mut(&id) else { return };
        if lane.is_over() {
            return self.forget(id);
        }
        if lane.place == Place::Ring {
            return;
        }
        if let Place::Timed(at) = lane.place {
            self.timed.remove(&(at, id));
        }
        lane.place = Place::Idle;
        if let Some(due) = lane.due.filter(|_| lane.room(self.bounds.window) > 0) {
            let at = lane.look.map_or(due, |look| look.max(due));
            lane.place = Place::Timed(at);
            self.timed.insert((at, id));
        }
    }

    fn forget(&mut self, id: u64) {
        let Some(lane) = self.lanes.remove(&id) else { return };
        self.lane_ids.remove(&lane.name);
        self.watched -= usize::from(lane.is_watched());
        if let Place::Timed(at) = lane.place {
            self.timed.remove(&(at, id));
        }
        let Some(group) = self.groups.get_mut(&lane.group) else { return };
        if lane.place == Place::Ring {
            group.ring.retain(|other| *other != id);
        }
        group.lanes -= 1;
        if group.lanes == 0 {
            self.group_ids.remove(&group.name);
            self.groups.remove(&lane.group);
            self.ring.retain(|other| *other != lane.group);
        }
    }

    fn id_of(&mut self, name: &str) -> u64 {
        if let Some(id) = self.lane_ids.get(name) {
            return *id;
        }
        let (id, group) = (self.new_id(), self.group_of(name));
        self.lanes.insert(id, Lane::new(name, group));
        self.lane_ids.insert(name.into(), id);
        id
    }

    fn group_of(&mut self, lane: &str) -> u64 {
        let name = group_of(lane);
        let known = self.group_ids.get(name).copied();
        let id = known.unwrap_or_else(|| self.new_id());
        if known.is_none() {
            self.group_ids.insert(name.into(), id);
        }
        let new = || Group { name: name.into(), lanes: 0, in_flight: 0, ring: VecDeque::new(), in_ring: false };
        self.groups.entry(id).or_insert_with(new).lanes += 1;
        id
    }

    fn new_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }
}

impl Lane {
    fn new(name: &str, group: u64) -> Self {
        Self {
            name: name.into(),
            group,
            due: None,
            claiming: false,
            in_flight: 0,
            in_round: 0,
            round: 0,
            window: 1,
            pause: None,
            step: 0,
            unready: false,
            look: None,
            place: Place::Idle,
            news: 0,
        }
    }

    fn due_by(&mut self, at: Instant) {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    /// Whether a look shows all that there is of it.
    fn is_known_by(&self, look: Look) -> bool {
        self.news < look.0 && self.in_flight == 0 && !self.claiming
    }

    fn is_watched(&self) -> bool {
        self.look.is_some()
    }

    fn is_over(&self) -> bool {
        self.due.is_none() && self.in_flight == 0 && !self.claiming
    }

    /// How many more rows it may have in flight.
    fn room(&self, most: usize) -> usize {
        let room = self.window.saturating_sub(self.in_round).min(most.saturating_sub(self.in_flight));
        if self.claiming { 0 } else { room }
    }

    /// Whether its turn has come; where it has not it is looked at again after `look`.
    fn may_go(&mut self, now: Instant, look: Duration, ready: impl Fn(&str) -> bool) -> bool {
        if self.due.is_none_or(|due| due > now) {
            return false;
        }
        if !ready(&self.name) {
            self.unready = true;
            self.look = Some(now + look);
            return false;
        }
        if std::mem::take(&mut self.unready) {
            self.begin_again();
            self.pause = None;
        }
        if let Some(end) = self.pause.filter(|end| *end > now) {
            self.look = Some(end.min(now + look));
            return false;
        }
        (self.pause, self.look) = (None, None);
        true
    }

    fn learn(&mut self, now: Instant, outcome: Outcome, most: usize, jitter: f64, look: Duration) {
        match outcome {
            Outcome::Went => {
                self.window = (self.window + 1).min(most);
                self.step = 0;
            }
            Outcome::Failed => self.window = (self.window / 2).max(1),
            Outcome::NotNow(asked) => {
                let pause = asked.map(|asked| asked.clamp(ASKED_PAUSE[0], ASKED_PAUSE[1]));
                let pause = pause.unwrap_or_else(|| backoff(FIRST_PAUSE, LONGEST_PAUSE, self.step, jitter));
                self.step = self.step.saturating_add(1);
                self.pause = Some(now + pause);
                self.look = Some(now + pause.min(look));
                self.begin_again();
            }
            Outcome::Unknown => {}
        }
    }

    fn begin_again(&mut self) {
        self.round += 1;
        self.in_round = 0;
        self.window = 1;
    }
}

/// The wait after `before` waits: `first`, doubled each time up to `longest`; between half and the whole of it, by
/// `jitter` from 0 to 1.
pub fn backoff(first: Duration, longest: Duration, before: u32, jitter: f64) -> Duration {
    let whole = first.saturating_mul(2_u32.saturating_pow(before)).min(longest);
    whole.div_f64(2.0) + whole.div_f64(2.0).mul_f64(jitter)
}

/// The lanes of an endpoint's operations are a group: those of `s/{endpoint}/…`. Any other one is by itself.
fn group_of(lane: &str) -> &str {
    let end = lane.strip_prefix("s/").and_then(|rest| rest.find('/'));
    end.map_or(lane, |end| &lane[..end + 2])
}
