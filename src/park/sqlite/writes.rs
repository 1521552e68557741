//! Changes, a batch at a time.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension, Result, Transaction, TransactionBehavior, params};

use super::rows::{endpoints, limit, number, state, state_number, time};
use crate::park::store::{Id, New, Next, Owner, State, Which, Write, Written};

/// Makes all the changes, or none.
pub(super) fn write(connection: &mut Connection, writes: Vec<Write>) -> Result<Vec<Written>> {
    if writes.is_empty() {
        return Ok(Vec::new());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut batch = Batch { transaction: &transaction, changes: HashMap::new() };
    let written = writes.into_iter().map(|write| batch.apply(write)).collect::<Result<_>>()?;
    batch.count()?;
    transaction.commit()?;
    Ok(written)
}

/// The changes of one transaction, and what they change in the numbers of each endpoint and state.
struct Batch<'a> {
    transaction: &'a Transaction<'a>,
    changes: HashMap<(Box<str>, i64), Change>,
}

#[derive(Default)]
struct Change {
    rows: i64,
    bytes: i64,
}

/// What has to be known of a row to change it.
struct Kept {
    seq: i64,
    endpoint: Box<str>,
    lane: Box<str>,
    state: State,
    size: i64,
    arrived: u64,
    due: u64,
    cancel: bool,
    owner: Option<Owner>,
}

/// How a row goes on in another state.
struct Turn<'a> {
    state: State,
    lane: &'a str,
    content: &'a [u8],
    due: u64,
    expires: u64,
}

