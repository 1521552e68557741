//! A batch of changes as one transaction.
//!
//! Changes of single rows that follow each other are made together: their rows are locked in the order of their names, so
//! that two replicas do not wait for each other in a circle, and what comes of them goes out in one round trip, with the
//! commit where nothing follows. A transaction that another one got in the way of is made again.

use std::collections::BTreeSet;

use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;

use super::batch::{Batch, Difference, Kept, subject};
use super::clock::Clock;
use super::connection::Session;
use super::rows::{Arrays, get, kept};
use crate::park::store::{Id, StoreError, Which, Write, Written};

/// How often a transaction is made that others get in the way of.
const TRIES: u32 = 5;

/// `$2`: of which rows the content is wanted.
const LOCK: &str = "
    SELECT p.id, p.endpoint, p.lane, p.state, p.token, p.reason, p.arrived, p.due, p.expires, p.tries, p.cancel, p.owner,
           p.size, CASE WHEN p.id = ANY($2::bytea[]) THEN p.content END AS content
    FROM nexus_gateway_parked p WHERE p.id = ANY($1::bytea[]) ORDER BY p.id FOR UPDATE";

const DELETE: &str = "DELETE FROM nexus_gateway_parked WHERE id = ANY($1::bytea[])";

/// Numbered as they come, and then added in the order of their names.
const INSERT: &str = "
    WITH new AS MATERIALIZED (
        SELECT nextval('nexus_gateway_parked_seq') AS seq, u.* FROM unnest(
            $1::bytea[], $2::bytea[], $3::bytea[], $4::smallint[], $5::bytea[], $6::bytea[], $7::smallint[],
            $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::boolean[], $13::bytea[]
        ) AS u (id, endpoint, lane, state, token, content, reason, arrived, due, expires, tries, cancel, owner)
    )
    INSERT INTO nexus_gateway_parked
        (id, seq, endpoint, lane, state, token, content, size, reason, arrived, due, expires, tries, cancel, owner)
    SELECT id, seq, endpoint, lane, state, token, content, octet_length(content), reason, arrived, due, expires, tries,
           cancel, owner
    FROM new ORDER BY id";

const UPDATE: &str = "
    UPDATE nexus_gateway_parked p SET
        lane = u.lane, state = u.state, content = coalesce(u.content, p.content),
        size = coalesce(octet_length(u.content), p.size), due = u.due, expires = u.expires, tries = u.tries,
        cancel = u.cancel, owner = u.owner
    FROM unnest(
        $1::bytea[], $2::bytea[], $3::smallint[], $4::bytea[], $5::bigint[], $6::bigint[], $7::bigint[], $8::boolean[],
        $9::bytea[]
    ) AS u (id, lane, state, content, due, expires, tries, cancel, owner)
    WHERE p.id = u.id";

const RENEW: &str = "
    WITH mine AS MATERIALIZED (
        SELECT id FROM nexus_gateway_parked WHERE owner = $1 ORDER BY id FOR UPDATE
    )
    UPDATE nexus_gateway_parked p SET due = $2 FROM mine WHERE p.id = mine.id";

