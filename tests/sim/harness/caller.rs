//! Callers, each with a connection of its own.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{sleep, timeout};
use turmoil::net::TcpStream;

use super::wire::ID;
use super::{Gateway, SECOND, TEMPORAL, gateway, now};

/// How long a caller waits beyond its own time-out before it counts as forgotten.
const PATIENCE: Duration = Duration::from_secs(3);

/// A request of a caller.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) id: u64,
    pub(crate) gateway: String,
    pub(crate) operation: &'static str,
    pub(crate) cancel: bool,
    /// Its `Request-Timeout`.
    pub(crate) timeout: Duration,
    /// Leaves after so long, whether or not it was answered.
    pub(crate) leaves: Option<Duration>,
}

/// A request with what became of it.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) request: Request,
    pub(crate) began: Duration,
    pub(crate) ended: Duration,
    pub(crate) outcome: Outcome,
}

/// What became of a request.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    Answered {
        status: u16,
        /// Why the gateway itself failed it, if it did.
        reason: Option<String>,
        body: Bytes,
    },
    /// The caller left before that.
    Left,
    /// No answer came, or half of one.
    Lost(String),
}

/// Requests that come for some time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) per_second: f64,
    pub(crate) lasts: Duration,
    pub(crate) operation: &'static str,
    pub(crate) cancels: bool,
    pub(crate) timeout: Duration,
    /// Percentage of callers who leave at some time, at the latest after their time-out.
    pub(crate) leaving: u32,
}

impl Default for Load {
    fn default() -> Self {
        let lasts = 10 * SECOND;
        Self { per_second: 50.0, lasts, operation: "op", cancels: false, timeout: TEMPORAL, leaving: 0 }
    }
}

impl Load {
    /// Begins to send, to each of `gateways` in turn.
    pub(crate) fn begin(self, gateways: &[Gateway], mut rng: Rng) -> JoinHandle<Vec<Call>> {
        let names: Vec<_> = gateways.iter().map(|gateway| gateway.name.clone()).collect();
        spawn_local(async move {
            let (ends, mut calls) = (now() + self.lasts, Vec::new());
            while now() < ends {
                let request = self.request(&names[calls.len() % names.len()], &mut rng);
                calls.push(spawn_local(request.send()));
                sleep(Duration::from_secs_f64(2.0 * rng.f64() / self.per_second)).await;
            }
            let mut ended = Vec::new();
            for call in calls {
                ended.push(call.await.expect("a caller ends"));
            }
            ended
        })
    }

    fn request(&self, gateway: &str, rng: &mut Rng) -> Request {
        let leaves = (rng.u32(0..100) < self.leaving).then(|| self.timeout.mul_f64(rng.f64().powi(4)));
        let Self { operation, cancels: cancel, timeout, .. } = *self;
        Request { gateway: gateway.to_owned(), operation, cancel, leaves, ..Request::new(timeout) }
    }
}

impl Request {
    /// A start that gives this much time.
    pub(crate) fn new(timeout: Duration) -> Self {
        static IDS: AtomicU64 = AtomicU64::new(1);
        let id = IDS.fetch_add(1, Ordering::Relaxed);
        Self { id, gateway: "gateway-0".into(), operation: "op", cancel: false, timeout, leaves: None }
    }

    /// Sends it and waits for the answer.
    pub(crate) async fn send(self) -> Call {
        let began = now();
        let asked = timeout(self.leaves.unwrap_or(self.timeout + PATIENCE), self.ask());
        let outcome = match asked.await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(error)) => Outcome::Lost(error.to_string()),
            Err(_) if self.leaves.is_some() => Outcome::Left,
            Err(_) => Outcome::Lost("no answer in time".into()),
        };
        Call { request: self, began, ended: now(), outcome }
    }

    async fn ask(&self) -> Result<Outcome, Box<dyn std::error::Error>> {
        let stream = TcpStream::connect((&*self.gateway, gateway::PORT)).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let _connection = AbortOnDrop(spawn_local(connection));
        let cancel = if self.cancel { "/cancel" } else { "" };
        let request = http::Request::post(format!("/nexus/endpoints/pay/services/S/{}{cancel}", self.operation))
            .header("host", "gateway")
            .header(ID, self.id)
            .header("nexus-operation-token", "token")
            .header("request-timeout", format!("{}ms", self.timeout.as_millis()))
            .body(Full::new(Bytes::from_static(b"{}")))?;
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        let reason = head.headers.get("nexus-gateway-failure").map(|reason| reason.to_str().map(str::to_owned));
        Ok(Outcome::Answered { status: head.status.as_u16(), reason: reason.transpose()?, body })
    }
}

/// A caller that leaves takes its connection with it.
struct AbortOnDrop<T>(JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Call {
    pub(crate) fn status(&self) -> Option<u16> {
        match self.outcome {
            Outcome::Answered { status, .. } => Some(status),
            _ => None,
        }
    }

    pub(crate) fn reason(&self) -> Option<&str> {
        match &self.outcome {
            Outcome::Answered { reason, .. } => reason.as_deref(),
            _ => None,
        }
    }

    pub(crate) fn took(&self) -> Duration {
        self.ended.saturating_sub(self.began)
    }
}
