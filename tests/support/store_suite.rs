//! What every store of parked operations must do. A test binary includes this file by `#[path]`, implements [`Place`] for
//! its store and calls `store_suite!(make)` with an async function that makes an empty place.
//!
//! The random walk runs with a fixed seed and one that is drawn; a failure names its seed, and `NEXUS_GATEWAY_SEED=7`
//! runs that one alone.

#![allow(dead_code, reason = "not every binary needs all of it")]

use std::sync::Arc;

use async_trait::async_trait;
use nexus_gateway::park::store::{Id, New, Next, Owner, Row, State, Store, Which, Write, Written};
use nexus_gateway::resilience::park::ParkReason;

#[path = "store_cancels.rs"]
mod cancels;
#[path = "store_model.rs"]
pub(crate) mod model;
#[path = "store_walk.rs"]
pub(crate) mod walk;

pub(crate) use cancels::*;
pub(crate) use walk::a_walk_at_random_answers_as_the_model;

/// Where one store's rows are.
#[async_trait]
pub(crate) trait Place: Sync {
    /// Opens it, as one process of those that share it.
    async fn open(&self) -> Arc<dyn Store>;
}

/// A test for each behaviour of a store.
#[macro_export]
macro_rules! store_suite {
    ($make:path) => {
        $crate::store_suite!($make:
            a_start_is_kept_once,
            what_is_kept_is_found_as_it_came,
            rows_come_in_the_order_in_which_they_are_due,
            a_claim_holds_until_its_lease_ends,
            only_who_claimed_a_row_settles_it,
            a_row_is_tried_again_when_it_is_due,
            a_started_row_waits_in_no_lane,
            a_done_row_waits_to_be_delivered,
            settling_can_end_a_row,
            cancel_ends_what_waits,
            cancel_marks_what_is_on_its_way,
            cancel_tells_what_has_started_or_ended,
            cancel_ends_what_a_dead_process_had,
            a_canceled_start_waits_in_its_lane_until_its_cancel_is_sent,
            a_canceled_start_expires_as_any_other,
            a_cancel_that_was_sent_only_unmarks_what_has_not_started,
            two_owners_never_get_the_same_row,
            renewing_puts_off_what_an_owner_has,
            what_expired_is_claimed_apart,
            hurry_makes_due_what_nobody_has,
            hurry_makes_so_many_due_at_a_time,
            lanes_say_when_their_first_row_is_due,
            counts_follow_every_change,
            the_oldest_are_listed_first,
            a_batch_is_answered_in_order,
            everything_is_there_for_the_next_process,
            any_bytes_and_names_are_kept,
            the_name_stays_the_same,
            a_walk_at_random_answers_as_the_model,
        );
    };
    ($make:path: $($name:ident),* $(,)?) => {
        $(
            #[tokio::test]
            async fn $name() {
                $crate::store_suite::$name(&$make().await).await;
            }
        )*
    };
}

/// Now, in these tests.
pub(crate) const NOW: u64 = 1_790_000_000_000;
const LATER: u64 = NOW + 3_600_000;
/// When a started row expires.
const STARTED_UNTIL: u64 = LATER - 9;
const LEASE: u64 = NOW + 10_000;
const LANE: &str = "s/payments/orders/quote";
const DELIVERY: &str = "d/https://a.example";
pub(crate) const US: Owner = Owner([1; 16]);
const THEM: Owner = Owner([2; 16]);

pub(crate) fn id(number: u8) -> Id {
    Id([number; 16])
}

/// A start that comes now.
pub(crate) fn start(number: u8) -> New {
    New {
        id: id(number),
        endpoint: "payments".into(),
        lane: LANE.into(),
        token: format!("token {number}").into(),
        content: vec![number; 20],
        reason: ParkReason::Unreachable,
        arrived: NOW,
        expires: LATER,
    }
}

fn settle(number: u8, next: Next) -> Write {
    Write::Settle { id: id(number), owner: US, next }
}

