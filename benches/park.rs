//! What the embedded store of parked operations does in a second, and how it is with a million of them:
//! `cargo bench --bench park`. Takes up to 1.5 GB of disk for some minutes, in the folder of temporary files.

use std::path::Path;
use std::time::Duration;

use nexus_gateway::park::sqlite::SqliteStore;
use nexus_gateway::park::store::{Id, New, Next, Owner, Row, Store, Which, Write, Written};
use nexus_gateway::resilience::park::ParkReason;
use tokio::time::Instant;

const NOW: u64 = 1_790_000_000_000;
const LEASE: u64 = NOW + 10_000;
const LATER: u64 = NOW + 24 * 3_600_000;
const US: Owner = Owner([1; 16]);
/// Operations of each batch size.
const OPERATIONS: u64 = 20_000;
const MANY: u64 = 1_000_000;
const ENDPOINTS: u64 = 200;
const LANES: u64 = 1_000;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let folder = tempfile::tempdir().expect("a folder");
    println!("one caller that writes batch after batch, each on the disk before the next; 1 KiB of content");
    for batch in [1, 16, 64, 128, 256] {
        throughput(&folder.path().join(format!("{batch}.db")), batch).await;
    }
    println!("\n{MANY} rows of 300 bytes in {LANES} lanes");
    a_million(&folder.path().join("many.db")).await;
}

async fn throughput(path: &Path, batch: usize) {
    let store = open(path);
    let operations = if batch < 16 { OPERATIONS / 10 } else { OPERATIONS };
    let numbers: Vec<_> = (0..operations).collect();
    let parked = Measured::start();
    for numbers in numbers.chunks(batch) {
        let parks = numbers.iter().map(|number| Write::Park(start(*number, 1, 1, 1_024))).collect();
        store.write(parks).await.expect("it is written");
    }
    parked.report(&format!("park, {batch} at a time"), operations);

    let claimed = Measured::start();
    let mut rows = Vec::new();
    while let claims @ [_, ..] = &claim(&store, &lane(0), batch).await[..] {
        rows.extend(claims.iter().map(|row| row.id));
    }
    claimed.report(&format!("claim, {batch} at a time"), operations);
    assert_eq!(rows.len() as u64, operations);

    let settled = Measured::start();
    for ids in rows.chunks(batch) {
        let started = || Next::Started { content: vec![2; 200], expires: LATER, now: NOW };
        let settle = |id: &Id| Write::Settle { id: *id, owner: US, next: started() };
        store.write(ids.iter().map(settle).collect()).await.expect("it is written");
    }
    settled.report(&format!("settle, {batch} at a time"), operations);

    let removed = Measured::start();
    for ids in rows.chunks(batch) {
        store.write(ids.iter().map(|id| Write::Remove(*id)).collect()).await.expect("it is written");
    }
    removed.report(&format!("remove, {batch} at a time"), operations);
}

async fn a_million(path: &Path) {
    let store = open(path);
    let filling = Measured::start();
    let numbers: Vec<_> = (0..MANY).collect();
    for numbers in numbers.chunks(4_096) {
        let parks = numbers.iter().map(|number| Write::Park(start(*number, ENDPOINTS, LANES, 300))).collect();
        store.write(parks).await.expect("it is written");
    }
    filling.report("park, 4096 at a time", MANY);
    drop((store, numbers));
    println!("{:28} {:9} MiB", "file", std::fs::metadata(path).map_or(0, |file| file.len() >> 20));

    let before = resident();
    let opening = Instant::now();
    let store = open(path);
    took("open", opening.elapsed());
    let counting = Instant::now();
    let counts = store.counts().await.expect("counts");
    took("counts", counting.elapsed());
    let looking = Instant::now();
    let lanes = store.lanes().await.expect("lanes");
    took("lanes", looking.elapsed());
    took("open, counts and lanes", opening.elapsed());
    assert_eq!(counts.iter().map(|count| count.rows).sum::<u64>(), MANY);
    assert_eq!(lanes.len() as u64, LANES);

    let claiming = Instant::now();
    let rows = claim(&store, &lane(7), 64).await;
    took("claim of 64", claiming.elapsed());
    assert_eq!(rows.len(), 64);
    let hurrying = Instant::now();
    let hurry = Write::Hurry { which: Which::All, now: NOW - 1, at_most: 5_000 };
    assert_eq!(store.write(vec![hurry]).await, Ok(vec![Written::Rows(5_000)]));
    took("hurry of 5,000", hurrying.elapsed());
    let listing = Instant::now();
    store.list(None, 100).await.expect("a list");
    took("list of 100", listing.elapsed());
    let ids: Vec<_> = rows.iter().map(|row| row.id).collect();
    let removing = Instant::now();
    store.write(ids.into_iter().map(Write::Remove).collect()).await.expect("it is written");
    took("remove of 64", removing.elapsed());
    let parking = Measured::start();
    for from in 0..40 {
        let numbers = (0..256).map(|number| MANY + from * 256 + number);
        let parks = numbers.map(|number| Write::Park(start(number, ENDPOINTS, LANES, 300))).collect();
        store.write(parks).await.expect("it is written");
    }
    parking.report("park, 256 at a time", 40 * 256);
    println!("{:28} {:9} MiB more than before it was opened", "resident", resident().saturating_sub(before) >> 20);
}

fn open(path: &Path) -> SqliteStore {
    SqliteStore::open(path).expect("it opens")
}

async fn claim(store: &SqliteStore, lane: &str, at_most: usize) -> Vec<Row> {
    store.claim(lane, at_most, US, NOW, LEASE).await.expect("a claim")
}

/// A start whose name is as good as drawn at random, as the names of real ones are.
fn start(number: u64, endpoints: u64, lanes: u64, size: usize) -> New {
    let scattered = u128::from(number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    New {
        id: Id(scattered.to_be_bytes()),
        endpoint: format!("endpoint-{}", number % endpoints).into(),
        lane: lane(number % lanes).into(),
        token: "t".repeat(120).into(),
        content: vec![1; size],
        reason: ParkReason::Unreachable,
        arrived: NOW,
        expires: LATER,
    }
}

fn lane(number: u64) -> String {
    format!("s/endpoint-{}/orders/operation-{number}", number % ENDPOINTS)
}

/// Time on the clock and on the processor.
struct Measured {
    begun: Instant,
    processor: Duration,
}

impl Measured {
    fn start() -> Self {
        Self { begun: Instant::now(), processor: processor() }
    }

    fn report(&self, what: &str, operations: u64) {
        let (clock, processor) = (self.begun.elapsed(), processor().saturating_sub(self.processor));
        let each = |time: Duration| time.as_nanos() / 1_000 / u128::from(operations);
        let per_second = u128::from(operations) * 1_000_000 / clock.as_micros().max(1);
        println!("{what:28} {per_second:9} a second {:6} µs each {:6} µs of processor", each(clock), each(processor));
    }
}

fn took(what: &str, time: Duration) {
    println!("{what:28} {:9} µs", time.as_micros());
}

/// What this process took of the processor so far, in ticks of 10 ms.
fn processor() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    // The user's and the system's part.
    Duration::from_millis(fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum::<u64>() * 10)
}

/// Bytes of this process that are in memory.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4_096
}
