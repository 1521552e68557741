//! Parked operations in a `PostgreSQL` database, which replicas share.
//!
//! One table, which may live beside others. A row is claimed by one statement that passes over rows that another replica
//! has locked, so replicas neither wait for each other nor get the same row. The database may go away and come back at
//! any time: calls fail meanwhile, within bounds of time, and work again by themselves.
//!
//! Knows SQL. Must not know what rows are for.

use std::time::Duration;

use async_trait::async_trait;
use tokio_postgres::types::ToSql;

use super::store::{Count, Id, Owner, Row, Store, StoreError, Write, Written};
use crate::tls::ClientTlsSettings;
use connection::{Database, LONG, SHORT};
use rows::{COLUMNS, get, row, state, text};

mod batch;
mod clock;
mod connection;
mod rows;
mod schema;
mod tls;
pub mod url;
mod write;

pub use url::is_over_tls;

/// Parked operations in a `PostgreSQL` database of version 13 or newer.
pub struct PostgresStore {
    database: Database,
    name: Box<str>,
}

impl PostgresStore {
    /// The store in the database at `url`, `postgres://[user[:password]@]host[:port]/database`, with
    /// `?sslmode=verify-full` by these settings of TLS. Makes its tables there where they are missing, in the first schema
    /// of the connection's search path.
    ///
    /// Errors, which never tell the URL: what is no such URL, one that asks for TLS with whoever answers, a database that
    /// does not let this process in or does not answer within seconds, tables of a newer version of the gateway.
    pub async fn open(url: &str, tls: &ClientTlsSettings) -> Result<Self, StoreError> {
        let database = Database::new(url, tls)?;
        let prepared = async {
            let session = database.session().await?;
            let name = schema::ensure(&session).await?;
            session.done();
            Ok(name)
        };
        let name = database.bounded(SHORT, prepared).await?;
        Ok(Self { database, name })
    }

    /// The rows that a statement gives, within `limit`.
    async fn query(
        &self,
        limit: Duration,
        sql: &str,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<tokio_postgres::Row>, StoreError> {
        let call = async {
            let session = self.database.session().await?;
            let rows = session.query(sql, values).await?;
            session.done();
            Ok(rows)
        };
        self.database.bounded(limit, call).await
    }

    /// Rows with their places among those that were kept.
    fn rows(&self, from: &[tokio_postgres::Row]) -> Result<Vec<(i64, Row)>, StoreError> {
        from.iter().map(|from| row(from, &self.database.clock)).collect()
    }
}

#[async_trait]
impl Store for PostgresStore {
    fn name(&self) -> &str {
        &self.name
    }

    async fn write(&self, writes: Vec<Write>) -> Result<Vec<Written>, StoreError> {
        let call = async {
            let session = self.database.session().await?;
            let written = write::write(&session, &self.database.clock, &writes).await?;
            session.done();
            Ok(written)
        };
        self.database.bounded(SHORT, call).await
    }

    async fn claim(
        &self,
        lane: &str,
        at_most: usize,
        owner: Owner,
        now: u64,
        lease: u64,
    ) -> Result<Vec<Row>, StoreError> {
        // The sum keeps the index of ends out of this: only the queue's gives the order without sorting all of it.
        let sql = claiming("sha256(lane) = sha256($5) AND lane <> '' AND due <= $1 AND expires + 0 > $1", "due, seq");
        let clock = &self.database.clock;
        let (now, lease) = (clock.outwards(now), clock.outwards(lease));
        let values: [&(dyn ToSql + Sync); 5] = [&now, &lease, &&owner.0[..], &bound(at_most), &lane.as_bytes()];
        let mut rows = self.rows(&self.query(SHORT, &sql, &values).await?)?;
        rows.sort_by_key(|(seq, row)| (row.due, *seq));
        Ok(rows.into_iter().map(|(_, row)| row).collect())
    }

    async fn claim_expired(&self, at_most: usize, owner: Owner, now: u64, lease: u64) -> Result<Vec<Row>, StoreError> {
        let sql = claiming("expires <= $1 AND (owner IS NULL OR due <= $1)", "expires, seq");
        let clock = &self.database.clock;
        let (now, lease) = (clock.outwards(now), clock.outwards(lease));
        let values: [&(dyn ToSql + Sync); 4] = [&now, &lease, &&owner.0[..], &bound(at_most)];
        let mut rows = self.rows(&self.query(SHORT, &sql, &values).await?)?;
        rows.sort_by_key(|(seq, row)| (row.expires, *seq));
        Ok(rows.into_iter().map(|(_, row)| row).collect())
    }

    async fn find(&self, id: Id) -> Result<Option<Row>, StoreError> {
        let sql = format!("SELECT {COLUMNS}, p.due, p.content FROM nexus_gateway_parked p WHERE id = $1");
        let rows = self.rows(&self.query(SHORT, &sql, &[&&id.0[..]]).await?)?;
        Ok(rows.into_iter().next().map(|(_, row)| row))
    }