impl Batch<'_> {
    fn apply(&mut self, write: Write) -> Result<Written> {
        match write {
            Write::Park(new) => self.park(&new),
            Write::Settle { id, owner, next } => self.settle(id, owner, next),
            Write::Cancel { id, lane, content, now, expires } => {
                let turn = Turn { state: State::Done, lane: &lane, content: &content, due: now, expires };
                self.cancel(id, &turn)
            }
            Write::Remove(id) => match self.kept(id)? {
                Some(kept) => self.remove(kept),
                None => Ok(Written::Gone),
            },
            Write::Renew { owner, until } => {
                let sql = "UPDATE parked SET due = ?2 WHERE owner = ?1";
                let rows = self.execute(sql, params![owner.0, number(until)])?;
                Ok(Written::Rows(rows as u64))
            }
            Write::Hurry { which, now, at_most } => {
                self.hurry(which, now, at_most).map(|rows| Written::Rows(rows as u64))
            }
        }
    }

    fn park(&mut self, new: &New) -> Result<Written> {
        let mut known = self.transaction.prepare_cached("SELECT token FROM parked WHERE id = ?1")?;
        if let Some(token) = known.query_one([new.id.0], |row| row.get(0)).optional()? {
            return Ok(Written::Known(token));
        }
        let size = size(&new.content);
        self.execute(
            "INSERT INTO parked (id, endpoint, lane, state, token, reason, arrived, due, expires, tries, cancel, size)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7, ?8, 0, FALSE, ?9)",
            params![
                new.id.0,
                new.endpoint,
                new.lane,
                state_number(State::Waiting),
                new.token,
                new.reason.name(),
                number(new.arrived),
                number(new.expires),
                size
            ],
        )?;
        let seq = self.transaction.last_insert_rowid();
        self.execute("INSERT INTO contents (seq, content) VALUES (?1, ?2)", params![seq, new.content])?;
        self.change(&new.endpoint, State::Waiting, 1, size);
        Ok(Written::Parked)
    }

    fn settle(&mut self, id: Id, owner: Owner, next: Next) -> Result<Written> {
        let Some(kept) = self.kept(id)?.filter(|kept| kept.owner == Some(owner)) else {
            return Ok(Written::Gone);
        };
        let cancel = kept.cancel;
        match next {
            Next::Again { due, tries } => {
                let sql = "UPDATE parked SET owner = NULL, due = ?2, tries = ?3 WHERE seq = ?1";
                self.execute(sql, params![kept.seq, number(due), tries])?;
            }
            Next::Started { content, expires, now } => {
                let (lane, due) = if cancel { (&*kept.lane, now) } else { ("", expires) };
                self.turn(&kept, &Turn { state: State::Started, lane, content: &content, due, expires })?;
            }
            Next::Done { lane, content, due, expires } => {
                self.turn(&kept, &Turn { state: State::Done, lane: &lane, content: &content, due, expires })?;
            }
            Next::CancelSent => {
                self.cancel_sent(&kept)?;
                return Ok(Written::Changed { cancel: false });
            }
            Next::Remove => return self.remove(kept),
        }
        Ok(Written::Changed { cancel })
    }

    fn cancel_sent(&self, kept: &Kept) -> Result<usize> {
        let sql = if kept.state == State::Started {
            "UPDATE parked SET owner = NULL, cancel = FALSE, lane = '', due = expires WHERE seq = ?1"
        } else {
            "UPDATE parked SET owner = NULL, cancel = FALSE WHERE seq = ?1"
        };
        self.execute(sql, [kept.seq])
    }

    fn cancel(&mut self, id: Id, canceled: &Turn<'_>) -> Result<Written> {
        let Some(kept) = self.kept(id)? else { return Ok(Written::Gone) };
        if kept.state != State::Waiting {
            let mut content = self.transaction.prepare_cached("SELECT content FROM contents WHERE seq = ?1")?;
            return Ok(Written::Was(kept.state, content.query_one([kept.seq], |row| row.get(0))?));
        }
        if kept.owner.is_some() && kept.due > canceled.due {
            self.execute("UPDATE parked SET cancel = TRUE WHERE seq = ?1", [kept.seq])?;
            return Ok(Written::Marked);
        }
        self.turn(&kept, canceled)?;
        Ok(Written::Canceled)
    }

    /// Endpoint by endpoint, each from the first row that is put off: most rows may be due already.
    fn hurry(&self, which: Which, now: u64, at_most: usize) -> Result<usize> {
        let endpoints = match which {
            Which::All => endpoints(self.transaction)?,
            Which::Endpoint(endpoint) => vec![endpoint],
            Which::One(id) => return if at_most == 0 { Ok(0) } else { self.hurry_one(id, now) },
        };
        let mut rows = 0;
        for endpoint in endpoints {
            // The condition is that of the index, with the number of `Started`.
            let sql = "UPDATE parked SET due = ?2 WHERE seq IN (
                SELECT seq FROM parked INDEXED BY by_delay
                WHERE endpoint = ?1 AND due > ?2 AND owner IS NULL AND state <> 1 ORDER BY due LIMIT ?3
            )";
            rows += self.execute(sql, params![endpoint, number(now), limit(at_most - rows)])?;
        }
        Ok(rows)
    }

    fn hurry_one(&self, id: Id, now: u64) -> Result<usize> {
        let sql = "UPDATE parked SET due = ?2 WHERE id = ?1 AND due > ?2 AND owner IS NULL AND state <> 1";
        self.execute(sql, params![id.0, number(now)])
    }

    fn remove(&mut self, kept: Kept) -> Result<Written> {
        self.execute("DELETE FROM parked WHERE seq = ?1", [kept.seq])?;
        self.execute("DELETE FROM contents WHERE seq = ?1", [kept.seq])?;
        self.change(&kept.endpoint, kept.state, -1, -kept.size);
        let size = usize::try_from(kept.size).unwrap_or(0);
        Ok(Written::Removed(kept.endpoint, kept.state, size, kept.arrived))
    }

    /// Gives a row another state and content, and lets it go.
    fn turn(&mut self, kept: &Kept, to: &Turn<'_>) -> Result<()> {
        let size = size(to.content);
        self.execute(
            "UPDATE parked SET state = ?2, lane = ?3, due = ?4, expires = ?5, size = ?6, tries = 0, owner = NULL
            WHERE seq = ?1",
            params![kept.seq, state_number(to.state), to.lane, number(to.due), number(to.expires), size],
        )?;
        self.execute("UPDATE contents SET content = ?2 WHERE seq = ?1", params![kept.seq, to.content])?;
        self.change(&kept.endpoint, kept.state, -1, -kept.size);
        self.change(&kept.endpoint, to.state, 1, size);
        Ok(())
    }

    fn kept(&self, id: Id) -> Result<Option<Kept>> {
        let mut statement = self.transaction.prepare_cached(
            "SELECT seq, endpoint, lane, state, size, arrived, due, cancel, owner FROM parked WHERE id = ?1",
        )?;
        let kept = statement.query_one([id.0], |row| {
            Ok(Kept {
                seq: row.get(0)?,
                endpoint: row.get(1)?,
                lane: row.get(2)?,
                state: state(row.get(3)?)?,
                size: row.get(4)?,
                arrived: time(row.get(5)?),
                due: time(row.get(6)?),
                cancel: row.get(7)?,
                owner: row.get::<_, Option<[u8; 16]>>(8)?.map(Owner),
            })
        });
        kept.optional()
    }

    fn execute(&self, sql: &str, values: impl rusqlite::Params) -> Result<usize> {
        self.transaction.prepare_cached(sql)?.execute(values)
    }

    fn change(&mut self, endpoint: &str, state: State, rows: i64, bytes: i64) {
        let change = self.changes.entry((endpoint.into(), state_number(state))).or_default();
        change.rows += rows;
        change.bytes += bytes;
    }

    /// Brings the kept numbers up to date.
    fn count(&self) -> Result<()> {
        for ((endpoint, state), change) in &self.changes {
            self.execute(
                "INSERT INTO counted (endpoint, state, amount, bytes) VALUES (?1, ?2, ?3, ?4)
                ON CONFLICT DO UPDATE SET amount = amount + ?3, bytes = bytes + ?4",
                params![endpoint, state, change.rows, change.bytes],
            )?;
            self.execute(
                "DELETE FROM counted WHERE endpoint = ?1 AND state = ?2 AND amount = 0",
                params![endpoint, state],
            )?;
        }
        Ok(())
    }
}

fn size(content: &[u8]) -> i64 {
    i64::try_from(content.len()).unwrap_or(i64::MAX)
}