fn started(content: &[u8]) -> Next {
    Next::Started { content: content.to_vec(), expires: STARTED_UNTIL, now: NOW + 4 }
}

fn done(due: u64) -> Next {
    Next::Done { lane: DELIVERY.into(), content: b"completion".to_vec(), due, expires: LATER + 5 }
}

fn cancel(number: u8, now: u64) -> Write {
    Write::Cancel { id: id(number), lane: DELIVERY.into(), content: b"canceled".to_vec(), now, expires: LATER + 7 }
}

fn ids(rows: &[Row]) -> Vec<Id> {
    rows.iter().map(|row| row.id).collect()
}

async fn one(store: &Arc<dyn Store>, write: Write) -> Written {
    let mut written = store.write(vec![write]).await.expect("it is written");
    assert_eq!(written.len(), 1);
    written.remove(0)
}

pub(crate) async fn park(store: &Arc<dyn Store>, starts: impl IntoIterator<Item = New>) {
    let writes: Vec<_> = starts.into_iter().map(Write::Park).collect();
    let parked = vec![Written::Parked; writes.len()];
    assert_eq!(store.write(writes).await.expect("they are written"), parked);
}

async fn claim(store: &Arc<dyn Store>, lane: &str, owner: Owner, now: u64) -> Vec<Row> {
    store.claim(lane, 100, owner, now, now + 10_000).await.expect("a claim")
}

async fn expired(store: &Arc<dyn Store>, owner: Owner, now: u64) -> Vec<Row> {
    store.claim_expired(100, owner, now, now + 10_000).await.expect("a claim")
}

async fn find(store: &Arc<dyn Store>, number: u8) -> Option<Row> {
    store.find(id(number)).await.expect("an answer")
}

pub(crate) async fn a_start_is_kept_once(place: &impl Place) {
    let store = place.open().await;
    assert_eq!(one(&store, Write::Park(start(1))).await, Written::Parked);
    let before = find(&store, 1).await;
    let again = New { token: "another".into(), content: b"other".to_vec(), endpoint: "b".into(), ..start(1) };
    assert_eq!(one(&store, Write::Park(again.clone())).await, Written::Known("token 1".into()));
    assert_eq!(find(&store, 1).await, before);
    for next in [started(b"cancel"), done(NOW)] {
        assert_eq!(expired(&store, US, LATER).await.len(), 1);
        one(&store, settle(1, next)).await;
        assert_eq!(one(&store, Write::Park(again.clone())).await, Written::Known("token 1".into()));
    }
    one(&store, Write::Remove(id(1))).await;
    assert_eq!(one(&store, Write::Park(again)).await, Written::Parked, "what is gone can come again");
}

pub(crate) async fn what_is_kept_is_found_as_it_came(place: &impl Place) {
    let store = place.open().await;
    for (number, reason) in (0..).zip(ParkReason::ALL) {
        let new = New { reason, ..start(number) };
        park(&store, [new.clone()]).await;
        let expected = Row {
            id: new.id,
            endpoint: new.endpoint,
            lane: new.lane,
            state: State::Waiting,
            token: new.token,
            content: new.content,
            reason,
            arrived: NOW,
            due: NOW,
            expires: LATER,
            tries: 0,
            cancel: false,
        };
        assert_eq!(find(&store, number).await, Some(expected));
    }
    assert_eq!(find(&store, 99).await, None);
}

pub(crate) async fn rows_come_in_the_order_in_which_they_are_due(place: &impl Place) {
    let store = place.open().await;
    let at = |number, arrived| New { arrived, ..start(number) };
    park(&store, [at(9, NOW - 5), at(1, NOW - 5), at(5, NOW - 9), at(4, NOW), at(3, NOW + 1)]).await;
    park(&store, [at(2, NOW - 5), New { lane: "s/payments".into(), ..at(6, NOW - 99) }]).await;
    let first = store.claim(LANE, 2, US, NOW, LEASE).await.expect("a claim");
    assert_eq!(ids(&first), [5, 9].map(id));
    assert_eq!((first[0].due, &first[0].content), (NOW - 9, &vec![5; 20]), "as it was due before");
    assert_eq!(ids(&claim(&store, LANE, US, NOW).await), [1, 2, 4].map(id));
    assert_eq!(ids(&claim(&store, LANE, US, NOW).await), []);
    assert_eq!(ids(&claim(&store, LANE, US, NOW + 1).await), [id(3)]);
    assert_eq!(ids(&claim(&store, "s/nothing", US, NOW).await), []);
    assert_eq!(ids(&store.claim("s/payments", 0, US, NOW, LEASE).await.expect("a claim")), []);
}