    async fn lanes(&self) -> Result<Vec<(Box<str>, u64)>, StoreError> {
        let rows = self.query(SHORT, LANES, &[]).await?;
        let lane = |row| Ok((text(row, "lane")?.into(), self.database.clock.inwards(get(row, "due")?)));
        rows.iter().map(lane).collect()
    }

    async fn counts(&self) -> Result<Vec<Count>, StoreError> {
        let rows = self.query(LONG, COUNTS, &[]).await?;
        let count = |row| {
            Ok(Count {
                endpoint: text(row, "endpoint")?.into(),
                state: state(get(row, "state")?)?,
                rows: u64::try_from(get::<i64>(row, "rows")?).unwrap_or(0),
                bytes: u64::try_from(get::<i64>(row, "bytes")?).unwrap_or(0),
                oldest: self.database.clock.inwards(get(row, "oldest")?),
            })
        };
        rows.iter().map(count).collect()
    }

    async fn list(&self, endpoint: Option<&str>, at_most: usize) -> Result<Vec<Row>, StoreError> {
        let most = bound(at_most);
        let rows = match endpoint {
            Some(endpoint) => self.query(SHORT, &listing(ENDPOINT), &[&most, &endpoint.as_bytes()]).await?,
            None => self.query(SHORT, &listing(ENDPOINTS), &[&most]).await?,
        };
        Ok(self.rows(&rows)?.into_iter().map(|(_, row)| row).collect())
    }
}

/// The first row of each lane, from lane to lane: rows behind the first one are not looked at.
const LANES: &str = "
    WITH RECURSIVE firsts AS (
        (SELECT sha256(lane) AS key, lane, due FROM nexus_gateway_parked
         WHERE lane <> '' ORDER BY sha256(lane), due, seq LIMIT 1)
        UNION ALL
        SELECT next.key, next.lane, next.due FROM firsts CROSS JOIN LATERAL (
            SELECT sha256(p.lane) AS key, p.lane, p.due FROM nexus_gateway_parked p
            WHERE p.lane <> '' AND sha256(p.lane) > firsts.key ORDER BY sha256(p.lane), p.due, p.seq LIMIT 1
        ) next
    )
    SELECT lane, due FROM firsts";

/// All of it is in one index.
const COUNTS: &str = "
    SELECT endpoint, state, count(*) AS rows, sum(size)::bigint AS bytes, min(arrived) AS oldest
    FROM nexus_gateway_parked GROUP BY endpoint, state";

/// The endpoints, from one to the next.
const ENDPOINTS: &str = "
    WITH RECURSIVE endpoints AS (
        (SELECT endpoint FROM nexus_gateway_parked ORDER BY endpoint LIMIT 1)
        UNION ALL
        SELECT next.endpoint FROM endpoints CROSS JOIN LATERAL (
            SELECT q.endpoint FROM nexus_gateway_parked q
            WHERE q.endpoint > endpoints.endpoint ORDER BY q.endpoint LIMIT 1
        ) next
    )";

/// The oldest of each endpoint and state, in the order of the index.
const OLDEST: &str = "
    (VALUES (0), (1), (2)) AS states (state) CROSS JOIN endpoints CROSS JOIN LATERAL (
        SELECT * FROM nexus_gateway_parked q
        WHERE q.endpoint = endpoints.endpoint AND q.state = states.state ORDER BY q.arrived, q.seq LIMIT $1
    ) p";

/// One endpoint, in the place of all.
const ENDPOINT: &str = "WITH endpoints AS (SELECT $2::bytea AS endpoint)";

/// Rows of these endpoints without their content, the oldest first, at most `$1`.
fn listing(endpoints: &str) -> String {
    format!(
        "{endpoints} SELECT {COLUMNS}, p.due, ''::bytea AS content FROM {OLDEST} ORDER BY p.arrived, p.seq LIMIT $1"
    )
}

/// Claims up to `$4` rows of which `condition` holds for `$3` until `$2`, and gives them as they were before. `$1` is
/// now.
fn claiming(condition: &str, order: &str) -> String {
    format!(
        "WITH chosen AS MATERIALIZED (
            SELECT id, due FROM nexus_gateway_parked WHERE {condition} ORDER BY {order} LIMIT $4
            FOR UPDATE SKIP LOCKED
        )
        UPDATE nexus_gateway_parked p SET owner = $3, due = $2 FROM chosen WHERE p.id = chosen.id
        RETURNING {COLUMNS}, chosen.due, p.content"
    )
}

fn bound(at_most: usize) -> i64 {
    i64::try_from(at_most).unwrap_or(i64::MAX)
}
