//! A raw caller: sends any bytes, reads whole answers.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use tokio::io::AsyncWriteExt;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpSocket, TcpStream};

use super::message::{Message, Reader};
use super::planted;

/// One connection to a gateway.
pub(crate) struct Caller {
    reader: Reader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
}

impl Caller {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let (read, writer) = TcpStream::connect(address).await.expect("the port is open").into_split();
        Self { reader: Reader::new(read), writer }
    }

    /// Connects from another address of this machine than callers usually do.
    pub(crate) async fn connect_from(from: IpAddr, address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind((from, 0).into()).expect("loopback has free ports");
        let (read, writer) = socket.connect(address).await.expect("the port is open").into_split();
        Self { reader: Reader::new(read), writer }
    }

    /// Sends bytes. That the gateway closed meanwhile is seen when its answer is read.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        drop(self.writer.write_all(bytes.as_ref()).await);
    }

    /// The next answer, without interim ones.
    pub(crate) async fn answer(&mut self) -> Message {
        loop {
            let answer = self.reader.answer().await.expect("an answer comes");
            if answer.status() >= 200 {
                return answer;
            }
        }
    }

    /// The next answer, interim ones included; none where the gateway closed the connection.
    pub(crate) async fn any_answer(&mut self) -> Option<Message> {
        self.reader.answer().await
    }

    /// Only the head of the next answer.
    pub(crate) async fn head(&mut self) -> Message {
        self.reader.head().await.expect("an answer comes")
    }

    /// The rest of the answer whose head was read.
    pub(crate) async fn rest(&mut self, mut head: Message) -> Message {
        self.reader.body(&mut head, true).await;
        head
    }

    /// Sends a request and reads its answer.
    pub(crate) async fn call(&mut self, request: &Request) -> Message {
        self.send(request.bytes()).await;
        self.answer().await
    }

    /// Waits until the gateway closed the connection.
    pub(crate) async fn closed(mut self) {
        self.reader.closed().await;
    }
}

/// A request to write.
#[derive(Clone)]
pub(crate) struct Request {
    method: &'static str,
    target: String,
    host: &'static str,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    chunked: bool,
}

/// A start of `Svc/op` at an endpoint.
pub(crate) fn start(endpoint: &str) -> Request {
    to(format!("/nexus/endpoints/{endpoint}/services/Svc/op"))
        .header("Content-Type", "application/json")
        .body(planted::PAYLOAD)
}

/// A cancel of `Svc/op` at an endpoint.
pub(crate) fn cancel(endpoint: &str) -> Request {
    to(format!("/nexus/endpoints/{endpoint}/services/Svc/op/cancel")).header("Nexus-Operation-Token", "planted-token")
}

/// A POST to any target, without a body.
pub(crate) fn to(target: impl Into<String>) -> Request {
    Request {
        method: "POST",
        target: target.into(),
        host: "gateway.test",
        headers: Vec::new(),
        body: Vec::new(),
        chunked: false,
    }
}

/// A GET.
pub(crate) fn get(target: &str) -> Request {
    Request { method: "GET", ..to(target) }
}

impl Request {
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        planted::note_header(name, value);
        self.headers.push((name.into(), value.into()));
        self
    }

    pub(crate) fn headers<'a>(self, headers: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        headers.into_iter().fold(self, |request, (name, value)| request.header(name, value))
    }

    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Sends the body in chunks, without a length.
    pub(crate) fn chunked(mut self) -> Self {
        self.chunked = true;
        self
    }

    /// The name by which the gateway is called.
    pub(crate) fn host(mut self, host: &'static str) -> Self {
        self.host = host;
        self
    }

    pub(crate) fn method(mut self, method: &'static str) -> Self {
        self.method = method;
        self
    }

    /// The head alone, with the framing of the body.
    pub(crate) fn head(&self) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\nHost: {}\r\n", self.method, self.target, self.host);
        for (name, value) in &self.headers {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        if self.chunked {
            head.push_str("Transfer-Encoding: chunked\r\n\r\n");
        } else {
            let _ = write!(head, "Content-Length: {}\r\n\r\n", self.body.len());
        }
        head.into_bytes()
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.head();
        if self.chunked {
            for chunk in self.body.chunks(10_000) {
                bytes.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
                bytes.extend(chunk);
                bytes.extend(b"\r\n");
            }
            bytes.extend(b"0\r\n\r\n");
        } else {
            bytes.extend(&self.body);
        }
        bytes
    }
}
