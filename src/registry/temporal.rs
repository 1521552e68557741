//! A Temporal cluster's own registry, as JSON over the frontend's HTTP port.
//!
//! There is no watch, no `ETag` and no version of the whole: the list is read page by page, each time from the start.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::header::{ACCEPT, HeaderValue};
use http::{StatusCode, Uri};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::error::Category;
use tokio::time::Instant;

use super::{ClusterSettings, Definition, Target};
use crate::credentials::{NoCredentials, Purse, Wallet};
use crate::fetch::{Bounds, Fetched, Fetcher};
use crate::nexus::{self, BaseUrl};

/// Endpoints asked for at a time; Temporal's own maximum.
const PAGE_SIZE: usize = 1000;
/// Pages of one list: a bound, not a size that is expected.
const MAX_PAGES: usize = 1000;
/// Largest page in bytes; an endpoint takes a few hundred, its description up to 20,000.
const MAX_PAGE: usize = 32 << 20;
/// Longest time for one answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// All that a cluster says of its endpoints and itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// The cluster's id, where it tells.
    pub cluster_id: Option<Arc<str>>,
    /// The endpoints that are served.
    pub endpoints: Vec<Definition>,
}

/// By what one endpoint is looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// By its UUID.
    Id(Box<str>),
    /// By its name.
    Name(Box<str>),
}

impl Key {
    /// A text of the form of an id is one.
    pub fn of(text: &str) -> Self {
        if nexus::is_endpoint_id(text) { Self::Id(text.into()) } else { Self::Name(text.into()) }
    }
}

/// Why a cluster's registry could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// No answer.
    #[error("{url}: {why}")]
    Unreachable {
        /// What was asked.
        url: String,
        /// What happened.
        why: String,
    },
    /// An answer that is not 200. Of its body nothing is kept: it may repeat the credentials that it was shown.
    #[error("{url} answered {status}")]
    Refused {
        /// What was asked.
        url: String,
        /// The status.
        status: StatusCode,
    },
    /// An answer that cannot be read.
    #[error("{url} did not answer with a list of Nexus endpoints: {why}")]
    Garbage {
        /// What was asked.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// Pages without end.
    #[error("the list of Nexus endpoints has more than {MAX_PAGES} pages")]
    Endless,
}

/// Reads the registry of one cluster.
pub struct Client {
    cluster: Arc<str>,
    urls: Vec<BaseUrl>,
    externals: bool,
    /// Or why the cluster cannot be met at all.
    fetcher: Result<Fetcher, String>,
    purse: Purse,
}

impl Client {
    /// A client for the cluster.
    pub fn new(settings: &ClusterSettings, wallet: &Wallet) -> Self {
        Self {
            cluster: Arc::clone(&settings.name),
            urls: settings.urls.clone(),
            externals: settings.discover.as_ref().is_some_and(|discover| discover.externals),
            fetcher: Fetcher::new(&settings.outward.tls),
            purse: wallet.purse(&format!("clusters.{}", settings.name), &settings.outward),
        }
    }

    /// Reads all pages of the registry, and the cluster's id.
    pub async fn list(&self) -> Result<Listing, ReadError> {
        let mut endpoints = Vec::new();
        let mut token = String::new();
        for _ in 0..MAX_PAGES {
            let token_query = utf8_percent_encode(&token, NON_ALPHANUMERIC);
            let path = format!("/api/v1/nexus/endpoints?pageSize={PAGE_SIZE}&nextPageToken={token_query}");
            let page = self.page(&path).await?;
            let told = |name: &str, why| {
                tracing::warn!(
                    cluster = &*self.cluster,
                    endpoint = name,
                    why,
                    "an endpoint of the registry is left out"
                );
            };
            endpoints.extend(self.definitions(page.endpoints.unwrap_or_default(), told));
            token = page.next_page_token;
            if token.is_empty() {
                let cluster_id = self.identify().await.ok().and_then(|listing| listing.cluster_id);
                return Ok(Listing { cluster_id, endpoints });
            }
        }
        Err(ReadError::Endless)
    }

    /// Reads the cluster's id only.
    pub async fn identify(&self) -> Result<Listing, ReadError> {
        let info: ClusterInfo = self.get("/api/v1/cluster-info").await?;
        let cluster_id = (!info.cluster_id.is_empty()).then(|| info.cluster_id.into());
        Ok(Listing { cluster_id, endpoints: Vec::new() })
    }

    /// Looks one endpoint up.
    pub async fn find(&self, key: &Key) -> Result<Option<Definition>, ReadError> {
        let found = match key {
            Key::Name(name) => {
                let name = utf8_percent_encode(name, NON_ALPHANUMERIC);
                let page = self.page(&format!("/api/v1/nexus/endpoints?name={name}")).await?;
                page.endpoints.unwrap_or_default()
            }
            Key::Id(id) => match self.get::<One>(&format!("/api/v1/nexus/endpoints/{id}")).await {
                Ok(one) => vec![one.endpoint],
                Err(ReadError::Refused { status: StatusCode::NOT_FOUND, .. }) => Vec::new(),
                Err(error) => return Err(error),
            },
        };
        // Polls say what is left out: callers choose when a look-up is.
        Ok(self.definitions(found, |_, _| {}).find(|found| match key {
            Key::Name(name) => found.name == *name,
            Key::Id(id) => found.id.as_ref() == Some(id),
        }))
    }

