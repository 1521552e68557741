//! HTTP/1.1 as strict as it can be, so that nobody behind can take a request for another one or for two.
//!
//! A `Guard` is the layer between the socket and hyper. It follows the requests in the bytes that come, and passes them on as
//! they are: a head only when it is whole and good. In place of one that is not, hyper gets a request that no caller can
//! send, `OPTIONS *`, which is answered by what `Refusals` says; so the refusal comes after the answers to the requests
//! before it, is counted like every answer, and ends the connection. In a body nothing can be put in place of anything:
//! there hyper gets a byte at which it gives the body up.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

use super::layer::Layer;
use crate::response::{Failure, Reason};

mod head;
mod machine;

pub use head::Limits;
pub(super) use head::is_target;
pub use machine::{Machine, Scanned};

/// What stands for a head that was refused.
const INSTEAD: &[u8] = b"OPTIONS * HTTP/1.1\r\nhost: refused\r\nconnection: close\r\n\r\n";
/// What stands for a chunk that was refused: no digit.
const NO_CHUNK: &[u8] = b"X";
/// Bytes that are read at a time where some are withheld.
const PIECE: usize = 4 << 10;

/// Why bytes are no good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The head is not well-formed, or could mean two things.
    Bad(&'static str),
    /// The head is larger than a setting allows.
    TooLarge(&'static str),
    /// The chunks are not well-formed.
    BadBody,
}

/// What a guard refused, told to those who answer it.
#[derive(Clone, Default)]
pub(super) struct Refusals(Arc<OnceLock<Failure>>);

impl Refusals {
    /// The failure that answers a request which stands for one that was refused.
    pub(super) fn of<B>(&self, request: &http::Request<B>) -> Option<Failure> {
        if request.uri().path() == "*" { self.0.get().cloned() } else { None }
    }
}

/// Lets only good requests pass.
pub(super) struct Guard {
    machine: Machine,
    /// Bytes that came and were not passed on; of those the first `ready` may pass.
    held: Vec<u8>,
    ready: usize,
    refusals: Refusals,
}

impl Guard {
    pub(super) fn new(limits: Limits) -> (Self, Refusals) {
        let refusals = Refusals::default();
        let machine = Machine::new(limits);
        (Self { machine, held: Vec::new(), ready: 0, refusals: refusals.clone() }, refusals)
    }

    /// Passes on of what may pass as much as there is room for.
    fn deliver(&mut self, buf: &mut ReadBuf<'_>) {
        let count = self.ready.min(buf.remaining());
        buf.put_slice(&self.held[..count]);
        self.ready -= count;
        if count == self.held.len() {
            // Most connections never need it again.
            self.held = Vec::new();
        } else {
            self.held.drain(..count);
        }
    }

    /// Takes in what was said of `came`, which follows what is held.
    fn hold(&mut self, came: &[u8], scanned: Scanned) {
        if let Some(passes) = scanned.passes {
            self.ready = self.held.len() + passes;
        }
        self.held.extend_from_slice(came);
        if let Some(refused) = scanned.refused {
            self.held.truncate(self.ready);
            self.refuse(refused);
        } else if self.machine.is_over() {
            self.held.truncate(self.ready);
        }
    }

    fn refuse(&mut self, refused: Refusal) {
        let failure = match refused {
            Refusal::Bad(why) => Failure::new(Reason::BadHead, why),
            Refusal::TooLarge(why) => Failure::new(Reason::HeadTooLarge, why),
            Refusal::BadBody => {
                self.held.extend_from_slice(NO_CHUNK);
                self.ready = self.held.len();
                return;
            }
        };
        // One connection has one refusal at most.
        let _ = self.refusals.0.set(failure);
        self.held.extend_from_slice(INSTEAD);
        self.ready = self.held.len();
    }
}

impl Layer for Guard {
    fn poll_read<S>(&mut self, stream: &mut S, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>>
    where
        S: AsyncRead + Unpin,
    {
        loop {
            if self.ready > 0 {
                self.deliver(buf);
                return Poll::Ready(Ok(()));
            }
            if self.machine.is_over() {
                return discard(stream, cx);
            }
            if self.held.is_empty() {
                // Straight into the reader's buffer: what usually comes is one whole request.
                let before = buf.filled().len();
                ready!(Pin::new(&mut *stream).poll_read(cx, buf))?;
                let came = &buf.filled()[before..];
                if came.is_empty() {
                    return Poll::Ready(Ok(()));
                }
                let scanned = self.machine.scan(came);
                let passes = scanned.passes.unwrap_or(0);
                self.hold(&came[passes..], Scanned { passes: None, ..scanned });
                buf.set_filled(before + passes);
                if passes > 0 {
                    return Poll::Ready(Ok(()));
                }
            } else {
                let mut piece = [0; PIECE];
                let mut piece = ReadBuf::new(&mut piece);
                ready!(Pin::new(&mut *stream).poll_read(cx, &mut piece))?;
                if piece.filled().is_empty() {
                    return Poll::Ready(Ok(()));
                }
                let scanned = self.machine.scan(piece.filled());
                self.hold(piece.filled(), scanned);
            }
        }
    }
}

/// Reads what nobody wants any more; ends where the peer does.
fn discard<S: AsyncRead + Unpin>(stream: &mut S, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
    let mut piece = [0; PIECE];
    loop {
        let mut piece = ReadBuf::new(&mut piece);
        ready!(Pin::new(&mut *stream).poll_read(cx, &mut piece))?;
        if piece.filled().is_empty() {
            return Poll::Ready(Ok(()));
        }
    }
}
