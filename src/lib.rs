//! Nexus Gateway: a reverse proxy for Temporal Nexus that resolves endpoints by name.
//!
//! # The way of a request
//!
//! ```text
//!             bytes                                        registry sources
//!               │                                     configuration   clusters
//!    ┌──────────▼──────────┐                                 └────┬────┘
//!    │ server              │ accept, worker threads, drain        │ whole snapshots
//!    ├─────────────────────┤                                ┌─────▼─────┐
//!    │ gateway             │ one fn: the order of stages    │ registry  │ last good table
//!    │   admission         │ who is it?         → Caller    └─────┬─────┘
//!    │   nexus             │ what is asked?     → Call            │ one swap
//!    │   route             │ where does it go?  → Endpoint ◄──────┘
//!    │   resilience        │ until when?        → Deadline
//!    │   gates             │ may it go now?     → Turn, Pass, Permit    ┐
//!    │   upstream          │ one attempt        → Exchange              │ again, perhaps
//!    │   response          │ shape it, or Failure                       ┘
//!    └──────────┬──────────┘ the record and the permits leave with the body
//!               ▼                         beside: callback · park · telemetry · admin · config · run
//!    Temporal frontend, or any Nexus handler over HTTP
//! ```
//!
//! [`gateway::Gateway::serve`] is that column as code: an outer function that cannot fail around an inner one in which
//! each stage may end the request with a [`response::Failure`].
//!
//! # Rules that hold everywhere
//!
//! - [`nexus`] and [`resilience`] are pure: bytes or `now` in, a value out; no task, lock, socket or clock. Those are in
//!   [`gates`], where requests wait by the rules of [`resilience`], and in [`upstream`].
//! - A gate hands out a value that the next step needs, and takes it back when that is dropped. A permit lives until the
//!   last byte of the answer.
//! - Nothing waits, for whatever it is, so long that less than [`resilience::FLOOR`] of its time is left.
//! - A lookup never waits. Sources deliver whole snapshots; one that fails leaves the table it delivered last in force.
//! - A table swap is atomic, and what did not change keeps its connections, metrics, limits and breakers.
//! - One deadline per request, computed once; a forwarded `Request-Timeout` says what is left, and none is added.
//! - Any await may be the last one, since the caller may leave: whatever a request takes, `Drop` gives back.
//! - A handler's own Nexus answer passes unchanged; every failure that the gateway makes is a Nexus failure with a
//!   header that names the reason.
//! - What a completion needs to come home is sealed into its URL and its token: [`callback`] stores nothing.
//! - A start that did not get through may be parked: once it is durable its caller is told 201, and [`park`] has it
//!   finished by the same stages, later.
//! - Every queue, map, body, head and wait has a bound that a caller cannot raise.
//!
//! Which module may use which is a table in `tests/layout.rs`, and a test.
//!
//! # Threads
//!
//! One thread accepts, polls registries, answers the admin port and reads the configuration; each worker thread has an
//! event loop and a share of the connections; one more thread finishes what was parked. A request stays on its connection's thread, with connections to targets
//! that belong to that thread, and is one task from the caller's socket to the target's and back.

pub mod admin;
pub mod admission;
pub mod body;
pub mod callback;
pub mod cli;
pub mod config;
pub mod credentials;
pub mod fetch;
pub mod gates;
pub mod gateway;
pub mod nexus;
pub mod park;
pub mod registry;
pub mod resilience;
pub mod resolve;
pub mod response;
pub mod route;
pub mod run;
pub mod secret;
pub mod server;
pub mod telemetry;
pub mod tls;
pub mod upstream;
