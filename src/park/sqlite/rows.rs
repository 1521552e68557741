//! Reading what is kept. Nothing here walks all rows.

use rusqlite::types::{FromSqlError, Type};
use rusqlite::{Connection, Error, OptionalExtension, Result, params};

use crate::park::store::{Count, Id, Row, State};
use crate::resilience::park::ParkReason;

/// What [`read`] takes; the content comes from another table, or is left out.
const COLUMNS: &str = "seq, id, endpoint, lane, state, token, reason, arrived, due, expires, tries, cancel";

pub(super) fn find(connection: &Connection, id: Id) -> Result<Option<Row>> {
    let mut statement = connection.prepare_cached(&with_content("", "id = ?1"))?;
    Ok(statement.query_one([id.0], read).optional()?.map(|(_, row)| row))
}

/// Jumps from the first row of each lane to that of the next.
pub(super) fn lanes(connection: &Connection) -> Result<Vec<(Box<str>, u64)>> {
    let mut statement = connection.prepare_cached(
        "WITH RECURSIVE lanes (lane) AS (
            SELECT min(lane) FROM parked WHERE lane > ''
            UNION ALL
            SELECT (SELECT min(lane) FROM parked WHERE lane > lanes.lane) FROM lanes WHERE lane IS NOT NULL
        )
        SELECT lane, (SELECT min(due) FROM parked WHERE parked.lane = lanes.lane) FROM lanes WHERE lane IS NOT NULL",
    )?;
    let lanes = statement.query_map([], |row| Ok((row.get(0)?, time(row.get(1)?))))?;
    lanes.collect()
}

/// Those that have rows; jumps from one to the next.
pub(super) fn endpoints(connection: &Connection) -> Result<Vec<Box<str>>> {
    let mut statement = connection.prepare_cached(
        "WITH RECURSIVE endpoints (endpoint) AS (
            SELECT min(endpoint) FROM parked
            UNION ALL
            SELECT (SELECT min(endpoint) FROM parked WHERE endpoint > endpoints.endpoint) FROM endpoints
            WHERE endpoint IS NOT NULL
        )
        SELECT endpoint FROM endpoints WHERE endpoint IS NOT NULL",
    )?;
    statement.query_map([], |row| row.get(0))?.collect()
}

pub(super) fn counts(connection: &Connection) -> Result<Vec<Count>> {
    let mut statement = connection.prepare_cached(
        "SELECT endpoint, state, amount, bytes, (
            SELECT min(arrived) FROM parked WHERE parked.endpoint = counted.endpoint AND parked.state = counted.state
        ) FROM counted",
    )?;
    let counts = statement.query_map([], |row| {
        let (rows, bytes) = (time(row.get(2)?), time(row.get(3)?));
        Ok(Count { endpoint: row.get(0)?, state: state(row.get(1)?)?, rows, bytes, oldest: time(row.get(4)?) })
    })?;
    counts.collect()
}

/// Takes the oldest of each endpoint and state, of which there are few, and of these the oldest ones.
pub(super) fn list(connection: &Connection, endpoint: Option<&str>, at_most: usize) -> Result<Vec<Row>> {
    let mut groups =
        connection.prepare_cached("SELECT endpoint, state FROM counted WHERE endpoint = ?1 OR ?1 IS NULL")?;
    let groups = groups.query_map([endpoint], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {COLUMNS}, x'' AS content FROM parked INDEXED BY by_endpoint
        WHERE endpoint = ?1 AND state = ?2 ORDER BY arrived, seq LIMIT ?3"
    ))?;
    let mut oldest = Vec::new();
    for group in groups {
        let (endpoint, state): (Box<str>, i64) = group?;
        for row in statement.query_map(params![endpoint, state, limit(at_most)], read)? {
            oldest.push(row?);
        }
        oldest.sort_by_key(|(seq, row)| (row.arrived, *seq));
        oldest.truncate(at_most);
    }
    Ok(oldest.into_iter().map(|(_, row)| row).collect())
}

/// Selects whole rows by this condition.
pub(super) fn with_content(index: &str, condition: &str) -> String {
    format!("SELECT {COLUMNS}, content FROM parked {index} CROSS JOIN contents USING (seq) WHERE {condition}")
}

/// A row and its place in the order in which rows were kept.
pub(super) fn read(row: &rusqlite::Row<'_>) -> Result<(i64, Row)> {
    let reason: Box<str> = row.get("reason")?;
    let parked = Row {
        id: Id(row.get("id")?),
        endpoint: row.get("endpoint")?,
        lane: row.get("lane")?,
        state: state(row.get("state")?)?,
        token: row.get("token")?,
        content: row.get("content")?,
        reason: ParkReason::from_name(&reason).ok_or_else(|| unknown(&format!("reason {reason:?}"), Type::Text))?,
        arrived: time(row.get("arrived")?),
        due: time(row.get("due")?),
        expires: time(row.get("expires")?),
        tries: row.get("tries")?,
        cancel: row.get("cancel")?,
    };
    Ok((row.get("seq")?, parked))
}

/// The state of this number in the file.
pub(super) fn state(number: i64) -> Result<State> {
    let known = State::ALL.into_iter().find(|state| state_number(*state) == number);
    known.ok_or_else(|| unknown(&format!("state {number}"), Type::Integer))
}

/// The number of a state in the file. Making rows due, and its index, have that of `Started` in their conditions.
pub(super) fn state_number(state: State) -> i64 {
    match state {
        State::Waiting => 0,
        State::Started => 1,
        State::Done => 2,
    }
}

/// A time or a number as the file has it. What is beyond its range is as good as for ever.
pub(super) fn number(time: u64) -> i64 {
    i64::try_from(time).unwrap_or(i64::MAX)
}

/// What [`number`] gave.
pub(super) fn time(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

pub(super) fn limit(at_most: usize) -> i64 {
    i64::try_from(at_most).unwrap_or(i64::MAX)
}

fn unknown(what: &str, kind: Type) -> Error {
    Error::FromSqlConversionFailure(0, kind, Box::new(FromSqlError::Other(format!("unknown {what}").into())))
}
