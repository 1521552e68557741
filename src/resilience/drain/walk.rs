//! Random walks of the lanes beside a model of the store.

use std::collections::BTreeMap;

use super::*;

const STEPS: u32 = 100_000;

#[test]
fn no_walk_breaks_a_rule() {
    let mut tally = Tally::default();
    (1..=2).for_each(|seed| walk(seed, &mut tally));
    assert!(tally.everything(), "the walks did not come everywhere: {tally:?}");
    walk(fastrand::u64(..), &mut tally);
}

/// Where the walks came.
#[derive(Debug, Default)]
struct Tally {
    turns: u32,
    told_to_wait: u32,
    back_again: u32,
    full: u32,
    emptied: u32,
}

impl Tally {
    fn everything(&self) -> bool {
        [self.turns, self.told_to_wait, self.back_again, self.full, self.emptied].iter().all(|count| *count > 100)
    }
}

/// What the store has of a lane, and what the lane was told.
#[derive(Debug, Default)]
struct Model {
    rows: u32,
    ready: bool,
    in_flight: usize,
    /// The next turn is the first one since it was told to wait.
    first: bool,
}

struct Walk<'a> {
    seed: u64,
    rng: Rng,
    bounds: Bounds,
    /// Rows that come at a time, at most.
    most: u32,
    drain: Drain,
    now: Instant,
    lanes: BTreeMap<String, Model>,
    claims: Vec<Turn>,
    rows: Vec<(String, Ticket)>,
    look: Option<(Look, Vec<String>)>,
    tally: &'a mut Tally,
}

fn walk(seed: u64, tally: &mut Tally) {
    let mut rng = Rng::with_seed(seed);
    let bounds = Bounds { rows: rng.usize(1..40), window: rng.usize(1..12) };
    let names = (0..rng.usize(1..4)).flat_map(|endpoint| (0..4).map(move |lane| format!("s/{endpoint}/x/{lane}")));
    let names = names.chain((0..3).map(|origin| format!("d/{origin}")));
    let lanes = names.map(|name| (name, Model { ready: true, ..Model::default() })).collect();
    let drain = Drain::new(bounds, rng.u64(..));
    let (claims, rows) = (Vec::new(), Vec::new());
    let mut walk =
        Walk { seed, rng, bounds, most: 2, drain, now: Instant::now(), lanes, claims, rows, look: None, tally };
    for step in 0..STEPS {
        // There is more than can be taken on for a while, then less.
        walk.most = [3, 20][step as usize / 10_000 % 2];
        walk.step();
        if step.is_multiple_of(8) {
            walk.check();
        }
    }
    walk.end();
}

