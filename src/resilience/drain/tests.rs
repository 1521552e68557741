use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn drain() -> (Drain, Instant) {
    (Drain::new(Bounds::default(), 1), Instant::now())
}

fn always(_: &str) -> bool {
    true
}

/// Takes a turn, with as many rows as it may have, all of which end like this.
fn round(drain: &mut Drain, now: Instant, outcome: Outcome) -> Option<usize> {
    let turn = drain.next(now, always)?;
    drain.claimed(&turn, turn.at_most);
    for _ in 0..turn.at_most {
        drain.ended(turn.ticket(), now, outcome, None);
    }
    Some(turn.at_most)
}

#[test]
fn a_lane_begins_slowly_and_doubles_while_all_goes_well() {
    let (mut drain, now) = drain();
    drain.due("s/a/x/y", now);
    let rounds: Vec<_> = (0..8).map_while(|_| round(&mut drain, now, Outcome::Went)).collect();
    assert_eq!(rounds, [1, 2, 4, 8, 16, 32, 64, 64]);
    assert_eq!(round(&mut drain, now, Outcome::Failed), Some(64));
    assert_eq!(round(&mut drain, now, Outcome::Went), Some(1), "each failure halves it");
}

#[test]
fn a_lane_that_is_told_to_wait_pauses_longer_each_time_and_begins_with_one() {
    let (mut drain, mut now) = drain();
    drain.due("d/x", now);
    for _ in 0..3 {
        round(&mut drain, now, Outcome::Went);
    }
    let mut pauses = Vec::new();
    for _ in 0..12 {
        round(&mut drain, now, Outcome::NotNow(None)).expect("its turn");
        let begun = now;
        let next = loop {
            now = drain.wake_at().expect("something is due").max(now);
            if let Some(turn) = drain.next(now, always) {
                break turn;
            }
        };
        assert_eq!(next.at_most, 1);
        drain.unclaimed(&next, now);
        pauses.push(now - begun);
    }
    for (step, pause) in pauses.iter().enumerate() {
        let whole = (FIRST_PAUSE * 2_u32.pow(u32::try_from(step).unwrap())).min(LONGEST_PAUSE);
        assert!(*pause >= whole / 2 && *pause <= whole, "step {step}: {pause:?}");
    }
    assert!(pauses.iter().zip(1_u32..).any(|(pause, _)| *pause != pauses[0]), "jitter");
    // Once something went well the next pause is short again.
    round(&mut drain, now, Outcome::Went).expect("its turn");
    round(&mut drain, now, Outcome::NotNow(None)).expect("its turn");
    assert!(drain.next(now + FIRST_PAUSE, always).is_some());
}

#[test]
fn a_pause_that_is_asked_for_is_kept() {
    let (mut drain, now) = drain();
    drain.due("d/x", now);
    round(&mut drain, now, Outcome::NotNow(Some(3 * SECOND)));
    assert_eq!(drain.next(now + 3 * SECOND - LOOK / 2, always), None);
    assert!(drain.next(now + 3 * SECOND, always).is_some());
}

#[test]
fn many_that_are_told_to_wait_at_once_are_one_pause() {
    let (mut drain, now) = drain();
    drain.due("d/x", now);
    for _ in 0..7 {
        round(&mut drain, now, Outcome::Went);
    }
    assert_eq!(round(&mut drain, now, Outcome::NotNow(None)), Some(64));
    assert!(drain.next(now + FIRST_PAUSE, always).is_some(), "64 answers of the same round are one");
}

#[test]
fn becoming_ready_ends_the_pause() {
    let (mut drain, now) = drain();
    drain.due("d/x", now);
    round(&mut drain, now, Outcome::NotNow(Some(100 * SECOND)));
    let down = |_: &str| false;
    assert_eq!(drain.next(now + LOOK, down), None);
    assert_eq!(drain.paused(now + LOOK), 1);
    assert_eq!(drain.wake_at(), Some(now + 2 * LOOK), "it is looked at again soon");
    let turn = drain.next(now + 2 * LOOK, always).expect("it is back");
    assert_eq!(turn.at_most, 1);
    assert_eq!(drain.paused(now + 2 * LOOK), 0);
}

