//! Requests that one reader could take for another than the next one does: the handler sees one good request or none, and
//! nothing that comes after a refusal is answered.

use std::net::SocketAddr;

use crate::harness::*;

/// What must come of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    /// One good request, with this body; the connection goes on.
    Good(&'static str),
    /// One good request, with this body; what comes after it is nobody's.
    Last(&'static str),
    /// One good request, with this body, and a refusal of what comes right after it, which closes the connection.
    Then(&'static str),
    /// A failure for this reason. Nothing of the request, its body included, is taken for a request.
    Failed(&'static str),
    /// A failure for this reason, and a closed connection.
    Refused(&'static str),
}
use Expect::{Failed, Good, Last, Refused, Then};

const BAD: Expect = Refused("bad_head");
const LARGE: Expect = Refused("head_too_large");
const BAD_BODY: Expect = Refused("bad_body");

/// Name, request line, headers and body. `^` stands for CR LF in the last.
struct Case(&'static str, &'static str, &'static str, Expect);

const LINE: &str = "POST /nexus/endpoints/pay/services/Svc/op HTTP/1.1";

/// Cases as request line, then everything after it.
const CASES: &[Case] = &[
    // What is fine.
    Case("a length", LINE, "Host: h^Content-Length: 2^^{}", Good("{}")),
    Case("no body", LINE, "Host: h^^", Good("")),
    Case("chunks", LINE, "Host: h^Transfer-Encoding: chunked^^1^{^1^}^0^^", Good("{}")),
    Case("upper-case digits", LINE, "Host: h^Transfer-Encoding: chunked^^A^0123456789^0^^", Good("0123456789")),
    Case("zeros before a size", LINE, "Host: h^Transfer-Encoding: chunked^^0002^{}^0^^", Good("{}")),
    Case("blanks around a length", LINE, "Host: h^Content-Length: \t 2 \t^^{}", Good("{}")),
    Case("no blank after a colon", LINE, "Host:h^Content-Length:2^^{}", Good("{}")),
    Case("an empty value", LINE, "Host: h^X:^Content-Length: 2^^{}", Good("{}")),
    Case("a port", LINE, "Host: h:80^Content-Length: 2^^{}", Good("{}")),
    Case("an IPv6 host", LINE, "Host: [::1]:80^Content-Length: 2^^{}", Good("{}")),
    Case(
        "a whole URL of the same host",
        "POST http://h:80/nexus/endpoints/pay/services/Svc/op HTTP/1.1",
        "Host: H:80^Content-Length: 2^^{}",
        Good("{}"),
    ),
    Case("the last request", LINE, "Host: h^Connection: close^Content-Length: 2^^{}", Last("{}")),
    Case("the last one, among others", LINE, "Host: h^Connection: x, Close^Content-Length: 2^^{}", Last("{}")),
    Case("HTTP/1.0", "POST /nexus/endpoints/pay/services/Svc/op HTTP/1.0", "Content-Length: 2^^{}", Last("{}")),
    Case(
        "HTTP/1.0 that stays",
        "POST /nexus/endpoints/pay/services/Svc/op HTTP/1.0",
        "Connection: keep-alive^Content-Length: 2^^{}",
        Good("{}"),
    ),
    Case("old text in a value", LINE, "Host: h^X: caf\u{e9}^Content-Length: 2^^{}", Good("{}")),
    Case("close after keep-alive", LINE, "Host: h^Connection: keep-alive^Connection: close^^", Last("")),
    Case("close before keep-alive", LINE, "Host: h^Connection: close^Connection: keep-alive^^", Last("")),
    Case(
        "HTTP/1.0 that would stay at a proxy",
        "POST /nexus/endpoints/pay/services/Svc/op HTTP/1.0",
        "Proxy-Connection: keep-alive^Content-Length: 2^^{}",
        Last("{}"),
    ),
    Case(
        "a length that Connection names",
        LINE,
        "Host: h^Connection: Content-Length^Content-Length: 2^^{}",
        Good("{}"),
    ),
    Case(
        "a coding that Connection names",
        LINE,
        "Host: h^Connection: Transfer-Encoding^Transfer-Encoding: chunked^^2^{}^0^^",
        Good("{}"),
    ),
    Case("a host that Connection names", LINE, "Connection: Host^Host: h^Content-Length: 2^^{}", Good("{}")),
    Case("codings that an answer may have", LINE, "Host: h^TE: trailers, chunked^Content-Length: 2^^{}", Good("{}")),
    Case("what is expected", LINE, "Host: h^Expect: 100-continue^Content-Length: 2^^{}", Good("{}")),
    Case("what nobody expects", LINE, "Host: h^Expect: y 100-continue^Content-Length: 2^^{}", Good("{}")),
    Case("Connection: Upgrade without one", LINE, "Host: h^Connection: Upgrade^Content-Length: 2^^{}", Good("{}")),
    Case(
        "escaped lines in the target",
        "POST /nexus/endpoints/pay/services/Svc/op%0d%0aX-After:%201%0d%0a%0d%0a HTTP/1.1",
        "Host: h^Content-Length: 2^^{}",
        Good("{}"),
    ),
    // A request after which something comes that is none.
    Case("more than its length", LINE, "Host: h^Content-Length: 2^^{}}", Then("{}")),
    Case("a body without a length", LINE, "Host: h^^{}", Then("")),
    Case("an empty line after a body", LINE, "Host: h^Content-Length: 2^^{}^", Then("{}")),
    Case("LF after a body", LINE, "Host: h^Content-Length: 2^^{}\n", Then("{}")),
    Case("NUL after a body", LINE, "Host: h^Content-Length: 2^^{}\0", Then("{}")),
    Case("more after the last chunk", LINE, "Host: h^Transfer-Encoding: chunked^^2^{}^0^^X: 1^^", Then("{}")),
    Case("the end of chunks twice", LINE, "Host: h^Transfer-Encoding: chunked^^2^{}^0^^0^^", Then("{}")),
    // Requests that are answered before their bodies are read, in which others are hidden.
    Case(
        "a hidden request to nowhere",
        "POST /nowhere HTTP/1.1",
        "Host: h^Content-Length: 77^^POST /nexus/endpoints/pay/services/Svc/hidden HTTP/1.1^Host: h^X: yyyyy^^",
        Failed("unknown_route"),
    ),
    Case(
        "a hidden request that is expected",
        "POST /nowhere HTTP/1.1",
        "Host: h^Expect: 100-continue^Content-Length: 77^^POST /nexus/endpoints/pay/services/Svc/hidden HTTP/1.1^\
        Host: h^X: yyyyy^^",
        Failed("unknown_route"),
    ),
    Case(
        "a hidden request in a chunk",
        "POST /nowhere HTTP/1.1",
        "Host: h^Transfer-Encoding: chunked^^4d^POST /nexus/endpoints/pay/services/Svc/hidden HTTP/1.1^Host: h^\
        X: yyyyy^^^0^^",
        Failed("unknown_route"),
    ),
    Case(
        "a hidden request in GET",
        "GET /nexus/endpoints/pay/services/Svc/op HTTP/1.1",
        "Host: h^Content-Length: 77^^POST /nexus/endpoints/pay/services/Svc/hidden HTTP/1.1^Host: h^X: yyyyy^^",
        Failed("bad_method"),
    ),
    Case(
        "a method in lower case",
        "post /nexus/endpoints/pay/services/Svc/op HTTP/1.1",
        "Host: h^^",
        Failed("bad_method"),
    ),
    Case("TRACE", "TRACE /nexus/endpoints/pay/services/Svc/op HTTP/1.1", "Host: h^^", Failed("bad_method")),
    Case("OPTIONS", "OPTIONS /nexus/endpoints/pay/services/Svc/op HTTP/1.1", "Host: h^^", Failed("bad_method")),
    Case(
        "a host in the path",
        "POST //evil/nexus/endpoints/pay/services/Svc/op HTTP/1.1",
        "Host: h^^",
        Failed("unknown_route"),
    ),
    Case("a second slash", "POST /nexus//endpoints/pay/services/Svc/op HTTP/1.1", "Host: h^^", Failed("unknown_route")),
    // Two framings.
    Case("no length and chunks", LINE, "Host: h^Content-Length: 0^Transfer-Encoding: chunked^^0^^", BAD),
    Case("an empty length and chunks", LINE, "Host: h^Content-Length:^Transfer-Encoding: chunked^^0^^", BAD),
    Case("a length after a comma", LINE, "Host: h^Content-Length: ,2^^{}", BAD),
    Case("a length in quotes", LINE, "Host: h^Content-Length: \"2\"^^{}", BAD),
    Case("a length with a parameter", LINE, "Host: h^Content-Length: 2;a=b^^{}", BAD),
    Case("a length in other digits", LINE, "Host: h^Content-Length: \u{ff12}^^{}", BAD),
    Case("a vertical tab after a length", LINE, "Host: h^Content-Length: 2\u{b}^^{}", BAD),
    Case("a form feed before a length", LINE, "Host: h^Content-Length: \u{c}2^^{}", BAD),
    Case("a length on a second line", LINE, "Host: h^Content-Length:^ 2^^{}", BAD),
    Case("a length with an exponent", LINE, "Host: h^Content-Length: 2e0^^{}", BAD),
    Case("CL.TE", LINE, "Host: h^Content-Length: 4^Transfer-Encoding: chunked^^0^^G", BAD),
    Case("TE.CL", LINE, "Host: h^Transfer-Encoding: chunked^Content-Length: 4^^0^^G", BAD),
    Case("two lengths", LINE, "Host: h^Content-Length: 2^Content-Length: 5^^{}", BAD),
    Case("a length twice", LINE, "Host: h^Content-Length: 2^Content-Length: 2^^{}", BAD),
    Case("a length twice, in other letters", LINE, "Host: h^Content-Length: 2^CONTENT-LENGTH: 2^^{}", BAD),
    Case("a list of lengths", LINE, "Host: h^Content-Length: 2, 2^^{}", BAD),
    Case("a length with a plus", LINE, "Host: h^Content-Length: +2^^{}", BAD),
    Case("a length below zero", LINE, "Host: h^Content-Length: -2^^{}", BAD),
    Case("a blank in a length", LINE, "Host: h^Content-Length: 1 2^^{}", BAD),
    Case("a hexadecimal length", LINE, "Host: h^Content-Length: 0x2^^{}", BAD),
    Case("a zero before a length", LINE, "Host: h^Content-Length: 02^^{}", BAD),
    Case("a length with a fraction", LINE, "Host: h^Content-Length: 2.0^^{}", BAD),
    Case("an empty length", LINE, "Host: h^Content-Length:^^{}", BAD),
    Case("a length beyond 64 bits", LINE, "Host: h^Content-Length: 18446744073709551618^^{}", BAD),
    Case("a length with an underscore", LINE, "Host: h^Content_Length: 5^Content-Length: 2^^{}", BAD),
    // Codings.
    Case("another coding", LINE, "Host: h^Transfer-Encoding: gzip^^0^^", BAD),
    Case("identity", LINE, "Host: h^Transfer-Encoding: identity^Content-Length: 2^^{}", BAD),
    Case("two codings", LINE, "Host: h^Transfer-Encoding: gzip, chunked^^0^^", BAD),
    Case("a coding after chunked", LINE, "Host: h^Transfer-Encoding: chunked, identity^^0^^", BAD),
    Case("chunked twice", LINE, "Host: h^Transfer-Encoding: chunked^Transfer-Encoding: chunked^^0^^", BAD),
    Case("chunked twice in a line", LINE, "Host: h^Transfer-Encoding: chunked, chunked^^0^^", BAD),
    Case("a coding that begins alike", LINE, "Host: h^Transfer-Encoding: xchunked^^0^^", BAD),
    Case("a coding that goes on", LINE, "Host: h^Transfer-Encoding: chunkedx^^0^^", BAD),
    Case("a coding in quotes", LINE, "Host: h^Transfer-Encoding: \"chunked\"^^0^^", BAD),
    Case("a coding with a parameter", LINE, "Host: h^Transfer-Encoding: chunked;q=1^^0^^", BAD),
    Case("a coding in other letters", LINE, "Host: h^Transfer-Encoding: cHuNkEd^^0^^", BAD),
    Case("a vertical tab before a coding", LINE, "Host: h^Transfer-Encoding: \u{b}chunked^^0^^", BAD),
    Case("a coding after a comma", LINE, "Host: h^Transfer-Encoding: ,chunked^^0^^", BAD),
    Case("an empty coding", LINE, "Host: h^Transfer-Encoding:^Content-Length: 2^^{}", BAD),
    Case("a coding with an underscore", LINE, "Host: h^Transfer_Encoding: chunked^Content-Length: 2^^{}", BAD),
    Case("a coding on a second line", LINE, "Host: h^Transfer-Encoding:^ chunked^^0^^", BAD),
    Case(
        "chunks in HTTP/1.0",
        "POST /nexus/endpoints/pay/services/Svc/op HTTP/1.0",
        "Host: h^Transfer-Encoding: chunked^^0^^",
        BAD,
    ),
    Case("blanks after a coding", LINE, "Host: h^Transfer-Encoding: chunked \t^^0^^", Good("")),
    Case("NUL after a coding", LINE, "Host: h^Transfer-Encoding: chunked\0^^0^^", BAD),
    Case("a wide blank before a coding", LINE, "Host: h^Transfer-Encoding: \u{a0}chunked^^0^^", BAD),
    Case("chunked after another one", LINE, "Host: h^Transfer-Encoding: x^Transfer-Encoding: chunked^^0^^", BAD),
    Case("chunked before another one", LINE, "Host: h^Transfer-Encoding: chunked^Transfer-Encoding: x^^0^^", BAD),
    Case("a coding with a blank in its name", LINE, "Host: h^Transfer Encoding: chunked^^0^^", BAD),
    // Lines and names.
    Case("a tab on a second line", LINE, "Host: h^X: a^\tb^^", BAD),
    Case("a line of blanks", LINE, "Host: h^ ^^", BAD),
    Case("CR before the last line", LINE, "Host: h^\r^", BAD),
    Case("a vertical tab in a name", LINE, "Host: h^X\u{b}: a^^", BAD),
    Case("a comma in a name", LINE, "Host: h^X,Y: a^^", BAD),
    Case("brackets in a name", LINE, "Host: h^X(Y): a^^", BAD),
    Case("a slash in a name", LINE, "Host: h^X/Y: a^^", BAD),
    Case("a backslash in a name", LINE, "Host: h^X\\Y: a^^", BAD),
    Case("two colons", LINE, "Host: h^:authority: a^^", BAD),
    Case("a bell in a value", LINE, "Host: h^X: a\u{7}^^", BAD),
    Case("bare LF after the request line", LINE, "\nHost: h^Content-Length: 2^^{}", BAD),
    Case("bare LF after a header", LINE, "Host: h\nContent-Length: 2^^{}", BAD),
    Case("bare LF at the end of the head", LINE, "Host: h^Content-Length: 2\n\n{}", BAD),
    Case("CR LF LF", LINE, "Host: h^Content-Length: 2^\n{}", BAD),
    Case("bare CR in a value", LINE, "Host: h^X: a\rContent-Length: 2^^{}", BAD),
    Case("bare CR in a name", LINE, "Host: h^X\rY: a^^", BAD),
    Case("CR CR LF", LINE, "Host: h\r^^", BAD),
    Case("NUL in a value", LINE, "Host: h^X: a\0b^^", BAD),
    Case("NUL in a name", LINE, "Host: h^X\0: a^^", BAD),
    Case("DEL in a value", LINE, "Host: h^X: a\u{7f}b^^", BAD),
    Case("ESC in a value", LINE, "Host: h^X: a\u{1b}[0m^^", BAD),
    Case("a blank before a colon", LINE, "Host: h^Content-Length : 2^^{}", BAD),
    Case("a tab before a colon", LINE, "Host: h^Transfer-Encoding\t: chunked^^0^^", BAD),
    Case("a value on a second line", LINE, "Host: h^X: a^ b^^", BAD),
    Case("a first header on a second line", LINE, " Host: h^^", BAD),
    Case("a header without a name", LINE, "Host: h^: a^^", BAD),
    Case("a header without a colon", LINE, "Host: h^Content-Length^^", BAD),
    Case("a name in quotes", LINE, "Host: h^\"Content-Length\": 2^^{}", BAD),
    Case("a name beyond ASCII", LINE, "Host: h^Content\u{2010}Length: 2^^{}", BAD),
    // Hosts.
    Case("no host", LINE, "Content-Length: 2^^{}", BAD),
    Case("two hosts", LINE, "Host: h^Host: h^^", BAD),
    Case("an empty host", LINE, "Host:^^", BAD),
    Case("a list of hosts", LINE, "Host: a, b^^", BAD),
    Case("a user at a host", LINE, "Host: a@b^^", BAD),
    Case("a path after a host", LINE, "Host: a/b^^", BAD),
    Case("a port that is none", LINE, "Host: a:b^^", BAD),
    Case("a blank in a host", LINE, "Host: a b^^", BAD),
    Case("two ports", LINE, "Host: a:1:2^^", BAD),
    Case("a host on a second line", LINE, "Host:^ h^^", BAD),
    Case("an escape in a host", LINE, "Host: h%00^^", BAD),
    Case("a zone in a host", LINE, "Host: [::1%25lo]^^", BAD),
    Case("a question mark after a host", LINE, "Host: h?x^^", BAD),
    Case("a backslash in a host", LINE, "Host: h\\x^^", BAD),
    Case("two hosts in other letters", LINE, "Host: h^hOST: h^^", BAD),
    // Targets.
    Case(
        "a whole URL of another port",
        "POST http://h:81/nexus/endpoints/pay/services/Svc/op HTTP/1.1",
        "Host: h:80^^",
        BAD,
    ),
    Case(
        "a whole URL with a port that the host lacks",
        "POST http://h:80/nexus/endpoints/pay/services/Svc/op HTTP/1.1",
        "Host: h^^",
        BAD,
    ),
    Case(
        "a whole URL whose host ends with a dot",
        "POST http://h./nexus/endpoints/pay/services/Svc/op HTTP/1.1",
        "Host: h^^",
        BAD,
    ),
    Case(
        "a whole URL and no host",
        "POST http://h/nexus/endpoints/pay/services/Svc/op HTTP/1.1",
        "Content-Length: 2^^{}",
        BAD,
    ),
    Case("a whole URL without a path", "POST http://h HTTP/1.1", "Host: h^^", BAD),
    Case("a whole URL with a query and no path", "POST http://h?x HTTP/1.1", "Host: h^^", BAD),
    Case("a whole URL with a backslash", "POST http://h\\x/nexus HTTP/1.1", "Host: h^^", BAD),
    Case("a whole URL with one slash", "POST http:/h/nexus HTTP/1.1", "Host: h^^", BAD),
    Case("a whole URL with three slashes", "POST http:///nexus HTTP/1.1", "Host: h^^", BAD),
    Case("CONNECT in lower case", "connect h:80 HTTP/1.1", "Host: h:80^^", BAD),
    Case("CONNECT to a whole URL", "CONNECT http://h/nexus HTTP/1.1", "Host: h^^", BAD),
    Case("a star for POST", "POST * HTTP/1.1", "Host: h^^", BAD),
    Case("a vertical tab for a blank", "POST\u{b}/nexus HTTP/1.1", "Host: h^^", BAD),
    Case("a tab after the target", "POST /nexus\tHTTP/1.1", "Host: h^^", BAD),
    Case("two versions", "POST /nexus HTTP/1.1 HTTP/1.1", "Host: h^^", BAD),
    Case("quotes in the target", "POST /nexus\"x HTTP/1.1", "Host: h^^", BAD),
    Case(
        "a whole URL of another host",
        "POST http://evil/nexus/endpoints/pay/services/Svc/op HTTP/1.1",
        "Host: h^^",
        BAD,
    ),
    Case("a whole URL with a user", "POST http://u@h/nexus HTTP/1.1", "Host: h^^", BAD),
    Case("another scheme", "POST gopher://h/nexus HTTP/1.1", "Host: h^^", BAD),
    Case("a host as the target", "POST h:80 HTTP/1.1", "Host: h:80^^", BAD),
    Case("CONNECT", "CONNECT h:80 HTTP/1.1", "Host: h:80^^", BAD),
    Case("CONNECT to a path", "CONNECT / HTTP/1.1", "Host: h^^", BAD),
    Case("a star", "OPTIONS * HTTP/1.1", "Host: h^^", BAD),
    Case("a path without a slash", "POST nexus HTTP/1.1", "Host: h^^", BAD),
    Case("a blank in the target", "POST /a b HTTP/1.1", "Host: h^^", BAD),
    Case("two blanks", "POST  /nexus HTTP/1.1", "Host: h^^", BAD),
    Case("a tab for a blank", "POST\t/nexus HTTP/1.1", "Host: h^^", BAD),
    Case("a fragment", "POST /nexus#x HTTP/1.1", "Host: h^^", BAD),
    Case("NUL in the target", "POST /nexus\0 HTTP/1.1", "Host: h^^", BAD),
    Case("beyond ASCII", "POST /n\u{e9}xus HTTP/1.1", "Host: h^^", BAD),
    Case("a second request line in the target", "POST /a\rGET /b HTTP/1.1", "Host: h^^", BAD),
    Case("no method", " /nexus HTTP/1.1", "Host: h^^", BAD),
    Case("a method with a colon", "PO:ST /nexus HTTP/1.1", "Host: h^^", BAD),
    Case("an empty line first", "\r\nPOST /nexus HTTP/1.1", "Host: h^^", BAD),
    // Versions and protocols.
    Case("HTTP/0.9", "GET /nexus", "", BAD),
    Case("HTTP/1.2", "POST /nexus HTTP/1.2", "Host: h^^", BAD),
    Case("HTTP/2.0", "POST /nexus HTTP/2.0", "Host: h^^", BAD),
    Case("lower case", "POST /nexus http/1.1", "Host: h^^", BAD),
    Case("a blank after the version", "POST /nexus HTTP/1.1 ", "Host: h^^", BAD),
    Case("a version with more digits", "POST /nexus HTTP/1.10", "Host: h^^", BAD),
    Case("the preface of HTTP/2", "PRI * HTTP/2.0", "^SM^^", BAD),
    Case("a TLS handshake", "\u{16}\u{3}\u{1}\u{2}\0\u{1}", "^^", BAD),
    Case("an upgrade", LINE, "Host: h^Connection: Upgrade^Upgrade: websocket^^", BAD),
    Case(
        "an upgrade to h2c",
        LINE,
        "Host: h^Connection: Upgrade, HTTP2-Settings^Upgrade: h2c^HTTP2-Settings: AAMAAABkAAQAAP__^^",
        BAD,
    ),
    Case("an upgrade that Connection does not name", LINE, "Host: h^Upgrade: websocket^^", BAD),
    Case("a version with a letter", "POST /nexus HTTP/1.x", "Host: h^^", BAD),
    Case("HTTP/0.9 by its number", "POST /nexus HTTP/0.9", "Host: h^^", BAD),
    Case("HTTP/3", "POST /nexus HTTP/3", "Host: h^^", BAD),
    Case("settings of h2c", LINE, "Host: h^HTTP2-Settings: AAMAAABkAAQAAP__^^", BAD),
    // Chunks.
    Case("an extension", LINE, "Host: h^Transfer-Encoding: chunked^^2;a=b^{}^0^^", BAD_BODY),
    Case("an empty extension", LINE, "Host: h^Transfer-Encoding: chunked^^2;^{}^0^^", BAD_BODY),
    Case("an extension of the last chunk", LINE, "Host: h^Transfer-Encoding: chunked^^2^{}^0;a^^", BAD_BODY),
    Case("LF in an extension", LINE, "Host: h^Transfer-Encoding: chunked^^2;\n{}^0^^", BAD_BODY),
    Case("a size with a plus", LINE, "Host: h^Transfer-Encoding: chunked^^+2^{}^0^^", BAD_BODY),
    Case("a size below zero", LINE, "Host: h^Transfer-Encoding: chunked^^-2^{}^0^^", BAD_BODY),
    Case("a size with 0x", LINE, "Host: h^Transfer-Encoding: chunked^^0x2^{}^0^^", BAD_BODY),
    Case("a blank before a size", LINE, "Host: h^Transfer-Encoding: chunked^^ 2^{}^0^^", BAD_BODY),
    Case("a blank after a size", LINE, "Host: h^Transfer-Encoding: chunked^^2 ^{}^0^^", BAD_BODY),
    Case("no size", LINE, "Host: h^Transfer-Encoding: chunked^^^{}^0^^", BAD_BODY),
    Case("a size beyond 64 bits", LINE, "Host: h^Transfer-Encoding: chunked^^00000000000000002^{}^0^^", BAD_BODY),
    Case("a size that wraps", LINE, "Host: h^Transfer-Encoding: chunked^^10000000000000002^{}^0^^", BAD_BODY),
    Case("LF after a size", LINE, "Host: h^Transfer-Encoding: chunked^^2\n{}^0^^", BAD_BODY),
    Case("LF after a chunk", LINE, "Host: h^Transfer-Encoding: chunked^^2^{}\n0^^", BAD_BODY),
    Case("CR after a size", LINE, "Host: h^Transfer-Encoding: chunked^^2\r{}^0^^", BAD_BODY),
    Case("a chunk that is too long", LINE, "Host: h^Transfer-Encoding: chunked^^2^{}}^0^^", BAD_BODY),
    Case("LF after the last chunk", LINE, "Host: h^Transfer-Encoding: chunked^^2^{}^0^\n", BAD_BODY),
    Case("a last chunk of many zeros", LINE, "Host: h^Transfer-Encoding: chunked^^2^{}^000^^", Good("{}")),
    Case("the end of chunks inside one", LINE, "Host: h^Transfer-Encoding: chunked^^5^0^^^0^^", Good("0\r\n\r\n")),
    Case("a tab after a size", LINE, "Host: h^Transfer-Encoding: chunked^^2\t^{}^0^^", BAD_BODY),
    Case("NUL after a size", LINE, "Host: h^Transfer-Encoding: chunked^^2\0^{}^0^^", BAD_BODY),
    Case("a size that is no number", LINE, "Host: h^Transfer-Encoding: chunked^^g^{}^0^^", BAD_BODY),
    Case("a size in other digits", LINE, "Host: h^Transfer-Encoding: chunked^^\u{ff12}^{}^0^^", BAD_BODY),
    Case("a chunk without an end", LINE, "Host: h^Transfer-Encoding: chunked^^2^{}0^^", BAD_BODY),
    Case("a chunk with two ends", LINE, "Host: h^Transfer-Encoding: chunked^^2^{}^^0^^", BAD_BODY),
    Case("a chunk that is too short", LINE, "Host: h^Transfer-Encoding: chunked^^3^{}^0^^", BAD_BODY),
    Case(
        "a request for the end of chunks",
        LINE,
        "Host: h^Transfer-Encoding: chunked^^2^{}^0^POST /nexus/endpoints/pay/services/Svc/hidden HTTP/1.1^Host: h^^",
        BAD_BODY,
    ),
    Case(
        "a coding after the last chunk",
        LINE,
        "Host: h^Transfer-Encoding: chunked^^2^{}^0^Transfer-Encoding: x^^",
        Good("{}"),
    ),
    Case("a host after the last chunk", LINE, "Host: h^Transfer-Encoding: chunked^^2^{}^0^Host: evil^^", Good("{}")),
    Case(
        "a trailer that was announced",
        LINE,
        "Host: h^Trailer: Content-Length, X-After^Transfer-Encoding: chunked^^2^{}^0^X-After: 1^Content-Length: 9^^",
        Good("{}"),
    ),
    Case("a trailer", LINE, "Host: h^Transfer-Encoding: chunked^^2^{}^0^X-After: 1^^", Good("{}")),
    Case("trailers on two lines", LINE, "Host: h^Transfer-Encoding: chunked^^2^{}^0^X: 1^ 2^^", BAD_BODY),
    Case("a trailer without a colon", LINE, "Host: h^Transfer-Encoding: chunked^^2^{}^0^X^^", BAD_BODY),
    Case("a blank in a trailer's name", LINE, "Host: h^Transfer-Encoding: chunked^^2^{}^0^X : 1^^", BAD_BODY),
    Case("LF after a trailer", LINE, "Host: h^Transfer-Encoding: chunked^^2^{}^0^X: 1\n^", BAD_BODY),
    Case("NUL in a trailer", LINE, "Host: h^Transfer-Encoding: chunked^^2^{}^0^X: \0^^", BAD_BODY),
    Case("a trailer with a length", LINE, "Host: h^Transfer-Encoding: chunked^^2^{}^0^Content-Length: 5^^", Good("{}")),
];

/// The same with sizes that a table does not show.
fn large_cases() -> Vec<(&'static str, String, Expect)> {
    let of = |count: usize| (0..count).fold(String::new(), |lines, n| lines + &format!("X-{n}: 1\r\n"));
    vec![
        ("as many headers as may be", format!("{LINE}\r\nHost: h\r\n{}\r\n", of(99)), Good("")),
        ("one header too many", format!("{LINE}\r\nHost: h\r\n{}\r\n", of(100)), LARGE),
        ("a long header", format!("{LINE}\r\nHost: h\r\nX: {}\r\n\r\n", "x".repeat(64 << 10)), LARGE),
        ("a long target", format!("POST /{} HTTP/1.1\r\nHost: h\r\n\r\n", "x".repeat(32 << 10)), LARGE),
        ("a long name", format!("{LINE}\r\nHost: h\r\n{}: 1\r\n\r\n", "x".repeat(64 << 10)), LARGE),
        (
            "trailers without an end",
            format!("{LINE}\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n{}\r\n", of(500)),
            BAD_BODY,
        ),
        ("a long method", format!("{} / HTTP/1.1\r\nHost: h\r\n\r\n", "X".repeat(100)), BAD),
        ("a long host", format!("{LINE}\r\nHost: {}\r\n\r\n", "x".repeat(300)), BAD),
    ]
}

fn cases() -> Vec<(&'static str, Vec<u8>, Expect)> {
    let bytes = |Case(name, line, rest, expect): &Case| {
        // HTTP/0.9 ends with its line; bare line ends come where the line should have its own.
        let end = if rest.starts_with('\n') { "" } else { "\r\n" };
        (*name, format!("{line}{end}{}", rest.replace('^', "\r\n")).into_bytes(), *expect)
    };
    let large = large_cases().into_iter().map(|(name, text, expect)| (name, text.into_bytes(), expect));
    CASES.iter().map(bytes).chain(large).collect()
}

/// Asks for what no good request asks for, so that it would be seen.
const POISONED: &str =
    "POST /nexus/endpoints/pay/services/Svc/poisoned HTTP/1.1\r\nHost: h\r\nContent-Length: 6\r\n\r\npoison";

/// The next answer that is not an interim one; none where the gateway closed.
async fn final_answer(caller: &mut Caller) -> Option<Message> {
    loop {
        let answer = caller.any_answer().await?;
        if answer.status() >= 200 {
            return Some(answer);
        }
    }
}

async fn play(address: SocketAddr, handler: &Handler, (name, bytes, expect): (&str, Vec<u8>, Expect), piece: usize) {
    let before = handler.requests().len();
    let mut caller = Caller::connect(address).await;
    let all = [&bytes[..], POISONED.as_bytes()].concat();
    for piece in all.chunks(piece) {
        caller.send(piece).await;
    }
    let first = final_answer(&mut caller).await.unwrap_or_else(|| panic!("{name}: no answer"));
    let second = match expect {
        Last(_) | Refused(_) => None,
        Good(_) | Then(_) | Failed(_) => final_answer(&mut caller).await,
    };
    if !matches!(expect, Good(_) | Failed(_)) {
        assert!(caller.any_answer().await.is_none(), "{name}: the poisoned request is answered");
    }
    let seen = handler.requests().split_off(before);
    let bodies: Vec<_> = seen.iter().map(Message::text).collect();
    match expect {
        Good(body) => {
            assert_eq!((first.status(), second.map(|second| second.status())), (200, Some(200)), "{name}: {first:?}");
            assert_eq!(bodies, [body, "poison"], "{name}");
        }
        Then(body) => {
            let refused = second.unwrap_or_else(|| panic!("{name}: nothing is refused"));
            failure("bad_head", nexus_gateway::nexus::ErrorType::BadRequest, false).assert_is(&refused, name);
            assert_eq!(first.status(), 200, "{name}: {first:?}");
            assert_eq!(bodies, [body], "{name}");
        }
        Failed(reason) => {
            assert_eq!(first.header("nexus-gateway-failure"), Some(reason), "{name}: {first:?}");
            // Whether the connection goes on is left open.
            let expected: &[&str] = if second.is_some() { &["poison"] } else { &[] };
            assert_eq!(bodies, expected, "{name}: {second:?}");
        }
        Last(body) => {
            assert_eq!(first.status(), 200, "{name}: {first:?}");
            assert_eq!(bodies, [body], "{name}");
        }
        Refused(reason) => {
            failure(reason, nexus_gateway::nexus::ErrorType::BadRequest, false).assert_is(&first, name);
            // That a body is no good may be seen after the answer began.
            assert!(first.header("connection") == Some("close") || expect == BAD_BODY, "{name}");
            assert!(seen.is_empty(), "{name}: the handler got {seen:?}");
        }
    }
    for seen in &seen {
        assert!(seen.first.ends_with(" HTTP/1.1") && seen.complete, "{name}: {seen:?}");
        assert_eq!(seen.all("host").len(), 1, "{name}: {seen:?}");
        let lengths = usize::from(!seen.body.is_empty());
        assert_eq!(seen.all("content-length").len(), lengths, "{name}: {seen:?}");
        assert!(seen.all("transfer-encoding").is_empty(), "{name}: {seen:?}");
        let hops = ["x-after", "expect", "te", "trailer", "connection", "proxy-connection", "upgrade"];
        assert!(hops.iter().all(|hop| seen.header(hop).is_none()), "{name}: {seen:?}");
    }
}

#[tokio::test]
async fn what_could_mean_two_things_is_refused_and_ends_its_connection() {
    assert!(CASES.len() > 180);
    let handler = Handler::answering(ok());
    let gateway = Gateway::before(&handler).await;
    for case in cases() {
        play(gateway.data(), &handler, case, usize::MAX).await;
    }
}

#[tokio::test]
async fn it_does_not_matter_in_which_pieces_bytes_come() {
    let handler = Handler::answering(ok());
    let gateway = Gateway::before(&handler).await;
    for case in cases().into_iter().filter(|(_, bytes, _)| bytes.len() < 300) {
        play(gateway.data(), &handler, case, 1).await;
    }
}

#[tokio::test]
async fn a_refusal_comes_after_the_answers_to_what_was_asked_before() {
    let gate = Gate::new();
    let handler = Handler::acting(vec![Act::Wait(gate.clone()), ok().into()]);
    let gateway = Gateway::before(&handler).await;
    let mut caller = gateway.connect().await;
    let good = String::from_utf8(start("pay").bytes()).expect("it is text");
    caller.send(format!("{good}POST /nexus HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n{POISONED}")).await;
    handler.wait_for(1).await;
    gate.open();
    assert_eq!(caller.answer().await.status(), 200);
    let refused = caller.answer().await;
    assert_eq!((refused.status(), refused.header("nexus-gateway-failure")), (400, Some("bad_head")));
    caller.closed().await;
    assert_eq!(handler.requests().len(), 1);
    gateway.counts("nexus_gateway_failures_total", &[("reason", "bad_head")], 1.0).await;
}

/// The answer to HEAD has no body, and the next answer follows at once.
#[tokio::test]
async fn the_answer_to_head_ends_with_its_head() {
    let handler = Handler::answering(ok());
    let gateway = Gateway::before(&handler).await;
    let mut caller = gateway.connect().await;
    caller.send(format!("HEAD /nexus/endpoints/pay/services/Svc/op HTTP/1.1\r\nHost: h\r\n\r\n{POISONED}")).await;
    let head = caller.head().await;
    assert_eq!(head.header("nexus-gateway-failure"), Some("bad_method"), "{head:?}");
    assert_eq!(caller.answer().await.status(), 200);
    assert_eq!(handler.request().text(), "poison");
}
