//! How many requests may go in a time.

use std::num::NonZeroU32;
use std::time::Duration;

use super::Per;

mod lease;

pub use lease::{Demand, LIFE, Lease, Pick, SPAN};

/// A rate limit: a bucket of `burst` requests that fills at `rate` (GCRA).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RateLimitSettings {
    /// What has a bucket of its own.
    pub per: Per,
    /// How fast it fills.
    pub rate: Rate,
    /// Requests that may go at once when it is full.
    pub burst: NonZeroU32,
    /// Longest time that a request waits for its turn.
    pub max_wait: Duration,
    /// Requests that may wait for their turn at a time.
    pub max_queue: usize,
    /// Whether answers say what is left (`RateLimit`, `RateLimit-Policy`).
    pub headers: bool,
    /// Who shares the bucket.
    pub scope: Scope,
    /// What holds while the store of a global limit cannot be asked.
    pub on_failure: OnFailure,
}

/// So many requests in so long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rate {
    /// Requests.
    pub requests: NonZeroU32,
    /// In this time: a second, a minute or an hour.
    pub every: Duration,
}

/// Who shares a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Each gateway process has its own.
    #[default]
    Local,
    /// All gateways with the same store share one.
    Global,
}

/// What holds while the store of a global limit cannot be asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OnFailure {
    /// Each process keeps the limit by itself.
    #[default]
    Local,
    /// Everything goes.
    Open,
    /// Nothing goes.
    Closed,
}

impl Rate {
    /// Time for one request.
    pub fn interval(self) -> Duration {
        self.every / self.requests.get()
    }
}

/// The URL of a store, `redis://` or `postgres://`. It may hold a password, so it never shows in a log or a message.
#[derive(Clone, PartialEq, Eq)]
pub struct StoreUrl(Box<str>);

impl StoreUrl {
    /// A URL whose form was checked.
    pub fn new(url: impl Into<Box<str>>) -> Self {
        Self(url.into())
    }

    /// The whole URL, only for opening a connection.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StoreUrl(…)")
    }
}
