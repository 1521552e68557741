//! The file: whose it is, its settings and its tables.
//!
//! What changes often is apart from the content, which may be large: a claim rewrites a small row. The numbers and bytes
//! of each endpoint and state are kept, since counting a million rows takes long.

use std::time::Duration;

use rusqlite::{Connection, TransactionBehavior};

/// Says that the file is the gateway's: `NxPk` in ASCII.
const APPLICATION: i64 = 0x4e78_506b;
/// Of the tables below.
const VERSION: i64 = 1;
/// How long another process may hold the file's lock.
const PATIENCE: Duration = Duration::from_secs(5);

/// Integers are milliseconds, bytes or numbers. `state` is as in `rows`; `lane` is empty for what is started and not
/// canceled; `owner` is null for what nobody has claimed; `seq` is the order in which rows were kept. `store` has one
/// row: the name of this file's store, drawn at random.
const TABLES: &str = "
    CREATE TABLE store (name TEXT NOT NULL) STRICT;
    INSERT INTO store VALUES (lower(hex(randomblob(6))));
    CREATE TABLE parked (
        seq INTEGER PRIMARY KEY,
        id BLOB NOT NULL UNIQUE,
        endpoint TEXT NOT NULL,
        lane TEXT NOT NULL,
        state INTEGER NOT NULL,
        token TEXT NOT NULL,
        reason TEXT NOT NULL,
        arrived INTEGER NOT NULL,
        due INTEGER NOT NULL,
        expires INTEGER NOT NULL,
        tries INTEGER NOT NULL,
        cancel INTEGER NOT NULL,
        owner BLOB,
        size INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX by_lane ON parked (lane, due, seq, expires);
    CREATE INDEX by_expiry ON parked (expires);
    CREATE INDEX by_endpoint ON parked (endpoint, state, arrived);
    CREATE INDEX by_delay ON parked (endpoint, due) WHERE owner IS NULL AND state <> 1;
    CREATE INDEX by_owner ON parked (owner) WHERE owner IS NOT NULL;
    CREATE TABLE contents (seq INTEGER PRIMARY KEY, content BLOB NOT NULL) STRICT;
    CREATE TABLE counted (
        endpoint TEXT NOT NULL,
        state INTEGER NOT NULL,
        amount INTEGER NOT NULL,
        bytes INTEGER NOT NULL,
        PRIMARY KEY (endpoint, state)
    ) STRICT, WITHOUT ROWID;
";

/// A commit is on the disk when it returns (`synchronous`), 8 MiB of the file are cached, none of it is mapped. The log
/// goes into the file after 16 MiB, and keeps no more than 32 MiB on the disk.
const SETTINGS: &str = "
    PRAGMA synchronous = FULL;
    PRAGMA cache_size = -8192;
    PRAGMA mmap_size = 0;
    PRAGMA wal_autocheckpoint = 4000;
    PRAGMA journal_size_limit = 33554432;
";

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Sqlite(#[from] rusqlite::Error),
    #[error("is a database of something else, not of parked operations")]
    Foreign,
    #[error("has parked operations in version {0} of their schema; this gateway knows version {VERSION}")]
    Version(i64),
    #[error("cannot have a write-ahead log, but is in mode {0:?}")]
    Mode(String),
}

/// Looks whose file it is before anything is changed, then makes it ready for use. The name of its store.
pub(super) fn prepare(connection: &mut Connection) -> Result<Box<str>, OpenError> {
    connection.busy_timeout(PATIENCE)?;
    let is_new = is_new(connection)?;
    if is_new {
        // Has to be said before there is anything in the file.
        connection.execute_batch("PRAGMA auto_vacuum = INCREMENTAL")?;
    }
    let mode: String = connection.query_one("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    if mode != "wal" {
        return Err(OpenError::Mode(mode));
    }
    connection.execute_batch(SETTINGS)?;
    if is_new {
        create(connection)?;
    }
    Ok(connection.query_one("SELECT name FROM store", [], |row| row.get(0))?)
}

/// Whether the file is empty. It is the gateway's otherwise, and of this version.
fn is_new(connection: &Connection) -> Result<bool, OpenError> {
    let number = |sql| connection.query_one(sql, [], |row| row.get::<_, i64>(0));
    let tables = number("SELECT count(*) FROM sqlite_schema")?;
    match (number("PRAGMA application_id")?, number("PRAGMA user_version")?) {
        (0, 0) if tables == 0 => Ok(true),
        (APPLICATION, VERSION) => Ok(false),
        (APPLICATION, version) => Err(OpenError::Version(version)),
        _ => Err(OpenError::Foreign),
    }
}

fn create(connection: &mut Connection) -> Result<(), OpenError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Another process may have been faster.
    if is_new(&transaction)? {
        transaction.execute_batch(TABLES)?;
        transaction.pragma_update(None, "application_id", APPLICATION)?;
        transaction.pragma_update(None, "user_version", VERSION)?;
    }
    Ok(transaction.commit()?)
}
