//! Counts the frames of an HTTP/2 connection that cost work and ask for nothing.
//!
//! What the `h2` crate bounds is not counted again (see `http2`). It answers every PING and every SETTINGS, and takes any
//! number of resets of streams whose requests were looked at, of priorities and of frames that it does not know; the
//! bytes of a header block it bounds only once they are decoded. Of each kind so many may come at once, and then so many
//! in a second: far more than any caller needs, far less than makes work.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::Instant;

use super::cuts::Conduct;
use super::layer::Layer;
use super::pulse::Pulse;

/// Bytes before the first frame (RFC 9113 §3.4), and of each frame's head (§4.1).
const PREFACE: usize = 24;
const HEAD: usize = 9;

/// Kinds of frames (RFC 9113 §6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// Bounds that follow from the settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameLimits {
    /// Streams that may be reset in a second, and ten times as many at once: as many as a caller has at a time.
    pub(super) resets: u32,
    /// Most bytes of one header block as it is sent.
    pub(super) block: usize,
    /// Most streams of the connection.
    pub(super) streams: usize,
}

/// The frames of one connection.
pub(super) struct Frames {
    limits: FrameLimits,
    /// Bytes to pass over before the next head: those of the preface or of a payload.
    skip: usize,
    head: [u8; HEAD],
    /// Bytes of the head that came.
    filled: usize,
    resets: Allowance,
    pings: Allowance,
    settings: Allowance,
    empty: Allowance,
    others: Allowance,
    /// Bytes of the header block that comes.
    block: usize,
    /// Whether more frames of it have to come.
    continues: bool,
    /// Number of the last stream, and how many there were.
    last_stream: u32,
    streams: usize,
}

impl Frames {
    /// For a connection of which nothing came yet, at `now`.
    pub(super) fn new(limits: FrameLimits, now: Instant) -> Self {
        let per_second = |rate: u32, burst: u32| Allowance { rate, burst, left: burst, at: now };
        Self {
            limits,
            skip: PREFACE,
            head: [0; HEAD],
            filled: 0,
            resets: per_second(limits.resets, limits.resets.saturating_mul(10)),
            pings: per_second(20, 200),
            settings: per_second(1, 50),
            empty: per_second(10, 100),
            others: per_second(100, 1000),
            block: 0,
            continues: false,
            last_stream: 0,
            streams: 0,
        }
    }

    /// Looks at bytes that follow those of the call before; the error names what there is too much of.
    pub(super) fn look(&mut self, mut input: &[u8], now: Instant) -> Result<(), &'static str> {
        while !input.is_empty() {
            if self.skip > 0 {
                let count = self.skip.min(input.len());
                self.skip -= count;
                input = &input[count..];
                continue;
            }
            let count = (HEAD - self.filled).min(input.len());
            self.head[self.filled..self.filled + count].copy_from_slice(&input[..count]);
            self.filled += count;
            input = &input[count..];
            if self.filled == HEAD {
                self.filled = 0;
                self.frame(now)?;
            }
        }
        Ok(())
    }

    /// Whether a header block has begun to come and has not ended.
    pub(super) fn is_in_block(&self) -> bool {
        self.continues || self.skip > 0 && matches!(self.head[3], HEADERS | CONTINUATION)
    }

    fn frame(&mut self, now: Instant) -> Result<(), &'static str> {
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = self.head;
        let length = usize::from(l0) << 16 | usize::from(l1) << 8 | usize::from(l2);
        let stream = u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]);
        self.skip = length;
        let (allowance, name) = match kind {
            HEADERS | CONTINUATION => return self.header_block(kind, flags, stream, length),
            DATA if length == 0 && flags & END_STREAM == 0 => (&mut self.empty, "empty_frames"),
            // Flow control bounds the others.
            DATA | WINDOW_UPDATE => return Ok(()),
            RST_STREAM => (&mut self.resets, "resets"),
            PING | SETTINGS if flags & ACK != 0 => return Ok(()),
            PING => (&mut self.pings, "pings"),
            SETTINGS => (&mut self.settings, "settings"),
            _ => (&mut self.others, "frames"),
        };
        if allowance.take(now) { Ok(()) } else { Err(name) }
    }

    fn header_block(&mut self, kind: u8, flags: u8, stream: u32, length: usize) -> Result<(), &'static str> {
        if kind == HEADERS {
            self.block = 0;
            if stream > self.last_stream {
                self.last_stream = stream;
                self.streams += 1;
            }
        } else if length == 0 && flags & END_HEADERS == 0 {
            return Err("header_block");
        }
        self.continues = flags & END_HEADERS == 0;
        self.block += length;
        if self.block > self.limits.block {
            return Err("header_block");
        }
        if self.streams > self.limits.streams {
            return Err("requests");
        }
        Ok(())
    }
}

/// So many at once, and so many a second.
struct Allowance {
    rate: u32,
    burst: u32,
    left: u32,
    at: Instant,
}

impl Allowance {
    fn take(&mut self, now: Instant) -> bool {
        let seconds = now.saturating_duration_since(self.at).as_secs();
        if seconds > 0 {
            self.at += Duration::from_secs(seconds);
            let more = u64::from(self.rate).saturating_mul(seconds);
            self.left = self.left.saturating_add(u32::try_from(more).unwrap_or(u32::MAX)).min(self.burst);
        }
        self.left = match self.left.checked_sub(1) {
            Some(left) => left,
            None => return false,
        };
        true
    }
}

