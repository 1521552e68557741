//! How tokens are asked for, and when: from servers on loopback, while the time is made.

use super::*;
use crate::fetch::testing::{Server, later, says};

const SECOND: Duration = Duration::from_secs(1);

fn asking(client_auth: ClientAuth) -> OAuth2Settings {
    OAuth2Settings {
        token_url: "https://a.test/token".parse().unwrap(),
        client_id: "id:1".into(),
        client_secret: Secret::new("s3 cr&t"),
        client_auth,
        scope: Some("a b".into()),
        audience: Some("https://x/".into()),
        tls: ClientTlsSettings::default(),
    }
}

#[test]
fn a_client_asks_as_rfc_6749_says() {
    let (headers, body) = request(&asking(ClientAuth::Basic)).unwrap();
    assert_eq!(body, "grant_type=client_credentials&scope=a%20b&audience=https%3A%2F%2Fx%2F");
    let basic = headers[AUTHORIZATION].to_str().unwrap().strip_prefix("Basic ").unwrap();
    assert_eq!(BASE64_STANDARD.decode(basic).unwrap(), b"id%3A1:s3%20cr%26t");
    let (headers, body) = request(&asking(ClientAuth::Body)).unwrap();
    assert!(body.ends_with(b"&client_id=id%3A1&client_secret=s3%20cr%26t"));
    assert!(!headers.contains_key(AUTHORIZATION));
}

#[test]
fn nothing_shows_the_secret() {
    let settings = asking(ClientAuth::Basic);
    assert!(!format!("{settings:?} {:?}", request(&settings).unwrap().0).contains("s3"));
}

