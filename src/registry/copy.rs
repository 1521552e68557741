//! The last good table of each cluster on disk, so that a gateway that starts while a cluster is down still serves.
//!
//! A copy is a convenience: one that cannot be written or read is logged and counted, and nothing else happens.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};

use super::temporal::Listing;
use super::{ClusterSettings, Definition, Target};
use crate::nexus::{self, BaseUrl};

/// What stays as it is in a file name.
const FILE_NAME: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.');

/// Where copies are kept.
pub(super) struct Copies {
    directory: Option<PathBuf>,
    errors: Arc<AtomicU64>,
}

/// A copy as it was read.
pub(super) struct Copy {
    pub(super) age: Duration,
    pub(super) listing: Listing,
}

/// The file.
#[derive(Serialize, Deserialize)]
struct File {
    /// The addresses that were asked: another cluster under the same name is not this one.
    urls: Vec<String>,
    /// Seconds since 1970.
    saved: u64,
    cluster_id: Option<Arc<str>>,
    endpoints: Vec<Row>,
}

#[derive(Serialize, Deserialize)]
struct Row {
    name: Box<str>,
    id: Box<str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    namespace: Option<Box<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    task_queue: Option<Box<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    url: Option<String>,
}

impl Copies {
    pub(super) fn new(directory: Option<PathBuf>) -> Self {
        Self { directory, errors: Arc::default() }
    }

    pub(super) fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }

    /// The copy for a cluster, if there is one that can be read and was made of the same addresses.
    pub(super) fn load(&self, settings: &ClusterSettings) -> Option<Copy> {
        let path = self.path(settings)?;
        match read(&path, settings) {
            Ok(copy) => {
                let (endpoints, age) = (copy.listing.endpoints.len(), copy.age.as_secs());
                tracing::info!(cluster = &*settings.name, endpoints, age_seconds = age, "copy of the registry loaded");
                Some(copy)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "cannot read the copy of the registry");
                None
            }
        }
    }

    /// Writes a copy, on a thread that may block. Before it is complete it has another name.
    pub(super) fn save(&self, settings: &ClusterSettings, listing: Listing) {
        let Some(path) = self.path(settings) else { return };
        let errors = Arc::clone(&self.errors);
        let file = File::new(settings, listing);
        tokio::task::spawn_blocking(move || {
            if let Err(error) = write(&path, &file) {
                let before = errors.fetch_add(1, Ordering::Relaxed);
                if before == 0 {
                    tracing::warn!(path = %path.display(), %error, "cannot write the copy of the registry");
                }
            }
        });
    }

    fn path(&self, settings: &ClusterSettings) -> Option<PathBuf> {
        let name = utf8_percent_encode(&settings.name, FILE_NAME);
        Some(self.directory.as_ref()?.join(format!("registry-{name}.json")))
    }
}

fn read(path: &Path, settings: &ClusterSettings) -> io::Result<Copy> {
    let file: File = serde_json::from_slice(&std::fs::read(path)?)?;
    if file.urls != urls(settings) {
        return Err(io::Error::other("it was made of other addresses"));
    }
    let saved = UNIX_EPOCH + Duration::from_secs(file.saved);
    let age = SystemTime::now().duration_since(saved).unwrap_or_default();
    let endpoints = file.endpoints.into_iter().filter_map(|row| row.definition(settings)).collect();
    Ok(Copy { age, listing: Listing { cluster_id: file.cluster_id, endpoints } })
}

fn write(path: &Path, file: &File) -> io::Result<()> {
    let text = serde_json::to_vec(file)?;
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    let incomplete = path.with_extension(format!("{}.tmp", std::process::id()));
    std::fs::write(&incomplete, text)?;
    std::fs::rename(&incomplete, path)
}

fn urls(settings: &ClusterSettings) -> Vec<String> {
    settings.urls.iter().map(ToString::to_string).collect()
}

impl File {
    fn new(settings: &ClusterSettings, listing: Listing) -> Self {
        let saved = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let endpoints = listing.endpoints.into_iter().filter_map(Row::new).collect();
        Self { urls: urls(settings), saved, cluster_id: listing.cluster_id, endpoints }
    }
}

impl Row {
    fn new(definition: Definition) -> Option<Self> {
        let Definition { name, id, target } = definition;
        let id = id?;
        match target {
            Target::Dispatch { namespace, task_queue, .. } => {
                Some(Self { name, id, namespace: Some(namespace), task_queue: Some(task_queue), url: None })
            }
            Target::External { url } => {
                Some(Self { name, id, namespace: None, task_queue: None, url: Some(url.to_string()) })
            }
            Target::Worker { .. } => None,
        }
    }

    fn definition(self, settings: &ClusterSettings) -> Option<Definition> {
        let externals = settings.discover.as_ref().is_some_and(|discover| discover.externals);
        let target = match self.url {
            Some(url) if externals => Target::External { url: BaseUrl::parse(&url).ok()? },
            Some(_) => return None,
            None => Target::Dispatch {
                cluster: Arc::clone(&settings.name),
                id: self.id.clone(),
                namespace: self.namespace.unwrap_or_default(),
                task_queue: self.task_queue.unwrap_or_default(),
            },
        };
        let well_formed = nexus::is_endpoint_name(&self.name) && nexus::is_endpoint_id(&self.id);
        well_formed.then_some(Definition { name: self.name, id: Some(self.id), target })
    }
}