pub(crate) async fn a_claim_holds_until_its_lease_ends(place: &impl Place) {
    let store = place.open().await;
    park(&store, [start(1)]).await;
    assert_eq!(claim(&store, LANE, US, NOW).await.len(), 1);
    assert_eq!(find(&store, 1).await.map(|row| row.due), Some(LEASE));
    assert_eq!(claim(&store, LANE, THEM, LEASE - 1).await, []);
    let taken_over = claim(&store, LANE, THEM, LEASE).await;
    assert_eq!((taken_over.len(), taken_over[0].due), (1, LEASE));
}

pub(crate) async fn only_who_claimed_a_row_settles_it(place: &impl Place) {
    let store = place.open().await;
    park(&store, [start(1)]).await;
    let nexts = || [Next::Again { due: NOW, tries: 1 }, started(b""), Next::CancelSent, done(NOW), Next::Remove];
    for next in nexts() {
        assert_eq!(one(&store, settle(1, next)).await, Written::Gone, "nobody has claimed it");
    }
    claim(&store, LANE, US, NOW).await;
    assert_eq!(claim(&store, LANE, THEM, LEASE).await.len(), 1);
    let before = find(&store, 1).await;
    for next in nexts() {
        assert_eq!(one(&store, settle(1, next)).await, Written::Gone, "another one has it");
    }
    assert_eq!(find(&store, 1).await, before);
    let theirs = Write::Settle { id: id(1), owner: THEM, next: done(NOW) };
    assert_eq!(one(&store, theirs.clone()).await, Written::Changed { cancel: false });
    assert_eq!(one(&store, theirs).await, Written::Gone, "it was let go");
}

pub(crate) async fn a_row_is_tried_again_when_it_is_due(place: &impl Place) {
    let store = place.open().await;
    park(&store, [start(1), start(2)]).await;
    let before = store.claim(LANE, 1, US, NOW, LEASE).await.expect("a claim").remove(0);
    let again = settle(1, Next::Again { due: NOW + 50, tries: 3 });
    assert_eq!(one(&store, again).await, Written::Changed { cancel: false });
    assert_eq!(ids(&claim(&store, LANE, US, NOW + 49).await), [id(2)]);
    let after = claim(&store, LANE, THEM, NOW + 50).await;
    assert_eq!(after, [Row { due: NOW + 50, tries: 3, ..before }]);
    // A lease that ended is still who claimed it, as long as nobody else did.
    let late = Write::Settle { id: id(1), owner: THEM, next: Next::Again { due: LATER - 1, tries: 4 } };
    assert_eq!(one(&store, late).await, Written::Changed { cancel: false });
}

pub(crate) async fn a_started_row_waits_in_no_lane(place: &impl Place) {
    let store = place.open().await;
    park(&store, [start(1)]).await;
    let before = claim(&store, LANE, US, NOW).await.remove(0);
    one(&store, settle(1, Next::Again { due: NOW, tries: 3 })).await;
    claim(&store, LANE, US, NOW).await;
    assert_eq!(one(&store, settle(1, started(b"cancel"))).await, Written::Changed { cancel: false });
    let content = b"cancel".to_vec();
    let (due, expires) = (STARTED_UNTIL, STARTED_UNTIL);
    let expected = Row { state: State::Started, lane: "".into(), content, due, expires, tries: 0, ..before };
    assert_eq!(find(&store, 1).await, Some(expected.clone()));
    assert_eq!(store.lanes().await.expect("lanes"), []);
    for lane in [LANE, ""] {
        assert_eq!(claim(&store, lane, US, STARTED_UNTIL - 1).await, []);
        assert_eq!(claim(&store, lane, US, STARTED_UNTIL).await, []);
    }
    assert_eq!(expired(&store, US, STARTED_UNTIL - 1).await, []);
    assert_eq!(expired(&store, US, STARTED_UNTIL).await, [expected]);
}

