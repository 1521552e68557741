//! One request head, looked at byte by byte as it comes. Pure.
//!
//! What RFC 9112 forbids or lets a recipient choose is refused, since the next hop may choose otherwise; §11.2 there is
//! why. Nothing is kept of the head but the few values that decide where the request ends and whom it is for.

use super::Refusal;
use crate::server::message::{is_host, length_of};

/// Bounds of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes of it all.
    pub max_head: usize,
    /// Most headers.
    pub max_headers: usize,
    /// Most bytes of its target.
    pub max_uri: usize,
}

/// Longest method. Those of HTTP have at most 17 letters (`UPDATEREDIRECTREF`).
const MAX_METHOD: usize = 20;
/// Longest name and port of a host (RFC 1035 §2.3.4), and longest value of a header that decides about framing.
const MAX_VALUE: usize = 262;
/// Longest name that is looked at.
const MAX_NAME: usize = 17;

/// Where a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// After so many bytes.
    Length(u64),
    /// After the last chunk.
    Chunked,
}

/// A head that is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Good {
    pub(super) body: Body,
    /// Whether the connection ends with this request.
    pub(super) is_last: bool,
}

/// What became of a head with the bytes that came.
pub(super) enum Looked {
    /// It goes on.
    More,
    /// It ended after so many bytes of the input.
    Complete(usize, Good),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    Method,
    TargetStart,
    /// `http://` or `https://`.
    Scheme,
    Authority,
    Target,
    /// `HTTP/1.x` and CR, of which so much came.
    Version(u8),
    LineStart,
    Name,
    /// Blanks before a value.
    Blank,
    Value,
    /// The LF that ends the request line or a header.
    Lf,
    /// The LF that ends the head.
    LastLf,
}

/// Headers that decide about framing or about the connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    Other,
    ContentLength,
    TransferEncoding,
    Host,
    Connection,
}

/// The head that comes.
#[expect(clippy::struct_excessive_bools, reason = "each is one thing that a head says by itself")]
pub(super) struct Head {
    limits: Limits,
    at: At,
    bytes: usize,
    target: usize,
    headers: usize,
    method: Text<MAX_METHOD>,
    scheme: Text<8>,
    authority: Text<MAX_VALUE>,
    name: Text<MAX_NAME>,
    known: Known,
    value: Text<MAX_VALUE>,
    host: Option<Text<MAX_VALUE>>,
    is_1_0: bool,
    length: Option<u64>,
    chunked: bool,
    closes: bool,
    keeps_alive: bool,
}

