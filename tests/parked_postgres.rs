//! Parked operations in a real `PostgreSQL`: what every store does, and what only shared ones have to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use nexus_gateway::park::postgres::PostgresStore;
use nexus_gateway::park::store::{Id, New, Next, Owner, Row, Store, StoreError, Which, Write, Written};
use nexus_gateway::tls::{ClientTlsSettings, Roots};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

#[path = "support/certificates.rs"]
mod certificates;
#[path = "support/postgres.rs"]
mod postgres;
#[path = "support/store_suite.rs"]
mod store_suite;

use certificates::{Authority, For};
use postgres::{PASSWORD, Postgres};
use store_suite::{NOW, Place, US, park, start};

const THEM: Owner = Owner([2; 16]);
const LEASE: u64 = NOW + 10_000;
/// No call takes longer, with much to spare for a busy machine.
const BOUND: Duration = Duration::from_secs(60);

/// A server with one empty database.
struct Shared {
    postgres: Postgres,
}

async fn empty() -> Shared {
    Shared { postgres: Postgres::start().await }
}

#[async_trait]
impl Place for Shared {
    async fn open(&self) -> Arc<dyn Store> {
        open(&self.postgres.url()).await
    }
}

store_suite!(empty);

async fn open(url: &str) -> Arc<dyn Store> {
    Arc::new(PostgresStore::open(url, &ClientTlsSettings::default()).await.expect("it opens"))
}

async fn refused(url: &str) -> String {
    refused_by(url, &ClientTlsSettings::default()).await
}

async fn refused_by(url: &str, tls: &ClientTlsSettings) -> String {
    let result = timeout(BOUND, PostgresStore::open(url, tls)).await.expect("an answer in bounded time");
    let message = result.err().expect("it does not open").to_string();
    assert!(!message.contains(PASSWORD) && !message.contains(url), "{message}");
    message
}

/// Number `number` of many.
fn id(number: u64) -> Id {
    Id(std::array::from_fn(|at| if at < 8 { 0 } else { number.to_be_bytes()[at - 8] }))
}

fn numbered(number: u64) -> New {
    New { id: id(number), token: format!("token {number}").into(), ..start(0) }
}

fn lane(number: u64) -> String {
    format!("s/payments/orders/{number}")
}

