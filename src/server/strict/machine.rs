//! Follows the requests of a connection: heads, and bodies by their length or their chunks. Pure.
//!
//! It says of the bytes that came how many may be passed on. A head passes as a whole or not at all, a chunk's size as
//! well, so that what reads behind it sees what this saw, or nothing.

use super::Refusal;
use super::head::{Body, Good, Head, Limits, Looked, is_token, is_value};

/// Most digits of a chunk's size (RFC 9112 §7.1 leaves it open): what 64 bits hold.
const MAX_DIGITS: u8 = 16;

/// Most bytes of trailers, which end at the gateway.
const MAX_TRAILERS: usize = 4 << 10;

/// What is to be done with the bytes that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scanned {
    /// So many of them pass, and all that were withheld before; none: they are withheld, too.
    pub passes: Option<usize>,
    /// What comes after that is no good.
    pub refused: Option<Refusal>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Head,
    /// So many bytes of a body are left.
    Length(u64),
    /// A chunk's size, of which so many digits came.
    Size {
        digits: u8,
        size: u64,
    },
    SizeLf(u64),
    /// So many bytes of a chunk are left.
    Chunk(u64),
    ChunkCr,
    ChunkLf,
    /// A line after the last chunk begins; so many bytes of such lines came.
    Trailer(usize),
    TrailerName(usize),
    TrailerValue(usize),
    TrailerLf(usize),
    /// The LF that ends the body.
    LastLf,
    /// Nothing more passes.
    Over,
}

/// The requests of one connection.
pub struct Machine {
    head: Head,
    state: State,
    /// Whether the connection ends with the request that comes.
    is_last: bool,
}

impl Machine {
    /// For a connection that has just begun.
    pub fn new(limits: Limits) -> Self {
        Self { head: Head::new(limits), state: State::Head, is_last: false }
    }

    /// Whether nothing more passes: something was refused, or the last request has come.
    pub fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// Looks at bytes that follow those of the call before.
    pub fn scan(&mut self, input: &[u8]) -> Scanned {
        let (mut seen, mut passes) = (0, None);
        while seen < input.len() && !self.is_over() {
            let rest = &input[seen..];
            match self.step(rest) {
                Ok((count, may_pass)) => {
                    seen += count;
                    if may_pass {
                        passes = Some(seen);
                    }
                }
                Err(refused) => {
                    self.state = State::Over;
                    return Scanned { passes, refused: Some(refused) };
                }
            }
        }
        Scanned { passes, refused: None }
    }

    /// Looks at some of `rest`, which is not empty: how much that was, and whether everything up to there may pass.
    fn step(&mut self, rest: &[u8]) -> Result<(usize, bool), Refusal> {
        let byte = rest[0];
        let (state, may_pass) = match self.state {
            State::Over => return Ok((rest.len(), false)),
            State::Head => match self.head.look(rest)? {
                Looked::More => return Ok((rest.len(), false)),
                Looked::Complete(count, good) => {
                    self.begin(good);
                    return Ok((count, true));
                }
            },
            State::Length(left) => {
                let (count, left) = take(rest, left);
                self.state = if left == 0 { self.next_head() } else { State::Length(left) };
                return Ok((count, true));
            }
            State::Chunk(left) => {
                let (count, left) = take(rest, left);
                self.state = if left == 0 { State::ChunkCr } else { State::Chunk(left) };
                return Ok((count, true));
            }
            State::Size { digits, size } => match (byte, char::from(byte).to_digit(16)) {
                (_, Some(digit)) if digits < MAX_DIGITS => {
                    (State::Size { digits: digits + 1, size: size << 4 | u64::from(digit) }, false)
                }
                (b'\r', _) if digits > 0 => (State::SizeLf(size), false),
                _ => return Err(Refusal::BadBody),
            },
            State::SizeLf(0) => (expect(byte, b'\n', State::Trailer(0))?, false),
            State::SizeLf(size) => (expect(byte, b'\n', State::Chunk(size))?, true),
            State::ChunkCr => (expect(byte, b'\r', State::ChunkLf)?, false),
            State::ChunkLf => (expect(byte, b'\n', State::Size { digits: 0, size: 0 })?, false),
            State::Trailer(bytes) | State::TrailerName(bytes) | State::TrailerValue(bytes) if bytes == MAX_TRAILERS => {
                return Err(Refusal::BadBody);
            }
            State::Trailer(_) if byte == b'\r' => (State::LastLf, false),
            State::Trailer(bytes) if is_token(byte) => (State::TrailerName(bytes + 1), false),
            State::TrailerName(bytes) if is_token(byte) => (State::TrailerName(bytes + 1), false),
            State::TrailerName(bytes) if byte == b':' => (State::TrailerValue(bytes + 1), false),
            State::TrailerValue(bytes) if byte == b'\r' => (State::TrailerLf(bytes), false),
            State::TrailerValue(bytes) if is_value(byte) => (State::TrailerValue(bytes + 1), false),
            State::Trailer(_) | State::TrailerName(_) | State::TrailerValue(_) => return Err(Refusal::BadBody),
            State::TrailerLf(bytes) => (expect(byte, b'\n', State::Trailer(bytes))?, false),
            State::LastLf => (expect(byte, b'\n', self.next_head())?, true),
        };
        self.state = state;
        Ok((1, may_pass))
    }

    fn begin(&mut self, good: Good) {
        self.is_last = good.is_last;
        self.state = match good.body {
            Body::Length(0) => self.next_head(),
            Body::Length(length) => State::Length(length),
            Body::Chunked => State::Size { digits: 0, size: 0 },
        };
    }

    fn next_head(&self) -> State {
        if self.is_last { State::Over } else { State::Head }
    }
}

fn expect(byte: u8, expected: u8, next: State) -> Result<State, Refusal> {
    if byte == expected { Ok(next) } else { Err(Refusal::BadBody) }
}

/// How much of `rest` belongs to the `left` bytes that are left, and how many are left then.
fn take(rest: &[u8], left: u64) -> (usize, u64) {
    let count = usize::try_from(left).map_or(rest.len(), |left| left.min(rest.len()));
    (count, left - count as u64)
}