#[test]
fn an_answer_is_a_bearer_token_with_its_time() {
    let read = |body: &str| read(StatusCode::OK, body.as_bytes());
    let seconds = |body: &str| read(body).unwrap().1.as_secs();
    assert_eq!(seconds(r#"{"access_token":"t","token_type":"bearer","expires_in":60}"#), 60);
    assert_eq!(seconds(r#"{"access_token":"t","token_type":"Bearer","expires_in":"90"}"#), 90);
    assert_eq!(seconds(r#"{"access_token":"t","token_type":"Bearer"}"#), 3600);
    assert_eq!(seconds(r#"{"access_token":"t","token_type":"Bearer","expires_in":1e300}"#), 86_400);
    for bad in [
        r#"{"access_token":"s3cret","token_type":"mac"}"#,
        r#"{"access_token":"s3cret\n","token_type":"Bearer"}"#,
        r#"{"access_token":"","token_type":"Bearer"}"#,
        r#"{"access_token":"s3cret","token_type":"Bearer","expires_in":0}"#,
        r#"{"access_token":"s3cret","token_type":"Bearer","expires_in":-1}"#,
        r#"{"access_token":["s3cret"],"token_type":"Bearer"}"#,
        "s3cret",
    ] {
        let why = read(bad).unwrap_err();
        assert!(!why.contains("s3cret"), "{why}");
    }
}

#[test]
fn a_refusal_is_told_by_its_code_only() {
    let read = |body: &str| read(StatusCode::BAD_REQUEST, body.as_bytes()).unwrap_err();
    assert_eq!(read(r#"{"error":"invalid_client"}"#), "it answered 400 invalid_client");
    assert_eq!(read(r#"{"error":"s3cret"}"#), "it answered 400");
    assert_eq!(read("s3cret"), "it answered 400");
}

#[test]
fn pauses_grow_to_a_minute() {
    assert_eq!(pause(0, 1.0), Duration::from_secs(1));
    assert_eq!(pause(3, 1.0), Duration::from_secs(8));
    assert_eq!(pause(100, 1.0), Duration::from_secs(60));
}
fn token(text: &str, seconds: u64) -> String {
    says("200 OK", &format!("{{\"access_token\":\"{text}\",\"token_type\":\"Bearer\",\"expires_in\":{seconds}}}"))
}

fn begin(server: &Server) -> Arc<Keeper> {
    Keeper::begin("clusters.home", OAuth2Settings { token_url: server.uri("/token"), ..asking(ClientAuth::Basic) })
}

fn shown(keeper: &Keeper) -> Option<String> {
    keeper.current(Instant::now()).map(|value| value.to_str().unwrap().strip_prefix("Bearer ").unwrap().to_owned())
}

/// Waits until this is how many came and failed, with the clock running.
async fn counted(keeper: &Keeper, counts: (u64, u64)) {
    let mut state = keeper.shared.state.subscribe();
    while keeper.counts() != counts {
        state.changed().await.unwrap();
    }
}

#[tokio::test]
async fn all_wait_for_the_first_token_and_it_is_asked_for_once() {
    let server = Server::start(token("t1", 100)).await;
    let keeper = begin(&server);
    let until = Instant::now() + 60 * SECOND;
    let waiting = (0..50).map(|_| Arc::clone(&keeper));
    let waiting: Vec<_> = waiting.map(|keeper| tokio::spawn(async move { keeper.wait(until).await })).collect();
    for one in waiting {
        assert_eq!(one.await.unwrap(), Ok(()));
    }
    assert_eq!((server.requests().len(), shown(&keeper)), (1, Some("t1".into())));
}

#[tokio::test]
async fn a_token_is_renewed_before_it_ends() {
    let server = Server::start(token("t1", 100)).await;
    let keeper = begin(&server);
    counted(&keeper, (1, 0)).await;
    server.answer(token("t2", 100));
    later(78 * SECOND).await;
    assert_eq!((server.requests().len(), shown(&keeper)), (1, Some("t1".into())));
    later(3 * SECOND).await;
    counted(&keeper, (2, 0)).await;
    assert_eq!(shown(&keeper), Some("t2".into()));
    later(81 * SECOND).await;
    counted(&keeper, (3, 0)).await;
    assert_eq!(server.requests().len(), 3);
}

#[tokio::test]
async fn the_last_token_is_shown_to_its_end_while_its_server_is_asked_less_and_less() {
    let server = Server::start(token("t1", 100)).await;
    let keeper = begin(&server);
    counted(&keeper, (1, 0)).await;
    server.answer(says("503 Service Unavailable", ""));
    later(81 * SECOND).await;
    // Pauses have a spread: these are their longest.
    for (failed, pause) in (1..).zip([1, 2, 4, 8]) {
        counted(&keeper, (1, failed)).await;
        let until = Instant::now() + SECOND;
        assert_eq!((shown(&keeper), keeper.wait(until).await), (Some("t1".into()), Ok(())), "after {failed} failures");
        if pause < 8 {
            later(pause * SECOND).await;
        }
    }
    assert_eq!(server.requests().len(), 5);
    later(8 * SECOND).await;
    counted(&keeper, (1, 5)).await;
    assert_eq!((shown(&keeper), server.requests().len()), (None, 6), "it has ended");
    let began = Instant::now();
    assert_eq!(keeper.wait(began + 60 * SECOND).await, Err(NoCredentials));
    assert!(began.elapsed() < 60 * SECOND, "nobody waits for a server that fails");
    server.answer(token("t2", 100));
    later(16 * SECOND).await;
    counted(&keeper, (2, 5)).await;
    assert_eq!((shown(&keeper), keeper.wait(Instant::now() + SECOND).await), (Some("t2".into()), Ok(())));
}

#[tokio::test]
async fn a_token_that_targets_refuse_is_renewed_once_and_not_while_it_is_young() {
    let server = Server::start(token("t1", 3600)).await;
    let keeper = begin(&server);
    counted(&keeper, (1, 0)).await;
    server.answer(token("t2", 3600));
    later(28 * SECOND).await;
    keeper.refused(Instant::now());
    later(3 * SECOND).await;
    assert_eq!(server.requests().len(), 1, "it was young then");
    for _ in 0..20 {
        keeper.refused(Instant::now());
    }
    server.wait_for(2).await;
    assert_eq!(shown(&keeper), Some("t1".into()), "the next one is on its way");
    keeper.refused(Instant::now());
    counted(&keeper, (2, 0)).await;
    server.answer(says("503 Service Unavailable", ""));
    keeper.refused(Instant::now());
    later(28 * SECOND).await;
    server.answer(token("t3", 3600));
    later(3 * SECOND).await;
    keeper.refused(Instant::now());
    while shown(&keeper) != Some("t3".into()) {
        keeper.shared.state.subscribe().changed().await.unwrap();
    }
    assert_eq!(keeper.counts(), (3, 0), "nobody asked in between");
}