/// Claims and settles rows of three lanes until none is left; counts how often each was settled.
async fn work(store: Arc<dyn Store>, owner: Owner, settled: Arc<[AtomicU64]>, left: Arc<AtomicU64>) {
    let mut turn = 0;
    while left.load(Ordering::SeqCst) > 0 {
        turn += 1;
        let rows = store.claim(&lane(turn % 3), 7, owner, NOW, LEASE).await.expect("a claim");
        store.write(vec![Write::Renew { owner, until: LEASE + turn }]).await.expect("they are put off");
        let ends = rows.iter().map(|row| Write::Settle { id: row.id, owner, next: Next::Remove }).collect();
        for (row, written) in rows.iter().zip(store.write(ends).await.expect("they are settled")) {
            assert!(matches!(written, Written::Removed(..)), "{:?}: {written:?}", row.id);
            let number = row.token.strip_prefix("token ").and_then(|number| number.parse::<usize>().ok());
            settled[number.expect("a number")].fetch_add(1, Ordering::SeqCst);
            left.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_share_the_work_and_do_nothing_twice() {
    const ROWS: u64 = 900;
    let postgres = Postgres::start().await;
    let (ours, theirs) = (open(&postgres.url()).await, open(&postgres.url()).await);
    park(&ours, (0..ROWS).map(|number| New { lane: lane(number % 3).into(), ..numbered(number) })).await;
    let settled: Arc<[AtomicU64]> = (0..ROWS).map(|_| AtomicU64::new(0)).collect();
    let left = Arc::new(AtomicU64::new(ROWS));
    let mut tasks = JoinSet::new();
    // Each task is a process of its own, since a process does not claim twice at a time what it claimed.
    for number in 0..6 {
        let store = if number % 2 == 0 { &ours } else { &theirs };
        tasks.spawn(work(Arc::clone(store), Owner([number; 16]), Arc::clone(&settled), Arc::clone(&left)));
    }
    timeout(BOUND, tasks.join_all()).await.expect("they come to an end");
    assert!(settled.iter().all(|times| times.load(Ordering::SeqCst) == 1));
    assert_eq!(ours.counts().await, Ok(vec![]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_comes_to_two_replicas_at_once_gets_one_token() {
    const ROUNDS: u64 = 20;
    const BATCH: u64 = 50;
    let postgres = Postgres::start().await;
    let stores = [open(&postgres.url()).await, open(&postgres.url()).await];
    for round in 0..ROUNDS {
        let numbers: Vec<u64> = (round * BATCH..(round + 1) * BATCH).collect();
        let backwards: Vec<u64> = numbers.iter().rev().copied().collect();
        let parks = |numbers: &[u64], by: &str| {
            let new = |number| New { token: format!("{by} {number}").into(), ..numbered(number) };
            numbers.iter().map(|number| Write::Park(new(*number))).collect()
        };
        let (ours, theirs) =
            tokio::join!(stores[0].write(parks(&numbers, "us")), stores[1].write(parks(&backwards, "them")));
        let ours = numbers.iter().copied().zip(ours.expect("they are written"));
        let theirs: BTreeMap<_, _> = backwards.into_iter().zip(theirs.expect("they are written")).collect();
        for (number, ours) in ours {
            match (&ours, &theirs[&number]) {
                (Written::Parked, Written::Known(token)) => assert_eq!(**token, format!("us {number}")),
                (Written::Known(token), Written::Parked) => assert_eq!(**token, format!("them {number}")),
                other => panic!("{number}: {other:?}"),
            }
        }
    }
}

#[tokio::test]
async fn what_a_replica_had_that_died_is_taken_over() {
    let postgres = Postgres::start().await;
    let (dying, other) = (open(&postgres.url()).await, open(&postgres.url()).await);
    park(&dying, (0..20).map(numbered)).await;
    let lane = start(0).lane;
    let had = dying.claim(&lane, 15, US, NOW, LEASE).await.expect("a claim");
    drop(dying);
    assert_eq!(other.claim(&lane, 100, THEM, LEASE - 1, LEASE + 10_000).await.expect("a claim").len(), 5);
    let taken_over = other.claim(&lane, 100, THEM, LEASE, LEASE + 10_000).await.expect("a claim");
    assert_eq!(ids(&taken_over), ids(&had));
    let too_late = Write::Settle { id: had[0].id, owner: US, next: Next::Remove };
    assert_eq!(other.write(vec![too_late]).await, Ok(vec![Written::Gone]), "it lost them");
}

fn ids(rows: &[Row]) -> Vec<Id> {
    rows.iter().map(|row| row.id).collect()
}

/// Parks rows of its own until it is told to stop. Which of them are kept, and whether a call failed.
async fn parking(store: Arc<dyn Store>, from: u64, stop: Arc<AtomicBool>, failed: Arc<AtomicU64>) -> Vec<Id> {
    let mut kept = Vec::new();
    let mut next = from;
    while !stop.load(Ordering::SeqCst) {
        let numbers = next..next + 16;
        next += 16;
        let parks = numbers.clone().map(|number| Write::Park(numbered(number))).collect();
        if let Ok(written) = store.write(parks).await {
            assert_eq!(written, vec![Written::Parked; 16]);
            kept.extend(numbers.map(id));
        } else {
            failed.fetch_add(1, Ordering::SeqCst);
            sleep(Duration::from_millis(20)).await;
        }
    }
    kept
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_the_database_loses_nothing_that_was_said_to_be_kept() {
    let mut postgres = Postgres::start().await;
    let store = open(&postgres.url()).await;
    let (stop, failed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut tasks = JoinSet::new();
    for number in 0..4 {
        tasks.spawn(parking(Arc::clone(&store), number << 32, Arc::clone(&stop), Arc::clone(&failed)));
    }
    let rows = async |store: &Arc<dyn Store>| {
        store.counts().await.map_or(0, |counts| counts.iter().map(|count| count.rows).sum::<u64>())
    };
    until(async || rows(&store).await > 500).await;
    postgres.kill();
    until(async || failed.load(Ordering::SeqCst) >= 4).await;
    let error = store.find(id(0)).await.expect_err("it is away").to_string();
    assert!(!error.contains(PASSWORD), "{error}");
    postgres.start_again().await;
    let before = rows(&open(&postgres.url()).await).await;
    until(async || rows(&store).await > before + 500).await;
    stop.store(true, Ordering::SeqCst);
    for kept in timeout(BOUND, tasks.join_all()).await.expect("they come to an end").concat() {
        assert!(store.find(kept).await.expect("an answer").is_some(), "{kept} is lost");
    }
}

async fn until(condition: impl AsyncFn() -> bool) {
    let end = Instant::now() + BOUND;
    while !condition().await {
        assert!(Instant::now() < end, "it does not come true");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_database_that_hangs_holds_nobody_for_long() {
    let postgres = Postgres::start().await;
    let store = open(&postgres.url()).await;
    park(&store, [start(1)]).await;
    postgres.freeze();
    let row = id(1);
    let calls = async {
        tokio::join!(
            async { store.write(vec![Write::Park(start(2))]).await.map(drop) },
            async { store.claim("s/a", 9, US, NOW, LEASE).await.map(drop) },
            async { store.claim_expired(9, US, NOW, LEASE).await.map(drop) },
            async { store.find(row).await.map(drop) },
            async { store.lanes().await.map(drop) },
            async { store.counts().await.map(drop) },
            async { store.list(None, 9).await.map(drop) },
        )
    };
    let results: [_; 7] = timeout(BOUND, calls).await.expect("they end").into();
    for result in results {
        let error: StoreError = result.expect_err("it hangs");
        assert!(error.to_string().contains("did not answer"), "{error}");
    }
    refused(&postgres.url()).await;
    postgres.thaw();
    until(async || store.find(row).await.is_ok()).await;
    park(&store, [start(3)]).await;
}

#[tokio::test]
async fn replicas_that_start_at_once_make_the_tables_once() {
    let postgres = Postgres::start().await;
    let mut names = BTreeSet::new();
    for _ in 0..5 {
        let url = postgres.new_database().await;
        let stores = tokio::join!(open(&url), open(&url), open(&url), open(&url));
        assert!([&stores.1, &stores.2, &stores.3].iter().all(|store| store.name() == stores.0.name()));
        assert!(names.insert(stores.0.name().to_owned()), "another database's name");
        park(&stores.0, [start(1)]).await;
        let written = stores.3.write(vec![Write::Park(start(1))]).await;
        assert_eq!(written, Ok(vec![Written::Known("token 1".into())]));
    }
}

#[tokio::test]
async fn what_cannot_be_opened_says_why_and_tells_no_secret() {
    let mut postgres = Postgres::start().await;
    let port = postgres.port();
    let wrong = format!("postgres://gateway:{PASSWORD}x@127.0.0.1:{port}/postgres");
    assert!(refused(&wrong).await.contains("password authentication failed"));
    assert!(refused(&postgres.url_of("nothing")).await.contains("does not exist"));
    assert!(refused(&format!("{}?sslmode=require", postgres.url())).await.contains("TLS"));
    let url = postgres.new_database().await;
    open(&url).await;
    postgres.run(&url, "UPDATE nexus_gateway_parked_version SET version = 7").await;
    assert!(refused(&url).await.contains("version 7"));
    postgres.kill();
    assert!(refused(&postgres.url()).await.contains("refused"));
}

#[tokio::test]
async fn it_finds_its_tables_where_the_url_says() {
    let postgres = Postgres::start().await;
    postgres.run(&postgres.url(), "CREATE SCHEMA a; CREATE SCHEMA b").await;
    let at = |schema| format!("{}?options=-csearch_path%3D{schema}", postgres.url());
    let (a, b) = (open(&at("a")).await, open(&at("b")).await);
    park(&a, [start(1)]).await;
    assert_eq!(b.find(start(1).id).await, Ok(None));
    assert!(open(&at("a")).await.find(start(1).id).await.expect("an answer").is_some());
}

/// A function of the same name, found first, is how the database's clock goes wrong here.
#[tokio::test]
async fn replicas_with_clocks_that_differ_agree_on_leases() {
    let postgres = Postgres::start().await;
    let ahead = "CREATE SCHEMA ahead; CREATE FUNCTION ahead.clock_timestamp() RETURNS timestamptz LANGUAGE sql
                 AS $$ SELECT pg_catalog.clock_timestamp() + interval '1 hour' $$";
    postgres.run(&postgres.url(), ahead).await;
    let right = open(&postgres.url()).await;
    // This one is an hour behind the database.
    let behind = open(&format!("{}?options=-csearch_path%3Dahead,pg_catalog,public", postgres.url())).await;
    let hour = 3_600_000;
    park(&right, [New { expires: NOW + 9 * hour, ..start(1) }]).await;
    let seen = behind.find(start(1).id).await.expect("an answer").expect("the row");
    let near = |time: u64, expected: u64| assert!(time.abs_diff(expected) < 5000, "{time} is not near {expected}");
    near(seen.arrived, NOW - hour);
    near(seen.expires, NOW + 8 * hour);
    let lane = start(1).lane;
    assert_eq!(behind.claim(&lane, 1, US, NOW - hour - 5000, NOW).await.expect("a claim").len(), 0, "not due");
    assert_eq!(behind.claim(&lane, 1, US, NOW - hour + 5000, NOW - hour + 60_000).await.expect("a claim").len(), 1);
    assert_eq!(right.claim(&lane, 1, THEM, NOW + 50_000, LEASE).await.expect("a claim").len(), 0, "the lease holds");
    assert_eq!(right.claim(&lane, 1, THEM, NOW + 70_000, LEASE).await.expect("a claim").len(), 1);
    near(behind.counts().await.expect("counts")[0].oldest, NOW - hour);
}

#[tokio::test]
async fn names_of_any_length_and_with_any_character_do_no_harm_to_others() {
    let postgres = Postgres::start().await;
    let store = open(&postgres.url()).await;
    let long: String = (0..100_000).map(|_| fastrand::char('a'..'\u{ffff}')).collect();
    let odd = New { lane: format!("s/{long}\0").into(), token: "\0".into(), ..start(1) };
    park(&store, [odd.clone(), start(2)]).await;
    let rows = store.claim(&odd.lane, 9, US, NOW, LEASE).await.expect("a claim");
    assert_eq!((rows.len(), &rows[0].token), (1, &odd.token));
    assert_eq!(store.lanes().await.expect("lanes").len(), 2);
}

#[tokio::test]
async fn a_call_that_is_given_up_leaves_nothing_half_done() {
    let postgres = Postgres::start().await;
    let store = open(&postgres.url()).await;
    for round in 0..40 {
        let writes = (round * 10..round * 10 + 10).map(|number| Write::Park(numbered(number))).collect();
        // The call is polled a few times, and then dropped.
        let _ = timeout(Duration::from_micros(round * 100), store.write(writes)).await;
    }
    park(&store, (400..500).map(numbered)).await;
    let hurried = store.write(vec![Write::Hurry { which: Which::All, now: NOW + 1, at_most: 5_000 }]).await;
    assert_eq!(hurried, Ok(vec![Written::Rows(0)]), "no lock is left");
    for round in 0..40 {
        let mut there = 0;
        for number in round * 10..round * 10 + 10 {
            there += u32::from(store.find(id(number)).await.expect("an answer").is_some());
        }
        assert!(there == 0 || there == 10, "{there} of a batch");
    }
}

#[tokio::test]
async fn a_server_is_met_over_tls_where_its_certificate_is_right_and_nowhere_else() {
    let authority = Authority::new("authority");
    let own = authority.issue(For { hosts: &["127.0.0.1"], ..For::default() });
    let postgres = Postgres::start_with_tls(&own.chain, &own.key).await;
    let url = format!("{}?sslmode=verify-full", postgres.url());
    let believing = |pem: &str| {
        let roots = Some(Roots::read(pem).expect("an authority"));
        ClientTlsSettings { roots, ..ClientTlsSettings::default() }
    };
    let right = believing(&authority.pem);
    let store = PostgresStore::open(&url, &right).await.expect("it opens");
    store.write(vec![Write::Park(numbered(1))]).await.expect("it keeps");
    postgres
        .run(
            &postgres.url(),
            "DO $$ BEGIN
                ASSERT (SELECT bool_and(ssl) AND count(*) > 0 FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
                    WHERE application_name = 'nexus-gateway'), 'a connection is in the clear, or there is none';
            END $$",
        )
        .await;

    let renamed = ClientTlsSettings { server_name: Some("db.test".into()), ..right.clone() };
    for (tls, why) in [
        (&ClientTlsSettings::default(), "UnknownIssuer"),
        (&believing(&Authority::new("another").pem), "UnknownIssuer"),
        (&renamed, "not valid for name"),
    ] {
        let message = refused_by(&url, tls).await;
        assert!(message.contains(why), "{message}");
    }
    // What speaks no TLS is not spoken to without.
    let plain = Postgres::start().await;
    let message = refused_by(&format!("{}?sslmode=verify-full", plain.url()), &right).await;
    assert!(message.contains("TLS"), "{message}");
}
