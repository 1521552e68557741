//! A walk at random through all that a store does, each answer beside the model's.

use std::sync::Arc;

use fastrand::Rng;
use nexus_gateway::park::store::{New, Next, Owner, Store, Which, Write, Written};
use nexus_gateway::resilience::park::ParkReason;

use super::model::Model;
use super::{DELIVERY, NOW, Place, find, id};

/// Replays one seed instead of the usual ones.
const REPLAY: &str = "NEXUS_GATEWAY_SEED";
/// Steps of a walk at random.
const STEPS: u32 = 2_000;

/// A fixed seed and one that is drawn, or the one that is to be replayed.
pub(crate) fn seeds() -> Vec<u64> {
    match std::env::var(REPLAY) {
        Ok(seed) => vec![seed.parse().unwrap_or_else(|_| panic!("{REPLAY} is no number"))],
        Err(_) => vec![1, u64::from(fastrand::u32(..))],
    }
}

pub(crate) async fn a_walk_at_random_answers_as_the_model(place: &impl Place) {
    for seed in seeds() {
        println!("seed {seed}");
        walk(place, seed).await;
    }
}

async fn walk(place: &impl Place, seed: u64) {
    let rng = &mut Rng::with_seed(seed);
    let (mut model, mut now) = (Model::default(), NOW);
    // Two processes share it, and one of them is started anew at times.
    let mut stores = [place.open().await, place.open().await];
    let leftovers = stores[0].list(None, 1_000).await.expect("a list");
    stores[0].write(leftovers.iter().map(|row| Write::Remove(row.id)).collect()).await.expect("they are gone");
    for step in 0..STEPS {
        let what = format!("seed {seed}, step {step}");
        now += rng.u64(0..300);
        let store = &mut stores[rng.usize(0..2)];
        if rng.u32(0..200) == 0 {
            *store = place.open().await;
        }
        let (owner, at_most, lease) = (any_owner(rng), rng.usize(0..6), now + rng.u64(1..3_000));
        match rng.u32(0..100) {
            0..55 => {
                let batch: Vec<_> = (0..rng.usize(1..5)).map(|_| any_write(rng, now)).collect();
                let expected: Vec<_> = batch.iter().map(|write| model.write(write.clone())).collect();
                assert_eq!(store.write(batch.clone()).await, Ok(expected), "{what}: {batch:?}");
            }
            55..75 => {
                let lane = any_lane(rng);
                let expected = model.claim(lane, at_most, owner, now, lease);
                assert_eq!(store.claim(lane, at_most, owner, now, lease).await, Ok(expected), "{what}: {lane}");
            }
            75..80 => {
                let expected = model.claim_expired(at_most, owner, now, lease);
                assert_eq!(store.claim_expired(at_most, owner, now, lease).await, Ok(expected), "{what}: expired");
            }
            80..82 => {
                let (which, at_most) = (any_of_many(rng), rng.usize(1..6));
                let what = format!("{what}: up to {at_most} of {which:?}");
                hurry_all(store, &mut model, &which, now, at_most, &what).await;
            }
            82..90 => {
                let endpoint = [None, Some("a"), Some("b")][rng.usize(0..3)];
                assert_eq!(store.list(endpoint, at_most).await, Ok(model.list(endpoint, at_most)), "{what}");
            }
            _ => assert_same(store, &model, &what).await,
        }
    }
    assert_same(&stores[0], &model, &format!("seed {seed}, at the end")).await;
}

/// Until none is left: a store chooses which ones it takes first.
async fn hurry_all(store: &Arc<dyn Store>, model: &mut Model, which: &Which, now: u64, at_most: usize, what: &str) {
    loop {
        let hurry = Write::Hurry { which: which.clone(), now, at_most };
        let expected = model.write(hurry.clone());
        assert_eq!(store.write(vec![hurry]).await, Ok(vec![expected.clone()]), "{what}");
        if expected != Written::Rows(at_most as u64) {
            return;
        }
    }
}

/// Whether a store has exactly what the model has, who claimed it aside.
pub(crate) async fn assert_same(store: &Arc<dyn Store>, model: &Model, what: &str) {
    let (mut lanes, mut counts) = (store.lanes().await.expect("lanes"), store.counts().await.expect("counts"));
    lanes.sort();
    counts.sort_by_key(|count| (count.endpoint.clone(), count.state));
    assert_eq!(lanes, model.lanes(), "{what}: lanes");
    assert_eq!(counts, model.counts(), "{what}: counts");
    assert_eq!(store.list(None, 1_000).await, Ok(model.list(None, 1_000)), "{what}: list");
    for number in 0..NAMES {
        assert_eq!(find(store, number).await, model.find(id(number)), "{what}: {number}");
    }
}

/// Names of a walk at random.
const NAMES: u8 = 30;

pub(crate) fn any_owner(rng: &mut Rng) -> Owner {
    Owner([rng.u8(1..4); 16])
}

fn any_lane(rng: &mut Rng) -> &'static str {
    ["s/a/x", "s/a/y", "s/b/x", DELIVERY, ""][rng.usize(0..5)]
}

fn any_content(rng: &mut Rng) -> Vec<u8> {
    vec![rng.u8(..); rng.usize(0..100)]
}

/// A change at random, of one of few rows.
pub(crate) fn any_write(rng: &mut Rng, now: u64) -> Write {
    let (id, expires) = (id(rng.u8(0..NAMES)), now + rng.u64(1..20_000));
    match rng.u32(0..100) {
        0..35 => {
            let lane = ["s/a/x", "s/a/y", "s/b/x"][rng.usize(0..3)];
            let reason = ParkReason::ALL[rng.usize(0..ParkReason::ALL.len())];
            let (endpoint, token) = (lane[2..3].into(), format!("token {}", rng.u32(..)).into());
            Write::Park(New {
                id,
                endpoint,
                lane: lane.into(),
                token,
                content: any_content(rng),
                reason,
                arrived: now,
                expires,
            })
        }
        35..75 => Write::Settle { id, owner: any_owner(rng), next: any_next(rng, now) },
        75..83 => Write::Cancel { id, lane: DELIVERY.into(), content: any_content(rng), now, expires },
        83..90 => Write::Remove(id),
        90..95 => Write::Renew { owner: any_owner(rng), until: now + rng.u64(1..3_000) },
        _ => {
            let which = if rng.u32(0..3) == 0 { Which::One(id) } else { any_of_many(rng) };
            Write::Hurry { which, now, at_most: usize::from(NAMES) }
        }
    }
}

fn any_of_many(rng: &mut Rng) -> Which {
    [Which::All, Which::Endpoint("a".into()), Which::Endpoint("b".into())][rng.usize(0..3)].clone()
}

fn any_next(rng: &mut Rng, now: u64) -> Next {
    let (due, content) = (now + rng.u64(0..2_000), any_content(rng));
    match rng.u32(0..11) {
        0..4 => Next::Again { due, tries: rng.u32(0..9) },
        4..7 => Next::Started { content, expires: due + rng.u64(1..20_000), now },
        7 => Next::CancelSent,
        8..10 => Next::Done { lane: DELIVERY.into(), content, due, expires: due + rng.u64(1..20_000) },
        _ => Next::Remove,
    }
}