impl Head {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            at: At::Method,
            bytes: 0,
            target: 0,
            headers: 0,
            method: Text::new(),
            scheme: Text::new(),
            authority: Text::new(),
            name: Text::new(),
            known: Known::Other,
            value: Text::new(),
            host: None,
            is_1_0: false,
            length: None,
            chunked: false,
            closes: false,
            keeps_alive: false,
        }
    }

    /// Makes it ready for the next head.
    fn reset(&mut self) {
        self.at = At::Method;
        (self.bytes, self.target, self.headers) = (0, 0, 0);
        self.method.clear();
        self.scheme.clear();
        self.authority.clear();
        self.host = None;
        self.length = None;
        (self.is_1_0, self.chunked, self.closes, self.keeps_alive) = (false, false, false, false);
    }

    /// Looks at what came. After a complete head this is ready for the next one.
    pub(super) fn look(&mut self, input: &[u8]) -> Result<Looked, Refusal> {
        let mut seen = 0;
        while seen < input.len() {
            // Most of a head is values and the target: they are passed over in one go.
            let run = match self.at {
                At::Value => run(&input[seen..], is_value),
                At::Target => run(&input[seen..], is_target),
                _ => 0,
            };
            if run > 0 {
                match self.at {
                    At::Value if self.known != Known::Other => self.value.extend(&input[seen..seen + run]),
                    At::Target => self.target += run,
                    _ => {}
                }
                seen += run;
            } else {
                self.step(input[seen])?;
                seen += 1;
                if self.at == At::Method && self.method.is_empty() {
                    self.count(seen)?;
                    let good = self.good();
                    self.reset();
                    return good.map(|good| Looked::Complete(seen, good));
                }
            }
        }
        self.count(seen)?;
        Ok(Looked::More)
    }

    fn count(&mut self, more: usize) -> Result<(), Refusal> {
        self.bytes += more;
        if self.target > self.limits.max_uri {
            return Err(Refusal::TooLarge("the request's target is longer than max_uri"));
        }
        if self.bytes > self.limits.max_head {
            return Err(Refusal::TooLarge("the request's head is larger than max_head"));
        }
        Ok(())
    }

    fn step(&mut self, byte: u8) -> Result<(), Refusal> {
        self.at = match self.at {
            At::Method => self.step_method(byte)?,
            At::TargetStart => self.step_target_start(byte)?,
            At::Scheme => self.step_scheme(byte)?,
            At::Authority => self.step_authority(byte)?,
            At::Target => match byte {
                b' ' => At::Version(0),
                _ => return Err(Refusal::Bad("the request's target has a character that no target has")),
            },
            At::Version(at) => self.step_version(at, byte)?,
            At::LineStart => self.step_line_start(byte)?,
            At::Name => self.step_name(byte)?,
            At::Blank => match byte {
                b' ' | b'\t' => At::Blank,
                b'\r' => self.end_header()?,
                byte if is_value(byte) => {
                    self.value.push(byte);
                    At::Value
                }
                _ => return Err(BAD_VALUE),
            },
            At::Value => match byte {
                b'\r' => self.end_header()?,
                _ => return Err(BAD_VALUE),
            },
            At::Lf => lf(byte, At::LineStart)?,
            At::LastLf => {
                lf(byte, At::Method)?;
                self.method.clear();
                At::Method
            }
        };
        Ok(())
    }

    fn step_method(&mut self, byte: u8) -> Result<At, Refusal> {
        match byte {
            b' ' if self.method.bytes() == b"CONNECT" => Err(Refusal::Bad("this is no proxy for CONNECT")),
            b' ' if !self.method.is_empty() => Ok(At::TargetStart),
            _ if is_token(byte) && self.method.push(byte) => Ok(At::Method),
            _ => Err(Refusal::Bad("this is no HTTP/1.1 request")),
        }
    }

    fn step_target_start(&mut self, byte: u8) -> Result<At, Refusal> {
        match byte {
            b'/' => {
                self.target += 1;
                Ok(At::Target)
            }
            b'h' | b'H' => self.step_scheme(byte),
            _ => Err(Refusal::Bad("the request's target is no path")),
        }
    }

    fn step_scheme(&mut self, byte: u8) -> Result<At, Refusal> {
        self.target += 1;
        self.scheme.push(byte.to_ascii_lowercase());
        match self.scheme.bytes() {
            b"http://" | b"https://" => Ok(At::Authority),
            begun if b"http://".starts_with(begun) || b"https://".starts_with(begun) => Ok(At::Scheme),
            _ => Err(Refusal::Bad("the request's target is no path")),
        }
    }

    fn step_authority(&mut self, byte: u8) -> Result<At, Refusal> {
        self.target += 1;
        match byte {
            b'/' if is_host(self.authority.bytes()) => Ok(At::Target),
            b'/' | b' ' => Err(Refusal::Bad("the request's target has no good host, or no path")),
            _ if self.authority.push(byte) => Ok(At::Authority),
            _ => Err(Refusal::Bad("the host of the request's target is too long")),
        }
    }

    fn step_version(&mut self, at: u8, byte: u8) -> Result<At, Refusal> {
        const VERSION: &[u8; 9] = b"HTTP/1.x\r";
        match (at, byte) {
            (7, b'0' | b'1') => self.is_1_0 = byte == b'0',
            (8, b'\r') => return Ok(At::Lf),
            _ if VERSION.get(usize::from(at)) == Some(&byte) && at < 7 => {}
            _ => return Err(Refusal::Bad("the request line does not end with HTTP/1.1")),
        }
        Ok(At::Version(at + 1))
    }

    fn step_line_start(&mut self, byte: u8) -> Result<At, Refusal> {
        match byte {
            b'\r' => Ok(At::LastLf),
            b' ' | b'\t' => Err(Refusal::Bad("a header goes on in a second line")),
            _ if self.headers == self.limits.max_headers => {
                Err(Refusal::TooLarge("the request has more than max_headers headers"))
            }
            _ if is_token(byte) => {
                self.headers += 1;
                self.name.clear();
                self.name.push(byte.to_ascii_lowercase());
                Ok(At::Name)
            }
            _ => Err(BAD_NAME),
        }
    }

    fn step_name(&mut self, byte: u8) -> Result<At, Refusal> {
        if byte != b':' {
            self.name.push(byte.to_ascii_lowercase());
            return if is_token(byte) { Ok(At::Name) } else { Err(BAD_NAME) };
        }
        self.known = match self.name.bytes() {
            b"content-length" => Known::ContentLength,
            b"transfer-encoding" => Known::TransferEncoding,
            b"host" => Known::Host,
            b"connection" => Known::Connection,
            b"upgrade" | b"http2-settings" => return Err(Refusal::Bad("the protocol is not changed on a connection")),
            // Some servers take one for the other.
            b"content_length" | b"transfer_encoding" => return Err(BAD_NAME),
            _ => Known::Other,
        };
        self.value.clear();
        Ok(At::Blank)
    }

    /// Takes in a header whose last byte came.
    fn end_header(&mut self) -> Result<At, Refusal> {
        if self.known == Known::Other {
            return Ok(At::Lf);
        }
        if self.value.overflowed {
            return Err(Refusal::Bad("a header of the connection or the body is too long"));
        }
        let value = self.value.bytes().trim_ascii_end();
        match self.known {
            Known::Other => {}
            Known::ContentLength if self.length.is_some() => {
                return Err(Refusal::Bad("the request has more than one Content-Length"));
            }
            Known::ContentLength => self.length = Some(length_of(value).ok_or(BAD_LENGTH)?),
            Known::TransferEncoding if self.chunked || value != b"chunked" => {
                return Err(Refusal::Bad("the request has a Transfer-Encoding other than chunked"));
            }
            Known::TransferEncoding => self.chunked = true,
            Known::Host if self.host.is_some() => return Err(Refusal::Bad("the request has more than one Host")),
            Known::Host if !is_host(value) => return Err(Refusal::Bad("the request's Host is none")),
            Known::Host => self.host = Some(self.value),
            Known::Connection => {
                for option in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                    self.closes |= option.eq_ignore_ascii_case(b"close");
                    self.keeps_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                }
            }
        }
        Ok(At::Lf)
    }

    /// What the whole head says.
    fn good(&self) -> Result<Good, Refusal> {
        let host = self.host.as_ref().map(|host| host.bytes().trim_ascii_end());
        if host.is_none() && !self.is_1_0 {
            return Err(Refusal::Bad("the request has no Host"));
        }
        let authority = self.authority.bytes();
        if !authority.is_empty() && host.is_some_and(|host| !host.eq_ignore_ascii_case(authority)) {
            return Err(Refusal::Bad("the request's target and its Host are not the same"));
        }
        if self.chunked && self.is_1_0 {
            return Err(Refusal::Bad("HTTP/1.0 has no Transfer-Encoding"));
        }
        let body = match (self.chunked, self.length) {
            (true, Some(_)) => return Err(Refusal::Bad("the request has a Content-Length and a Transfer-Encoding")),
            (true, None) => Body::Chunked,
            (false, length) => Body::Length(length.unwrap_or(0)),
        };
        Ok(Good { body, is_last: self.closes || self.is_1_0 && !self.keeps_alive })
    }
}