/// Ends a stream where there is too much of something, and tells its pulse when heads come.
pub(super) struct Counted {
    frames: Frames,
    conduct: Arc<Conduct>,
    pulse: Arc<Pulse>,
}

impl Counted {
    pub(super) fn new(limits: FrameLimits, conduct: Arc<Conduct>, pulse: Arc<Pulse>) -> Self {
        Self { frames: Frames::new(limits, Instant::now()), conduct, pulse }
    }
}

impl Layer for Counted {
    fn poll_read<S>(&mut self, stream: &mut S, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>>
    where
        S: AsyncRead + Unpin,
    {
        let before = buf.filled().len();
        ready!(Pin::new(stream).poll_read(cx, buf))?;
        let looked = self.frames.look(&buf.filled()[before..], Instant::now());
        self.pulse.head(self.frames.is_in_block());
        Poll::Ready(looked.map_err(|much| {
            self.conduct.cut(much);
            io::Error::new(io::ErrorKind::InvalidData, format!("too many {much}"))
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: FrameLimits = FrameLimits { resets: 10, block: 1000, streams: 5 };

    fn frame(kind: u8, flags: u8, stream: u8, length: u8) -> Vec<u8> {
        let mut frame = vec![0, 0, length, kind, flags, 0, 0, 0, stream];
        frame.resize(HEAD + usize::from(length), 0xff);
        frame
    }

    /// How many of these frames are taken in at most, in pieces of any size.
    fn taken(frame: &[u8], frames: &mut Frames, now: Instant) -> Result<usize, &'static str> {
        for count in 0..2000 {
            for piece in frame.chunks(4) {
                if let Err(much) = frames.look(piece, now) {
                    return if count == 0 { Err(much) } else { Ok(count) };
                }
            }
        }
        Ok(usize::MAX)
    }

    fn begun(now: Instant) -> Frames {
        let mut frames = Frames::new(LIMITS, now);
        frames.look(&[b'P'; PREFACE], now).expect("the preface is no frame");
        frames
    }

    #[test]
    fn of_each_kind_so_many_come_at_once_and_so_many_a_second() {
        let now = Instant::now();
        for (kind, flags, length, at_once, each_second) in [
            (RST_STREAM, 0, 4, 100, 10),
            (PING, 0, 8, 200, 20),
            (SETTINGS, 0, 0, 50, 1),
            (DATA, 0, 0, 100, 10),
            (2, 0, 5, 1000, 100),
            (0xee, 0, 0, 1000, 100),
            (PING, ACK, 8, usize::MAX, usize::MAX),
            (SETTINGS, ACK, 0, usize::MAX, usize::MAX),
            (DATA, 0, 1, usize::MAX, usize::MAX),
            (DATA, END_STREAM, 0, usize::MAX, usize::MAX),
            (WINDOW_UPDATE, 0, 4, usize::MAX, usize::MAX),
        ] {
            let frame = frame(kind, flags, 1, length);
            let mut frames = begun(now);
            assert_eq!(taken(&frame, &mut frames, now), Ok(at_once), "{kind}");
            let mut frames = begun(now);
            let _ = taken(&frame, &mut frames, now);
            frames.skip = 0;
            assert_eq!(taken(&frame, &mut frames, now + Duration::from_secs(1)), Ok(each_second), "{kind}");
        }
    }

    #[test]
    fn a_header_block_begins_with_its_first_byte_and_ends_with_its_last() {
        let now = Instant::now();
        let mut frames = begun(now);
        let mut comes = |piece: &[u8]| {
            assert_eq!(frames.look(piece, now), Ok(()));
            frames.is_in_block()
        };
        for (kind, flags, is_open) in [
            (PING, 0, false),
            (HEADERS, 0, true),
            (CONTINUATION, 0, true),
            (CONTINUATION, END_HEADERS, false),
            (HEADERS, END_HEADERS | END_STREAM, false),
            (DATA, 0, false),
        ] {
            let frame = frame(kind, flags, 1, 8);
            let (begins, ends) = frame.split_at(HEAD + 1);
            let is_of_block = matches!(kind, HEADERS | CONTINUATION);
            assert_eq!((comes(begins), comes(ends)), (is_of_block, is_open), "{kind} {flags}");
        }
    }

    #[test]
    fn header_blocks_and_streams_are_bounded() {
        let now = Instant::now();
        let mut frames = begun(now);
        assert_eq!(frames.look(&frame(HEADERS, 0, 1, 250), now), Ok(()));
        assert_eq!(taken(&frame(CONTINUATION, 0, 1, 250), &mut frames, now), Ok(3));

        let mut frames = begun(now);
        assert_eq!(frames.look(&frame(HEADERS, 0, 1, 1), now), Ok(()));
        assert_eq!(frames.look(&frame(CONTINUATION, 0, 1, 0), now), Err("header_block"));

        let mut frames = begun(now);
        for stream in [1, 3, 5, 5, 7, 9] {
            assert_eq!(frames.look(&frame(HEADERS, END_HEADERS, stream, 250), now), Ok(()));
        }
        assert_eq!(frames.look(&frame(HEADERS, END_HEADERS, 11, 1), now), Err("requests"));
    }
}
