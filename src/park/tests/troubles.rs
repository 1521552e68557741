//! What must not be lost, or stand in the way, when things go wrong in between.

use super::*;

const ID: Id = Id([1; 16]);

/// One row whose start is answered as started once its caller canceled it.
async fn cancel_on_its_way(finish: &Arc<Script>) -> Bench {
    finish.gate.forget_permits(Semaphore::MAX_PERMITS);
    let bench = bench(finish).await;
    bench.park(1).await.unwrap();
    sleep(SECOND).await;
    assert_eq!(bench.park.end(ID, ending("canceled")).await, Ok(Written::Marked));
    bench
}

#[tokio::test(start_paused = true)]
async fn a_cancel_that_does_not_get_through_is_tried_again() {
    let finish = Script::new(|row| started(row, "real token"));
    finish.failing_cancels.store(3, Ordering::Relaxed);
    let bench = cancel_on_its_way(&finish).await;
    finish.gate.add_permits(1);
    sleep(SECOND / 10).await;
    assert_eq!(finish.canceled.lock().unwrap().len(), 1, "at once");
    assert_eq!(&*bench.store.rows()[0].lane, "s/e/service/operation");
    sleep(20 * SECOND).await;
    assert_eq!(*finish.canceled.lock().unwrap(), vec![b"real token".to_vec(); 4]);
    let row = bench.store.rows().remove(0);
    assert_eq!((row.state, row.cancel, &*row.lane, row.due), (State::Started, false, "", row.expires));
    assert_eq!(row.expires, row.arrived + 3_660_000, "as its target's answer said");
}

#[tokio::test(start_paused = true)]
async fn a_cancel_survives_the_process_that_tries_it() {
    let finish = Script::new(|row| started(row, "real token"));
    finish.failing_cancels.store(usize::MAX, Ordering::Relaxed);
    let bench = cancel_on_its_way(&finish).await;
    finish.gate.add_permits(1);
    sleep(SECOND).await;
    bench.run.abort();
    let finish = Script::new(|row| started(row, "real token"));
    let _other = bench.beside(&finish).await;
    sleep(15 * SECOND).await;
    assert_eq!(*finish.canceled.lock().unwrap(), [b"real token".to_vec()]);
}

