use std::collections::{HashSet, VecDeque};

use super::*;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// Lets `name` enter and says what became of it.
fn enter(queue: &mut Queue<&'static str>, urgency: Urgency, name: &'static str) -> Entered<&'static str> {
    queue.enter(Instant::now(), urgency, SECOND, || name)
}

#[tokio::test(start_paused = true)]
async fn urgent_requests_go_first_and_the_others_in_order_of_arrival() {
    let mut queue = Queue::new(1, 10);
    assert!(matches!(enter(&mut queue, Urgency::Normal, "first"), Entered::Admitted));
    for (urgency, name) in [
        (Urgency::Normal, "start 1"),
        (Urgency::Urgent, "cancel 1"),
        (Urgency::Normal, "start 2"),
        (Urgency::Urgent, "cancel 2"),
    ] {
        assert!(matches!(enter(&mut queue, urgency, name), Entered::Queued { displaced: None, .. }));
    }
    let order: Vec<_> = iter::from_fn(|| queue.leave(Instant::now())).collect();
    assert_eq!(order, ["cancel 1", "cancel 2", "start 1", "start 2"]);
    assert_eq!((queue.in_flight(), queue.waiting()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn in_a_full_queue_an_urgent_request_takes_the_place_of_the_youngest_normal_one() {
    let mut queue = Queue::new(1, 2);
    enter(&mut queue, Urgency::Normal, "first");
    enter(&mut queue, Urgency::Normal, "old");
    enter(&mut queue, Urgency::Normal, "young");
    assert!(matches!(enter(&mut queue, Urgency::Normal, "late"), Entered::Refused(Why::QueueFull)));
    assert!(matches!(enter(&mut queue, Urgency::Urgent, "cancel"), Entered::Queued { displaced: Some("young"), .. }));
    assert!(matches!(enter(&mut queue, Urgency::Urgent, "cancel"), Entered::Queued { displaced: Some("old"), .. }));
    assert!(matches!(enter(&mut queue, Urgency::Urgent, "cancel"), Entered::Refused(Why::QueueFull)));
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_gives_up_frees_its_place_in_the_queue() {
    let mut queue = Queue::new(1, 1);
    enter(&mut queue, Urgency::Normal, "first");
    let Entered::Queued { ticket, .. } = enter(&mut queue, Urgency::Normal, "gone") else { panic!("no place") };
    assert!(queue.abandon(ticket));
    assert!(!queue.abandon(ticket));
    assert!(matches!(enter(&mut queue, Urgency::Normal, "next"), Entered::Queued { .. }));
    assert_eq!(queue.leave(Instant::now()), Some("next"));
}

#[tokio::test(start_paused = true)]
async fn without_patience_or_a_queue_nobody_waits() {
    let mut queue = Queue::new(1, 0);
    enter(&mut queue, Urgency::Normal, "first");
    assert!(matches!(enter(&mut queue, Urgency::Urgent, "queue"), Entered::Refused(Why::QueueFull)));
    queue.set_max_queue(1);
    let now = Instant::now();
    let hurried = queue.enter(now, Urgency::Urgent, Duration::ZERO, || "hurried");
    assert!(matches!(hurried, Entered::Refused(Why::TooLong)));
}

#[tokio::test(start_paused = true)]
async fn a_lower_limit_takes_effect_as_requests_leave_and_a_higher_one_at_once() {
    let mut queue = Queue::new(3, 10);
    for name in ["1", "2", "3", "4", "5"] {
        enter(&mut queue, Urgency::Normal, name);
    }
    assert!(queue.set_limit(1).is_empty());
    let now = Instant::now();
    assert_eq!((queue.leave(now), queue.leave(now), queue.in_flight()), (None, None, 1));
    assert_eq!(queue.set_limit(2), ["4"]);
    assert_eq!(queue.set_limit(0), Vec::<&str>::new());
    assert_eq!(queue.limit(), 1);
}

/// A queue with one place in which a request left every `interval`, for `departures` times, while others waited.
fn with_pace(now: &mut Instant, interval: Duration, departures: u32) -> Queue<()> {
    let mut queue = Queue::new(1, 1000);
    queue.enter(*now, Urgency::Normal, SECOND, || ());
    for _ in 0..=departures {
        queue.enter(*now, Urgency::Normal, SECOND, || ());
        *now += interval;
        assert!(queue.leave(*now).is_some());
    }
    queue
}

fn waits(queue: &mut Queue<()>, now: Instant, patience: Duration) -> bool {
    match queue.enter(now, Urgency::Normal, patience, || ()) {
        Entered::Queued { .. } => true,
        Entered::Refused(Why::TooLong) => false,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn who_would_wait_in_vain_is_refused_at_once() {
    let mut now = Instant::now();
    let mut queue = with_pace(&mut now, 100 * MS, 20);
    let queued = (0..100).filter(|_| waits(&mut queue, now, SECOND)).count();
    assert_eq!(queued, 12, "a tenth of a second each, and a quarter more than the second that they may wait");
    assert!(!waits(&mut queue, now, SECOND));
    assert!(waits(&mut queue, now, 2 * SECOND), "who may wait longer still can");
    let urgent = queue.enter(now, Urgency::Urgent, SECOND, || ());
    assert!(matches!(urgent, Entered::Queued { .. }), "few go before an urgent one");
}

#[tokio::test(start_paused = true)]
async fn those_that_will_overtake_are_reckoned_with() {
    let mut now = Instant::now();
    let mut queue = with_pace(&mut now, 100 * MS, 1);
    for departure in 0..200 {
        queue.enter(now, Urgency::Normal, 60 * SECOND, || ());
        if departure % 2 == 0 {
            queue.enter(now, Urgency::Urgent, 60 * SECOND, || ());
        }
        now += 100 * MS;
        assert!(queue.leave(now).is_some());
    }
    queue.normal.clear();
    let queued = (0..100).filter(|_| waits(&mut queue, now, SECOND)).count();
    assert!((5..=7).contains(&queued), "{queued} instead of half of 12, as every other place goes to an urgent one");
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_urgent_requests_does_not_end_all_hope_for_the_others() {
    let mut now = Instant::now();
    let mut queue = Queue::new(1, 1000);
    queue.enter(now, Urgency::Normal, SECOND, || ());
    queue.enter(now, Urgency::Normal, SECOND, || ());
    for _ in 0..=WELL_FOUNDED {
        queue.enter(now, Urgency::Urgent, SECOND, || ());
        now += 10 * MS;
        queue.leave(now);
    }
    assert!(waits(&mut queue, now, SECOND));
}

#[tokio::test(start_paused = true)]
async fn the_first_in_line_may_always_wait() {
    let mut now = Instant::now();
    let mut queue = with_pace(&mut now, SECOND, 20);
    assert!(waits(&mut queue, now, MS));
    assert!(!waits(&mut queue, now, MS));
}

#[tokio::test(start_paused = true)]
async fn a_pace_that_is_not_well_founded_or_not_fresh_refuses_nobody() {
    let mut now = Instant::now();
    let mut queue = with_pace(&mut now, SECOND, WELL_FOUNDED - 1);
    assert!((0..50).all(|_| waits(&mut queue, now, 2 * SECOND)));

    let mut queue = with_pace(&mut now, SECOND, WELL_FOUNDED);
    assert!(!(0..50).all(|_| waits(&mut queue, now, 2 * SECOND)));
    now += STALE + MS;
    assert!((0..50).all(|_| waits(&mut queue, now, 2 * SECOND)));
}

#[tokio::test(start_paused = true)]
async fn time_without_load_is_not_taken_for_slowness() {
    let mut now = Instant::now();
    let mut queue = with_pace(&mut now, 10 * MS, 50);
    queue.leave(now);
    now += 4 * SECOND;
    queue.enter(now, Urgency::Normal, SECOND, || ());
    for _ in 0..2 {
        queue.enter(now, Urgency::Normal, SECOND, || ());
        now += 10 * MS;
        queue.leave(now);
    }
    let expected = queue.expected_wait(now, Urgency::Normal).unwrap();
    assert!(expected <= 11 * MS, "{expected:?}");
}

#[tokio::test(start_paused = true)]
async fn places_that_come_free_in_bursts_are_seen_as_fast_as_they_are() {
    let mut now = Instant::now();
    let mut queue = Queue::new(200, 1000);
    for _ in 0..1000 {
        queue.enter(now, Urgency::Normal, SECOND, || ());
    }
    for burst in 0..20 {
        now += 100 * MS;
        for _ in 0..200 {
            queue.leave(now);
            queue.enter(now, Urgency::Normal, 60 * SECOND, || ());
            let mean = queue.pace.mean(now).unwrap_or_default().as_secs_f64() * 1e6;
            assert!(burst < 12 || (400.0..600.0).contains(&mean), "{mean} µs instead of 500");
        }
    }
}

/// What a queue should do, told by lists.
struct Model {
    urgent: VecDeque<(u64, Ticket)>,
    normal: VecDeque<(u64, Ticket)>,
    admitted: HashSet<u64>,
    over: Vec<Ticket>,
    next: u64,
}

impl Model {
    fn waiting(&self) -> usize {
        self.urgent.len() + self.normal.len()
    }

    fn class(&mut self, urgency: Urgency) -> &mut VecDeque<(u64, Ticket)> {
        match urgency {
            Urgency::Urgent => &mut self.urgent,
            Urgency::Normal => &mut self.normal,
        }
    }

    /// Somebody has a place: it must be the one whose turn it is, and have none yet.
    fn admit(&mut self, seed: u64, id: u64) {
        let (turn, ticket) = self.urgent.pop_front().or_else(|| self.normal.pop_front()).expect("somebody waits");
        assert_eq!(id, turn, "seed {seed}: out of turn");
        assert!(self.admitted.insert(id), "seed {seed}: admitted twice");
        self.over.push(ticket);
    }

    fn leaves(&mut self, rng: &mut fastrand::Rng) {
        let gone = *self.admitted.iter().nth(rng.usize(0..self.admitted.len())).unwrap();
        self.admitted.remove(&gone);
    }

    fn entered(&mut self, seed: u64, urgency: Urgency, before: (usize, usize, usize), entered: &Entered<u64>) {
        let (limit, max_queue, in_flight) = before;
        match *entered {
            Entered::Admitted => {
                assert!(in_flight < limit && self.waiting() == 0, "seed {seed}: jumped the queue");
                self.admitted.insert(self.next);
            }
            Entered::Queued { ticket, displaced } => {
                assert!(in_flight >= limit, "seed {seed}: waits while a place is free");
                assert_eq!(displaced.is_some(), self.waiting() >= max_queue, "seed {seed}");
                if let Some(displaced) = displaced {
                    let (youngest, ticket) = self.normal.pop_back().expect("a normal one waits");
                    assert_eq!((displaced, urgency), (youngest, Urgency::Urgent), "seed {seed}");
                    self.over.push(ticket);
                }
                let id = self.next;
                self.class(urgency).push_back((id, ticket));
            }
            Entered::Refused(Why::QueueFull) => {
                assert!(self.waiting() >= max_queue, "seed {seed}: refused with room to wait");
                assert!(urgency == Urgency::Normal || self.normal.is_empty(), "seed {seed}: nobody was displaced");
            }
            Entered::Refused(why) => {
                assert!(why == Why::TooLong && in_flight >= limit, "seed {seed}: {why:?} with a free place");
            }
        }
        self.next += 1;
    }
}

/// One random step; returns whether it lowered the number of places or who may wait.
fn step(seed: u64, rng: &mut fastrand::Rng, now: &mut Instant, queue: &mut Queue<u64>, model: &mut Model) {
    *now += MS * rng.u32(0..20);
    match rng.u32(0..100) {
        0..45 => {
            let urgency = if rng.u32(0..4) == 0 { Urgency::Urgent } else { Urgency::Normal };
            let patience = MS * rng.u32(0..500);
            let before = (queue.limit(), queue.max_queue, queue.in_flight());
            let id = model.next;
            let entered = queue.enter(*now, urgency, patience, || id);
            model.entered(seed, urgency, before, &entered);
        }
        45..80 if !model.admitted.is_empty() => {
            model.leaves(rng);
            let next = if rng.u32(0..10) == 0 { queue.decline() } else { queue.leave(*now) };
            if let Some(id) = next {
                model.admit(seed, id);
            }
        }
        80..95 if model.waiting() > 0 => {
            let urgency = if model.normal.is_empty() || !model.urgent.is_empty() && rng.bool() {
                Urgency::Urgent
            } else {
                Urgency::Normal
            };
            let class = model.class(urgency);
            let (_, ticket) = class.remove(rng.usize(0..class.len())).unwrap();
            assert!(queue.abandon(ticket), "seed {seed}: a waiter was lost");
            model.over.push(ticket);
        }
        95..97 if !model.over.is_empty() => {
            let ticket = model.over[rng.usize(0..model.over.len())];
            assert!(!queue.abandon(ticket), "seed {seed}: somebody waits twice");
        }
        97 => queue.set_limit(rng.usize(0..12)).into_iter().for_each(|id| model.admit(seed, id)),
        98 => queue.set_max_queue(rng.usize(0..12)),
        _ => {}
    }
}

#[tokio::test(start_paused = true)]
async fn at_random_nobody_is_lost_served_twice_or_overtaken() {
    for seed in [1, 2, 3, fastrand::u64(..)] {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut now = Instant::now();
        let mut queue = Queue::new(4, 6);
        let (urgent, normal) = (VecDeque::new(), VecDeque::new());
        let mut model = Model { urgent, normal, admitted: HashSet::new(), over: Vec::new(), next: 0 };
        for _ in 0..100_000 {
            let (in_flight, waiting) = (queue.in_flight(), queue.waiting());
            step(seed, &mut rng, &mut now, &mut queue, &mut model);
            let places = queue.limit().max(in_flight);
            assert!(queue.in_flight() <= places, "seed {seed}: {} of {places} in flight", queue.in_flight());
            assert!(queue.waiting() <= queue.max_queue.max(waiting), "seed {seed}: {} wait", queue.waiting());
            assert!(queue.waiting() == 0 || queue.in_flight() >= queue.limit(), "seed {seed}: a place stays free");
            assert_eq!(queue.in_flight(), model.admitted.len(), "seed {seed}");
            assert_eq!(queue.waiting(), model.waiting(), "seed {seed}");
        }
        assert!(model.next > 40_000, "seed {seed}: the walk did not get around");
    }
}
