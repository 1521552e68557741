//! What a store of parked operations does. Two implementations, one suite of tests.
//!
//! A row is due at a time. Who takes rows on (`claim`) puts their due time off by a lease and its own name on them; rows
//! of a process that died come due again when the lease ends. Every change of a row that was taken on says by whom, and
//! comes to nothing where another one has it by now. What a row contains is sealed: the store cannot read it.
//!
//! Times are milliseconds since 1970, given by the caller.

use std::fmt;

use async_trait::async_trait;

use crate::resilience::park::ParkReason;

/// Names an operation, in every replica the same.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(pub [u8; 16]);

/// Names a process among those that share a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Owner(pub [u8; 16]);

/// What a parked operation waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum State {
    /// To be sent to its target.
    Waiting,
    /// Its target runs it, and will complete it. The row is kept for cancels, and due when it expires.
    Started,
    /// It ended, and its completion is to be delivered.
    Done,
}

/// An operation to be parked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct New {
    /// Its name.
    pub id: Id,
    /// The endpoint's name.
    pub endpoint: Box<str>,
    /// The queue that it waits in.
    pub lane: Box<str>,
    /// The token that its caller gets.
    pub token: Box<str>,
    /// What is needed to send it, sealed.
    pub content: Vec<u8>,
    /// Why it is parked.
    pub reason: ParkReason,
    /// When it came, and is due.
    pub arrived: u64,
    /// When it is not worth sending any more.
    pub expires: u64,
}

/// An operation as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its name.
    pub id: Id,
    /// The endpoint's name.
    pub endpoint: Box<str>,
    /// The queue that it waits in; empty once it is started, unless it is canceled.
    pub lane: Box<str>,
    /// What it waits for.
    pub state: State,
    /// The token that its caller has.
    pub token: Box<str>,
    /// By state: what is needed to send it, to cancel it, to complete it; sealed.
    pub content: Vec<u8>,
    /// Why it was parked.
    pub reason: ParkReason,
    /// When it came.
    pub arrived: u64,
    /// When it was due before it was claimed.
    pub due: u64,
    /// When it ends, whatever it waits for.
    pub expires: u64,
    /// How often it was sent, or its completion, since its state changed.
    pub tries: u32,
    /// Whether its caller canceled it while it was on its way.
    pub cancel: bool,
}

/// A change. All those of one [`Store::write`] are made, or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Keeps an operation. One that is kept already stays as it is.
    Park(New),
    /// Changes a row that `owner` has claimed, and lets it go.
    Settle {
        /// Which.
        id: Id,
        /// By whom it was claimed.
        owner: Owner,
        /// How it goes on.
        next: Next,
    },
    /// Cancels an operation. One that nobody has claimed and that waits becomes done, with this completion. One that
    /// waits and is claimed is marked.
    Cancel {
        /// Which.
        id: Id,
        /// The queue of the completion.
        lane: Box<str>,
        /// The completion, sealed.
        content: Vec<u8>,
        /// From when on it is due.
        now: u64,
        /// When it ends.
        expires: u64,
    },
    /// Forgets a row, whoever has it.
    Remove(Id),
    /// Puts off what `owner` has claimed.
    Renew {
        /// Whose rows.
        owner: Owner,
        /// When they are due.
        until: u64,
    },
    /// Makes rows that nobody has claimed, and that wait or are done, due now; those that are due keep their place. All,
    /// those of an endpoint, or one; of these some, up to `at_most`: who wants all of them asks until fewer are changed.
    Hurry {
        /// Which.
        which: Which,
        /// When they are due.
        now: u64,
        /// How many rows are changed at once.
        at_most: usize,
    },
}

/// How a row that was claimed goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// It is due again then.
    Again {
        /// When.
        due: u64,
        /// How often it was sent so far.
        tries: u32,
    },
    /// Its target runs it. Where its caller had canceled it meanwhile, it keeps its lane and is due `now`, so that the
    /// cancel is sent; else it has no lane any more, and is due when it expires. Its tries begin anew.
    Started {
        /// What is needed to cancel it, sealed.
        content: Vec<u8>,
        /// When nothing more is heard of it.
        expires: u64,
        /// When a cancel is due.
        now: u64,
    },
    /// The cancel of a started row got through: it is not canceled any more, has no lane, and is due when it expires. A
    /// row that has not started is not canceled any more, and nothing else.
    CancelSent,
    /// Its completion is to be delivered. Its tries begin anew.
    Done {
        /// The queue of the completion.
        lane: Box<str>,
        /// The completion, sealed.
        content: Vec<u8>,
        /// When it is due.
        due: u64,
        /// When it ends.
        expires: u64,
    },
    /// It is finished.
    Remove,
}