pub(crate) async fn a_done_row_waits_to_be_delivered(place: &impl Place) {
    let store = place.open().await;
    park(&store, [start(1)]).await;
    let before = claim(&store, LANE, US, NOW).await.remove(0);
    assert_eq!(one(&store, settle(1, done(NOW + 20))).await, Written::Changed { cancel: false });
    let expected = Row {
        state: State::Done,
        lane: DELIVERY.into(),
        content: b"completion".to_vec(),
        due: NOW + 20,
        expires: LATER + 5,
        ..before
    };
    assert_eq!(find(&store, 1).await, Some(expected.clone()));
    assert_eq!(claim(&store, LANE, US, NOW + 20).await, []);
    assert_eq!(claim(&store, DELIVERY, US, NOW + 19).await, []);
    assert_eq!(claim(&store, DELIVERY, US, NOW + 20).await, [expected]);
}

pub(crate) async fn settling_can_end_a_row(place: &impl Place) {
    let store = place.open().await;
    park(&store, [start(1), start(2)]).await;
    claim(&store, LANE, US, NOW).await;
    let removed = |state, size| Written::Removed("payments".into(), state, size, NOW);
    assert_eq!(one(&store, settle(1, Next::Remove)).await, removed(State::Waiting, 20));
    assert_eq!(find(&store, 1).await, None);
    assert_eq!(one(&store, settle(1, Next::Remove)).await, Written::Gone);
    one(&store, settle(2, done(NOW))).await;
    assert_eq!(one(&store, Write::Remove(id(2))).await, removed(State::Done, 10), "whoever has it");
    assert_eq!(one(&store, Write::Remove(id(2))).await, Written::Gone);
    assert_eq!(store.lanes().await.expect("lanes"), []);
}

pub(crate) async fn two_owners_never_get_the_same_row(place: &impl Place) {
    let (ours, theirs) = (place.open().await, place.open().await);
    park(&ours, (0..200).map(start)).await;
    let (mut taken, mut both) = (Vec::new(), 0);
    loop {
        let (a, b) = tokio::join!(ours.claim(LANE, 7, US, NOW, LEASE), theirs.claim(LANE, 5, THEM, NOW, LEASE));
        let (a, b) = (ids(&a.expect("a claim")), ids(&b.expect("a claim")));
        if a.is_empty() && b.is_empty() {
            break;
        }
        both += usize::from(!a.is_empty() && !b.is_empty());
        taken.extend(a.into_iter().chain(b));
    }
    assert!(both > 10, "they took turns of {both} only");
    taken.sort();
    assert_eq!(taken, (0..200).map(id).collect::<Vec<_>>());
}

pub(crate) async fn renewing_puts_off_what_an_owner_has(place: &impl Place) {
    let store = place.open().await;
    park(&store, (1..=5).map(start)).await;
    assert_eq!(store.claim(LANE, 2, US, NOW, LEASE).await.expect("a claim").len(), 2);
    assert_eq!(store.claim(LANE, 2, THEM, NOW, LEASE).await.expect("a claim").len(), 2);
    one(&store, settle(2, Next::Again { due: NOW, tries: 0 })).await;
    let renew = Write::Renew { owner: US, until: LEASE + 5 };
    assert_eq!(one(&store, renew).await, Written::Rows(1));
    let dues = [LEASE + 5, NOW, LEASE, LEASE, NOW];
    for (number, due) in (1..).zip(dues) {
        assert_eq!(find(&store, number).await.map(|row| row.due), Some(due), "{number}");
    }
    assert_eq!(ids(&claim(&store, LANE, THEM, LEASE).await), [2, 5, 3, 4].map(id));
    assert_eq!(one(&store, Write::Renew { owner: Owner([9; 16]), until: LATER }).await, Written::Rows(0));
}

