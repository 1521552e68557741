//! The thread that finishes parked operations.
//!
//! It has an event loop of its own, so that a backlog being drained takes no turn from requests that come now.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::runtime;
use tokio::sync::watch;

use crate::config::Settings;
use crate::gateway::{Finisher, Gateway};
use crate::park::postgres::PostgresStore;
use crate::park::sqlite::SqliteStore;
use crate::park::store::{Store, StoreError};
use crate::park::{Park, ParkingSettings, StoreAt};

/// The embedded store, in the state folder.
const FILE: &str = "parked.db";

/// Parking under way.
pub(super) struct Parking {
    pub(super) park: Arc<Park>,
    closing: watch::Sender<bool>,
    ended: watch::Receiver<bool>,
    thread: Option<JoinHandle<()>>,
}

/// Whether these settings want parking, or there may be something left that was parked under others.
pub(super) fn is_wanted(settings: &Settings) -> bool {
    let parks = settings.policies.iter().any(|rule| rule.park.clone().is_some_and(|park| park.on().is_some()));
    let left = || matches!(file(settings.state.as_deref()), Some(path) if path.exists());
    settings.callbacks.public_url.is_some()
        && (parks || matches!(settings.parking.store, StoreAt::Postgres(_)) || left())
}

impl Parking {
    /// Starts to park. `worker` is the shelf of connections that nobody else uses.
    pub(super) fn start(settings: &Settings, gateway: &Arc<Gateway>, worker: usize) -> io::Result<Self> {
        let file = file(settings.state.as_deref());
        if let (StoreAt::Postgres(_), Some(path)) =
            (&settings.parking.store, file.as_ref().filter(|path| path.exists()))
        {
            let path = path.display();
            tracing::warn!(%path, "operations may be left that were parked there; with `park.store: embedded` they are finished");
        }
        let park = Park::new(&settings.parking);
        let (closing, is_closing) = watch::channel(false);
        let (end, ended) = watch::channel(false);
        let finisher = Arc::new(Finisher::new(Arc::clone(gateway), worker));
        let opener = Opener { settings: settings.parking.clone(), file };
        let running = Arc::clone(&park).run(move || opener.open(), finisher, is_closing);
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("park".into()).spawn(move || {
            runtime.block_on(running);
            end.send_replace(true);
        })?;
        gateway.park_in(Some(Arc::clone(&park)));
        Ok(Self { park, closing, ended, thread: Some(thread) })
    }

    /// Takes no more up, and waits until what is on its way has ended. What is left when this is dropped before is taken
    /// up again later.
    pub(super) async fn close(mut self) {
        self.closing.send_replace(true);
        // An error means that it has ended.
        let _ = self.ended.wait_for(|ended| *ended).await;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Opens the store.
#[derive(Clone)]
struct Opener {
    settings: ParkingSettings,
    file: Option<PathBuf>,
}

impl Opener {
    fn open(&self) -> impl Future<Output = Result<Arc<dyn Store>, StoreError>> + Send + use<> {
        let Self { settings, file } = self.clone();
        async move {
            match (settings.store, file) {
                (StoreAt::Postgres(url), _) => {
                    Ok(Arc::new(PostgresStore::open(url.reveal(), &settings.tls).await?) as Arc<dyn Store>)
                }
                (StoreAt::Embedded, Some(file)) => open_embedded(file).await,
                (StoreAt::Embedded, None) => Err(StoreError("there is no state folder".into())),
            }
        }
    }
}

async fn open_embedded(file: PathBuf) -> Result<Arc<dyn Store>, StoreError> {
    let opening = tokio::task::spawn_blocking(move || {
        if let Some(folder) = file.parent() {
            std::fs::create_dir_all(folder).map_err(|error| StoreError(format!("{}: {error}", folder.display())))?;
        }
        SqliteStore::open(&file)
    });
    let opened = opening.await.map_err(|error| StoreError(error.to_string()))?;
    opened.map(|store| Arc::new(store) as Arc<dyn Store>)
}

fn file(state: Option<&Path>) -> Option<PathBuf> {
    state.map(|state| state.join(FILE))
}
