//! The embedded store of parked operations: what every store must do, and what comes of it being a file.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use nexus_gateway::park::sqlite::SqliteStore;
use nexus_gateway::park::store::{Store, StoreError, Write};
use rusqlite::Connection;

#[path = "support/store_suite.rs"]
#[macro_use]
mod store_suite;
#[path = "park_store/torn.rs"]
mod torn;

use store_suite::{Place, park, start};

/// What `SQLite` adds to the file's name for its log.
const LOG: &str = "-wal";

/// A file in a folder that goes with the test.
struct File(tempfile::TempDir);

impl File {
    fn path(&self) -> PathBuf {
        self.0.path().join("parked.db")
    }

    /// Another file that `SQLite` keeps.
    fn beside(&self, ending: &str) -> PathBuf {
        self.0.path().join(format!("parked.db{ending}"))
    }

    fn refused(&self) -> String {
        let Err(StoreError(message)) = SqliteStore::open(&self.path()) else { panic!("it opens") };
        assert!(message.contains(&*self.path().to_string_lossy()), "does not name the file: {message}");
        message
    }
}

#[async_trait]
impl Place for File {
    async fn open(&self) -> Arc<dyn Store> {
        Arc::new(SqliteStore::open(&self.path()).expect("it opens"))
    }
}

async fn file() -> File {
    File(tempfile::tempdir().expect("a folder"))
}

store_suite!(file);

#[tokio::test]
async fn each_file_has_a_name_of_its_own() {
    let (one, other) = (file().await.open().await, file().await.open().await);
    assert_ne!(one.name(), other.name());
}

#[tokio::test]
async fn only_its_owner_can_read_the_file() {
    let place = file().await;
    let store = place.open().await;
    park(&store, [start(1)]).await;
    for ending in ["", LOG, "-shm"] {
        let mode = fs::metadata(place.beside(ending)).expect("the file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "parked.db{ending}");
    }
}

#[tokio::test]
async fn what_is_no_database_is_left_as_it_is() {
    let place = file().await;
    for garbage in [&b"not a database, but something that somebody wrote"[..], &[0; 8192], &[0xff; 10_000]] {
        fs::write(place.path(), garbage).expect("it is written");
        let message = place.refused();
        assert!(message.contains("not a database"), "{message}");
        assert_eq!(fs::read(place.path()).expect("it is there"), garbage);
    }
}

#[tokio::test]
async fn another_database_is_left_as_it_is() {
    let place = file().await;
    let other = Connection::open(place.path()).expect("it opens");
    other.execute_batch("CREATE TABLE theirs (x); INSERT INTO theirs VALUES (1)").expect("it is written");
    drop(other);
    let before = fs::read(place.path()).expect("it is there");
    assert!(place.refused().ends_with("is a database of something else, not of parked operations"));
    assert_eq!(fs::read(place.path()).expect("it is there"), before);
}

#[tokio::test]
async fn another_version_is_left_as_it_is() {
    let place = file().await;
    park(&place.open().await, [start(1)]).await;
    let newer = Connection::open(place.path()).expect("it opens");
    newer.pragma_update(None, "user_version", 2).expect("it is written");
    let message = place.refused();
    assert!(message.ends_with("version 2 of their schema; this gateway knows version 1"), "{message}");
    newer.pragma_update(None, "user_version", 1).expect("it is written");
    assert!(place.open().await.find(store_suite::id(1)).await.expect("an answer").is_some());
}

#[tokio::test]
async fn a_folder_that_is_not_there_is_told() {
    let place = File(tempfile::tempdir().expect("a folder"));
    fs::remove_dir(place.0.path()).expect("it is empty");
    assert!(place.refused().contains("No such file"));
}

#[tokio::test]
async fn a_damaged_file_gives_errors_and_is_kept() {
    let place = file().await;
    let store = place.open().await;
    park(&store, (0..200).map(start)).await;
    drop(store);
    let mut bytes = settled(&place);
    let beyond_the_head = bytes.len() - 4096;
    bytes[4096..][..beyond_the_head].fill(0xa5);
    fs::write(place.path(), &bytes).expect("it is written");
    let Ok(store) = SqliteStore::open(&place.path()) else { return check_kept(&place, &bytes) };
    for _ in 0..2 {
        let Err(StoreError(message)) = store.write(vec![Write::Park(start(201))]).await else {
            panic!("it is written")
        };
        assert!(message.contains("malformed") && message.contains("parked.db"), "{message}");
        assert!(store.claim("s/payments/orders/quote", 9, store_suite::US, store_suite::NOW, 0).await.is_err());
    }
    check_kept(&place, &bytes);
}

/// What is in the file once its log is in it.
fn settled(place: &File) -> Vec<u8> {
    let connection = Connection::open(place.path()).expect("it opens");
    connection.query_one("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).expect("the log ends");
    drop(connection);
    fs::read(place.path()).expect("it is there")
}

fn check_kept(place: &File, bytes: &[u8]) {
    assert!(fs::read(place.path()).expect("it is there") == bytes, "the damaged file was changed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_process_that_writes_is_waited_for() {
    let place = file().await;
    let store = place.open().await;
    let other = Connection::open(place.path()).expect("it opens");
    other.execute_batch("BEGIN IMMEDIATE; DELETE FROM contents").expect("it has the lock");
    let waiting = tokio::spawn(async move {
        park(&store, [start(1)]).await;
        store
    });
    // Reading needs no lock, so it tells that a second store opens meanwhile.
    assert_eq!(place.open().await.counts().await, Ok(Vec::new()));
    assert!(!waiting.is_finished());
    other.execute_batch("COMMIT").expect("it lets go");
    let store = waiting.await.expect("it is written");
    assert!(store.find(store_suite::id(1)).await.expect("an answer").is_some());
}