#[test]
fn many_lanes_that_cannot_go_are_looked_at_less_often() {
    for (lanes, most) in [(100, 100 * 101), (1_000, 1_000 * 13), (50_000, 50_000 * 4)] {
        let (mut drain, begun) = drain();
        (0..lanes).for_each(|lane| drain.due(&format!("s/a/x/{lane}"), begun));
        let (mut now, looks) = (begun, std::cell::Cell::new(0));
        let down = |_: &str| {
            looks.set(looks.get() + 1);
            false
        };
        while now <= begun + 10 * SECOND {
            assert_eq!(drain.next(now, down), None);
            now = drain.wake_at().expect("they are looked at again").max(now);
        }
        assert!(looks.get() <= most, "{lanes} lanes: {} looks in ten seconds", looks.get());
        assert_eq!(drain.paused(now), lanes);
        // Each of them is noticed soon after it is back.
        let mut back = 0;
        while now <= begun + 16 * SECOND {
            while let Some(turn) = drain.next(now, always) {
                drain.claimed(&turn, 0);
                back += 1;
            }
            now = drain.wake_at().unwrap_or(begun + 17 * SECOND);
        }
        assert_eq!((back, drain.watched), (lanes, 0));
    }
}

#[test]
fn a_lane_that_was_never_paused_begins_with_one_when_it_becomes_ready() {
    let (mut drain, now) = drain();
    drain.due("d/x", now);
    for _ in 0..4 {
        round(&mut drain, now, Outcome::Went);
    }
    assert_eq!(drain.next(now, |_| false), None);
    assert_eq!(drain.next(now + LOOK, always).expect("it is back").at_most, 1);
}

#[test]
fn an_endpoint_with_many_lanes_and_rows_leaves_turns_and_room_to_others() {
    let (mut drain, now) = drain();
    for lane in 0..1000 {
        drain.due(&format!("s/big/x/{lane}"), now);
    }
    let mut hanging = 0;
    while let Some(turn) = drain.next(now, always) {
        drain.claimed(&turn, turn.at_most);
        hanging += turn.at_most;
    }
    assert_eq!(hanging, 128, "half of what there is, when it hangs");
    drain.due("s/small/x/y", now);
    drain.due("d/origin", now);
    let mut served: Vec<_> = (0..2).map_while(|_| drain.next(now, always)).map(|turn| turn.lane).collect();
    served.sort();
    assert_eq!(served, ["d/origin".into(), "s/small/x/y".into()] as [Box<str>; 2]);
}

#[test]
fn a_lane_is_forgotten_when_nothing_is_left() {
    let (mut drain, now) = drain();
    drain.due("s/a/x/y", now);
    let turn = drain.next(now, always).expect("its turn");
    drain.claimed(&turn, 1);
    drain.ended(turn.ticket(), now, Outcome::Went, None);
    assert_eq!(drain.lanes(), 1, "there may be more");
    let turn = drain.next(now, always).expect("its turn");
    drain.claimed(&turn, 0);
    assert_eq!((drain.lanes(), drain.in_flight(), drain.wake_at()), (0, 0, None));
}

#[test]
fn a_row_that_comes_while_its_lane_is_being_emptied_is_not_missed() {
    let (mut drain, now) = drain();
    drain.due("s/a/x/y", now);
    let turn = drain.next(now, always).expect("its turn");
    drain.due("s/a/x/y", now);
    drain.claimed(&turn, 0);
    assert!(drain.next(now, always).is_some());
}

#[test]
fn a_look_at_the_store_forgets_only_what_is_not_newer() {
    let (mut drain, now) = drain();
    drain.due("s/a/x/old", now);
    drain.due("s/a/x/later", now);
    let look = drain.look();
    drain.due("s/a/x/new", now);
    drain.seen(look, [("s/b/x/found", now), ("s/a/x/later", now + SECOND)]);
    let mut lanes: Vec<_> = std::iter::from_fn(|| drain.next(now, always)).map(|turn| turn.lane).collect();
    lanes.sort();
    assert_eq!(lanes, ["s/a/x/new".into(), "s/b/x/found".into()] as [Box<str>; 2]);
    assert!(drain.next(now + SECOND, always).is_some_and(|turn| &*turn.lane == "s/a/x/later"));
}

#[test]
fn hurry_ends_all_pauses() {
    let (mut drain, now) = drain();
    drain.due("d/x", now);
    round(&mut drain, now, Outcome::NotNow(Some(100 * SECOND)));
    assert_eq!(drain.next(now, always), None);
    drain.hurry();
    assert!(drain.next(now, always).is_some());
}

#[test]
fn groups_are_endpoints_and_origins() {
    let cases = [("s/a/x/y", "s/a"), ("s/a/x", "s/a"), ("s/a", "s/a"), ("d/https://h/", "d/https://h/"), ("", "")];
    for (lane, group) in cases {
        assert_eq!(group_of(lane), group, "{lane}");
    }
}

proptest::proptest! {
    #[test]
    fn waits_grow_within_their_bounds(before in 0_u32..100, jitter in 0.0..=1.0) {
        let wait = backoff(FIRST_PAUSE, LONGEST_PAUSE, before, jitter);
        let whole = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(before)).min(LONGEST_PAUSE);
        proptest::prop_assert!(wait >= whole / 2 && wait <= whole);
    }
}
