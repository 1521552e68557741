//! Secrets that tests plant, and the look for them wherever a gateway shows anything: in what it logs at its most
//! talkative, in its access and audit logs, metrics, admin pages, and answers of its own.
//!
//! Whatever a test makes up that is nobody's business begins with [`MARKER`]. What cannot (tokens, keys that are
//! generated, what the gateway seals) is noted as it is sent.

use std::collections::HashSet;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use nexus_gateway::admin::{Admin, AdminSettings, Live, Rules};
use nexus_gateway::callback::seal::Key;
use nexus_gateway::telemetry::{LogSettings, LogTarget};
use tokio::net::TcpListener;
use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::prelude::*;

use super::caller::{Caller, get};
use super::message::Message;

/// Begins every secret that a test makes up; here with the forms in which bytes are shown.
const MARKER: [&str; 3] = ["planted-", "cGxhbnRlZC", "112, 108, 97, 110, 116, 101, 100, 45"];
/// What is sent where it does not matter what.
pub(crate) const PAYLOAD: &str = "\"planted-payload\"";
/// What is answered where it does not matter what.
pub(crate) const RESULT: &str = "\"planted-result\"";

/// Headers whose values are nobody's business, besides those that come back with a callback.
const CREDENTIALS: [&str; 6] =
    ["authorization", "x-token", "cookie", "x-api-key", "proxy-authorization", "nexus-operation-token"];
/// Shorter texts may be anywhere.
const SHORTEST: usize = 12;
/// What anybody may see who may ask the admin port.
const PAGES: [&str; 7] =
    ["/healthz", "/readyz", "/metrics", "/endpoints", "/breakers", "/parked", "/.well-known/jwks.json"];

/// Secrets without the marker.
static NOTED: Mutex<Option<HashSet<String>>> = Mutex::new(None);
/// What the gateways of all tests logged.
static LOG: Mutex<String> = Mutex::new(String::new());

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on nothing may show `text`.
pub(crate) fn note(text: &str) {
    if text.len() >= SHORTEST {
        lock(&NOTED).get_or_insert_default().insert(text.to_owned());
    }
}

/// Notes what of a header's value is secret: of a scheme and a credential the latter, of a token all parts.
pub(crate) fn note_header(name: &str, value: &str) {
    let name = name.to_ascii_lowercase();
    if CREDENTIALS.contains(&&*name) || name.starts_with("nexus-callback-") {
        value.rsplit(' ').next().unwrap_or_default().split('.').for_each(note);
    }
}

/// Notes what the gateway showed to a target: credentials, tokens that say who calls, callbacks that it sealed.
pub(crate) fn note_received(message: &Message) {
    for (name, value) in &message.headers {
        note_header(name, value);
        if name.eq_ignore_ascii_case("nexus-gateway-caller") && value.starts_with("ey") {
            value.split('.').for_each(note);
        }
    }
    let target = message.target();
    target.split("nexus%2Fcallback%2F").skip(1).filter_map(|rest| rest.split(['&', '%']).next()).for_each(note);
}

/// A key for callbacks, one for each id.
pub(crate) fn seal_key(id: &str) -> Key {
    let text = format!("planted-{id:-<24}");
    Key::new(id, text.as_bytes().try_into().expect("a short id"))
}

/// Fails where a secret is in `text`, with what stands around it.
#[track_caller]
pub(crate) fn assert_none_in(text: &str, what: &str) {
    let noted = lock(&NOTED);
    let found = noted.iter().flatten().map(String::as_str).chain(MARKER).find_map(|secret| text.find(secret));
    drop(noted);
    let around = found.map(|at| {
        let before = at.saturating_sub(300);
        String::from_utf8_lossy(&text.as_bytes()[before..text.len().min(at + 200)]).into_owned()
    });
    assert_eq!(around, None, "a secret is in {what}");
}

/// Looks at all that a gateway has shown when it is dropped, before the gateway is.
pub(crate) struct Watch {
    /// Where the log stood when it began.
    from: usize,
    admin: Option<Admin>,
    logs: Vec<PathBuf>,
}

impl Watch {
    /// Before the gateway starts.
    pub(crate) fn begin(log: &LogSettings) -> Self {
        static LISTEN: Once = Once::new();
        LISTEN.call_once(|| {
            let all = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(|| Log);
            let own = Targets::new().with_target("nexus_gateway", Level::TRACE);
            tracing_subscriber::registry().with(all.with_filter(own)).init();
        });
        let path = |target: &LogTarget| match target {
            LogTarget::File(path) => Some(path.clone()),
            LogTarget::Stdout => None,
        };
        let logs = log.access_log.iter().chain(&log.audit_log).filter_map(path).collect();
        Self { from: lock(&LOG).len(), admin: None, logs }
    }

    /// Once it has started.
    pub(crate) fn ask(&mut self, admin: Admin) {
        self.admin = Some(admin);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        if let Some(admin) = self.admin.take() {
            // What waits is written when nobody logs any more.
            admin.telemetry.log_to(None);
            admin.telemetry.audit_to(None);
            // The runtime of the test stands still while this drops.
            let asking = std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.expect("a runtime").block_on(pages(admin))
            });
            for (page, text) in asking.join().expect("the pages are shown") {
                assert_none_in(&text, page);
            }
        }
        for path in &self.logs {
            // Its folder may be gone already, with the rest of the test.
            let text = std::fs::read_to_string(path).unwrap_or_default();
            assert_none_in(&text, &path.display().to_string());
        }
        let text = lock(&LOG)[self.from..].to_owned();
        assert_none_in(&text, "the log");
    }
}

/// All pages of the admin port, by a port without guards.
async fn pages(admin: Admin) -> Vec<(&'static str, String)> {
    let socket = TcpListener::bind("127.0.0.1:0").await.expect("loopback has free ports");
    let address = socket.local_addr().expect("a bound socket has an address");
    let open = Rules::new(&AdminSettings::at(address)).expect("no certificate is bad");
    let serving = tokio::spawn(admin.serve(socket, Live::new(open).into()));
    let mut shown = Vec::new();
    for page in PAGES {
        let answer = Caller::connect(address).await.call(&get(page).host("localhost")).await;
        shown.push((page, format!("{answer:?} {}", answer.text())));
    }
    serving.abort();
    shown
}

/// Where the gateways of all tests log to.
struct Log;

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        lock(&LOG).push_str(&String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
