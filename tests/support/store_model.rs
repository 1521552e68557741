//! What a store of parked operations does, as plainly as it can be said: a list, walked from its beginning each time.

use std::collections::BTreeMap;

use nexus_gateway::park::store::{Count, Id, Next, Owner, Row, State, Which, Write, Written};

/// The rows in the order in which they were kept.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    rows: Vec<Kept>,
}

/// A row, and who claimed it. A claim holds until the row is due.
#[derive(Clone, Debug)]
struct Kept {
    row: Row,
    owner: Option<Owner>,
}

impl Kept {
    fn is_claimed(&self, now: u64) -> bool {
        self.owner.is_some() && self.row.due > now
    }
}

impl Model {
    pub(crate) fn write(&mut self, write: Write) -> Written {
        match write {
            Write::Park(new) => {
                if let Some(kept) = self.at(new.id) {
                    return Written::Known(kept.row.token.clone());
                }
                let row = Row {
                    id: new.id,
                    endpoint: new.endpoint,
                    lane: new.lane,
                    state: State::Waiting,
                    token: new.token,
                    content: new.content,
                    reason: new.reason,
                    arrived: new.arrived,
                    due: new.arrived,
                    expires: new.expires,
                    tries: 0,
                    cancel: false,
                };
                self.rows.push(Kept { row, owner: None });
                Written::Parked
            }
            Write::Settle { id, owner, next } => self.settle(id, owner, next),
            Write::Cancel { id, lane, content, now, expires } => {
                let Some(kept) = self.at(id) else { return Written::Gone };
                if kept.row.state != State::Waiting {
                    return Written::Was(kept.row.state, kept.row.content.clone());
                }
                if kept.is_claimed(now) {
                    kept.row.cancel = true;
                    return Written::Marked;
                }
                kept.owner = None;
                end(&mut kept.row, lane, content, now, expires);
                Written::Canceled
            }
            Write::Remove(id) => self.remove(id),
            Write::Renew { owner, until } => {
                let mine = self.rows.iter_mut().filter(|kept| kept.owner == Some(owner));
                Written::Rows(mine.map(|kept| kept.row.due = until).count() as u64)
            }
            Write::Hurry { which, now, at_most } => {
                let put_off = self.rows.iter_mut().filter(|kept| {
                    let asked = match &which {
                        Which::All => true,
                        Which::Endpoint(endpoint) => kept.row.endpoint == *endpoint,
                        Which::One(id) => kept.row.id == *id,
                    };
                    asked && kept.owner.is_none() && kept.row.state != State::Started && kept.row.due > now
                });
                Written::Rows(put_off.take(at_most).map(|kept| kept.row.due = now).count() as u64)
            }
        }
    }

    fn settle(&mut self, id: Id, owner: Owner, next: Next) -> Written {
        let Some(kept) = self.at(id).filter(|kept| kept.owner == Some(owner)) else { return Written::Gone };
        kept.owner = None;
        let row = &mut kept.row;
        match next {
            Next::Again { due, tries } => (row.due, row.tries) = (due, tries),
            Next::Started { content, expires, now } => {
                (row.state, row.content, row.expires, row.due, row.tries) = (State::Started, content, expires, now, 0);
                if !row.cancel {
                    rest(row);
                }
            }
            Next::CancelSent => {
                row.cancel = false;
                if row.state == State::Started {
                    rest(row);
                }
            }
            Next::Done { lane, content, due, expires } => end(row, lane, content, due, expires),
            Next::Remove => return self.remove(id),
        }
        Written::Changed { cancel: row.cancel }
    }

    fn remove(&mut self, id: Id) -> Written {
        let Some(index) = self.rows.iter().position(|kept| kept.row.id == id) else { return Written::Gone };
        let row = self.rows.remove(index).row;
        Written::Removed(row.endpoint, row.state, row.content.len(), row.arrived)
    }

    pub(crate) fn claim(&mut self, lane: &str, at_most: usize, owner: Owner, now: u64, lease: u64) -> Vec<Row> {
        let queued = |row: &Row| is_queued(row) && row.lane.as_ref() == lane;
        let mut due: Vec<_> = self
            .rows
            .iter_mut()
            .filter(|kept| queued(&kept.row) && kept.row.due <= now && kept.row.expires > now)
            .collect();
        due.sort_by_key(|kept| kept.row.due);
        due.into_iter().take(at_most).map(|kept| take(kept, owner, lease)).collect()
    }

    pub(crate) fn claim_expired(&mut self, at_most: usize, owner: Owner, now: u64, lease: u64) -> Vec<Row> {
        let ended = |kept: &&mut Kept| kept.row.expires <= now && !kept.is_claimed(now);
        let mut ended: Vec<_> = self.rows.iter_mut().filter(ended).collect();
        ended.sort_by_key(|kept| kept.row.expires);
        ended.into_iter().take(at_most).map(|kept| take(kept, owner, lease)).collect()
    }

    pub(crate) fn find(&self, id: Id) -> Option<Row> {
        self.rows.iter().find(|kept| kept.row.id == id).map(|kept| kept.row.clone())
    }

    /// By name.
    pub(crate) fn lanes(&self) -> Vec<(Box<str>, u64)> {
        let mut lanes = BTreeMap::new();
        for row in self.rows.iter().map(|kept| &kept.row).filter(|row| is_queued(row)) {
            let due = lanes.entry(row.lane.clone()).or_insert(row.due);
            *due = row.due.min(*due);
        }
        lanes.into_iter().collect()
    }

    /// By endpoint and state.
    pub(crate) fn counts(&self) -> Vec<Count> {
        let mut counts = BTreeMap::new();
        for Kept { row, .. } in &self.rows {
            let (endpoint, state) = (row.endpoint.clone(), row.state);
            let count = counts.entry((endpoint.clone(), state)).or_insert_with(|| Count {
                endpoint,
                state,
                rows: 0,
                bytes: 0,
                oldest: u64::MAX,
            });
            count.rows += 1;
            count.bytes += row.content.len() as u64;
            count.oldest = count.oldest.min(row.arrived);
        }
        counts.into_values().collect()
    }

    pub(crate) fn list(&self, endpoint: Option<&str>, at_most: usize) -> Vec<Row> {
        let asked = |row: &&Row| endpoint.is_none_or(|name| row.endpoint.as_ref() == name);
        let mut rows: Vec<_> = self.rows.iter().map(|kept| &kept.row).filter(asked).collect();
        rows.sort_by_key(|row| row.arrived);
        rows.into_iter().take(at_most).map(|row| Row { content: Vec::new(), ..row.clone() }).collect()
    }

    fn at(&mut self, id: Id) -> Option<&mut Kept> {
        self.rows.iter_mut().find(|kept| kept.row.id == id)
    }
}

fn is_queued(row: &Row) -> bool {
    row.state != State::Started || row.cancel
}

fn rest(row: &mut Row) {
    (row.lane, row.due) = ("".into(), row.expires);
}

fn end(row: &mut Row, lane: Box<str>, content: Vec<u8>, due: u64, expires: u64) {
    (row.state, row.lane, row.content) = (State::Done, lane, content);
    (row.due, row.expires, row.tries) = (due, expires, 0);
}

fn take(kept: &mut Kept, owner: Owner, lease: u64) -> Row {
    let row = kept.row.clone();
    kept.owner = Some(owner);
    kept.row.due = lease;
    row
}
