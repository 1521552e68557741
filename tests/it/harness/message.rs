//! HTTP/1.1 messages as bytes: read from a socket without a library that could tidy them up.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};

use super::planted;

/// Longest time to wait for anything: far beyond what a test needs, so that it only ends one that is stuck.
pub(crate) const GUARD: Duration = Duration::from_secs(30);

/// A request or an answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Message {
    /// Request line or status line.
    pub(crate) first: String,
    /// Names as they came and values, in order; each byte of a value is one character.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Whether the body came to the end that its framing announced.
    pub(crate) complete: bool,
}

impl Message {
    /// The first value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.all(name).first().copied()
    }

    /// All values of a header.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let same = |(found, _): &&(String, String)| found.eq_ignore_ascii_case(name);
        self.headers.iter().filter(same).map(|(_, value)| value.as_str()).collect()
    }

    /// Names and values of the headers that begin with `prefix`, names in lower case, sorted.
    pub(crate) fn beginning_with(&self, prefix: &str) -> Vec<(String, String)> {
        let lower = self.headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone()));
        let mut found: Vec<_> = lower.filter(|(name, _)| name.starts_with(prefix)).collect();
        found.sort();
        found
    }

    /// The status of an answer.
    pub(crate) fn status(&self) -> u16 {
        self.first.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default()
    }

    /// What a request asks for, as it stands in its first line.
    pub(crate) fn target(&self) -> &str {
        self.first.split(' ').nth(1).unwrap_or_default()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn framing(&self, is_answer: bool) -> Framing {
        if is_answer && (self.status() < 200 || matches!(self.status(), 204 | 304)) {
            Framing::Length(0)
        } else if self.header("transfer-encoding").is_some_and(|coding| coding.contains("chunked")) {
            Framing::Chunked
        } else if let Some(length) = self.header("content-length") {
            Framing::Length(length.parse().unwrap_or(0))
        } else if is_answer {
            Framing::UntilClosed
        } else {
            Framing::Length(0)
        }
    }
}

enum Framing {
    Length(usize),
    Chunked,
    UntilClosed,
}

/// Reads messages from a stream.
pub(crate) struct Reader<S> {
    stream: S,
    buffer: Vec<u8>,
}

impl<S: AsyncRead + Unpin> Reader<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    /// The next request; none where the peer closed first.
    pub(crate) async fn request(&mut self) -> Option<Message> {
        let mut message = self.head().await?;
        self.body(&mut message, false).await;
        Some(message)
    }

    /// The next answer, an interim one too; none where the peer closed first.
    pub(crate) async fn answer(&mut self) -> Option<Message> {
        let mut message = self.head().await?;
        self.body(&mut message, true).await;
        if message.header("nexus-gateway-failure").is_some() {
            planted::assert_none_in(&format!("{message:?} {}", message.text()), "an answer of the gateway");
        }
        Some(message)
    }

    /// Only the head of the next message.
    pub(crate) async fn head(&mut self) -> Option<Message> {
        let end = loop {
            match find(&self.buffer, b"\r\n\r\n") {
                Some(end) => break end,
                None if self.fill().await => {}
                None => return None,
            }
        };
        let head: String = self.take(end + 4)[..end].iter().map(|byte| char::from(*byte)).collect();
        let mut lines = head.split("\r\n");
        let first = lines.next().unwrap_or_default().to_owned();
        let split = |line: &str| line.split_once(':').map(|(name, value)| (name.to_owned(), value.trim().to_owned()));
        Some(Message { first, headers: lines.filter_map(split).collect(), ..Message::default() })
    }

    /// The body of the message whose head was read.
    pub(crate) async fn body(&mut self, message: &mut Message, is_answer: bool) {
        match message.framing(is_answer) {
            Framing::Length(length) => {
                while self.buffer.len() < length && self.fill().await {}
                message.complete = self.buffer.len() >= length;
                message.body = self.take(length);
            }
            Framing::Chunked => message.complete = self.chunks(&mut message.body).await.is_some(),
            Framing::UntilClosed => {
                while self.fill().await {}
                message.complete = true;
                message.body = std::mem::take(&mut self.buffer);
            }
        }
    }

    async fn chunks(&mut self, body: &mut Vec<u8>) -> Option<()> {
        loop {
            let size = self.line().await?;
            let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
            if size == 0 {
                while !self.line().await?.is_empty() {}
                return Some(());
            }
            while self.buffer.len() < size + 2 && self.fill().await {}
            body.extend(self.take(size));
            self.line().await?;
        }
    }

    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n") {
                return String::from_utf8(self.take(end + 2)[..end].to_vec()).ok();
            }
            if !self.fill().await {
                return None;
            }
        }
    }

    /// Waits until the peer closed or reset the connection; what came before counts for nothing.
    pub(crate) async fn closed(&mut self) {
        while self.fill().await {
            self.buffer.clear();
        }
    }

    fn take(&mut self, count: usize) -> Vec<u8> {
        self.buffer.drain(..count.min(self.buffer.len())).collect()
    }

    /// Reads more; false at the end, however it came.
    async fn fill(&mut self) -> bool {
        let read = tokio::time::timeout(GUARD, self.stream.read_buf(&mut self.buffer)).await;
        read.expect("the peer sends or closes").is_ok_and(|count| count > 0)
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
