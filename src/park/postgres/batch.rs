//! What a batch of changes makes of the rows that it names, and what is to be written for that.
//!
//! Works on rows that were read and locked before, so that changes of one row within a batch follow each other, and the
//! whole batch costs as many statements as there are kinds of results. Pure: no database.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::park::store::{Id, New, Next, Owner, State, Which, Write, Written};
use crate::resilience::park::ParkReason;

/// A row, as far as a change may need it.
#[derive(Clone, Debug)]
pub(super) struct Kept<'a> {
    pub(super) endpoint: Cow<'a, str>,
    pub(super) lane: Cow<'a, str>,
    pub(super) state: State,
    pub(super) token: Cow<'a, str>,
    pub(super) reason: ParkReason,
    pub(super) arrived: u64,
    pub(super) due: u64,
    pub(super) expires: u64,
    pub(super) tries: u32,
    pub(super) cancel: bool,
    pub(super) owner: Option<Owner>,
    pub(super) size: usize,
    /// Read only where a change may tell it.
    pub(super) content: Option<Cow<'a, [u8]>>,
}

/// A row while a batch works on it.
#[derive(Debug, Default)]
struct Slot<'a> {
    row: Option<Kept<'a>>,
    /// Whether the database has a row of this name.
    stored: bool,
    /// Its place among the rows that are new, where it is.
    fresh: Option<usize>,
    changed: bool,
    rewritten: bool,
}

/// The rows that some changes name, in the order of their names.
#[derive(Debug, Default)]
pub(super) struct Batch<'a> {
    slots: BTreeMap<Id, Slot<'a>>,
    parked: usize,
}

/// What is to be written, each in the order of the names but `new`, which is in the order of the changes.
#[derive(Debug, Default)]
pub(super) struct Difference<'b, 'a> {
    /// Rows to be removed, those before `new` take their names.
    pub(super) gone: Vec<Id>,
    /// Rows to be added.
    pub(super) new: Vec<(Id, &'b Kept<'a>)>,
    /// Rows to be changed, and whether their content is another one.
    pub(super) changed: Vec<(Id, &'b Kept<'a>, bool)>,
}

/// The name of the row that a change is about, if it is about one, and whether it may tell its content.
pub(super) fn subject(write: &Write) -> Option<(Id, bool)> {
    match write {
        Write::Park(New { id, .. })
        | Write::Settle { id, .. }
        | Write::Remove(id)
        | Write::Hurry { which: Which::One(id), .. } => Some((*id, false)),
        Write::Cancel { id, .. } => Some((*id, true)),
        Write::Renew { .. } | Write::Hurry { .. } => None,
    }
}