impl Walk<'_> {
    fn step(&mut self) {
        match self.rng.u32(0..1000) {
            0..200 => self.now += Duration::from_millis(self.rng.u64(0..100)),
            200..205 => self.now += Duration::from_millis(self.rng.u64(0..20_000)),
            205..240 => self.park(),
            240..600 => self.next(),
            600..750 => self.claimed(),
            750..960 => self.ended(),
            960..980 => self.look(),
            _ => {
                let name = self.any_lane();
                let lane = self.lanes.get_mut(&name).unwrap();
                lane.ready = !lane.ready;
            }
        }
    }

    fn any_lane(&mut self) -> String {
        let at = self.rng.usize(0..self.lanes.len());
        self.lanes.keys().nth(at).unwrap().clone()
    }

    fn park(&mut self) {
        let name = self.any_lane();
        self.lanes.get_mut(&name).unwrap().rows += self.rng.u32(1..self.most);
        self.drain.due(&name, self.now);
    }

    fn next(&mut self) {
        let lanes = &self.lanes;
        let Some(turn) = self.drain.next(self.now, |name| lanes[name].ready) else { return };
        self.tally.turns += 1;
        let seed = self.seed;
        let lane = self.lanes.get_mut(&*turn.lane).unwrap();
        assert!(lane.ready, "seed {seed}: {} is not ready", turn.lane);
        assert!(turn.at_most > 0, "seed {seed}");
        if std::mem::take(&mut lane.first) {
            assert_eq!(turn.at_most, 1, "seed {seed}: the first turn after a wait");
            self.tally.back_again += 1;
        }
        lane.in_flight += turn.at_most;
        assert!(lane.in_flight <= self.bounds.window, "seed {seed}: {} has too much in flight", turn.lane);
        self.claims.push(turn);
        self.tally.full += u32::from(self.drain.in_flight() == self.bounds.rows);
    }

    fn claimed(&mut self) {
        if self.claims.is_empty() {
            return;
        }
        let turn = self.claims.swap_remove(self.rng.usize(0..self.claims.len()));
        let lane = self.lanes.get_mut(&*turn.lane).unwrap();
        if self.rng.u32(0..20) == 0 {
            lane.in_flight -= turn.at_most;
            self.drain.unclaimed(&turn, self.now + Duration::from_secs(1));
            return;
        }
        let got = turn.at_most.min(lane.rows as usize);
        lane.rows -= u32::try_from(got).unwrap();
        lane.in_flight -= turn.at_most - got;
        self.tally.emptied += u32::from(got < turn.at_most);
        self.drain.claimed(&turn, got);
        self.rows.extend((0..got).map(|_| (turn.lane.to_string(), turn.ticket())));
    }

    fn ended(&mut self) {
        if self.rows.is_empty() {
            return;
        }
        let (name, ticket) = self.rows.swap_remove(self.rng.usize(0..self.rows.len()));
        let lane = self.lanes.get_mut(&name).unwrap();
        lane.in_flight -= 1;
        let (outcome, stays) = match self.rng.u32(0..10) {
            0..7 => (Outcome::Went, false),
            7 => (Outcome::Failed, true),
            8 => (Outcome::Unknown, true),
            _ => (Outcome::NotNow(self.rng.bool().then(|| Duration::from_millis(200))), true),
        };
        lane.rows += u32::from(stays);
        let is_known = self.drain.lanes.get(&ticket.lane).is_some_and(|lane| lane.round == ticket.round);
        if matches!(outcome, Outcome::NotNow(_)) && is_known {
            lane.first = true;
            self.tally.told_to_wait += 1;
        }
        self.drain.ended(ticket, self.now, outcome, stays.then_some(self.now));
    }

    /// Begins a look, or ends one that showed what there was when it began.
    fn look(&mut self) {
        if let Some((look, lanes)) = self.look.take() {
            self.drain.seen(look, lanes.iter().map(|name| (&**name, self.now)));
        } else {
            let some = self.lanes.iter().filter(|(_, lane)| lane.rows > 0).map(|(name, _)| name.clone());
            self.look = Some((self.drain.look(), some.collect()));
        }
    }

    fn check(&self) {
        let seed = self.seed;
        let in_flight: usize = self.lanes.values().map(|lane| lane.in_flight).sum();
        assert_eq!(self.drain.in_flight(), in_flight, "seed {seed}");
        assert!(in_flight <= self.bounds.rows, "seed {seed}: too much in flight");
        for (name, lane) in self.lanes.iter().filter(|(_, lane)| lane.rows > 0) {
            assert!(self.drain.lane_ids.contains_key(&**name), "seed {seed}: {name} is forgotten: {lane:?}");
        }
        assert_eq!(self.drain.lanes.len(), self.drain.lane_ids.len(), "seed {seed}");
        assert_eq!(self.drain.groups.len(), self.drain.group_ids.len(), "seed {seed}");
        assert!(self.drain.ring.len() <= self.drain.groups.len(), "seed {seed}");
        assert!(self.drain.timed.len() <= self.drain.lanes.len(), "seed {seed}");
        let watched = self.drain.lanes.values().filter(|lane| lane.is_watched()).count();
        assert_eq!(self.drain.watched, watched, "seed {seed}");
    }

    /// When all goes well everything comes to an end, and nothing is remembered.
    fn end(mut self) {
        self.lanes.values_mut().for_each(|lane| (lane.ready, lane.first) = (true, false));
        for _ in 0..1_000_000 {
            let Some(turn) = self.drain.next(self.now, |_| true) else {
                if let Some((name, ticket)) = self.rows.pop() {
                    self.lanes.get_mut(&name).unwrap().in_flight -= 1;
                    self.drain.ended(ticket, self.now, Outcome::Went, None);
                } else if self.claims.is_empty() {
                    let Some(at) = self.drain.wake_at() else { break };
                    self.now = at.max(self.now);
                } else {
                    self.claimed();
                }
                continue;
            };
            self.lanes.get_mut(&*turn.lane).unwrap().in_flight += turn.at_most;
            self.claims.push(turn);
        }
        let left: u32 = self.lanes.values().map(|lane| lane.rows).sum();
        let seed = self.seed;
        assert_eq!((left, self.drain.lanes(), self.drain.in_flight()), (0, 0, 0), "seed {seed}");
        assert!(self.drain.groups.is_empty() && self.drain.ring.is_empty() && self.drain.timed.is_empty());
    }
}

/// Groups that have something, in any numbers of lanes, are served in turn.
#[test]
fn no_group_is_served_twice_while_another_waits() {
    for seed in 0..200 {
        let mut rng = Rng::with_seed(seed);
        let now = Instant::now();
        let mut drain = Drain::new(Bounds { rows: 256, window: 64 }, seed);
        let groups = rng.usize(2..10);
        for group in 0..groups {
            (0..rng.usize(1..50)).for_each(|lane| drain.due(&format!("s/{group}/x/{lane}"), now));
        }
        let mut last = HashMap::new();
        for step in 0..1000_usize {
            let turn = drain.next(now, |_| true).expect("there is always something");
            drain.claimed(&turn, turn.at_most);
            (0..turn.at_most).for_each(|_| drain.ended(turn.ticket(), now, Outcome::Went, None));
            let group = group_of(&turn.lane).to_owned();
            let before = last.insert(group, step).map_or(step, |last| step - last - 1);
            assert!(before < groups, "seed {seed}: {before} turns of others between two of its own");
        }
        assert_eq!(last.len(), groups, "seed {seed}");
    }
}
