//! Sets from a server on loopback that does whatever can go wrong, while the time is made.

use std::future::poll_fn;
use std::task::Poll;

use tokio::net::TcpListener;

use super::*;
use crate::admission::authenticate::testing::{Signer, jwks};
use crate::fetch::testing::{Server, later, says};

const SECOND: Duration = Duration::from_secs(1);

fn settings(server: &Server) -> JwksUrl {
    JwksUrl {
        url: server.uri("/jwks.json"),
        every: Duration::from_secs(300),
        max_age: Duration::from_secs(3600),
        tls: ClientTlsSettings::default(),
        bearer: Some(Secret::new("planted")),
    }
}

fn set(id: &str) -> String {
    jwks(&[&Signer::new(id, "EdDSA")])
}

fn begin(settings: &JwksUrl) -> Arc<Keeper> {
    Keeper::begin(&"issuer".into(), settings)
}

/// What came of so many fetches; waits for them, with the clock running.
async fn fetched(keeper: &Keeper, count: u64) -> JwksStatus {
    let mut state = keeper.shared.state.subscribe();
    loop {
        let status = keeper.status();
        if status.ok + status.failed >= count && state.borrow().progress != Progress::Fetching {
            return status;
        }
        state.changed().await.unwrap();
    }
}

#[tokio::test]
async fn a_set_is_fetched_and_fetched_again() {
    let (first, second) = (set("one"), set("two"));
    let server = Server::start(says("200 OK", &first)).await;
    let keeper = begin(&settings(&server));
    assert!(keeper.renew(None).await, "the first fetch is waited for");
    assert_eq!(keeper.current(), KeySet::read(&first).ok());
    let head = server.requests()[0].to_lowercase();
    assert!(head.starts_with("get /jwks.json http/1.1") && head.contains("authorization: bearer planted"), "{head}");

    let before = keeper.current().unwrap();
    later(301 * SECOND).await;
    fetched(&keeper, 2).await;
    assert!(keeper.current().unwrap().is(&before), "what is equal stays what it is");
    server.answer(says("200 OK", &second));
    later(301 * SECOND).await;
    assert_eq!(fetched(&keeper, 3).await.ok, 3);
    assert_eq!(keeper.current(), KeySet::read(&second).ok());
}

#[tokio::test]
async fn a_key_that_is_not_there_is_looked_for_once_in_a_while() {
    let (first, second) = (set("one"), set("two"));
    let server = Server::start(says("200 OK", &first)).await;
    let keeper = begin(&settings(&server));
    fetched(&keeper, 1).await;
    server.answer(says("200 OK", &second));
    for key in [None, Some("two"), Some("two")] {
        assert!(!keeper.renew(key).await, "what was fetched a moment ago may be of before");
    }
    assert_eq!((server.requests().len(), keeper.current()), (1, KeySet::read(&first).ok()));
    later(11 * SECOND).await;
    let all: Vec<_> = (0..20)
        .map(|_| Arc::clone(&keeper))
        .map(|keeper| tokio::spawn(async move { keeper.renew(Some("two")).await }))
        .collect();
    for one in all {
        assert!(one.await.unwrap());
    }
    assert_eq!(
        (server.requests().len(), keeper.current()),
        (2, KeySet::read(&second).ok()),
        "all wait for the same fetch"
    );
    assert!(keeper.renew(Some("two")).await, "it was asked for before that fetch");
    assert!(!keeper.renew(Some("three")).await && !keeper.renew(None).await, "these may be there since");
    assert_eq!(server.requests().len(), 2);
}

#[tokio::test]
async fn a_key_that_is_looked_for_when_a_fetch_is_due_anyway_costs_one_fetch() {
    let server = Server::start(says("200 OK", &set("one"))).await;
    let keeper = begin(&settings(&server));
    fetched(&keeper, 1).await;
    for round in 1..=20 {
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(301)).await;
        let mut renewed = Box::pin(keeper.renew(None));
        let waits = poll_fn(|context| Poll::Ready(renewed.as_mut().poll(context).is_pending())).await;
        assert!(waits);
        tokio::time::resume();
        assert!(renewed.await);
        assert_eq!(server.requests().len(), 1 + round);
    }
}

