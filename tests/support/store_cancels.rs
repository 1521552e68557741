//! Part of the suite: operations that their callers cancel, wherever they are by then.

use std::sync::Arc;

use nexus_gateway::park::store::{New, Next, Row, State, Store, Which, Write, Written};

use super::{
    DELIVERY, LANE, LATER, LEASE, NOW, Place, STARTED_UNTIL, THEM, US, cancel, claim, done, expired, find, id, ids,
    one, park, settle, start, started,
};

pub(crate) async fn cancel_ends_what_waits(place: &impl Place) {
    let store = place.open().await;
    assert_eq!(one(&store, cancel(1, NOW)).await, Written::Gone);
    park(&store, [start(1)]).await;
    let before = claim(&store, LANE, US, NOW).await.remove(0);
    one(&store, settle(1, Next::Again { due: NOW + 500, tries: 2 })).await;
    assert_eq!(one(&store, cancel(1, NOW + 3)).await, Written::Canceled);
    let expected = Row {
        state: State::Done,
        lane: DELIVERY.into(),
        content: b"canceled".to_vec(),
        due: NOW + 3,
        expires: LATER + 7,
        ..before
    };
    assert_eq!(claim(&store, DELIVERY, US, NOW + 3).await, [expected]);
}

pub(crate) async fn cancel_marks_what_is_on_its_way(place: &impl Place) {
    for (number, next) in (1..).zip([Next::Again { due: NOW, tries: 1 }, started(b""), done(NOW)]) {
        let store = place.open().await;
        park(&store, [New { lane: format!("s/{number}").into(), ..start(number) }]).await;
        let before = claim(&store, &format!("s/{number}"), US, NOW).await.remove(0);
        for _ in 0..2 {
            assert_eq!(one(&store, cancel(number, LEASE - 1)).await, Written::Marked);
            assert_eq!(find(&store, number).await, Some(Row { cancel: true, due: LEASE, ..before.clone() }));
        }
        assert_eq!(one(&store, settle(number, next)).await, Written::Changed { cancel: true });
        assert_eq!(find(&store, number).await.map(|row| row.cancel), Some(true), "the next one to send it sees it");
    }
}

pub(crate) async fn cancel_tells_what_has_started_or_ended(place: &impl Place) {
    let store = place.open().await;
    park(&store, [start(1), start(2)]).await;
    claim(&store, LANE, US, NOW).await;
    one(&store, settle(1, started(b"token"))).await;
    one(&store, settle(2, done(NOW))).await;
    for lane in ["s/elsewhere", DELIVERY] {
        assert_eq!(one(&store, cancel(1, NOW)).await, Written::Was(State::Started, b"token".to_vec()));
        assert_eq!(one(&store, cancel(2, NOW)).await, Written::Was(State::Done, b"completion".to_vec()));
        claim(&store, lane, US, NOW).await;
    }
    assert_eq!(find(&store, 2).await.map(|row| row.cancel), Some(false));
}

pub(crate) async fn cancel_ends_what_a_dead_process_had(place: &impl Place) {
    let store = place.open().await;
    park(&store, [start(1)]).await;
    claim(&store, LANE, US, NOW).await;
    assert_eq!(one(&store, cancel(1, LEASE)).await, Written::Canceled);
    assert_eq!(one(&store, settle(1, Next::Remove)).await, Written::Gone, "it was not dead after all");
    assert_eq!(claim(&store, DELIVERY, THEM, LEASE).await.len(), 1);
}

/// A row that was canceled on its way to its target, which runs it now. As it was before.
async fn canceled_start(store: &Arc<dyn Store>, number: u8) -> Row {
    park(store, [start(number)]).await;
    let before = claim(store, LANE, US, NOW).await.remove(0);
    one(store, settle(number, Next::Again { due: NOW, tries: 3 })).await;
    claim(store, LANE, US, NOW).await;
    assert_eq!(one(store, cancel(number, NOW)).await, Written::Marked);
    assert_eq!(one(store, settle(number, started(b"token"))).await, Written::Changed { cancel: true });
    before
}

