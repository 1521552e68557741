//! HTTP/2 requests that would be other ones, or two, once they are written as HTTP/1.1: the handler sees one good request
//! or none.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::frames::{
    DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PREFACE, RST_STREAM, SETTINGS, field, frame,
};
use crate::harness::message::GUARD;
use crate::harness::*;

/// What must come of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    /// The handler gets one good request, with this body.
    Good(&'static str),
    /// An answer with this status, and the handler gets nothing.
    Answered(u16),
    /// The stream or the connection ends without an answer, and the handler gets nothing.
    Reset,
}
use Expect::{Answered, Good, Reset};

type Fields = &'static [(&'static str, &'static str)];

/// Name, fields before those of a good start of that name are added, body, expectation.
struct Case(&'static str, Fields, Option<&'static str>, Expect);

const PATH: &str = "/nexus/endpoints/pay/services/Svc/op";
const START: [(&str, &str); 4] = [(":method", "POST"), (":scheme", "http"), (":path", PATH), (":authority", "h")];

const CASES: &[Case] = &[
    // What is fine.
    Case("a start", &[], Some("{}"), Good("{}")),
    Case("no body", &[], None, Good("")),
    Case("an empty body", &[], Some(""), Good("")),
    Case("a length", &[("content-length", "2")], Some("{}"), Good("{}")),
    Case("trailers may come", &[("te", "trailers")], Some("{}"), Good("{}")),
    Case("the same host", &[("host", "h")], Some("{}"), Good("{}")),
    Case("crumbs", &[("cookie", "a=1"), ("cookie", "b=2")], Some("{}"), Good("{}")),
    // Lengths.
    Case("a length that is too small", &[("content-length", "1")], Some("{}"), Reset),
    Case("a length that is too large", &[("content-length", "3")], Some("{}"), Reset),
    Case("a length and no body", &[("content-length", "2")], None, Reset),
    Case("no length and a body", &[("content-length", "0")], Some("{}"), Reset),
    Case("two lengths", &[("content-length", "2"), ("content-length", "2")], Some("{}"), Answered(400)),
    Case("a list of lengths", &[("content-length", "2, 2")], Some("{}"), Reset),
    Case("a length with a plus", &[("content-length", "+2")], Some("{}"), Reset),
    Case("a length below zero", &[("content-length", "-2")], Some("{}"), Reset),
    Case("an empty length", &[("content-length", "")], Some("{}"), Reset),
    Case("a blank before a length", &[("content-length", " 2")], Some("{}"), Reset),
    Case("a zero before a length", &[("content-length", "02")], Some("{}"), Answered(400)),
    Case("a length beyond 64 bits", &[("content-length", "18446744073709551618")], Some("{}"), Reset),
    Case("a length with an underscore", &[("content_length", "2")], Some("{}"), Answered(400)),
    // Fields of one connection.
    Case("a coding", &[("transfer-encoding", "chunked")], Some("0\r\n\r\n"), Reset),
    Case("a coding with an underscore", &[("transfer_encoding", "chunked")], Some("{}"), Answered(400)),
    Case("connection", &[("connection", "close")], Some("{}"), Reset),
    Case("keep-alive", &[("keep-alive", "timeout=5")], Some("{}"), Reset),
    Case("proxy-connection", &[("proxy-connection", "keep-alive")], Some("{}"), Reset),
    Case("upgrade", &[("upgrade", "h2c")], Some("{}"), Reset),
    Case("te", &[("te", "trailers, chunked")], Some("{}"), Reset),
    Case("te without trailers", &[("te", "chunked")], Some("{}"), Reset),
    // Hosts.
    Case("another host", &[("host", "evil")], Some("{}"), Answered(400)),
    Case("two hosts", &[("host", "h"), ("host", "h")], Some("{}"), Answered(400)),
    Case("another port", &[("host", "h:80")], Some("{}"), Answered(400)),
    Case("a list of hosts", &[("host", "h, evil")], Some("{}"), Answered(400)),
    Case("no host", &[(":authority", "")], Some("{}"), Reset),
    Case("a host in a header only", &[(":authority", "-"), ("host", "h")], Some("{}"), Good("{}")),
    Case("two authorities", &[(":authority", "h"), (":authority", "h")], Some("{}"), Reset),
    Case("a user", &[(":authority", "u@h")], Some("{}"), Answered(400)),
    Case("a path after the host", &[(":authority", "h/x")], Some("{}"), Reset),
    Case("a host with a line", &[(":authority", "h\r\nx: y")], Some("{}"), Reset),
    Case("a blank in a host", &[(":authority", "h evil")], Some("{}"), Reset),
    // Paths.
    Case("no path", &[(":path", "-")], Some("{}"), Reset),
    Case("an empty path", &[(":path", "")], Some("{}"), Reset),
    Case("two paths", &[(":path", PATH), (":path", "/other")], Some("{}"), Reset),
    Case("a path without a slash", &[(":path", "nexus/endpoints")], Some("{}"), Reset),
    Case("a star", &[(":path", "*")], Some("{}"), Answered(404)),
    Case("a whole URL", &[(":path", "http://evil/nexus/endpoints/pay/services/Svc/op")], Some("{}"), Reset),
    Case("a host in the path", &[(":path", "//evil/nexus/endpoints/pay/services/Svc/op")], Some("{}"), Answered(404)),
    Case("a blank in the path", &[(":path", "/nexus/endpoints/pay/services/Svc/op HTTP/1.1")], Some("{}"), Reset),
    Case("a line in the path", &[(":path", "/nexus/endpoints/pay/services/Svc/op\r\nx: y")], Some("{}"), Reset),
    Case(
        "a request in the path",
        &[(":path", "/nexus/endpoints/pay/services/Svc/op HTTP/1.1\r\nhost: h\r\n\r\nPOST /x")],
        Some("{}"),
        Reset,
    ),
    Case("NUL in the path", &[(":path", "/nexus/endpoints/pay/services/Svc/op\0")], Some("{}"), Reset),
    // The `http` crate drops it: nobody behind sees it.
    Case("a fragment", &[(":path", "/nexus/endpoints/pay/services/Svc/op#x")], Some("{}"), Good("{}")),
    Case("beyond ASCII", &[(":path", "/nexus/endpoints/pay/services/Svc/\u{e9}")], Some("{}"), Answered(400)),
    Case("dots", &[(":path", "/nexus/endpoints/pay/services/../op")], Some("{}"), Answered(400)),
    // Methods and schemes.
    Case("no method", &[(":method", "-")], Some("{}"), Reset),
    Case("an empty method", &[(":method", "")], Some("{}"), Reset),
    Case("two methods", &[(":method", "POST"), (":method", "GET")], Some("{}"), Reset),
    Case("a blank in the method", &[(":method", "POST /x HTTP/1.1")], Some("{}"), Reset),
    Case("a line in the method", &[(":method", "POST /x HTTP/1.1\r\nx: y\r\n\r\nPOST")], Some("{}"), Reset),
    Case("a method in lower case", &[(":method", "post")], Some("{}"), Answered(400)),
    Case("CONNECT", &[(":method", "CONNECT")], Some("{}"), Reset),
    Case("CONNECT to a host", &[(":method", "CONNECT"), (":scheme", "-"), (":path", "-")], Some("{}"), Answered(400)),
    Case("CONNECT by a protocol", &[(":method", "CONNECT"), (":protocol", "websocket")], Some("{}"), Reset),
    Case("no scheme", &[(":scheme", "-")], Some("{}"), Reset),
    Case("two schemes", &[(":scheme", "http"), (":scheme", "https")], Some("{}"), Reset),
    Case("a scheme with a host", &[(":scheme", "http://evil/x?")], Some("{}"), Reset),
    Case("a scheme with a line", &[(":scheme", "http\r\nx: y")], Some("{}"), Reset),
    // Other pseudo-header fields.
    Case("an unknown one", &[(":x", "y")], Some("{}"), Reset),
    Case("one of answers", &[(":status", "200")], Some("{}"), Reset),
    Case("one after the others", &[("x", "y"), (":path", PATH)], Some("{}"), Reset),
    // Names and values.
    Case("an upper-case name", &[("X-Y", "z")], Some("{}"), Reset),
    Case("an upper-case length", &[("Content-Length", "5")], Some("{}"), Reset),
    Case("no name", &[("", "z")], Some("{}"), Reset),
    Case("a colon in a name", &[("x: y\r\nz", "a")], Some("{}"), Reset),
    Case("a colon at the end of a name", &[("transfer-encoding:", "chunked")], Some("{}"), Reset),
    Case("a blank in a name", &[("x y", "z")], Some("{}"), Reset),
    Case("a blank after a name", &[("content-length ", "5")], Some("{}"), Reset),
    Case("a line in a name", &[("x\r\ntransfer-encoding", "chunked")], Some("{}"), Reset),
    Case("NUL in a name", &[("x\0", "z")], Some("{}"), Reset),
    Case("a name beyond ASCII", &[("x\u{e9}", "z")], Some("{}"), Reset),
    Case("a line in a value", &[("x", "y\r\ntransfer-encoding: chunked")], Some("{}"), Reset),
    Case("LF in a value", &[("x", "y\nz: 1")], Some("{}"), Reset),
    Case("CR in a value", &[("x", "y\rz: 1")], Some("{}"), Reset),
    Case("NUL in a value", &[("x", "y\0z")], Some("{}"), Reset),
    Case("settings of h2c", &[("http2-settings", "AAMAAABkAAQAAP__")], Some("{}"), Good("{}")),
    Case("what is expected", &[("expect", "100-continue")], Some("{}"), Good("{}")),
];

