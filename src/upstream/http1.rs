//! One HTTP/1.1 connection to a target, driven by whoever uses it.
//!
//! Usually a client connection is a task of its own, and each request wakes it and is woken by it. Here the request's
//! own future polls the connection, so that a request is one task from the caller's socket to the target's and back.
//! Nobody polls an idle connection; that it died is seen when it is taken, swept, or used.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;

use super::stream::Stream;

/// Bytes of an answer that are read ahead of its caller; its head has to fit. hyper would have it be 400 KiB, of each caller
/// that does not read.
const AHEAD: usize = 128 << 10;

/// An open connection.
pub(super) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    /// Boxed: it is a thousand bytes, and moves with every request from the shelf into the answer's body and back.
    /// None once the connection is closed.
    driver: Option<Driver>,
}

type Driver = Box<http1::Connection<TokioIo<Stream>, Full<Bytes>>>;

impl Connection {
    /// Speaks HTTP/1.1 on `stream`; nothing is sent yet.
    pub(super) async fn open(stream: Stream) -> hyper::Result<Self> {
        let (sender, driver) = http1::Builder::new().max_buf_size(AHEAD).handshake(TokioIo::new(stream)).await?;
        Ok(Self { sender, driver: Some(Box::new(driver)) })
    }

    /// Sends `request` and waits for the head of its answer.
    pub(super) async fn send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
        let mut answer = pin!(self.sender.send_request(request));
        poll_fn(|cx| {
            drive(&mut self.driver, cx);
            answer.as_mut().poll(cx)
        })
        .await
    }

    /// The next frame of an answer's body.
    pub(super) fn poll_frame(
        &mut self,
        body: &mut Incoming,
        cx: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        drive(&mut self.driver, cx);
        Pin::new(body).poll_frame(cx)
    }

    /// Whether another request can be sent, as far as can be seen from here.
    pub(super) fn is_reusable(&mut self) -> bool {
        drive(&mut self.driver, &mut Context::from_waker(Waker::noop()));
        self.driver.is_some() && self.sender.is_ready()
    }
}

/// Lets the connection read and write. Its error, if any, reaches the request as well. A driver that is done is dropped,
/// by which a request learns that it will not be sent.
fn drive(driver: &mut Option<Driver>, cx: &mut Context<'_>) {
    if driver.as_mut().is_some_and(|driver| Pin::new(driver).poll(cx).is_ready()) {
        *driver = None;
    }
}
