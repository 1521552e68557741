//! A server on loopback that does whatever can go wrong, for the tests of all who fetch.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::Uri;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::tls::ServerTls;

/// A server whose answer can be changed.
pub(crate) struct Server {
    authority: String,
    shared: Arc<Shared>,
}

struct Shared {
    tls: Option<ServerTls>,
    answer: Mutex<Option<String>>,
    requests: watch::Sender<Vec<String>>,
}

impl Server {
    /// Answers each request with these bytes and closes then; none: it takes requests and is silent.
    pub(crate) async fn start(answer: impl Into<Option<String>>) -> Self {
        Self::behind(None, answer).await
    }

    /// The same behind TLS, unless there is none.
    pub(crate) async fn behind(tls: Option<ServerTls>, answer: impl Into<Option<String>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let authority = listener.local_addr().expect("it is bound").to_string();
        let shared = Shared { tls, answer: Mutex::new(answer.into()), requests: watch::Sender::default() };
        let shared = Arc::new(shared);
        let serving = Arc::clone(&shared);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = Arc::clone(&serving);
                tokio::spawn(async move {
                    match &shared.tls {
                        None => shared.serve(stream).await,
                        Some(tls) => {
                            if let Ok(accepted) = tls.accept(stream).await {
                                shared.serve(accepted.stream).await;
                            }
                        }
                    }
                });
            }
        });
        Self { authority, shared }
    }

    /// Where it is, and what is asked for there.
    pub(crate) fn uri(&self, rest: &str) -> Uri {
        let scheme = if self.shared.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}{rest}", self.authority).parse().expect("a URI")
    }

    /// What the next requests are answered.
    pub(crate) fn answer(&self, answer: impl Into<Option<String>>) {
        *self.shared.answer.lock().unwrap_or_else(PoisonError::into_inner) = answer.into();
    }

    /// The requests so far, heads and bodies.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.shared.requests.borrow().clone()
    }

    /// Waits for so many of them.
    pub(crate) async fn wait_for(&self, count: usize) {
        let mut requests = self.shared.requests.subscribe();
        requests.wait_for(|requests| requests.len() >= count).await.expect("the server lives");
    }
}

impl Shared {
    async fn serve(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
        let mut read = Vec::new();
        while !is_whole(&read) {
            match stream.read_buf(&mut read).await {
                Ok(1..) => {}
                _ => return,
            }
        }
        self.requests.send_modify(|requests| requests.push(String::from_utf8_lossy(&read).into_owned()));
        let answer = self.answer.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(answer) = answer else { return std::future::pending().await };
        // Whoever asked may have had enough.
        let _ = stream.write_all(answer.as_bytes()).await;
        let _ = stream.shutdown().await;
    }
}

fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request).to_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    body.len() >= length.unwrap_or(0)
}

/// An answer.
pub(crate) fn says(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// Lets so much time go by at once; before and after it the clock runs, as sockets want it.
pub(crate) async fn later(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}