#[tokio::test(start_paused = true)]
async fn a_cancel_is_not_lost_with_the_stores_answer() {
    let finish = Script::new(|row| started(row, "real token"));
    let bench = cancel_on_its_way(&finish).await;
    bench.store.fail(Fault::NextAnswer);
    finish.gate.add_permits(1);
    sleep(5 * SECOND).await;
    assert_eq!(bench.park.status().errors, 1, "the answer");
    assert_eq!((finish.sends(), finish.canceled.lock().unwrap().len()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn what_expired_and_cannot_be_ended_here_is_left_to_others() {
    let finish = Script::new(|_| Sent::NotNow { after: None });
    *finish.ready.lock().unwrap() = false;
    *finish.expires.lock().unwrap() = Box::new(|_| Sent::NotNow { after: None });
    let bench = bench(&finish).await;
    bench.park(1).await.unwrap();
    sleep(3_720 * SECOND).await;
    assert_eq!(bench.state(1), Some(State::Waiting));
    let tries = finish.expired.load(Ordering::Relaxed);
    assert!((5..=7).contains(&tries), "each twenty seconds or so: {tries}");
    // Although others of this process are on their way all the time, and their claims are renewed.
    finish.gate.forget_permits(Semaphore::MAX_PERMITS);
    *finish.ready.lock().unwrap() = true;
    bench.park(2).await.unwrap();
    let other = Script::new(|_| Sent::NotNow { after: None });
    *other.ready.lock().unwrap() = false;
    let _other = bench.beside(&other).await;
    sleep(120 * SECOND).await;
    assert_eq!((other.expired.load(Ordering::Relaxed), bench.state(1)), (1, None), "ended, and delivered");
}

#[tokio::test(start_paused = true)]
async fn what_needs_nothing_more_when_it_expires_is_removed() {
    let finish = Script::new(|_| Sent::NotNow { after: None });
    *finish.expires.lock().unwrap() = Box::new(|_| Sent::Finished);
    let bench = bench(&finish).await;
    bench.park(1).await.unwrap();
    sleep(3_602 * SECOND).await;
    assert_eq!(bench.store.rows(), []);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_taken_on_while_completions_cannot_be_made() {
    let finish = Script::new(|_| Sent::Finished);
    *finish.able.lock().unwrap() = false;
    let bench = bench(&finish).await;
    bench.park(1).await.unwrap();
    sleep(1_800 * SECOND).await;
    bench.park(2).await.unwrap();
    sleep(1_810 * SECOND).await;
    assert_eq!((finish.expired.load(Ordering::Relaxed), finish.sends()), (0, 0));
    assert!(bench.store.rows().iter().all(|row| row.state == State::Waiting && row.due == row.arrived));
    *finish.able.lock().unwrap() = true;
    sleep(2 * SECOND).await;
    assert_eq!((finish.expired.load(Ordering::Relaxed), finish.sends(), bench.store.rows()), (1, 1, vec![]));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_is_not_asked_by_each_start() {
    let finish = Script::new(|_| Sent::NotNow { after: None });
    *finish.ready.lock().unwrap() = false;
    let bench = bench(&finish).await;
    bench.park(1).await.unwrap();
    assert!(bench.park.find(ID).await.is_ok_and(|row| row.is_some()));
    assert!(timeout(SECOND / 10, bench.park.find(ID)).await.is_ok());
    bench.store.fail(Fault::Hang);
    assert!(timeout(SECOND / 5, bench.park.find(ID)).await.is_err());
    assert!(bench.park.has_any("e"), "its caller left");
    assert!(timeout(3 * SECOND / 10, bench.park.find(ID)).await.is_err());
    assert!(!bench.park.has_any("e") && !bench.park.status().up);
    assert!(bench.park.may_have("e") && !bench.park.may_have("other"));
    bench.store.fail(Fault::None);
    sleep(65 * SECOND).await;
    assert!(bench.park.has_any("e"), "looks of the finisher go well again");
    bench.store.fail(Fault::All);
    assert!(bench.park.find(ID).await.is_err());
    assert!(!bench.park.has_any("e"));
    bench.store.fail(Fault::None);
    sleep(2 * SECOND).await;
    assert!(bench.park.has_any("e"));
}

#[tokio::test(start_paused = true)]
async fn who_finds_its_target_busy_waits_with_its_lane_and_goes_behind() {
    let finish = Script::new(|_| Sent::Busy { after: Some(5 * SECOND) });
    let bench = bench(&finish).await;
    for number in 1..=3 {
        bench.park(number).await.unwrap();
    }
    sleep(49 * SECOND / 10).await;
    assert_eq!(*finish.sends.lock().unwrap(), [ID]);
    let first = bench.store.rows().remove(0);
    assert!(first.tries == 1 && first.due > first.arrived);
    finish.set(|_| Sent::Finished);
    sleep(SECOND).await;
    assert_eq!(*finish.sends.lock().unwrap(), [ID, Id([2; 16]), Id([3; 16]), ID]);
}

#[tokio::test(start_paused = true)]
async fn many_are_hurried_in_several_transactions() {
    let finish = Script::new(|_| Sent::Finished);
    *finish.ready.lock().unwrap() = false;
    let bench = bench(&finish).await;
    let later = |number: u32| {
        let mut new = new(&bench.park, 0, "e");
        new.id.0[..4].copy_from_slice(&number.to_be_bytes());
        New { arrived: new.arrived + 600_000, ..new }
    };
    bench.store.write((0..12_000).map(|number| Write::Park(later(number))).collect()).await.unwrap();
    assert_eq!(bench.park.hurry(Which::All).await, Ok(12_000));
    assert_eq!(bench.store.batches(), [12_000, 1, 1, 1]);
    assert!(bench.store.rows().iter().all(|row| row.due <= bench.park.now()));
    assert_eq!(bench.park.hurry(Which::All).await, Ok(0));
}

#[tokio::test(start_paused = true)]
async fn a_hurry_that_fails_fails_nothing_else() {
    let finish = Script::new(|_| Sent::NotNow { after: None });
    *finish.ready.lock().unwrap() = false;
    let bench = bench(&finish).await;
    bench.store.fail(Fault::Hurries);
    let (before, hurried, after) = tokio::join!(bench.park(1), bench.park.hurry(Which::All), bench.park(2));
    assert!(hurried.is_err());
    assert_eq!((before, after), (Ok(Parked::Kept), Ok(Parked::Kept)));
}

#[tokio::test(start_paused = true)]
async fn what_its_target_runs_leaves_room_for_others() {
    let finish = Script::new(|row| started(row, "real token"));
    let settings = ParkingSettings { max: 1, max_bytes: 149, ..ParkingSettings::default() };
    let bench = bench_with(&finish, Arc::default(), &settings).await;
    // As long as it is not counted anew, and after that.
    for (number, pause) in [(1, SECOND / 10), (2, SECOND / 10), (3, 10 * SECOND), (4, 10 * SECOND)] {
        assert_eq!(bench.park(number).await, Ok(Parked::Kept));
        assert_eq!(bench.park(number + 10).await, Err(Refused::All(1)));
        sleep(pause).await;
        assert_eq!(bench.state(number), Some(State::Started));
    }
    bench.park(5).await.unwrap();
    sleep(SECOND).await;
    assert_eq!(bench.park(6).await, Err(Refused::AllBytes(50)), "ten for each, and a hundred more");
    for number in 1..=5 {
        bench.park.completed(Id([number; 16]));
    }
    sleep(SECOND).await;
    assert_eq!(bench.park(7).await, Ok(Parked::Kept));
}

#[tokio::test(start_paused = true)]
async fn what_came_of_a_row_is_written_again_while_closing() {
    for (fault, left) in [(Fault::NextWrite, 0), (Fault::All, 1)] {
        let finish = Script::new(|_| Sent::Finished);
        finish.gate.forget_permits(Semaphore::MAX_PERMITS);
        let bench = bench(&finish).await;
        bench.park(1).await.unwrap();
        sleep(SECOND).await;
        bench.closing.send(true).unwrap();
        bench.store.fail(fault);
        finish.gate.add_permits(1);
        timeout(10 * SECOND, bench.run).await.expect("it does not try for ever").unwrap();
        assert_eq!((finish.sends(), bench.store.rows().len()), (1, left), "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_row_that_is_claimed_while_it_is_on_its_way_is_still_settled() {
    let finish = Script::new(|_| Sent::Finished);
    finish.gate.forget_permits(Semaphore::MAX_PERMITS);
    let bench = bench(&finish).await;
    // Others that went well, so that its lane may have several on their way.
    finish.gate.add_permits(3);
    *finish.ready.lock().unwrap() = false;
    for number in [2, 3, 4, 1] {
        bench.park(number).await.unwrap();
    }
    *finish.ready.lock().unwrap() = true;
    bench.store.fail(Fault::Renewals);
    sleep(14 * SECOND).await;
    assert_eq!((finish.sends(), bench.store.rows().len()), (4, 1));
    assert!(bench.store.rows()[0].due > bench.park.now(), "its lease lapsed, and it was claimed once more");
    bench.store.fail(Fault::None);
    finish.gate.add_permits(2);
    sleep(30 * SECOND).await;
    assert_eq!((finish.sends(), bench.store.rows().len()), (4, 0));
    bench.park(5).await.unwrap();
    sleep(SECOND).await;
    assert_eq!(finish.sends(), 5);
}

#[tokio::test(start_paused = true)]
async fn the_store_has_a_name_while_it_is_open() {
    let park = Park::with_clock(&ParkingSettings::default(), Clock::of_tokio());
    assert_eq!(park.store_name(), None);
    let bench = bench(&Script::new(|_| Sent::Finished)).await;
    assert_eq!(bench.park.store_name().as_deref(), Some("memory"));
    bench.closing.send(true).unwrap();
    bench.run.await.unwrap();
    assert_eq!(bench.park.store_name(), None);
}