    /// What is served of these; `leave_out` is told the names of others, and why.
    fn definitions(
        &self,
        found: Vec<Endpoint>,
        leave_out: impl Fn(&str, &'static str),
    ) -> impl Iterator<Item = Definition> {
        found.into_iter().filter_map(move |endpoint| {
            let name: Box<str> = endpoint.spec.name.chars().take(nexus::MAX_ENDPOINT_NAME).collect();
            let definition = definition(endpoint, &self.cluster, self.externals);
            definition.unwrap_or_else(|why| {
                leave_out(&name, why);
                None
            })
        })
    }

    /// Reads a page of endpoints. A registry without any answers `{}`; other members only are another API's answer,
    /// and to take it for an empty registry would end all endpoints.
    async fn page(&self, path: &str) -> Result<Page, ReadError> {
        let page: Page = self.get(path).await?;
        if page.endpoints.is_none() && !page.other.is_empty() {
            let why = "it has no endpoints but other members".into();
            return Err(ReadError::Garbage { url: self.cluster.to_string(), why });
        }
        Ok(page)
    }

    /// Asks each address in turn until one answers.
    async fn get<T: for<'a> Deserialize<'a>>(&self, path: &str) -> Result<T, ReadError> {
        let mut outcome = Err(ReadError::Unreachable { url: self.cluster.to_string(), why: "no address".into() });
        for base in &self.urls {
            outcome = self.get_from(&format!("{base}{path}")).await;
            if !matches!(outcome, Err(ReadError::Unreachable { .. })) {
                break;
            }
        }
        outcome
    }

    async fn get_from<T: for<'a> Deserialize<'a>>(&self, url: &str) -> Result<T, ReadError> {
        // Query parameters are of no use in an error message, and page tokens are long.
        let url_shown = || url.split('?').next().unwrap_or(url).to_owned();
        let unreachable = |why: String| ReadError::Unreachable { url: url_shown(), why };
        let fetcher = self.fetcher.as_ref().map_err(|why| unreachable(why.clone()))?;
        let uri: Uri = url.parse().map_err(|error: http::uri::InvalidUri| unreachable(error.to_string()))?;
        let no_credentials = |NoCredentials| unreachable("the gateway has no credentials for it at present".into());
        let mut headers = self.purse.open(Instant::now() + TIMEOUT).await.map_err(no_credentials)?;
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        let answer = fetcher.get(&uri, headers, Bounds { bytes: MAX_PAGE, time: TIMEOUT }).await;
        let Fetched { status, body, .. } = answer.map_err(unreachable)?;
        if status == StatusCode::UNAUTHORIZED {
            self.purse.refused();
        }
        if status != StatusCode::OK {
            return Err(ReadError::Refused { url: url_shown(), status });
        }
        serde_json::from_slice(&body).map_err(|error| ReadError::Garbage { url: url_shown(), why: misread(&error) })
    }
}

/// What is wrong with a text, without its values: whatever else answers at a wrong address may answer with secrets.
fn misread(error: &serde_json::Error) -> String {
    match error.classify() {
        Category::Data => format!("other JSON at line {} column {}", error.line(), error.column()),
        Category::Io | Category::Syntax | Category::Eof => error.to_string(),
    }
}

/// What is served of an endpoint of the registry; none where it is not to be, or of a kind unknown so far. An error says
/// why it cannot be.
fn definition(endpoint: Endpoint, cluster: &Arc<str>, externals: bool) -> Result<Option<Definition>, &'static str> {
    let Endpoint { id, spec: Spec { name, target } } = endpoint;
    if !nexus::is_endpoint_name(&name) || !nexus::is_endpoint_id(&id) {
        return Err("not a name and id that Temporal gives");
    }
    let target = match target {
        RemoteTarget { worker: Some(worker), .. } => Target::Dispatch {
            cluster: Arc::clone(cluster),
            id: id.as_str().into(),
            namespace: worker.namespace.into(),
            task_queue: worker.task_queue.into(),
        },
        RemoteTarget { external: Some(external), .. } if externals => {
            Target::External { url: BaseUrl::parse(&external.url).map_err(|_| "cannot read the target URL")? }
        }
        _ => return Ok(None),
    };
    Ok(Some(Definition { name: name.into(), id: Some(id.into()), target }))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    #[serde(default)]
    next_page_token: String,
    endpoints: Option<Vec<Endpoint>>,
    #[serde(flatten)]
    other: HashMap<String, serde_json::Value>,
}

#[derive(Deserialize)]
struct One {
    endpoint: Endpoint,
}

#[derive(Deserialize)]
struct Endpoint {
    #[serde(default)]
    id: String,
    spec: Spec,
}

#[derive(Deserialize)]
struct Spec {
    name: String,
    #[serde(default)]
    target: RemoteTarget,
}

#[derive(Default, Deserialize)]
struct RemoteTarget {
    worker: Option<Worker>,
    external: Option<External>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Worker {
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    task_queue: String,
}

#[derive(Deserialize)]
struct External {
    #[serde(default)]
    url: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ClusterInfo {
    #[serde(default)]
    cluster_id: String,
}