const BAD_LENGTH: Refusal = Refusal::Bad("the request's Content-Length is no number");
const BAD_NAME: Refusal = Refusal::Bad("the name of a header has a character that no name has");
const BAD_VALUE: Refusal = Refusal::Bad("a header has a control character, or does not end with CR LF");

fn lf(byte: u8, next: At) -> Result<At, Refusal> {
    if byte == b'\n' { Ok(next) } else { Err(Refusal::Bad("a line does not end with CR LF")) }
}

fn run(input: &[u8], is_part: impl Fn(u8) -> bool) -> usize {
    input.iter().position(|byte| !is_part(*byte)).unwrap_or(input.len())
}

/// RFC 9110 §5.6.2.
pub(super) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// RFC 9110 §5.5, old text beyond ASCII included.
pub(super) fn is_value(byte: u8) -> bool {
    byte >= b' ' && byte != 0x7f || byte == b'\t'
}

/// What a path and a query are made of, with what the `http` crate takes in both besides RFC 3986. No fragment: that
/// crate drops it.
pub(in crate::server) fn is_target(byte: u8) -> bool {
    matches!(byte, b'!' | b'$'..=b';' | b'=' | b'?'..=b'_' | b'a'..=b'~')
}

/// A short text in place. What is too long for it is lost, and said to be.
#[derive(Clone, Copy)]
struct Text<const N: usize> {
    bytes: [u8; N],
    count: usize,
    overflowed: bool,
}

impl<const N: usize> Text<N> {
    const fn new() -> Self {
        Self { bytes: [0; N], count: 0, overflowed: false }
    }

    fn clear(&mut self) {
        (self.count, self.overflowed) = (0, false);
    }

    /// Whether there was room.
    fn push(&mut self, byte: u8) -> bool {
        self.extend(&[byte]);
        !self.overflowed
    }

    fn extend(&mut self, more: &[u8]) {
        match self.bytes.get_mut(self.count..self.count + more.len()) {
            Some(room) => {
                room.copy_from_slice(more);
                self.count += more.len();
            }
            None => self.overflowed = true,
        }
    }

    fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// What fits; nothing of a text that does not.
    fn bytes(&self) -> &[u8] {
        if self.overflowed { &[] } else { &self.bytes[..self.count] }
    }
}
