//! The tables, made by the first replica that finds none.
//!
//! Names are bytes, not text: any name fits then, whatever encoding and collation the database has. To read them in
//! psql: `SET bytea_output = escape`.

use super::connection::Session;
use crate::park::store::StoreError;

/// What [`CREATE`] makes. A later version changes what it finds, from version to version.
const VERSION: i32 = 1;

/// Under this lock tables are made. The number means nothing; it is only ours.
const LOCK: &str = "SELECT pg_advisory_xact_lock(7280728072807280)";

/// `due` of a started row is when it expires, and its lane is empty, unless it is canceled. `size` is that of the
/// content, which is moved out of the table where it is large, so that claiming and renewing do not write it anew. The
/// name is the store's: the last part of such an identifier is drawn at random.
///
/// The queue is ordered by a hash of the lane since a lane may be longer than an index takes. What may be made due has an
/// index of its own, or each step of it would look at all that is due already. A queue leaves many dead rows at its
/// front, so they are cleaned away early; and counting looks at an index alone only where that was done.
const CREATE: &str = "
    CREATE TABLE nexus_gateway_parked_version (version integer NOT NULL, name text NOT NULL);
    INSERT INTO nexus_gateway_parked_version VALUES (1, right(gen_random_uuid()::text, 12));
    CREATE SEQUENCE nexus_gateway_parked_seq;
    CREATE TABLE nexus_gateway_parked (
        id bytea PRIMARY KEY,
        seq bigint NOT NULL,
        endpoint bytea NOT NULL,
        lane bytea NOT NULL,
        state smallint NOT NULL,
        token bytea NOT NULL,
        content bytea NOT NULL,
        size integer NOT NULL,
        reason smallint NOT NULL,
        arrived bigint NOT NULL,
        due bigint NOT NULL,
        expires bigint NOT NULL,
        tries bigint NOT NULL,
        cancel boolean NOT NULL,
        owner bytea
    ) WITH (
        toast_tuple_target = 256,
        autovacuum_vacuum_scale_factor = 0.02,
        autovacuum_vacuum_insert_scale_factor = 0.05,
        autovacuum_analyze_scale_factor = 0.1,
        autovacuum_vacuum_cost_delay = 0
    );
    ALTER TABLE nexus_gateway_parked ALTER COLUMN content SET STORAGE EXTERNAL;
    ALTER SEQUENCE nexus_gateway_parked_seq OWNED BY nexus_gateway_parked.seq;
    CREATE INDEX nexus_gateway_parked_queue ON nexus_gateway_parked (sha256(lane), due, seq) WHERE lane <> '';
    CREATE INDEX nexus_gateway_parked_put_off ON nexus_gateway_parked (endpoint, due)
        WHERE owner IS NULL AND state <> 1;
    CREATE INDEX nexus_gateway_parked_owner ON nexus_gateway_parked (owner) WHERE owner IS NOT NULL;
    CREATE INDEX nexus_gateway_parked_expires ON nexus_gateway_parked (expires);
    CREATE INDEX nexus_gateway_parked_endpoint ON nexus_gateway_parked (endpoint, state, arrived, seq) INCLUDE (size);
";

/// Sees that the tables are there, and of a version that is known here. The store's name.
pub(super) async fn ensure(session: &Session) -> Result<Box<str>, StoreError> {
    let client = session.client()?;
    client.batch_execute("BEGIN").await?;
    client.batch_execute(LOCK).await?;
    if is_there(session).await? {
        check(session).await?;
    } else {
        client.batch_execute(CREATE).await?;
    }
    let name: String = client.query_one("SELECT name FROM nexus_gateway_parked_version", &[]).await?.try_get("name")?;
    client.batch_execute("COMMIT").await?;
    Ok(name.into())
}

async fn is_there(session: &Session) -> Result<bool, StoreError> {
    let sql = "SELECT to_regclass('nexus_gateway_parked_version') IS NOT NULL";
    Ok(session.client()?.query_one(sql, &[]).await?.try_get(0)?)
}

async fn check(session: &Session) -> Result<(), StoreError> {
    let sql = "SELECT max(version) FROM nexus_gateway_parked_version";
    match session.client()?.query_one(sql, &[]).await?.try_get(0)? {
        Some(VERSION) => Ok(()),
        Some(other) => Err(StoreError(format!(
            "the database's tables of parked operations are of version {other}; this gateway knows version {VERSION}"
        ))),
        None => Err(StoreError("the database's tables of parked operations have no version".into())),
    }
}