/// Makes rows due at `$1`, up to `$2`, of the endpoint `$3` where it is given. How many were chosen, and how many of
/// these nobody else got hold of meanwhile.
///
/// They are looked for from endpoint to endpoint, since what is due already, which may be most of it, is passed over
/// there. They are locked in the order of their names only when all are known.
const HURRY: &str = "
    WITH RECURSIVE endpoints AS (
        (SELECT endpoint FROM nexus_gateway_parked
         WHERE owner IS NULL AND state <> 1 AND endpoint >= coalesce($3::bytea, '') ORDER BY endpoint, due LIMIT 1)
        UNION ALL
        SELECT next.endpoint FROM endpoints CROSS JOIN LATERAL (
            SELECT q.endpoint FROM nexus_gateway_parked q
            WHERE q.owner IS NULL AND q.state <> 1 AND q.endpoint > endpoints.endpoint AND $3 IS NULL
            ORDER BY q.endpoint, q.due LIMIT 1
        ) next
    ), chosen AS MATERIALIZED (
        SELECT next.id FROM endpoints CROSS JOIN LATERAL (
            SELECT q.id FROM nexus_gateway_parked q
            WHERE q.owner IS NULL AND q.state <> 1 AND q.endpoint = endpoints.endpoint AND q.due > $1
            ORDER BY q.due LIMIT $2
        ) next WHERE $3 IS NULL OR endpoints.endpoint = $3 LIMIT $2
    ), late AS MATERIALIZED (
        SELECT p.id FROM chosen JOIN nexus_gateway_parked p ON p.id = chosen.id
        WHERE p.owner IS NULL AND p.state <> 1 AND p.due > $1 ORDER BY p.id FOR UPDATE OF p
    ), changed AS (
        UPDATE nexus_gateway_parked p SET due = $1 FROM late WHERE p.id = late.id RETURNING 1
    )
    SELECT (SELECT count(*) FROM chosen) AS chosen, (SELECT count(*) FROM changed) AS changed";

/// Why a transaction did not come to its end.
enum Broken {
    /// Another one was in the way; this one is worth making again.
    InTheWay(StoreError),
    Failed(StoreError),
}

/// Makes the changes. What they came to, in their order.
pub(super) async fn write(session: &Session, clock: &Clock, writes: &[Write]) -> Result<Vec<Written>, StoreError> {
    let mut tries = 0;
    loop {
        tries += 1;
        match attempt(session, clock, writes).await {
            Ok(written) => return Ok(written),
            Err(Broken::InTheWay(_)) if tries < TRIES => session.client()?.batch_execute("ROLLBACK").await?,
            Err(Broken::InTheWay(error) | Broken::Failed(error)) => return Err(error),
        }
    }
}

async fn attempt(session: &Session, clock: &Clock, writes: &[Write]) -> Result<Vec<Written>, Broken> {
    let mut written = Vec::with_capacity(writes.len());
    let mut rest = writes;
    while let Some(write) = rest.first() {
        let first = written.is_empty();
        let single = rest.iter().take_while(|write| subject(write).is_some()).count();
        let (these, others) = rest.split_at(single.max(1));
        if single == 0 {
            written.push(Written::Rows(many(session, clock, write, first, others.is_empty()).await?));
        } else {
            written.extend(singles(session, clock, these, first, others.is_empty()).await?);
        }
        rest = others;
    }
    Ok(written)
}

/// Changes that are about one row each.
async fn singles(
    session: &Session,
    clock: &Clock,
    writes: &[Write],
    first: bool,
    last: bool,
) -> Result<Vec<Written>, Broken> {
    let mut batch = Batch::new(lock(session, clock, writes, first).await?);
    let written = writes.iter().map(|write| batch.apply(write)).collect();
    put(session, clock, &batch.difference(), last).await?;
    Ok(written)
}

async fn lock(
    session: &Session,
    clock: &Clock,
    writes: &[Write],
    first: bool,
) -> Result<Vec<(Id, Kept<'static>)>, Broken> {
    let named: Vec<_> = writes.iter().filter_map(subject).collect();
    let all: BTreeSet<_> = named.iter().map(|(id, _)| id).collect();
    let all: Vec<_> = all.into_iter().map(|id| &id.0[..]).collect();
    let told: Vec<_> = named.iter().filter(|(_, tells)| *tells).map(|(id, _)| &id.0[..]).collect();
    let (client, statement) = (session.client()?, session.prepare(LOCK).await?);
    let begin = async { if first { client.batch_execute("BEGIN").await } else { Ok(()) } };
    let values: [&(dyn ToSql + Sync); 2] = [&all, &told];
    let (opened, rows) = tokio::join! { biased; begin, client.query(&statement, &values) };
    opened?;
    Ok(rows?.iter().map(|row| kept(row, clock)).collect::<Result<_, _>>()?)
}

