//! What stands around a gateway in these tests: scripted handlers and clusters, raw callers.

pub(crate) mod answers;
pub(crate) mod caller;
pub(crate) mod callers;
pub(crate) mod cluster;
pub(crate) mod frames;
pub(crate) mod gateway;
pub(crate) mod handler;
pub(crate) mod log;
pub(crate) mod message;
pub(crate) mod metrics;
pub(crate) mod operations;
pub(crate) mod planted;
pub(crate) mod process;
pub(crate) mod secure;
pub(crate) mod tls;

pub(crate) use answers::{Expected, answer, assert_passed, failure, handler_error, json, ok};
pub(crate) use caller::{Caller, Request, cancel, get, start, to};
pub(crate) use callers::{Known, everybody, names, rule};
pub(crate) use cluster::{Cluster, Mood, id, listed, listed_external};
pub(crate) use gateway::{
    Gateway, PAUSE, discovered, eventually, external, leading_to, polled, refused_at, settings, under, undiscovered,
    unheld, within, worker,
};
pub(crate) use handler::{Act, Deaf, Gate, Handler, Reserved};
pub(crate) use log::LogFile;
pub(crate) use message::Message;
pub(crate) use operations::{cancel_of, relaying, sealed_path, sealed_path_at, start_of, starting, token_of};
pub(crate) use planted::{PAYLOAD, RESULT, seal_key};
pub(crate) use secure::{Secure, believing, own, pair, roots, server};
pub(crate) use tls::{TlsCaller, of, over_tls, server_tls, tls_client, tls_stream};