pub(crate) async fn a_canceled_start_waits_in_its_lane_until_its_cancel_is_sent(place: &impl Place) {
    let store = place.open().await;
    let before = canceled_start(&store, 1).await;
    let content = b"token".to_vec();
    let waits = Row { state: State::Started, content, due: NOW + 4, expires: STARTED_UNTIL, cancel: true, ..before };
    assert_eq!(find(&store, 1).await, Some(waits.clone()));
    assert_eq!(store.lanes().await, Ok(vec![(LANE.into(), NOW + 4)]));
    for which in [Which::All, Which::Endpoint("payments".into()), Which::One(id(1))] {
        assert_eq!(one(&store, Write::Hurry { which, now: NOW, at_most: 9 }).await, Written::Rows(0));
    }
    assert_eq!(one(&store, cancel(1, NOW + 4)).await, Written::Was(State::Started, b"token".to_vec()));
    assert_eq!(one(&store, settle(1, Next::CancelSent)).await, Written::Gone, "nobody has claimed it");
    assert_eq!(claim(&store, LANE, US, NOW + 3).await, []);
    assert_eq!(claim(&store, LANE, US, NOW + 4).await, std::slice::from_ref(&waits));
    let again = settle(1, Next::Again { due: NOW + 50, tries: 1 });
    assert_eq!(one(&store, again).await, Written::Changed { cancel: true });
    let waits = Row { due: NOW + 50, tries: 1, ..waits };
    assert_eq!(claim(&store, LANE, US, NOW + 49).await, []);
    assert_eq!(claim(&store, LANE, US, NOW + 50).await, std::slice::from_ref(&waits));
    assert_eq!(one(&store, settle(1, Next::CancelSent)).await, Written::Changed { cancel: false });
    assert_eq!(one(&store, settle(1, Next::CancelSent)).await, Written::Gone, "it was let go");
    let rests = Row { lane: "".into(), due: STARTED_UNTIL, cancel: false, ..waits };
    assert_eq!(find(&store, 1).await, Some(rests.clone()));
    assert_eq!(store.lanes().await, Ok(vec![]));
    assert_eq!(claim(&store, LANE, US, STARTED_UNTIL - 1).await, []);
    assert_eq!(expired(&store, US, STARTED_UNTIL).await, [rests]);
}

pub(crate) async fn a_canceled_start_expires_as_any_other(place: &impl Place) {
    let store = place.open().await;
    canceled_start(&store, 1).await;
    assert_eq!(ids(&claim(&store, LANE, US, STARTED_UNTIL - 1).await), [id(1)]);
    assert_eq!(expired(&store, THEM, STARTED_UNTIL).await, [], "its cancel is on its way");
    assert_eq!(claim(&store, LANE, THEM, STARTED_UNTIL + 10_000).await, []);
    assert_eq!(ids(&expired(&store, THEM, STARTED_UNTIL + 10_000).await), [id(1)]);
}

pub(crate) async fn a_cancel_that_was_sent_only_unmarks_what_has_not_started(place: &impl Place) {
    let store = place.open().await;
    park(&store, [start(1), start(2)]).await;
    let before = claim(&store, LANE, US, NOW).await;
    one(&store, cancel(1, NOW)).await;
    one(&store, cancel(2, NOW)).await;
    one(&store, settle(2, done(NOW))).await;
    let done = claim(&store, DELIVERY, US, NOW).await.remove(0);
    for (number, row) in [(1, &before[0]), (2, &done)] {
        assert_eq!(one(&store, settle(number, Next::CancelSent)).await, Written::Changed { cancel: false });
        assert_eq!(find(&store, number).await, Some(Row { due: LEASE, cancel: false, ..row.clone() }));
        assert_eq!(one(&store, settle(number, Next::Remove)).await, Written::Gone, "it was let go");
    }
    assert_eq!(ids(&claim(&store, LANE, THEM, LEASE).await), [id(1)]);
    assert_eq!(ids(&claim(&store, DELIVERY, THEM, LEASE).await), [id(2)]);
}