pub(crate) async fn what_expired_is_claimed_apart(place: &impl Place) {
    let store = place.open().await;
    let until = |number, expires| New { expires, ..start(number) };
    park(&store, [until(1, NOW + 30), until(2, NOW + 20), until(3, NOW + 20), until(4, NOW + 40)]).await;
    assert_eq!(expired(&store, US, NOW + 19).await, []);
    assert_eq!(ids(&claim(&store, LANE, US, NOW + 30).await), [id(4)], "what expired is not sent");
    assert_eq!(ids(&store.claim_expired(1, US, NOW + 40, LEASE).await.expect("a claim")), [id(2)]);
    assert_eq!(ids(&expired(&store, THEM, NOW + 40).await), [3, 1].map(id), "what is on its way is let be");
    assert_eq!(ids(&expired(&store, US, LEASE).await), [id(2)], "its lease ended");
    assert_eq!(one(&store, settle(2, done(NOW))).await, Written::Changed { cancel: false });
    assert_eq!(ids(&claim(&store, DELIVERY, US, NOW + 40).await), [id(2)]);
}

pub(crate) async fn hurry_makes_due_what_nobody_has(place: &impl Place) {
    let store = place.open().await;
    let at = |number, endpoint: &str, arrived| New { endpoint: endpoint.into(), arrived, ..start(number) };
    park(&store, (1..=3).map(start)).await;
    claim(&store, LANE, US, NOW).await;
    one(&store, settle(1, started(b""))).await;
    one(&store, settle(2, done(NOW + 900))).await;
    park(&store, [at(4, "payments", NOW + 700), at(5, "b", NOW + 600), at(6, "b", NOW + 500), at(7, "b", NOW)]).await;
    let hurry = |which, now| Write::Hurry { which, now, at_most: 9 };
    assert_eq!(one(&store, hurry(Which::One(id(9)), NOW)).await, Written::Rows(0));
    assert_eq!(one(&store, hurry(Which::One(id(3)), NOW)).await, Written::Rows(0), "it is on its way");
    assert_eq!(one(&store, hurry(Which::One(id(6)), NOW + 5)).await, Written::Rows(1));
    assert_eq!(one(&store, hurry(Which::Endpoint("b".into()), NOW + 8)).await, Written::Rows(1));
    assert_eq!(one(&store, hurry(Which::All, NOW + 9)).await, Written::Rows(2));
    assert_eq!(one(&store, hurry(Which::All, NOW + 9)).await, Written::Rows(0), "all are due");
    let dues = [STARTED_UNTIL, NOW + 9, LEASE, NOW + 9, NOW + 8, NOW + 5, NOW];
    for (number, due) in (1..).zip(dues) {
        assert_eq!(find(&store, number).await.map(|row| row.due), Some(due), "{number}");
    }
}

pub(crate) async fn hurry_makes_so_many_due_at_a_time(place: &impl Place) {
    let store = place.open().await;
    let at = |number: u8, endpoint: &str| {
        let lane = format!("s/{endpoint}/{}", number % 3).into();
        New { endpoint: endpoint.into(), lane, arrived: NOW + 500, ..start(number) }
    };
    park(&store, (0..7).map(|number| at(number, "a")).chain((7..10).map(|number| at(number, "b")))).await;
    let hurry = async |which, at_most| one(&store, Write::Hurry { which, now: NOW, at_most }).await;
    assert_eq!(hurry(Which::All, 0).await, Written::Rows(0));
    assert_eq!(hurry(Which::One(id(1)), 0).await, Written::Rows(0));
    assert_eq!(hurry(Which::Endpoint("aa".into()), 9).await, Written::Rows(0));
    for (rows, due) in [(2, 2), (2, 4), (2, 6)] {
        assert_eq!(hurry(Which::Endpoint("a".into()), 2).await, Written::Rows(rows));
        let listed = store.list(None, 100).await.expect("a list");
        assert_eq!(listed.iter().filter(|row| row.due == NOW).count(), due);
        assert!(listed.iter().all(|row| row.due == NOW + 500 || &*row.endpoint == "a"));
    }
    // One of an endpoint and three of the other one.
    for rows in [2, 2, 0] {
        assert_eq!(hurry(Which::All, 2).await, Written::Rows(rows));
    }
}

