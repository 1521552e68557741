//! When a request may go, for how long, and how often: pure rules.
//!
//! Knows `now`, verdicts and deadlines. Must not know HTTP, the registry or the configuration file; has no task, channel
//! or socket, and never reads a clock. Where requests wait by these rules is `gates`; which address takes them is
//! `upstream`.

pub mod adaptive;
pub mod balance;
pub mod breaker;
pub mod concurrency;
mod deadline;
pub mod drain;
pub mod health;
pub mod park;
pub mod rate_limit;
pub mod retry;
pub mod window;

pub use breaker::BreakerSettings;
pub use concurrency::ConcurrencySettings;
pub use deadline::{Deadline, FLOOR};
pub use rate_limit::RateLimitSettings;
pub use retry::RetrySettings;

/// Which parts of a request have a limit or a breaker of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "a set of four")]
pub struct Per {
    /// Each caller.
    pub caller: bool,
    /// Each endpoint.
    pub endpoint: bool,
    /// Each service.
    pub service: bool,
    /// Each operation.
    pub operation: bool,
}

impl Per {
    /// Each operation of each endpoint.
    pub const OPERATION: Self = Self { caller: false, endpoint: true, service: true, operation: true };
}
