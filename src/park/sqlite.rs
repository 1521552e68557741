//! Parked operations in a file of the state folder: `SQLite`, since it survives a kill at any moment and a torn last
//! write, lets a second process in during a restart, and needs no set-up.
//!
//! One thread owns the connection and takes one job after the other. A write is on the disk before it is answered, so
//! whoever has many collects them into one batch. A failed job changes nothing, and the next one may succeed: a full disk
//! is not the end of the store. While nothing is asked, space that a drained backlog left is given back to the disk.
//!
//! Knows the file and the thread. Must not know when anything is due, or what is asked by whom.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use rusqlite::{Connection, OpenFlags};
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{mpsc, oneshot};

use super::store::{Count, Id, Owner, Row, Store, StoreError, Write, Written};

mod claims;
mod rows;
mod schema;
#[cfg(test)]
mod tests;
mod writes;

/// Jobs that wait for the thread; who asks for more waits.
const QUEUED: usize = 256;
/// Statements that stay prepared: all that there are.
const STATEMENTS: usize = 64;
/// Pages that may be free in the file, for what comes next: 16 MiB.
const SPARE_PAGES: i64 = 4096;

/// A store in a file. Several processes may have it open.
pub struct SqliteStore {
    jobs: mpsc::Sender<Job>,
    path: Arc<str>,
    name: Box<str>,
}

/// Something to be done with the connection.
type Job = Box<dyn FnOnce(&mut Connection) + Send>;

impl SqliteStore {
    /// Opens the file, and creates it where there is none, for its owner alone. Blocks, for up to some seconds while
    /// another process changes the file.
    ///
    /// Errors name the file: it is no database, is damaged, belongs to something else or to another version of the
    /// gateway. Such a file is left as it is.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let told: Arc<str> = path.to_string_lossy().into();
        let (connection, name) = connect(path).map_err(|error| StoreError(format!("{told}: {error}")))?;
        let (jobs, queue) = mpsc::channel(QUEUED);
        std::thread::Builder::new()
            .name("park".to_owned())
            .spawn(move || work(connection, queue))
            .map_err(|error| StoreError(format!("{told}: no thread: {error}")))?;
        Ok(Self { jobs, path: told, name })
    }

    /// Has the thread do something and answer.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.send(Box::new(move |connection| {
            // Who asked may be gone; what was asked is done all the same.
            let _ = reply.send(question(connection));
        }))
        .await?;
        self.answer(answer).await
    }

    /// Has the thread claim rows. Claims that nobody waits for any more are given back, or the process would renew them
    /// for as long as it runs.
    async fn ask_claim(
        &self,
        owner: Owner,
        claim: impl FnOnce(&mut Connection) -> rusqlite::Result<Vec<Row>> + Send + 'static,
    ) -> Result<Vec<Row>, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.send(Box::new(move |connection| {
            if reply.is_closed() {
                return;
            }
            if let Err(Ok(rows)) = reply.send(claim(connection)) {
                // Where this fails they come due when the lease ends, if at all: it is as good as a lost answer.
                let _ = claims::release(connection, owner, &rows);
            }
        }))
        .await?;
        self.answer(answer).await
    }

    async fn send(&self, job: Job) -> Result<(), StoreError> {
        self.jobs.send(job).await.map_err(|_| self.stopped())
    }

    async fn answer<T>(&self, answer: oneshot::Receiver<rusqlite::Result<T>>) -> Result<T, StoreError> {
        match answer.await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(StoreError(format!("{}: {error}", self.path))),
            Err(_) => Err(self.stopped()),
        }
    }

    fn stopped(&self) -> StoreError {
        StoreError(format!("{}: its thread has ended", self.path))
    }
}

#[async_trait]
impl Store for SqliteStore {
    fn name(&self) -> &str {
        &self.name
    }

    async fn write(&self, writes: Vec<Write>) -> Result<Vec<Written>, StoreError> {
        self.ask(move |connection| writes::write(connection, writes)).await
    }

    async fn claim(
        &self,
        lane: &str,
        at_most: usize,
        owner: Owner,
        now: u64,
        lease: u64,
    ) -> Result<Vec<Row>, StoreError> {
        let lane = lane.to_owned();
        self.ask_claim(owner, move |connection| claims::claim(connection, &lane, at_most, owner, now, lease)).await
    }

    async fn claim_expired(&self, at_most: usize, owner: Owner, now: u64, lease: u64) -> Result<Vec<Row>, StoreError> {
        self.ask_claim(owner, move |connection| claims::claim_expired(connection, at_most, owner, now, lease)).await
    }

    async fn find(&self, id: Id) -> Result<Option<Row>, StoreError> {
        self.ask(move |connection| rows::find(connection, id)).await
    }

    async fn lanes(&self) -> Result<Vec<(Box<str>, u64)>, StoreError> {
        self.ask(|connection| rows::lanes(connection)).await
    }

    async fn counts(&self) -> Result<Vec<Count>, StoreError> {
        self.ask(|connection| rows::counts(connection)).await
    }

    async fn list(&self, endpoint: Option<&str>, at_most: usize) -> Result<Vec<Row>, StoreError> {
        let endpoint = endpoint.map(str::to_owned);
        self.ask(move |connection| rows::list(connection, endpoint.as_deref(), at_most)).await
    }
}

/// The connection, and the name of the store.
fn connect(path: &Path) -> Result<(Connection, Box<str>), schema::OpenError> {
    // SQLite gives its other files the mode of this one.
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)?;
    let name = schema::prepare(&mut connection)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok((connection, name))
}

/// Does what is asked, until the store is dropped.
fn work(mut connection: Connection, mut queue: mpsc::Receiver<Job>) {
    let mut may_shrink = true;
    loop {
        let job = match queue.try_recv() {
            Ok(job) => job,
            Err(TryRecvError::Disconnected) => return,
            Err(TryRecvError::Empty) if may_shrink => {
                may_shrink = shrink(&connection);
                continue;
            }
            Err(TryRecvError::Empty) => match queue.blocking_recv() {
                Some(job) => job,
                None => return,
            },
        };
        job(&mut connection);
        may_shrink = true;
    }
}

/// Gives a MiB of the file back to the disk, so little that nobody waits for it. Whether more is to be given back.
fn shrink(connection: &Connection) -> bool {
    let free = || connection.query_one("PRAGMA freelist_count", [], |row| row.get::<_, i64>(0)).unwrap_or(0);
    let before = free();
    // What fails now, for the lack of a lock or of space, is tried after the next job.
    before > SPARE_PAGES && vacuum(connection).is_ok() && free() < before
}

fn vacuum(connection: &Connection) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached("PRAGMA incremental_vacuum(256)")?;
    let mut pages = statement.query([])?;
    // Each step frees one page; whoever stops early gets no more than that.
    while pages.next()?.is_some() {}
    Ok(())
}