pub(crate) async fn lanes_say_when_their_first_row_is_due(place: &impl Place) {
    let store = place.open().await;
    assert_eq!(store.lanes().await.expect("lanes"), []);
    let at = |number, lane: &str, arrived| New { lane: lane.into(), arrived, ..start(number) };
    park(&store, [at(1, "s/b", NOW + 5), at(2, "s/b", NOW + 3), at(3, "s/b/c", NOW), at(4, "s/a", NOW)]).await;
    assert_eq!(ids(&claim(&store, "s/a", US, NOW).await), [id(4)]);
    let mut lanes = store.lanes().await.expect("lanes");
    lanes.sort();
    assert_eq!(lanes, [("s/a".into(), LEASE), ("s/b".into(), NOW + 3), ("s/b/c".into(), NOW)]);
}

pub(crate) async fn counts_follow_every_change(place: &impl Place) {
    let store = place.open().await;
    assert_eq!(store.counts().await.expect("counts"), []);
    let at = |number, endpoint: &str, arrived| New { endpoint: endpoint.into(), arrived, ..start(number) };
    park(&store, [at(1, "a", NOW), at(2, "a", NOW - 2), at(3, "a", NOW - 1), at(4, "b", NOW), at(5, "a", NOW)]).await;
    assert_eq!(
        counts(&store).await,
        [("a", State::Waiting, 4, 80, NOW - 2), ("b", State::Waiting, 1, 20, NOW)]
            .map(|(endpoint, state, rows, bytes, oldest)| (endpoint.into(), state, rows, bytes, oldest))
    );
    claim(&store, LANE, US, NOW).await;
    one(&store, settle(1, started(&[7; 3]))).await;
    one(&store, settle(2, done(NOW))).await;
    one(&store, settle(4, Next::Remove)).await;
    one(&store, settle(3, Next::Again { due: LATER, tries: 1 })).await;
    one(&store, settle(5, Next::Again { due: LATER, tries: 1 })).await;
    one(&store, cancel(5, NOW)).await;
    let expected =
        [("a", State::Waiting, 1, 20, NOW - 1), ("a", State::Started, 1, 3, NOW), ("a", State::Done, 2, 18, NOW - 2)];
    assert_eq!(
        counts(&store).await,
        expected.map(|(name, state, rows, bytes, at)| (name.into(), state, rows, bytes, at))
    );
    store.write((1..=5).map(|number| Write::Remove(id(number))).collect()).await.expect("they are written");
    assert_eq!(counts(&store).await, []);
}

async fn counts(store: &Arc<dyn Store>) -> Vec<(Box<str>, State, u64, u64, u64)> {
    let counts = store.counts().await.expect("counts").into_iter();
    let mut counts: Vec<_> = counts.map(|of| (of.endpoint, of.state, of.rows, of.bytes, of.oldest)).collect();
    counts.sort();
    counts
}

pub(crate) async fn the_oldest_are_listed_first(place: &impl Place) {
    let store = place.open().await;
    let at = |number, endpoint: &str, arrived| New { endpoint: endpoint.into(), arrived, ..start(number) };
    park(&store, [at(1, "a", NOW), at(2, "b", NOW - 2), at(4, "a", NOW - 1), at(3, "a", NOW), at(5, "b", NOW)]).await;
    assert_eq!(ids(&claim(&store, LANE, US, NOW - 1).await), [2, 4].map(id));
    one(&store, settle(4, done(NOW))).await;
    let list = async |endpoint, at_most| store.list(endpoint, at_most).await.expect("a list");
    assert_eq!(ids(&list(None, 9).await), [2, 4, 1, 3, 5].map(id));
    assert_eq!(ids(&list(None, 2).await), [2, 4].map(id));
    assert_eq!(ids(&list(Some("a"), 9).await), [4, 1, 3].map(id));
    assert_eq!(ids(&list(Some("a"), 2).await), [4, 1].map(id));
    assert_eq!(ids(&list(Some("c"), 2).await), []);
    let expected = find(&store, 5).await.map(|row| Row { content: Vec::new(), ..row });
    assert_eq!(list(None, 9).await.pop(), expected, "all but the content");
}

