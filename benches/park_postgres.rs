//! What the `PostgreSQL` store of parked operations does in a second, and how long its calls take with a million rows.
//!
//! `cargo bench --bench park_postgres` starts a `PostgreSQL` of its own, in a temporary folder.

use std::sync::Arc;

use nexus_gateway::park::postgres::PostgresStore;
use nexus_gateway::park::store::{Id, New, Owner, Store, Which, Write, Written};
use nexus_gateway::resilience::park::ParkReason;
use nexus_gateway::tls::ClientTlsSettings;
use tokio::task::JoinSet;
use tokio::time::Instant;

#[allow(dead_code, reason = "the tests need more of it")]
#[path = "../tests/support/postgres.rs"]
mod postgres;

use postgres::Postgres;

const NOW: u64 = 1_790_000_000_000;
const US: Owner = Owner([1; 16]);

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let postgres = Postgres::start().await;
    parks_a_second(&postgres).await;
    a_million_rows(&postgres).await;
}

async fn open(url: &str) -> Arc<dyn Store> {
    Arc::new(PostgresStore::open(url, &ClientTlsSettings::default()).await.expect("it opens"))
}

fn new(number: u64) -> New {
    let mut id = [0; 16];
    // As far apart as hashes are.
    id[..8].copy_from_slice(&number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes());
    New {
        id: Id(id),
        endpoint: "payments".into(),
        lane: "s/payments/orders/charge".into(),
        token: "token".into(),
        content: vec![7; 1024],
        reason: ParkReason::Unreachable,
        arrived: NOW,
        expires: NOW + 86_400_000,
    }
}

/// Parks a second by batches of 128 with 1 KiB each, with one writer and with two.
async fn parks_a_second(postgres: &Postgres) {
    for writers in [1_u32, 2, 4] {
        let store = open(&postgres.new_database().await).await;
        let (begin, mut tasks) = (Instant::now(), JoinSet::new());
        for writer in 0..writers {
            let store = Arc::clone(&store);
            tasks.spawn(async move {
                for batch in 0..200_u64 {
                    let first = (u64::from(writer) << 32) + batch * 128;
                    store
                        .write((first..first + 128).map(|number| Write::Park(new(number))).collect())
                        .await
                        .expect("they are written");
                }
            });
        }
        tasks.join_all().await;
        let took = begin.elapsed().as_secs_f64();
        println!("{writers} writers: {:.0} parks/s", f64::from(writers * 200 * 128) / took);
    }
}

/// How long each call takes with a million rows in a thousand lanes.
async fn a_million_rows(postgres: &Postgres) {
    let store = open(&postgres.url()).await;
    let fill = format!(
        "INSERT INTO nexus_gateway_parked
         SELECT decode(md5(n::text), 'hex'), n, ('e' || n % 20)::bytea, ('s/a/' || n % 1000)::bytea, 0, 'token',
                decode(repeat('ab', 1024), 'hex'), 1024, 0, {NOW} + n, {NOW} + n, {NOW} + 86400000, 0, false, NULL
         FROM generate_series(1, 1000000) n"
    );
    postgres.run(&postgres.url(), &fill).await;
    let late = NOW + 2_000_000;
    for round in 0..3 {
        let begin = Instant::now();
        let step = |what: &str| println!("{round}: {what} after {:?}", begin.elapsed());
        open(&postgres.url()).await;
        step("opened");
        assert_eq!(store.counts().await.expect("counts").len(), 20);
        step("counts");
        assert_eq!(store.lanes().await.expect("lanes").len(), 1000);
        step("lanes");
        for lane in 0..100 {
            assert_eq!(store.claim(&format!("s/a/{lane}"), 50, US, late, late + 9).await.expect("a claim").len(), 50);
        }
        step("100 claims of 50");
        assert_eq!(store.claim_expired(9, US, late, late + 9).await.expect("a claim").len(), 0);
        step("no expired");
        store.write(vec![Write::Renew { owner: US, until: late + 99 }]).await.expect("they are put off");
        step("renewed");
        store.list(None, 100).await.expect("a list");
        step("list");
        for which in [Which::Endpoint("e1".into()), Which::All] {
            for _ in 0..3 {
                let hurry = Write::Hurry { which: which.clone(), now: NOW, at_most: 5_000 };
                assert_eq!(store.write(vec![hurry]).await, Ok(vec![Written::Rows(5_000)]));
                step("hurried 5,000");
            }
        }
    }
}
