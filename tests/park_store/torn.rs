//! A machine that stops while it writes: the end of the log is missing, or is not what was written.

use std::fs;
use std::sync::Arc;

use fastrand::Rng;
use nexus_gateway::park::store::Store;

use super::store_suite::model::Model;
use super::store_suite::walk::{any_owner, any_write, assert_same, seeds};
use super::store_suite::{NOW, Place};
use super::{File, LOG, file};

/// Batches that are written, and ends that they come to.
const BATCHES: usize = 60;
const ENDS: usize = 60;

/// What was in the store when its log had this length.
struct Acknowledged {
    length: usize,
    model: Model,
}

#[tokio::test]
async fn a_torn_log_leaves_what_was_acknowledged_before() {
    for seed in seeds() {
        println!("seed {seed}");
        let rng = &mut Rng::with_seed(seed);
        let place = file().await;
        let store = place.open().await;
        let history = history(rng, &place, &store).await;
        let (whole, log) = (fs::read(place.path()).expect("the file"), fs::read(place.beside(LOG)).expect("the log"));
        for end in 0..ENDS {
            let at = rng.usize(history[0].length..log.len());
            let mut torn = log.clone();
            match end % 3 {
                0 => torn.truncate(at),
                1 => torn[at] ^= 1 << rng.u32(0..8),
                // A block that never got to the disk, with all that came after it in place.
                _ => torn[at..].iter_mut().take(512).for_each(|byte| *byte = 0),
            }
            let intact = torn.iter().zip(&log).take_while(|(torn, log)| torn == log).count();
            let last = history.iter().rfind(|then| then.length <= intact).expect("the first is intact");
            let after = file().await;
            fs::write(after.path(), &whole).expect("a copy");
            fs::write(after.beside(LOG), &torn).expect("a copy");
            assert_same(&after.open().await, &last.model, &format!("seed {seed}, end {end} at {at}")).await;
        }
    }
}

/// Writes and claims at random, and notes what is in the store after each.
async fn history(rng: &mut Rng, place: &File, store: &Arc<dyn Store>) -> Vec<Acknowledged> {
    let length = || fs::metadata(place.beside(LOG)).expect("the log").len().try_into().expect("it is short");
    let mut history = vec![Acknowledged { length: length(), model: Model::default() }];
    for step in 0..BATCHES as u64 {
        let now = NOW + step * 100;
        let mut model = history[history.len() - 1].model.clone();
        let batch: Vec<_> = (0..rng.usize(1..8)).map(|_| any_write(rng, now)).collect();
        let expected: Vec<_> = batch.iter().map(|write| model.write(write.clone())).collect();
        assert_eq!(store.write(batch).await, Ok(expected));
        history.push(Acknowledged { length: length(), model: model.clone() });
        let (owner, lease) = (any_owner(rng), now + 1_000);
        let claimed = model.claim("s/a/x", 2, owner, now, lease);
        assert_eq!(store.claim("s/a/x", 2, owner, now, lease).await, Ok(claimed));
        history.push(Acknowledged { length: length(), model });
    }
    history
}