impl<'a> Batch<'a> {
    /// A batch that finds these rows.
    pub(super) fn new(found: impl IntoIterator<Item = (Id, Kept<'a>)>) -> Self {
        let slot = |row| Slot { row: Some(row), stored: true, ..Slot::default() };
        Self { slots: found.into_iter().map(|(id, row)| (id, slot(row))).collect(), parked: 0 }
    }

    /// Makes a change of one row. Others are none of its business: for them it says that there is no such row.
    pub(super) fn apply(&mut self, write: &'a Write) -> Written {
        let Some((id, _)) = subject(write) else { return Written::Gone };
        let slot = self.slots.entry(id).or_default();
        match write {
            Write::Park(new) => {
                if let Some(row) = &slot.row {
                    return Written::Known(row.token.as_ref().into());
                }
                slot.row = Some(Kept::of(new));
                slot.fresh = Some(self.parked);
                self.parked += 1;
                Written::Parked
            }
            Write::Settle { owner, next, .. } => slot.settle(*owner, next),
            Write::Cancel { lane, content, now, expires, .. } => slot.cancel(lane, content, *now, *expires),
            Write::Remove(_) => slot.remove(),
            Write::Hurry { at_most: 0, .. } => Written::Rows(0),
            Write::Hurry { now, .. } => slot.hurry(*now),
            Write::Renew { .. } => Written::Gone,
        }
    }

    /// What the changes come to.
    pub(super) fn difference(&self) -> Difference<'_, 'a> {
        let mut difference = Difference::default();
        let mut new = BTreeMap::new();
        for (&id, slot) in &self.slots {
            if slot.stored && (slot.row.is_none() || slot.fresh.is_some()) {
                difference.gone.push(id);
            }
            match (&slot.row, slot.fresh) {
                (Some(row), Some(place)) => {
                    new.insert(place, (id, row));
                }
                (Some(row), None) if slot.changed => difference.changed.push((id, row, slot.rewritten)),
                _ => {}
            }
        }
        difference.new = new.into_values().collect();
        difference
    }
}

impl<'a> Slot<'a> {
    fn settle(&mut self, owner: Owner, next: &'a Next) -> Written {
        let Some(row) = self.row.as_mut().filter(|row| row.owner == Some(owner)) else { return Written::Gone };
        let cancel = row.cancel;
        row.owner = None;
        self.changed = true;
        match next {
            Next::Again { due, tries } => (row.due, row.tries) = (*due, *tries),
            Next::Started { content, expires, now } => {
                row.replace(State::Started, content);
                (row.due, row.expires) = (*now, *expires);
                if !cancel {
                    row.rest();
                }
                self.rewritten = true;
            }
            Next::Done { lane, content, due, expires } => {
                row.replace(State::Done, content);
                (row.lane, row.due, row.expires) = (Cow::Borrowed(&**lane), *due, *expires);
                self.rewritten = true;
            }
            Next::CancelSent => {
                row.cancel = false;
                if row.state == State::Started {
                    row.rest();
                }
                return Written::Changed { cancel: false };
            }
            Next::Remove => return self.remove(),
        }
        Written::Changed { cancel }
    }

    fn cancel(&mut self, lane: &'a str, content: &'a [u8], now: u64, expires: u64) -> Written {
        let Some(row) = &mut self.row else { return Written::Gone };
        if row.state != State::Waiting {
            return Written::Was(row.state, row.content.as_deref().unwrap_or_default().to_vec());
        }
        self.changed = true;
        if row.owner.is_some() && row.due > now {
            row.cancel = true;
            return Written::Marked;
        }
        row.replace(State::Done, content);
        (row.lane, row.due, row.expires, row.owner) = (Cow::Borrowed(lane), now, expires, None);
        self.rewritten = true;
        Written::Canceled
    }

    fn remove(&mut self) -> Written {
        let Some(row) = self.row.take() else { return Written::Gone };
        self.fresh = None;
        Written::Removed(row.endpoint.as_ref().into(), row.state, row.size, row.arrived)
    }

    fn hurry(&mut self, now: u64) -> Written {
        let idle = |row: &&mut Kept<'_>| row.owner.is_none() && row.state != State::Started && row.due > now;
        let Some(row) = self.row.as_mut().filter(idle) else { return Written::Rows(0) };
        row.due = now;
        self.changed = true;
        Written::Rows(1)
    }
}

impl<'a> Kept<'a> {
    fn of(new: &'a New) -> Self {
        Self {
            endpoint: Cow::Borrowed(&new.endpoint),
            lane: Cow::Borrowed(&new.lane),
            state: State::Waiting,
            token: Cow::Borrowed(&new.token),
            reason: new.reason,
            arrived: new.arrived,
            due: new.arrived,
            expires: new.expires,
            tries: 0,
            cancel: false,
            owner: None,
            size: new.content.len(),
            content: Some(Cow::Borrowed(&new.content)),
        }
    }

    fn replace(&mut self, state: State, content: &'a [u8]) {
        (self.state, self.tries) = (state, 0);
        (self.size, self.content) = (content.len(), Some(Cow::Borrowed(content)));
    }

    /// Takes it out of its queue: nothing is to be done until it expires.
    fn rest(&mut self) {
        (self.lane, self.due) = (Cow::Borrowed(""), self.expires);
    }
}