#[tokio::test]
async fn the_last_good_set_holds_whatever_its_server_says_until_it_is_too_old() {
    let good = set("one");
    let server = Server::start(says("200 OK", &good)).await;
    let keeper = begin(&settings(&server));
    fetched(&keeper, 1).await;
    let mut seconds = 301;
    let (elsewhere, huge) = (format!("302 Found\r\nlocation: {}", server.uri("/")), " ".repeat(MAX_SET + 1));
    let answers = [
        says("503 Service Unavailable", &good),
        says("200 OK", "<html>"),
        says("200 OK", "{\"keys\":[]}"),
        says("200 OK", &(good.clone() + &huge)),
        says(&elsewhere, &good),
        "garbage\r\n\r\n".to_owned(),
        String::new(),
    ];
    for (count, answer) in (1..).zip(answers) {
        server.answer(answer.clone());
        later(seconds * SECOND).await;
        seconds = 11;
        let status = fetched(&keeper, 1 + count).await;
        assert_eq!((status.ok, status.failed), (1, count), "{answer:?}");
        assert_eq!(keeper.current(), KeySet::read(&good).ok());
        assert!(!keeper.renew(None).await, "what the issuer publishes is not known");
    }
    assert_eq!(server.requests().len(), 8, "no redirect was followed");
    later(3600 * SECOND).await;
    assert_eq!(keeper.current(), None, "too old");
    fetched(&keeper, 9).await;
    server.answer(says("200 OK", &set("two")));
    later(11 * SECOND).await;
    assert_eq!(fetched(&keeper, 10).await.ok, 2, "it recovers");
    assert!(keeper.current().is_some());
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_long_for_a_server_that_is_silent() {
    let server = Server::start(None).await;
    let keeper = begin(&settings(&server));
    let began = Instant::now();
    assert!(!keeper.renew(None).await);
    assert_eq!(began.elapsed(), PATIENCE);
    assert_eq!(keeper.current(), None);
}

#[tokio::test]
async fn the_last_good_set_holds_while_its_server_is_slow() {
    let good = set("one");
    let server = Server::start(says("200 OK", &good)).await;
    let keeper = begin(&settings(&server));
    fetched(&keeper, 1).await;
    server.answer(None);
    later(301 * SECOND).await;
    server.wait_for(2).await;
    tokio::time::pause();
    assert!(!keeper.renew(None).await);
    tokio::time::resume();
    assert_eq!(keeper.current(), KeySet::read(&good).ok());
    let next = set("two");
    server.answer(says("200 OK", &next));
    later(BOUNDS.time).await;
    let status = fetched(&keeper, 3).await;
    assert_eq!((status.ok, status.failed), (2, 1), "it is asked again");
    assert_eq!(keeper.current(), KeySet::read(&next).ok());
}

#[tokio::test]
async fn a_server_that_is_not_there_fails_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
    drop(listener);
    let settings = JwksUrl { url, ..settings(&Server::start(None).await) };
    let keeper = begin(&settings);
    assert!(!keeper.renew(None).await);
    let status = keeper.status();
    assert_eq!((status.ok, status.failed, status.age), (0, 1, None));
}

#[tokio::test]
async fn it_ends_with_its_last_user() {
    let server = Server::start(says("200 OK", &set("one"))).await;
    let keeper = begin(&settings(&server));
    fetched(&keeper, 1).await;
    let task = keeper.task.clone();
    drop(keeper);
    while !task.is_finished() {
        tokio::task::yield_now().await;
    }
    assert_eq!(server.requests().len(), 1);
}