/// Some of the rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// All of them.
    All,
    /// Those of an endpoint.
    Endpoint(Box<str>),
    /// One.
    One(Id),
}

/// What came of a change, in the order of the changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    /// It is kept now.
    Parked,
    /// It was kept before; the token that its caller got then.
    Known(Box<str>),
    /// The row is changed. Whether its caller had canceled it meanwhile.
    Changed {
        /// Whether it had.
        cancel: bool,
    },
    /// The cancel took: it is done.
    Canceled,
    /// It is on its way, and marked as canceled.
    Marked,
    /// It was not waiting any more: as it is kept.
    Was(State, Vec<u8>),
    /// The row is gone: its endpoint, state, size of its content, and when it came.
    Removed(Box<str>, State, usize, u64),
    /// So many rows are changed.
    Rows(u64),
    /// There is no such row, or another owner has it.
    Gone,
}

/// What is kept of an endpoint in a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Count {
    /// The endpoint's name.
    pub endpoint: Box<str>,
    /// The state.
    pub state: State,
    /// How many rows.
    pub rows: u64,
    /// Bytes of their content.
    pub bytes: u64,
    /// When the oldest one came.
    pub oldest: u64,
}

/// Why a store did not do what it was asked. Nothing of it was done, or, where the connection was lost, all or nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct StoreError(pub String);

/// Keeps parked operations. What a method reports as done is durable.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Its name: letters, digits and hyphens, up to 16. Another store has another one, and the same one keeps it for ever.
    fn name(&self) -> &str;

    /// Makes all the changes, in one transaction.
    async fn write(&self, writes: Vec<Write>) -> Result<Vec<Written>, StoreError>;

    /// Claims up to `at_most` rows of `lane` that are due at `now`, and have not ended, for `owner`, until `lease`: the
    /// one that has been due for longest first, of two that became due at once the one that was kept first. Started rows
    /// only where they are canceled.
    async fn claim(
        &self,
        lane: &str,
        at_most: usize,
        owner: Owner,
        now: u64,
        lease: u64,
    ) -> Result<Vec<Row>, StoreError>;

    /// Claims up to `at_most` rows that ended at `now`, in whatever state and lane, and that nobody has claimed: the one
    /// that ended first first, of two that ended at once the one that was kept first.
    async fn claim_expired(&self, at_most: usize, owner: Owner, now: u64, lease: u64) -> Result<Vec<Row>, StoreError>;

    /// The row of this name.
    async fn find(&self, id: Id) -> Result<Option<Row>, StoreError>;

    /// Each lane with a row that waits, is done, or is started and canceled, and when its first row is due.
    async fn lanes(&self) -> Result<Vec<(Box<str>, u64)>, StoreError>;

    /// What is kept, by endpoint and state.
    async fn counts(&self) -> Result<Vec<Count>, StoreError>;

    /// Up to `at_most` rows without their content, the oldest first; of one endpoint, or of all.
    async fn list(&self, endpoint: Option<&str>, at_most: usize) -> Result<Vec<Row>, StoreError>;
}

impl Write {
    /// Bytes of the content that it puts into the store.
    pub fn content_len(&self) -> usize {
        match self {
            Self::Park(New { content, .. })
            | Self::Cancel { content, .. }
            | Self::Settle { next: Next::Started { content, .. } | Next::Done { content, .. }, .. } => content.len(),
            Self::Settle { .. } | Self::Remove(_) | Self::Renew { .. } | Self::Hurry { .. } => 0,
        }
    }
}

impl State {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Waiting, Self::Started, Self::Done];

    /// The name in metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Started => "started",
            Self::Done => "done",
        }
    }
}

/// In hexadecimal digits.
impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Id({self})")
    }
}

impl Id {
    /// Reads what [`Display`](fmt::Display) wrote.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != 32 || !text.is_ascii() {
            return None;
        }
        let mut id = [0; 16];
        for (byte, digits) in id.iter_mut().zip(text.as_bytes().chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        }
        Some(Self(id))
    }
}
