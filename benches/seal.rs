//! What sealing and opening cost: `cargo bench --bench seal` prints the time and the length of each.

use std::hint::black_box;

use nexus_gateway::callback::seal::{Bound, Key, Keyring, Operation, Origin, TargetRef};
use tokio::time::Instant;

const ROUNDS: u32 = 200_000;
const ENDPOINT: &str = "payments";
const CALLER: &str = "spiffe://a.example/ns/orders";

fn main() {
    let keys = Keyring::new(vec![Key::generate("new"), Key::generate("old")]).expect("the keys are distinct");
    callback(&keys);
    callback_token(&keys);
    operation_token(&keys);
}

fn callback(keys: &Keyring) {
    let origin = Origin {
        url: "https://a.example:7243/namespaces/orders-production/nexus/callback".to_owned(),
        endpoint: ENDPOINT.to_owned(),
        target: "worker:home/payments/payments-tq".to_owned(),
        caller: CALLER.to_owned(),
        issued: 1_790_000_000,
        expires: 1_797_776_000,
        request_id: "3f6c1a52-9d1e-4c0b-8f57-000000000001".to_owned(),
    };
    let sealed = keys.seal_callback(&origin);
    report("callback, sealed", sealed.len(), || keys.seal_callback(black_box(&origin)));
    report("callback, opened", sealed.len(), || keys.open_callback(black_box(&sealed), origin.issued));
}

fn callback_token(keys: &Keyring) {
    let (token, url) = (vec![b'd'; 250], "https://a.example:7243/namespaces/orders-production/nexus/callback");
    let sealed = keys.seal_token(&token, url);
    report("callback's token, sealed", sealed.len(), || keys.seal_token(black_box(&token), url));
    report("callback's token, opened", sealed.len(), || keys.open_token(black_box(&sealed), url));
}

fn operation_token(keys: &Keyring) {
    let target = TargetRef::Worker {
        cluster: "home".to_owned(),
        namespace: "payments".to_owned(),
        task_queue: "payments-tq".to_owned(),
    };
    let operation = Operation { target, token: "d".repeat(120) };
    let bound =
        Bound { endpoint: ENDPOINT, service: "OrderService".into(), operation: "quote".into(), caller: CALLER.into() };
    let seal = || keys.seal_operation(&bound, black_box(&operation)).expect("it is short");
    let sealed = seal();
    report("operation's token, sealed", sealed.len(), seal);
    report("operation's token, opened", sealed.len(), || keys.open_operation(&bound, black_box(&sealed)));
}

fn report<T>(what: &str, len: usize, mut action: impl FnMut() -> T) {
    for _ in 0..ROUNDS / 10 {
        black_box(action());
    }
    let start = Instant::now();
    for _ in 0..ROUNDS {
        black_box(action());
    }
    println!("{what:26} {:6} ns {len:6} characters", (start.elapsed() / ROUNDS).as_nanos());
}
