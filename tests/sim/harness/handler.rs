//! A host that answers operations by a script, notes what comes, and can be taken away.

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;
use turmoil::net::{TcpListener, TcpStream};

use super::wire::ID;
use super::{lock, now};

pub(crate) const PORT: u16 = 7243;

pub(crate) fn name(number: usize) -> String {
    format!("handler-{number}")
}

/// A request that reached a handler.
#[derive(Clone, Debug)]
pub(crate) struct Arrival {
    pub(crate) id: u64,
    /// The last part of its path that names something.
    pub(crate) operation: String,
    pub(crate) at: Duration,
    /// Since when its answer is on its way.
    pub(crate) answered: Option<Duration>,
}

/// What a handler answers, and after how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reply {
    pub(crate) after: Duration,
    pub(crate) status: u16,
}

impl Reply {
    pub(crate) fn after(after: Duration) -> Self {
        Self { after, status: 200 }
    }

    pub(crate) fn status(self, status: u16) -> Self {
        Self { status, ..self }
    }
}

type Script = Box<dyn FnMut(&Arrival) -> Reply + Send>;

/// A handler host.
#[derive(Clone)]
pub(crate) struct Handler {
    pub(crate) name: String,
    state: Arc<State>,
}

struct State {
    script: Mutex<Script>,
    arrivals: Mutex<Vec<Arrival>>,
    /// Whether it takes connections; without, they are closed and refused.
    up: watch::Sender<bool>,
    /// Whether the machine runs.
    power: Mutex<[bool; 2]>,
    /// How many it serves at a time.
    places: Mutex<Arc<Semaphore>>,
}

impl Handler {
    pub(super) fn new(sim: &mut turmoil::Sim<'_>, number: usize) -> Self {
        let state = Arc::new(State {
            script: Mutex::new(Box::new(|_| Reply::after(Duration::from_millis(5)))),
            arrivals: Mutex::default(),
            up: watch::Sender::new(true),
            power: Mutex::new([true, true]),
            places: Mutex::new(Arc::new(Semaphore::new(Semaphore::MAX_PERMITS))),
        });
        let handler = Self { name: name(number), state };
        let host = Arc::clone(&handler.state);
        sim.host(&*handler.name, move || serve(Arc::clone(&host)));
        handler
    }

    /// From now on it answers so.
    pub(crate) fn answers(&self, script: impl FnMut(&Arrival) -> Reply + Send + 'static) {
        *lock(&self.state.script) = Box::new(script);
    }

    /// From now on it serves at most so many at a time.
    pub(crate) fn serves_at_most(&self, places: usize) {
        *lock(&self.state.places) = Arc::new(Semaphore::new(places));
    }

    /// Closes its connections and refuses new ones; or takes them again.
    pub(crate) fn set_up(&self, up: bool) {
        self.state.up.send_replace(up);
    }

    /// Switches the machine off, which then does not even refuse; or on.
    pub(crate) fn set_power(&self, on: bool) {
        lock(&self.state.power)[1] = on;
    }

    /// Switches the machine as was wished: only from outside can that be done.
    pub(super) fn obey(&self, sim: &mut turmoil::Sim<'_>) {
        let mut power = lock(&self.state.power);
        let [is, shall] = *power;
        *power = [shall, shall];
        drop(power);
        match (is, shall) {
            (true, false) => sim.crash(&*self.name),
            (false, true) => sim.bounce(&*self.name),
            _ => {}
        }
    }

    /// All that came so far.
    pub(crate) fn arrivals(&self) -> Vec<Arrival> {
        lock(&self.state.arrivals).clone()
    }
}

/// Takes connections whenever it is up.
async fn serve(state: Arc<State>) -> turmoil::Result {
    let mut up = state.up.subscribe();
    loop {
        up.wait_for(|up| *up).await?;
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).await?;
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                down = up.wait_for(|up| !up) => {
                    down?;
                    break;
                }
                accepted = listener.accept() => {
                    connections.spawn(serve_connection(Arc::clone(&state), accepted?.0));
                }
            }
        }
        connections.shutdown().await;
    }
}

async fn serve_connection(state: Arc<State>, stream: TcpStream) {
    let service = service_fn(move |request| {
        let state = Arc::clone(&state);
        async move { Ok::<_, Infallible>(answer(&state, request).await) }
    });
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(state: &State, request: Request<Incoming>) -> Response<Full<Bytes>> {
    if request.method() == Method::GET {
        // A probe.
        return Response::new(Full::from("{}"));
    }
    let (head, body) = request.into_parts();
    let id = id(&head.headers);
    let operation = head.uri.path().trim_end_matches("/cancel").rsplit('/').next().unwrap_or_default().to_owned();
    let arrival = Arrival { id, operation, at: now(), answered: None };
    let reply = (lock(&state.script))(&arrival);
    let place = {
        let mut arrivals = lock(&state.arrivals);
        arrivals.push(arrival);
        arrivals.len() - 1
    };
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let places = Arc::clone(&lock(&state.places));
    let _place = places.acquire().await;
    sleep(reply.after).await;
    lock(&state.arrivals)[place].answered = Some(now());
    let status = if reply.status == 200 && head.uri.path().ends_with("/cancel") { 202 } else { reply.status };
    let answer = Response::builder().status(status).header("content-type", "application/json");
    let content = match status {
        200 => format!(r#"{{"id":{id},"asked":{}}}"#, body.len()),
        202 => String::new(),
        _ => failure(status, id),
    };
    answer.body(Full::from(content)).expect("an answer")
}

fn id(headers: &HeaderMap) -> u64 {
    let id = headers.get(ID).and_then(|id| id.to_str().ok()?.parse().ok());
    id.expect("the header came through")
}

fn failure(status: u16, id: u64) -> String {
    let kind = match status {
        429 => "RESOURCE_EXHAUSTED",
        500 => "INTERNAL",
        503 => "UNAVAILABLE",
        _ => panic!("{status} is not in any script"),
    };
    format!(r#"{{"message":"id {id}","metadata":{{"type":"nexus.HandlerError"}},"details":{{"type":"{kind}"}}}}"#)
}
