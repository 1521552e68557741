//! What holds in every simulation, whatever happens to the network.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use nexus_gateway::resilience::FLOOR;
use serde_json::{Value, from_slice};
use tokio::time::sleep;

use super::wire::Sent;
use super::{Call, Gateway, Outcome, SECOND, Scene, millis, now};

/// Grain of timers and of forwarded time-outs.
const GRAIN: Duration = Duration::from_millis(3);
/// Sends of one request: two attempts, each of which may lose an idle connection first.
const MOST_SENDS: usize = 4;

/// Waits until nothing is on its way, which must come to pass, and checks all that holds always.
pub(crate) async fn check(scene: &Scene, calls: &[Call]) {
    settle(scene).await;
    let ours: HashMap<u64, &Call> = calls.iter().map(|call| (call.request.id, call)).collect();
    assert_eq!(ours.len(), calls.len(), "seed {}", scene.seed);
    for call in calls {
        is_answered_well(scene, call);
    }
    for gateway in &scene.gateways {
        sends_in_time(scene, gateway, &ours);
        sends_within_bounds(scene, gateway);
    }
    nothing_arrives_by_itself(scene);
}

/// Waits until no request holds anything.
async fn settle(scene: &Scene) {
    let until = now() + 15 * SECOND;
    for gateway in &scene.gateways {
        while !gateway.held().is_empty() {
            assert!(now() < until, "seed {}: {} still holds {:?}", scene.seed, gateway.name, gateway.held());
            sleep(millis(100)).await;
        }
    }
}

/// Exactly one well-formed answer; a 200 is the handler's own for this request.
fn is_answered_well(scene: &Scene, call: &Call) {
    let seed = scene.seed;
    let (status, reason, body) = match &call.outcome {
        Outcome::Answered { status, reason, body } => (*status, reason, body),
        Outcome::Left => return,
        Outcome::Lost(why) => panic!("seed {seed}: {why}: {call:?}"),
    };
    let id = call.request.id;
    match (status, reason) {
        (200, None) => {
            let answer: Value = from_slice(body).unwrap_or_default();
            assert_eq!((&answer["id"], &answer["asked"]), (&id.into(), &2.into()), "seed {seed}: {call:?}");
        }
        (202, None) => assert!(call.request.cancel && body.is_empty(), "seed {seed}: {call:?}"),
        (_, None) => {
            let failure: Value = from_slice(body).unwrap_or_default();
            assert_eq!(failure["message"], format!("id {id}"), "seed {seed}: {call:?}");
        }
        (408 | 429 | 500 | 503 | 520, Some(_)) => {
            let failure: Value = from_slice(body).unwrap_or_default();
            let is_failure =
                failure["metadata"]["type"] == "nexus.HandlerError" && failure["details"]["type"].is_string();
            assert!(is_failure && failure["message"].is_string(), "seed {seed}: {call:?}");
        }
        _ => panic!("seed {seed}: {call:?}"),
    }
}

/// Nothing is sent after its deadline; no attempt that waited for anything begins with less than the floor left; and
/// what is forwarded as the time left is no more than there is.
fn sends_in_time(scene: &Scene, gateway: &Gateway, calls: &HashMap<u64, &Call>) {
    let (seed, entered) = (scene.seed, gateway.entered());
    for sent in gateway.sent() {
        let Sent { id, at, began, forwarded } = sent;
        let (Some(call), Some(entered)) = (calls.get(&id), entered.get(&id)) else { continue };
        let (timeout, deadline) = (call.request.timeout, *entered + call.request.timeout);
        assert!(at <= deadline + GRAIN, "seed {seed}: sent after {deadline:?}: {sent:?}");
        let last_start = if timeout > FLOOR { deadline.saturating_sub(FLOOR) } else { *entered + timeout / 2 };
        assert!(began <= last_start + GRAIN, "seed {seed}: begun after {last_start:?}: {sent:?}");
        let forwarded = forwarded.unwrap_or_else(|| panic!("seed {seed}: without the time left: {sent:?}"));
        assert!(at + forwarded <= deadline + GRAIN, "seed {seed}: more than there is until {deadline:?}: {sent:?}");
    }
}

/// No more sends than attempts that are accounted for.
fn sends_within_bounds(scene: &Scene, gateway: &Gateway) {
    let (seed, sent) = (scene.seed, gateway.sent());
    let mut each: HashMap<u64, usize> = HashMap::new();
    for one in &sent {
        *each.entry(one.id).or_default() += 1;
    }
    let most = each.values().max().copied().unwrap_or_default();
    assert!(most <= MOST_SENDS, "seed {seed}: {most} sends of one request");
    let again = u64::try_from(sent.len() - each.len()).unwrap_or(u64::MAX);
    let retries = gateway.metric("retries_total", "");
    let known = f64::from(u32::try_from(gateway.replayed()).unwrap_or(u32::MAX)) + retries;
    assert!(
        f64::from(u32::try_from(again).unwrap_or(u32::MAX)) <= known,
        "seed {seed}: {again} sends again, {known} known"
    );
}

/// The handlers see no more than was sent.
fn nothing_arrives_by_itself(scene: &Scene) {
    let mut sent: HashMap<u64, usize> = HashMap::new();
    for one in scene.gateways.iter().flat_map(Gateway::sent) {
        *sent.entry(one.id).or_default() += 1;
    }
    for arrival in scene.handlers.iter().flat_map(super::Handler::arrivals) {
        let left = sent.entry(arrival.id).or_default();
        assert!(*left > 0, "seed {}: was not sent: {arrival:?}", scene.seed);
        *left -= 1;
    }
}

/// Requests of which a send was not answered: they were lost on the way, and the handler may have run.
pub(crate) fn lost_in_flight(scene: &Scene) -> HashSet<u64> {
    let mut unanswered: HashMap<u64, usize> = HashMap::new();
    for sent in scene.gateways.iter().flat_map(Gateway::sent) {
        *unanswered.entry(sent.id).or_default() += 1;
    }
    for arrival in scene.handlers.iter().flat_map(super::Handler::arrivals).filter(|one| one.answered.is_some()) {
        if let Some(count) = unanswered.get_mut(&arrival.id) {
            *count -= 1;
        }
    }
    unanswered.into_iter().filter(|(_, count)| *count > 0).map(|(id, _)| id).collect()
}
