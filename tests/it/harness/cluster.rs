//! A scripted Temporal cluster: its endpoint registry over HTTP, and whatever it answers to Nexus requests.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

use super::answers;
use super::handler::{Act, Gate, Handler, Reserved, Script, Seen};
use super::message::Message;

/// How the registry answers.
#[derive(Clone)]
pub(crate) enum Mood {
    Well,
    /// Closes the connection instead.
    Gone,
    Stalled(Gate),
    /// These bytes for whatever it is asked.
    Sends(String),
    /// An error that tells all that it was asked, its headers first.
    Echoes,
    /// The right answer, but only its first half.
    Half,
}

/// What a cluster knows.
pub(crate) struct State {
    pub(crate) id: Option<String>,
    pub(crate) endpoints: Vec<Value>,
    pub(crate) mood: Mood,
    /// Endpoints on a page, whatever was asked for.
    pub(crate) page: usize,
    /// What a Nexus request to an endpoint that exists gets.
    pub(crate) dispatch: Arc<Script>,
}

pub(crate) struct Cluster {
    handler: Handler,
    state: Arc<Mutex<State>>,
}

/// The id of a numbered endpoint.
pub(crate) fn id(number: u32) -> String {
    format!("7c679e62-b5fe-4ebc-9ae3-{number:012}")
}

/// A worker target as the registry lists it.
pub(crate) fn listed(name: &str, number: u32) -> Value {
    endpoint(name, number, &json!({ "worker": { "namespace": "ns", "taskQueue": "tq" } }))
}

/// An External target as the registry lists it.
pub(crate) fn listed_external(name: &str, number: u32, url: &str) -> Value {
    endpoint(name, number, &json!({ "external": { "url": url } }))
}

fn endpoint(name: &str, number: u32, target: &Value) -> Value {
    let id = id(number);
    json!({
        "version": "1",
        "id": id,
        "spec": { "name": name, "target": target },
        "createdTime": "2025-01-01T00:00:00Z",
        "lastModifiedTime": null,
        "urlPrefix": format!("/nexus/endpoints/{id}/services"),
    })
}

impl Cluster {
    pub(crate) fn serving(endpoints: Vec<Value>) -> Self {
        Self::on(Reserved::new(), endpoints)
    }

    /// Comes up at an address that refused connections until now.
    pub(crate) fn on(reserved: Reserved, endpoints: Vec<Value>) -> Self {
        let state = Arc::new(Mutex::new(State {
            id: Some("cluster-home".into()),
            endpoints,
            mood: Mood::Well,
            page: usize::MAX,
            dispatch: Arc::new(|_| vec![answers::ok().into()]),
        }));
        let shared = Arc::clone(&state);
        let handler = Handler::on(reserved, move |seen| lock(&shared).answer(seen));
        Self { handler, state }
    }

    /// With a Nexus side that answers the same bytes each time.
    pub(crate) fn answering(self, answer: String) -> Self {
        self.state().dispatch = Arc::new(move |_| vec![answer.clone().into()]);
        self
    }

    pub(crate) fn url(&self) -> String {
        self.handler.url()
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Nexus requests so far.
    pub(crate) fn dispatched(&self) -> Vec<Message> {
        self.split(|target| !target.starts_with("/api/"))
    }

    /// Requests to the registry so far, by their targets.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.split(|target| target.starts_with("/api/")).iter().map(|message| message.target().to_owned()).collect()
    }

    /// The same, whole.
    pub(crate) fn registry_requests(&self) -> Vec<Message> {
        self.split(|target| target.starts_with("/api/"))
    }

    fn split(&self, wanted: impl Fn(&str) -> bool) -> Vec<Message> {
        self.handler.requests().into_iter().filter(|message| wanted(message.target())).collect()
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    fn answer(&self, seen: &Seen) -> Vec<Act> {
        let target = seen.message.target();
        if target.starts_with("/api/") {
            return self.answer_api(&seen.message);
        }
        let id = target.strip_prefix("/nexus/endpoints/").and_then(|rest| rest.split('/').next());
        if id.is_some_and(|id| !self.endpoints.iter().any(|endpoint| endpoint["id"] == *id)) {
            let gone = r#"{"message":"nexus endpoint not found","metadata":{"type":"nexus.HandlerError"},"details":{"type":"NOT_FOUND"}}"#;
            return vec![answers::json("404 Not Found", gone).into()];
        }
        (self.dispatch)(seen)
    }

    fn answer_api(&self, asked: &Message) -> Vec<Act> {
        let (status, body) = self.api(asked.target());
        let answer = answers::json(status, &body.to_string());
        match &self.mood {
            Mood::Well => vec![answer.into()],
            Mood::Gone => vec![Act::Close],
            Mood::Stalled(gate) => vec![Act::Wait(gate.clone()), answer.into()],
            Mood::Sends(bytes) => vec![bytes.clone().into()],
            Mood::Echoes => {
                let body = json!({ "code": 13, "message": format!("{:?}", asked.headers) });
                vec![answers::json("500 Internal Server Error", &body.to_string()).into()]
            }
            Mood::Half => vec![answer[..answer.len() - body.to_string().len() / 2].into(), Act::Close],
        }
    }

    fn api(&self, target: &str) -> (&'static str, Value) {
        const LIST: &str = "/api/v1/nexus/endpoints";
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let parameter = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        if path == "/api/v1/cluster-info" {
            return ("200 OK", json!({ "clusterId": self.id, "serverVersion": "1.32.0" }));
        }
        if let Some(id) = path.strip_prefix(LIST).and_then(|rest| rest.strip_prefix('/')) {
            let found = self.endpoints.iter().find(|endpoint| endpoint["id"] == *id);
            return found.map_or_else(
                || ("404 Not Found", json!({ "code": 5, "message": "not found", "details": [] })),
                |endpoint| ("200 OK", json!({ "endpoint": endpoint })),
            );
        }
        if let Some(name) = parameter("name") {
            let name = name.replace("%2D", "-");
            let found: Vec<_> = self.endpoints.iter().filter(|endpoint| endpoint["spec"]["name"] == *name).collect();
            return ("200 OK", json!({ "nextPageToken": "", "endpoints": found }));
        }
        let from: usize = parameter("nextPageToken").and_then(|token| token.parse().ok()).unwrap_or(0);
        let to = from.saturating_add(self.page).min(self.endpoints.len());
        if self.endpoints.is_empty() {
            return ("200 OK", json!({}));
        }
        let next = if to < self.endpoints.len() { to.to_string() } else { String::new() };
        ("200 OK", json!({ "nextPageToken": next, "endpoints": self.endpoints[from..to] }))
    }
}