/// Writes what is to be written, and commits where nothing follows.
///
/// All of it goes out before an answer is awaited. The order is that in which the futures are polled first, and each
/// sends when that happens: hence the statements are prepared before. A statement that fails makes the commit undo all.
async fn put(session: &Session, clock: &Clock, difference: &Difference<'_, '_>, last: bool) -> Result<(), Broken> {
    let client = session.client()?;
    let (delete, insert, update) =
        (session.prepare(DELETE).await?, session.prepare(INSERT).await?, session.prepare(UPDATE).await?);
    let gone: Vec<_> = difference.gone.iter().map(|id| &id.0[..]).collect();
    let (mut new, mut changed) = (Arrays::default(), Arrays::default());
    difference.new.iter().for_each(|(id, row)| new.push(id, row, true, clock));
    difference.changed.iter().for_each(|(id, row, content)| changed.push(id, row, *content, clock));
    let new_values = new.all();
    let changed_values = changed.changeable();
    let (deleted, inserted, updated, committed) = tokio::join! {
        biased;
        async { if gone.is_empty() { Ok(0) } else { client.execute(&delete, &[&gone]).await } },
        async { if new.is_empty() { Ok(0) } else { client.execute(&insert, &new_values).await } },
        async { if changed.is_empty() { Ok(0) } else { client.execute(&update, &changed_values).await } },
        async { if last { client.batch_execute("COMMIT").await } else { Ok(()) } },
    };
    let (_, _, _) = (deleted?, inserted?, updated?);
    Ok(committed?)
}

/// A change of as many rows as there are.
async fn many(session: &Session, clock: &Clock, write: &Write, first: bool, last: bool) -> Result<u64, Broken> {
    let client = session.client()?;
    if first {
        client.batch_execute("BEGIN").await?;
    }
    let rows = match write {
        Write::Renew { owner, until } => {
            let statement = session.prepare(RENEW).await?;
            client.execute(&statement, &[&&owner.0[..], &clock.outwards(*until)]).await?
        }
        Write::Hurry { which, now, at_most } => {
            let endpoint = if let Which::Endpoint(name) = which { Some(name.as_bytes()) } else { None };
            hurry(session, clock.outwards(*now), *at_most, endpoint).await?
        }
        _ => 0,
    };
    if last {
        client.batch_execute("COMMIT").await?;
    }
    Ok(rows)
}

/// Until so many rows are changed, or no more are found: some may be claimed while they are chosen.
async fn hurry(session: &Session, now: i64, at_most: usize, endpoint: Option<&[u8]>) -> Result<u64, Broken> {
    let statement = session.prepare(HURRY).await?;
    let mut left = i64::try_from(at_most).unwrap_or(i64::MAX);
    let mut rows = 0;
    loop {
        let row = session.client()?.query_one(&statement, &[&now, &left, &endpoint]).await?;
        let (chosen, changed): (i64, i64) = (get(&row, "chosen")?, get(&row, "changed")?);
        rows += u64::try_from(changed).unwrap_or(0);
        if chosen == changed || chosen < left {
            return Ok(rows);
        }
        left -= changed;
    }
}

impl From<tokio_postgres::Error> for Broken {
    fn from(error: tokio_postgres::Error) -> Self {
        const CODES: [SqlState; 3] =
            // The last one: a row of this name was added since the names were looked up.
            [SqlState::T_R_SERIALIZATION_FAILURE, SqlState::T_R_DEADLOCK_DETECTED, SqlState::UNIQUE_VIOLATION];
        let in_the_way = error.code().is_some_and(|code| CODES.contains(code));
        if in_the_way { Self::InTheWay(error.into()) } else { Self::Failed(error.into()) }
    }
}

impl From<StoreError> for Broken {
    fn from(error: StoreError) -> Self {
        Self::Failed(error)
    }
}
