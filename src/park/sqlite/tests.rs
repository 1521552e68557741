//! What needs the connection: a full disk, lost answers, space that is given back.

use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::park::store::New;
use crate::resilience::park::ParkReason;

const NOW: u64 = 1_790_000_000_000;
const US: Owner = Owner([1; 16]);

fn store() -> (TempDir, SqliteStore) {
    let folder = tempfile::tempdir().expect("a folder");
    let store = SqliteStore::open(&folder.path().join("parked.db")).expect("it opens");
    (folder, store)
}

fn starts(from: u32, number: u32, size: usize) -> Vec<Write> {
    let start = |number: u32| {
        let mut id = [0; 16];
        id[..4].copy_from_slice(&number.to_be_bytes());
        Write::Park(New {
            id: Id(id),
            endpoint: "payments".into(),
            lane: "s/payments".into(),
            token: "token".into(),
            content: vec![7; size],
            reason: ParkReason::Unreachable,
            arrived: NOW,
            expires: NOW + 1_000_000,
        })
    };
    (from..from + number).map(start).collect()
}

async fn number(store: &SqliteStore, sql: &'static str) -> i64 {
    store.ask(move |connection| connection.query_one(sql, [], |row| row.get(0))).await.expect("a number")
}

async fn allow_pages(store: &SqliteStore, pages: i64) {
    store
        .ask(move |connection| connection.query_one(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(())))
        .await
        .expect("it is set");
}

#[tokio::test]
async fn a_full_disk_refuses_what_is_new_and_keeps_the_rest() {
    let (_folder, store) = store();
    store.write(starts(0, 10, 1_000)).await.expect("there is room");
    let pages = number(&store, "PRAGMA page_count").await;
    allow_pages(&store, pages + 20).await;
    let before = store.counts().await.expect("counts");
    for _ in 0..3 {
        let StoreError(message) = store.write(starts(10, 100, 10_000)).await.expect_err("there is no room");
        assert!(message.contains("full") && message.contains("parked.db"), "{message}");
        assert_eq!(store.counts().await, Ok(before.clone()), "all or nothing");
    }
    let claimed = store.claim("s/payments", 10, US, NOW, NOW + 10).await.expect("there is room for that");
    assert_eq!(claimed.len(), 10);
    let removals = claimed.iter().map(|row| Write::Remove(row.id)).collect();
    assert_eq!(store.write(removals).await.expect("it takes no room").len(), 10);
    store.write(starts(10, 10, 1_000)).await.expect("there is room again");
    allow_pages(&store, 1_000_000).await;
    store.write(starts(20, 100, 10_000)).await.expect("the disk has room again");
    assert_eq!(store.counts().await.expect("counts")[0].rows, 110);
    assert_eq!(number(&store, "SELECT count(*) FROM contents").await, 110);
}

#[tokio::test]
async fn a_claim_that_nobody_waits_for_is_given_back() {
    let (_folder, store) = store();
    store.write(starts(0, 3, 10)).await.expect("it is written");
    let (hold, end) = std::sync::mpsc::channel::<()>();
    let store = Arc::new(store);
    let busy = {
        let store = Arc::clone(&store);
        async move {
            store
                .ask(move |_| {
                    let _ = end.recv();
                    Ok(())
                })
                .await
        }
    };
    let busy = tokio::spawn(busy);
    tokio::task::yield_now().await;
    // The thread is busy: the claim is asked for, and given up before its turn.
    let claim = store.claim("s/payments", 9, US, NOW, NOW + 10_000);
    assert!(tokio::time::timeout(Duration::ZERO, claim).await.is_err());
    drop(hold);
    busy.await.expect("it ran").expect("it was done");
    assert_eq!(store.claim("s/payments", 9, Owner([2; 16]), NOW, NOW + 10_000).await.expect("a claim").len(), 3);
}

#[tokio::test]
async fn a_released_claim_is_as_if_it_had_never_been() {
    let (_folder, store) = store();
    store.write(starts(0, 2, 10)).await.expect("it is written");
    let rows = store.claim("s/payments", 9, US, NOW, NOW + 10_000).await.expect("a claim");
    store.write(vec![Write::Remove(rows[1].id), starts(1, 1, 10).remove(0)]).await.expect("it is written");
    let before = store.find(rows[1].id).await;
    let released = rows.clone();
    store.ask(move |connection| claims::release(connection, US, &released)).await.expect("it is released");
    assert_eq!(store.find(rows[0].id).await, Ok(Some(rows[0].clone())));
    assert_eq!(store.find(rows[1].id).await, before, "it is another one by now");
    assert_eq!(store.write(vec![Write::Renew { owner: US, until: NOW }]).await, Ok(vec![Written::Rows(0)]));
}

#[tokio::test]
async fn a_drained_backlog_gives_its_space_back() {
    let (folder, store) = store();
    for from in 0..10 {
        store.write(starts(from * 100, 100, 40_000)).await.expect("it is written");
    }
    let full = number(&store, "PRAGMA page_count").await;
    assert!(full > 2 * SPARE_PAGES);
    let rows = store.list(None, 10_000).await.expect("a list");
    let pages = |connection: &Connection| connection.query_one("PRAGMA page_count", [], |row| row.get::<_, i64>(0));
    let at_once = store.ask(move |connection| {
        writes::write(connection, rows.iter().map(|row| Write::Remove(row.id)).collect())?;
        assert!(shrink(connection));
        pages(connection)
    });
    assert!(at_once.await.expect("they are gone") <= full - 250, "more than a page at a time");
    // Asks beside the thread, which has nothing else to do.
    let other = Connection::open(folder.path().join("parked.db")).expect("it opens");
    assert!((0..1_000_000).any(|_| pages(&other).is_ok_and(|pages| pages <= SPARE_PAGES + 300)));
    assert_eq!(number(&store, "SELECT count(*) FROM parked").await, 0);
    assert_eq!(
        store.ask(|connection| connection.query_one("PRAGMA integrity_check", [], |row| row.get(0))).await,
        Ok("ok".to_owned())
    );
}

#[tokio::test]
async fn the_thread_ends_with_the_store() {
    let (folder, store) = store();
    store.write(starts(0, 1, 10)).await.expect("it is written");
    drop(store);
    // The last one to close the file takes its log away.
    let log = folder.path().join("parked.db-wal");
    assert!((0..10_000_000).any(|_| !log.exists()), "the file is still open");
}
