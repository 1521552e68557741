//! The configuration: one YAML file or a folder of them, and the command line, turned into the modules' settings.
//!
//! A load goes through these steps, and finds all problems at once, each with its file and line:
//! `inputs` reads the files, `tree` parses them, `merge` makes them one, `expand` fills in `${env:…}` and `${file:…}`,
//! `de` reads the tree into `file` (the format, as types), and `settings` checks what has to fit together.
//!
//! This module knows the settings types of the others; none of them knows this one.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::admin::AdminSettings;
use crate::admission::{AuthenticationSettings, AuthorizationSettings, Trust};
use crate::callback::CallbackSettings;
use crate::credentials::{Outward, SignerSettings};
use crate::gates::StoreSettings;
use crate::park::ParkingSettings;
use crate::registry::{ClusterSettings, Definition};
use crate::route::PolicyRule;
use crate::server::{ListenerSettings, ServerSettings};
use crate::telemetry::LogSettings;
use crate::upstream::UpstreamSettings;

mod de;
mod expand;
mod expiry;
mod file;
mod inputs;
mod merge;
mod new_key;
mod notes;
mod problem;
mod report;
mod settings;
mod shape;
mod state;
mod tree;
mod units;
mod value;

pub use expiry::{expiries, expiring};
pub use inputs::Inputs;
pub use new_key::{NewApiKeyEntry, caller_name, caller_namespace, key_id, new_api_key, new_key};
pub use notes::notes;
pub use problem::Problem;
pub(crate) use units::{format_duration, format_size};

use expand::Environment;

/// For so long a changed file has to stay as it is to be taken.
const SETTLED_AFTER: Duration = Duration::from_millis(100);

/// Everything that can be configured, checked. The default is what holds with no file and no flags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where callers connect. At least one; no two overlap.
    pub listen: Vec<ListenerSettings>,
    /// By what callers are known; none where nobody is asked.
    pub authentication: Option<AuthenticationSettings>,
    /// Where metrics and health are served.
    pub admin: AdminSettings,
    /// Bounds of the data port.
    pub server: ServerSettings,
    /// The clusters in file order, then those given by flags. Names and URLs are unique.
    pub clusters: Vec<ClusterSettings>,
    /// Endpoints of the file, in its order; their clusters are among `clusters`.
    pub endpoints: Vec<Definition>,
    /// How the external targets of `endpoints` are met, by the endpoint's name; as by default where none is here.
    pub externals: BTreeMap<Box<str>, Outward>,
    /// Who may call what, where the file says so. Each rule can fit somebody.
    pub authorization: Option<AuthorizationSettings>,
    /// How the names of callers are signed; there is a way wherever a target wants them signed.
    pub callers: Option<SignerSettings>,
    /// Policies in file order; each sets something, and no two set the same for the same selector.
    pub policies: Vec<PolicyRule>,
    /// Completions on their way back. The ids of the keys are unique, and so are their secrets; the home cluster is among
    /// `clusters`, and policies relay nothing where there is no public URL.
    pub callbacks: CallbackSettings,
    /// Connections to targets.
    pub upstream: UpstreamSettings,
    /// Store of the limits that several gateways share; there is one wherever a policy needs it.
    pub redis: Option<StoreSettings>,
    /// Where parked starts are kept; there is such a place, a way to relay and one to complete wherever a policy parks,
    /// room for the largest request and for each policy's own bounds, and keys wherever the store is shared.
    pub parking: ParkingSettings,
    /// Folder for what has to outlive the process; `None` where none is configured and there is no home directory.
    pub state: Option<PathBuf>,
    /// The process's log and the access log.
    pub log: LogSettings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: vec![ListenerSettings::plain(loopback(7280), Trust::Trusted)],
            authentication: None,
            admin: AdminSettings::at(loopback(7281)),
            server: ServerSettings::default(),
            clusters: Vec::new(),
            endpoints: Vec::new(),
            externals: BTreeMap::new(),
            authorization: None,
            callers: None,
            policies: Vec::new(),
            callbacks: CallbackSettings::default(),
            upstream: UpstreamSettings::default(),
            redis: None,
            parking: ParkingSettings::default(),
            state: state::default_directory(&environment),
            log: LogSettings::default(),
        }
    }
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// What the command line says; it wins over the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--cluster`: URLs of clusters beside those of the file, each named by its authority (`host:port`).
    pub clusters: Vec<String>,
    /// `--listen`: the only listener, trusted if its address is a loopback one.
    pub listen: Option<SocketAddr>,
    /// `--admin`.
    pub admin: Option<SocketAddr>,
    /// `--state`.
    pub state: Option<PathBuf>,
}