/// The fields of a case: those of a good start, without those that the case names itself; `-` leaves one out.
fn block(fields: Fields) -> Vec<u8> {
    let is_named = |name: &str| fields.iter().any(|(own, _)| *own == name);
    let late = fields.first().is_some_and(|(name, _)| !name.starts_with(':'));
    let pseudo = START.iter().filter(|(name, _)| late || !is_named(name));
    let own = fields.iter().filter(|(_, value)| *value != "-");
    pseudo.chain(own).flat_map(|(name, value)| field(name, value)).collect()
}

/// What the gateway says of the first stream.
async fn outcome(address: SocketAddr, frames: &[u8]) -> Option<u16> {
    let mut stream = TcpStream::connect(address).await.expect("the port is open");
    let all = [PREFACE, &frame(SETTINGS, 0, 0, &[]), frames].concat();
    stream.write_all(&all).await.expect("the gateway reads");
    let answered = async {
        loop {
            let mut head = [0; 9];
            if stream.read_exact(&mut head).await.is_err() {
                return None;
            }
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let mut payload = vec![0; length];
            if stream.read_exact(&mut payload).await.is_err() {
                return None;
            }
            match (head[3], head[8]) {
                // The static table has these (RFC 7541, appendix A).
                (HEADERS, 1) => match payload[0] {
                    0x88 => return Some(200),
                    0x8c => return Some(400),
                    0x8d => return Some(404),
                    _ => panic!("another status: {payload:x?}"),
                },
                (RST_STREAM, 1) | (GOAWAY, _) => return None,
                _ => {}
            }
        }
    };
    tokio::time::timeout(GUARD, answered).await.expect("the gateway says something")
}