pub(crate) async fn a_batch_is_answered_in_order(place: &impl Place) {
    let store = place.open().await;
    assert_eq!(store.write(Vec::new()).await, Ok(Vec::new()));
    park(&store, [start(1)]).await;
    claim(&store, LANE, US, NOW).await;
    let batch = vec![
        Write::Park(start(2)),
        settle(1, done(NOW)),
        Write::Park(start(1)),
        Write::Remove(id(1)),
        cancel(1, NOW),
        Write::Park(start(1)),
        cancel(2, NOW),
    ];
    let expected = [
        Written::Parked,
        Written::Changed { cancel: false },
        Written::Known("token 1".into()),
        Written::Removed("payments".into(), State::Done, 10, NOW),
        Written::Gone,
        Written::Parked,
        Written::Canceled,
    ];
    assert_eq!(store.write(batch).await.expect("it is written"), expected);
}

pub(crate) async fn everything_is_there_for_the_next_process(place: &impl Place) {
    let (first, second) = (place.open().await, place.open().await);
    park(&first, [start(1), start(2)]).await;
    assert_eq!(find(&second, 1).await, find(&first, 1).await);
    assert_eq!(second.claim(LANE, 1, THEM, NOW, LEASE).await.expect("a claim").len(), 1);
    let before = (find(&second, 1).await, find(&second, 2).await, second.counts().await);
    drop((first, second));
    let third = place.open().await;
    assert_eq!((find(&third, 1).await, find(&third, 2).await, third.counts().await), before);
    assert_eq!(ids(&claim(&third, LANE, US, LEASE).await), [2, 1].map(id));
}

pub(crate) async fn any_bytes_and_names_are_kept(place: &impl Place) {
    let store = place.open().await;
    let new = New {
        id: Id(std::array::from_fn(|at| [0, 255, 128, 39][at % 4])),
        endpoint: "ü'\";--\\%_".into(),
        lane: "s/日本/ 'x'/\u{1F600}\u{10FFFF}".into(),
        token: "\u{7f}\t".into(),
        content: (0..=255).cycle().take(200_000).collect(),
        ..start(1)
    };
    park(&store, [new.clone(), New { lane: format!("{}\u{10FFFF}", new.lane).into(), content: vec![], ..start(2) }])
        .await;
    let row = store.find(new.id).await.expect("an answer").expect("the row");
    assert_eq!((&row.endpoint, &row.lane, &row.token), (&new.endpoint, &new.lane, &new.token));
    assert!(row.content == new.content, "the content differs");
    assert_eq!(store.lanes().await.expect("lanes").len(), 2);
    assert_eq!(ids(&claim(&store, &new.lane, US, NOW).await), [new.id]);
    assert_eq!(ids(&store.list(Some(&new.endpoint), 9).await.expect("a list")), [new.id]);
    assert_eq!(counts(&store).await.iter().map(|count| count.3).collect::<Vec<_>>(), [0, 200_000]);
}

pub(crate) async fn the_name_stays_the_same(place: &impl Place) {
    let (first, second) = (place.open().await, place.open().await);
    let name = first.name().to_owned();
    assert!(name.len() == 12 && name.chars().all(|digit| matches!(digit, '0'..='9' | 'a'..='f')), "{name}");
    assert_eq!(second.name(), name);
    park(&first, [start(1)]).await;
    drop((first, second));
    assert_eq!(place.open().await.name(), name);
}
