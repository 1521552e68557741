//! Whether a request may go now, and where it waits until it may.
//!
//! The rules are `resilience`; here are the clock, the locks and the queues.

pub mod breaker;
pub mod bytes;
pub mod concurrency;
pub mod rate_limit;
pub mod shared;

pub use rate_limit::RateLimit;
pub use shared::Shared;