fn request(fields: Fields, body: Option<&str>) -> Vec<u8> {
    let flags = END_HEADERS | if body.is_some() { 0 } else { END_STREAM };
    let data = body.map(|body| frame(DATA, END_STREAM, 1, body.as_bytes())).unwrap_or_default();
    [frame(HEADERS, flags, 1, &block(fields)), data].concat()
}

async fn play(address: SocketAddr, handler: &Handler, name: &str, frames: &[u8], expect: Expect) {
    let before = handler.requests().len();
    let status = outcome(address, frames).await;
    let seen = handler.requests().split_off(before);
    let bodies: Vec<_> = seen.iter().map(Message::text).collect();
    let (expected, bodies_expected) = match expect {
        Good(body) => (Some(200), vec![body.to_owned()]),
        Answered(status) => (Some(status), Vec::new()),
        Reset => (None, Vec::new()),
    };
    assert_eq!((status, bodies), (expected, bodies_expected), "{name}");
    for seen in &seen {
        assert_eq!(seen.first, "POST /Svc/op HTTP/1.1", "{name}: {seen:?}");
        assert!(seen.complete && seen.all("host").len() == 1, "{name}: {seen:?}");
        assert_eq!(seen.all("content-length").len(), usize::from(!seen.body.is_empty()), "{name}: {seen:?}");
        let hops = ["te", "transfer-encoding", "connection", "expect", "http2-settings", "x-after"];
        assert!(hops.iter().all(|hop| seen.header(hop).is_none()), "{name}: {seen:?}");
    }
}

async fn speaking(handler: &Handler) -> Gateway {
    let mut settings = leading_to(handler);
    settings.listen[0].http2 = true;
    Gateway::start(settings).await
}

#[tokio::test]
async fn what_http_1_1_could_not_say_is_not_said_in_it() {
    let handler = Handler::answering(ok());
    let gateway = speaking(&handler).await;
    for Case(name, fields, body, expect) in CASES {
        play(gateway.data(), &handler, name, &request(fields, *body), *expect).await;
    }
}

#[tokio::test]
async fn trailers_end_at_the_gateway_and_frame_nothing() {
    let handler = Handler::answering(ok());
    let gateway = speaking(&handler).await;
    let head = |more: Fields| frame(HEADERS, END_HEADERS, 1, &block(more));
    let data = |text: &str| frame(DATA, 0, 1, text.as_bytes());
    let trailers = |fields: Fields| {
        let block: Vec<u8> = fields.iter().flat_map(|(name, value)| field(name, value)).collect();
        frame(HEADERS, END_HEADERS | END_STREAM, 1, &block)
    };
    let length: Fields = &[("content-length", "2")];
    for (name, frames, expect) in [
        ("trailers", [head(&[]), data("{}"), trailers(&[("x-after", "1")])].concat(), Good("{}")),
        ("a length in trailers", [head(&[]), data("{}"), trailers(&[("content-length", "9")])].concat(), Good("{}")),
        ("trailers too early", [head(length), data("{"), trailers(&[("x-after", "1")])].concat(), Reset),
        ("a path in trailers", [head(&[]), data("{}"), trailers(&[(":path", "/x")])].concat(), Good("{}")),
        (
            "a coding in trailers",
            [head(&[]), data("{}"), trailers(&[("transfer-encoding", "chunked")])].concat(),
            Reset,
        ),
        ("two heads", [head(&[]), head(&[]), frame(DATA, END_STREAM, 1, b"{}")].concat(), Reset),
        // Five bytes of padding, which are no body.
        ("padding", [head(length), frame(DATA, END_STREAM | 8, 1, b"\x05{}.....")].concat(), Good("{}")),
        ("padding beyond its frame", [head(&[]), frame(DATA, END_STREAM | 8, 1, b"\x09{}.....")].concat(), Reset),
    ] {
        play(gateway.data(), &handler, name, &frames, expect).await;
    }
}
