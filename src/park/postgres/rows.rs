//! Rows as the database has them: numbers for names, and the values of many rows as a few arrays.
//!
//! The numbers are kept for good: a name may be added, and none gets another number.

use std::borrow::Cow;

use tokio_postgres::types::{FromSql, ToSql};

use super::batch::Kept;
use super::clock::Clock;
use crate::park::store::{Id, Owner, Row, State, StoreError};
use crate::resilience::park::ParkReason;

/// The columns that [`row`] reads, without `due` and `content`, which differ from query to query.
pub(super) const COLUMNS: &str = "p.id, p.endpoint, p.lane, p.state, p.token, p.reason, p.arrived, p.expires, p.tries, p.cancel, p.seq, p.owner, p.size";

/// A row that `COLUMNS`, `due` and `content` were asked of, and its place among those that were kept.
pub(super) fn row(from: &tokio_postgres::Row, clock: &Clock) -> Result<(i64, Row), StoreError> {
    let row = Row {
        id: Id(name(get(from, "id")?)?),
        endpoint: text(from, "endpoint")?.into(),
        lane: text(from, "lane")?.into(),
        state: state(get(from, "state")?)?,
        token: text(from, "token")?.into(),
        content: get(from, "content")?,
        reason: reason(get(from, "reason")?)?,
        arrived: clock.inwards(get(from, "arrived")?),
        due: clock.inwards(get(from, "due")?),
        expires: clock.inwards(get(from, "expires")?),
        tries: u32::try_from(get::<i64>(from, "tries")?).map_err(|_| odd("tries"))?,
        cancel: get(from, "cancel")?,
    };
    Ok((get(from, "seq")?, row))
}

/// The same for a change; its content may be missing.
pub(super) fn kept(from: &tokio_postgres::Row, clock: &Clock) -> Result<(Id, Kept<'static>), StoreError> {
    let owner = get::<Option<&[u8]>>(from, "owner")?.map(name).transpose()?.map(Owner);
    let kept = Kept {
        endpoint: text(from, "endpoint")?.to_owned().into(),
        lane: text(from, "lane")?.to_owned().into(),
        state: state(get(from, "state")?)?,
        token: text(from, "token")?.to_owned().into(),
        reason: reason(get(from, "reason")?)?,
        arrived: clock.inwards(get(from, "arrived")?),
        due: clock.inwards(get(from, "due")?),
        expires: clock.inwards(get(from, "expires")?),
        tries: u32::try_from(get::<i64>(from, "tries")?).map_err(|_| odd("tries"))?,
        cancel: get(from, "cancel")?,
        owner,
        size: usize::try_from(get::<i32>(from, "size")?).map_err(|_| odd("size"))?,
        content: get::<Option<Vec<u8>>>(from, "content")?.map(Cow::Owned),
    };
    Ok((Id(name(get(from, "id")?)?), kept))
}

/// A value of a row.
pub(super) fn get<'a, T: FromSql<'a>>(from: &'a tokio_postgres::Row, column: &str) -> Result<T, StoreError> {
    Ok(from.try_get(column)?)
}

/// A name in a row.
pub(super) fn text<'a>(from: &'a tokio_postgres::Row, column: &str) -> Result<&'a str, StoreError> {
    std::str::from_utf8(get(from, column)?).map_err(|_| odd(column))
}

fn name(bytes: &[u8]) -> Result<[u8; 16], StoreError> {
    bytes.try_into().map_err(|_| odd("id"))
}

fn odd(column: &str) -> StoreError {
    StoreError(format!("a parked operation in the database has a {column} that this gateway does not understand"))
}

/// The number of a state. Making rows due has that of `Started` in its condition.
pub(super) fn number_of_state(state: State) -> i16 {
    match state {
        State::Waiting => 0,
        State::Started => 1,
        State::Done => 2,
    }
}

/// The state of a number.
pub(super) fn state(number: i16) -> Result<State, StoreError> {
    State::ALL.into_iter().find(|state| number_of_state(*state) == number).ok_or_else(|| odd("state"))
}

fn number_of_reason(reason: ParkReason) -> i16 {
    match reason {
        ParkReason::Unreachable => 0,
        ParkReason::BreakerOpen => 1,
        ParkReason::RateLimited => 2,
        ParkReason::Saturated => 3,
        ParkReason::RetryableFailure => 4,
    }
}

fn reason(number: i16) -> Result<ParkReason, StoreError> {
    ParkReason::ALL.into_iter().find(|reason| number_of_reason(*reason) == number).ok_or_else(|| odd("reason"))
}

/// The values of rows to be written, an array for each column.
#[derive(Default)]
pub(super) struct Arrays<'a> {
    ids: Vec<&'a [u8]>,
    endpoints: Vec<&'a [u8]>,
    lanes: Vec<&'a [u8]>,
    states: Vec<i16>,
    tokens: Vec<&'a [u8]>,
    /// None where the content stays as it is.
    contents: Vec<Option<&'a [u8]>>,
    reasons: Vec<i16>,
    arrived: Vec<i64>,
    dues: Vec<i64>,
    expires: Vec<i64>,
    tries: Vec<i64>,
    cancels: Vec<bool>,
    owners: Vec<Option<&'a [u8]>>,
}

impl<'a> Arrays<'a> {
    pub(super) fn push(&mut self, id: &'a Id, row: &'a Kept<'_>, with_content: bool, clock: &Clock) {
        self.ids.push(&id.0);
        self.endpoints.push(row.endpoint.as_bytes());
        self.lanes.push(row.lane.as_bytes());
        self.states.push(number_of_state(row.state));
        self.tokens.push(row.token.as_bytes());
        self.contents.push(row.content.as_deref().filter(|_| with_content));
        self.reasons.push(number_of_reason(row.reason));
        self.arrived.push(clock.outwards(row.arrived));
        self.dues.push(clock.outwards(row.due));
        self.expires.push(clock.outwards(row.expires));
        self.tries.push(i64::from(row.tries));
        self.cancels.push(row.cancel);
        self.owners.push(row.owner.as_ref().map(|owner| &owner.0[..]));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// All columns but those that the database fills.
    pub(super) fn all(&self) -> [&(dyn ToSql + Sync); 13] {
        [
            &self.ids,
            &self.endpoints,
            &self.lanes,
            &self.states,
            &self.tokens,
            &self.contents,
            &self.reasons,
            &self.arrived,
            &self.dues,
            &self.expires,
            &self.tries,
            &self.cancels,
            &self.owners,
        ]
    }

    /// The columns that may change.
    pub(super) fn changeable(&self) -> [&(dyn ToSql + Sync); 9] {
        [
            &self.ids,
            &self.lanes,
            &self.states,
            &self.contents,
            &self.dues,
            &self.expires,
            &self.tries,
            &self.cancels,
            &self.owners,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::{number_of_reason, number_of_state, reason, state};
    use crate::park::store::State;
    use crate::resilience::park::ParkReason;

    #[test]
    fn names_come_back_from_their_numbers() {
        for name in State::ALL {
            assert_eq!(state(number_of_state(name)), Ok(name));
        }
        for name in ParkReason::ALL {
            assert_eq!(reason(number_of_reason(name)), Ok(name));
        }
    }

    #[test]
    fn a_number_of_a_later_version_is_an_error() {
        state(3).expect_err("no such state");
        reason(-1).expect_err("no such reason");
    }
}
