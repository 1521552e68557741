//! Claiming rows, and giving claims back.

use rusqlite::{Connection, Params, Result, TransactionBehavior, params};

use super::rows::{limit, number, read, with_content};
use crate::park::store::{Owner, Row};

pub(super) fn claim(
    connection: &mut Connection,
    lane: &str,
    at_most: usize,
    owner: Owner,
    now: u64,
    lease: u64,
) -> Result<Vec<Row>> {
    // Started rows are in no lane, the empty one, unless they are canceled.
    let condition = "lane = ?1 AND lane <> '' AND due <= ?2 AND expires > ?2 ORDER BY due, seq LIMIT ?3";
    let sql = with_content("INDEXED BY by_lane", condition);
    take(connection, &sql, params![lane, number(now), limit(at_most)], owner, lease)
}

pub(super) fn claim_expired(
    connection: &mut Connection,
    at_most: usize,
    owner: Owner,
    now: u64,
    lease: u64,
) -> Result<Vec<Row>> {
    let condition = "expires <= ?1 AND (owner IS NULL OR due <= ?1) ORDER BY expires, seq LIMIT ?2";
    let sql = with_content("INDEXED BY by_expiry", condition);
    take(connection, &sql, params![number(now), limit(at_most)], owner, lease)
}

/// Puts the owner and the lease on what is selected.
fn take(connection: &mut Connection, sql: &str, which: impl Params, owner: Owner, lease: u64) -> Result<Vec<Row>> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let selected: Vec<_> = transaction.prepare_cached(sql)?.query_map(which, read)?.collect::<Result<_>>()?;
    let mut rows = Vec::with_capacity(selected.len());
    for (seq, row) in selected {
        let mut update = transaction.prepare_cached("UPDATE parked SET owner = ?2, due = ?3 WHERE seq = ?1")?;
        update.execute(params![seq, owner.0, number(lease)])?;
        rows.push(row);
    }
    transaction.commit()?;
    Ok(rows)
}

/// Makes claimed rows as they were before, where the owner still has them.
pub(super) fn release(connection: &mut Connection, owner: Owner, rows: &[Row]) -> Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for row in rows {
        let sql = "UPDATE parked SET owner = NULL, due = ?3 WHERE id = ?1 AND owner = ?2";
        transaction.prepare_cached(sql)?.execute(params![row.id.0, owner.0, number(row.due)])?;
    }
    transaction.commit()
}