/// Reads the configuration at `path`, a file or a folder, or none.
///
/// Always says what was read, so that a bad configuration is noticed to have changed, too. Blocks on file I/O.
pub fn load(path: Option<&Path>, overrides: &Overrides) -> (Inputs, Result<Settings, Vec<Problem>>) {
    let mut inputs = Inputs::default();
    let settings = load_with(path, overrides, &environment, &mut inputs);
    (inputs, settings)
}

/// Loads `path` again, if anything that `before` was read from has changed; none where nothing has, or where it is just
/// being written: half of a file may be a good configuration without its endpoints. Blocks for as long as it takes to see.
#[expect(clippy::disallowed_methods, reason = "whoever calls is on a thread that may block")]
pub fn load_changed(
    path: Option<&Path>,
    overrides: &Overrides,
    before: &Inputs,
) -> Option<(Inputs, Result<Settings, Vec<Problem>>)> {
    if before.are_current(path) {
        return None;
    }
    let (now, settings) = load(path, overrides);
    if now == *before {
        return None;
    }
    std::thread::sleep(SETTLED_AFTER);
    (load(path, overrides).0 == now).then_some((now, settings))
}

/// Reads `text` as a configuration file that stands alone: no variable is set, and no other file can be read.
pub fn load_text(text: &str) -> Result<Settings, Vec<Problem>> {
    let file = Path::new("<text>");
    load_with(Some(file), &Overrides::default(), &|_| None, &mut Inputs::only(file, text))
}

/// The JSON Schema of a configuration file.
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(file::File).to_value()
}

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn load_with(
    path: Option<&Path>,
    overrides: &Overrides,
    environment: Environment<'_>,
    inputs: &mut Inputs,
) -> Result<Settings, Vec<Problem>> {
    let mut problems = Vec::new();
    let roots = path.map(|path| read_trees(path, inputs, &mut problems)).unwrap_or_default();
    let all_parsed = problems.is_empty();
    let mut root = merge::merge(roots, &mut problems).unwrap_or_else(tree::Node::empty);
    expand::expand(&mut root, environment, inputs, &mut problems);
    let file = de::read(&mut root, &mut problems);
    // What a broken file would have defined is missing: to complain about that would only confuse.
    let settings = all_parsed.then(|| settings::build(file, overrides, environment, &root, inputs, &mut problems));
    for problem in &mut problems {
        if let Some(shown) = tree::known_part(&problem.key) {
            problem.key = shown.to_owned();
        }
    }
    problems.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
    settings.filter(|_| problems.is_empty()).ok_or(problems)
}

fn read_trees(path: &Path, inputs: &mut Inputs, problems: &mut Vec<Problem>) -> Vec<tree::Node> {
    let files = inputs::files_of(path, inputs).unwrap_or_else(|problem| {
        problems.push(problem);
        Vec::new()
    });
    let mut read_tree = |file: PathBuf| match inputs.read(&file) {
        Ok(text) => tree::parse(&file, &text, problems),
        Err(why) => {
            problems.push(Problem::in_file(&file, format!("cannot be read: {why}")));
            None
        }
    };
    files.into_iter().filter_map(&mut read_tree).collect()
}
