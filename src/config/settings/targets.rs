//! Clusters, and the endpoints that the file defines.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::config::file;
use crate::config::problem::{Place, did_you_mean, quoted_list};
use crate::config::report::Report;
use crate::config::settings::{outward, tls};
use crate::config::shape::{Discover, Named, Urls};
use crate::config::tree::{item_path, key_path, shown_text};
use crate::config::value::{EndpointName, Kind, Url};
use crate::credentials::Outward;
use crate::nexus::BaseUrl;
use crate::registry::{ClusterSettings, Definition, DiscoverSettings, Target};
use crate::tls::ClientTlsSettings;

const FLAG: &str = "--cluster";

/// The clusters of the file, then those of the flags.
pub(super) fn clusters(
    file: Option<Named<file::Cluster>>,
    flags: &[String],
    report: &mut Report<'_>,
) -> Vec<ClusterSettings> {
    let mut clusters = Clusters { list: Vec::new(), urls: Vec::new(), report };
    for (name, cluster) in file.map(|named| named.0).unwrap_or_default() {
        clusters.add_from_file(&name, cluster.unwrap_or_default());
    }
    for url in flags {
        clusters.add_from_flag(url);
    }
    clusters.list
}

struct Clusters<'a, 'r> {
    list: Vec<ClusterSettings>,
    /// Every URL so far and who gave it.
    urls: Vec<(BaseUrl, Place)>,
    report: &'a mut Report<'r>,
}

impl Clusters<'_, '_> {
    fn add_from_file(&mut self, name: &str, cluster: file::Cluster) {
        let path = key_path("clusters", name);
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')) {
            self.report.add(&path, "not a cluster's name; use letters, digits, `-`, `_` and `.`");
        }
        let urls = self.urls_from_file(&format!("{path}.url"), &path, cluster.url.map(Urls::into_vec));
        let file::Cluster { tls, credentials, headers, pass, caller, allow_cleartext, .. } = cluster;
        let shown = file::Shown { credentials, headers, pass, caller, allow_cleartext };
        let outward = outward(tls, shown, &urls, &path, self.report);
        self.list.push(ClusterSettings { name: name.into(), urls, discover: discover(cluster.discover), outward });
    }

    fn urls_from_file(
        &mut self,
        path: &str,
        cluster: &str,
        urls: Option<Vec<(Option<usize>, Option<BaseUrl>)>>,
    ) -> Vec<BaseUrl> {
        let Some(urls) = urls else {
            self.report.add(cluster, "has no URL; write `url: http://HOST:PORT`");
            return Vec::new();
        };
        if urls.is_empty() {
            self.report.add(path, "lists no URL; write `url: http://HOST:PORT`");
        }
        let mut known: Vec<BaseUrl> = Vec::new();
        for (index, url) in urls {
            let path = index.map_or(path.to_owned(), |index| item_path(path, index));
            let Some(url) = url else {
                self.report.add(&path, "is empty; write `http://HOST:PORT`");
                continue;
            };
            if known.first().is_some_and(|first| first.path != url.path) {
                self.report.add_about(&path, "has another path than the first URL of this cluster; write the same one");
            }
            if known.first().is_some_and(|first| first.tls != url.tls) {
                let why = "has another scheme than the first URL of this cluster; write the same one";
                self.report.add_about(&path, why);
            }
            let place = self.report.place(&path);
            if let Some(message) = self.note_url(&url, place) {
                self.report.add(&path, message);
            }
            known.push(url);
        }
        known
    }

    fn add_from_flag(&mut self, text: &str) {
        let url = match Url::from_text(text) {
            Ok(url) => url,
            Err(why) => return self.report.add_flag(FLAG, format!("{} {why}", shown_text(text))),
        };
        let name: Arc<str> = url.authority().into();
        if let Some(message) = self.note_url(&url, Place::flag(FLAG)) {
            self.report.add_flag(FLAG, format!("`{url}` is {message}"));
        } else if self.list.iter().any(|cluster| cluster.name == name) {
            let advice = "write it in the file, under another name";
            self.report.add_flag(FLAG, format!("`{url}`: there is a cluster called `{name}` already; {advice}"));
        }
        self.list.push(ClusterSettings {
            name,
            urls: vec![url],
            discover: discover(None),
            outward: Outward::default(),
        });
    }

    /// What is wrong if the URL was given before.
    fn note_url(&mut self, url: &BaseUrl, place: Place) -> Option<String> {
        let known = self.urls.iter().find(|(known, _)| known == url);
        let message = known.map(|(_, first)| format!("the same URL as at {first}; remove one of them"));
        self.urls.push((url.clone(), place));
        message
    }
}

/// How a target is met, whose settings stand at `path`.
fn outward(
    tls: Option<file::ClientTls>,
    shown: file::Shown,
    urls: &[BaseUrl],
    path: &str,
    report: &mut Report<'_>,
) -> Outward {
    let tls = client_tls(tls, urls, &format!("{path}.tls"), report);
    outward::outward(tls, shown, urls, path, report)
}

fn client_tls(
    tls: Option<file::ClientTls>,
    urls: &[BaseUrl],
    path: &str,
    report: &mut Report<'_>,
) -> ClientTlsSettings {
    let cleartext = urls.first().filter(|url| !url.tls);
    let useless = cleartext.map(|url| format!("the URL beside it is `{url}`; write `https://` there, or remove `tls`"));
    tls::client_beside(useless, tls, path, report)
}

fn discover(file: Option<Discover>) -> Option<DiscoverSettings> {
    let keys = match file {
        Some(Discover::Switch(false)) => return None,
        Some(Discover::Switch(true)) | None => file::DiscoverKeys::default(),
        Some(Discover::Keys(keys)) => keys,
    };
    Some(DiscoverSettings {
        every: keys.every.map_or(Duration::from_secs(5), |every| every.0),
        externals: keys.externals.unwrap_or(false),
    })
}

/// The endpoints of the file, and how the external ones are met.
pub(super) fn endpoints(
    file: Option<Named<file::Endpoint>>,
    clusters: &[ClusterSettings],
    report: &mut Report<'_>,
) -> (Vec<Definition>, BTreeMap<Box<str>, Outward>) {
    let (mut definitions, mut externals) = (Vec::new(), BTreeMap::new());
    for (name, endpoint) in file.map(|named| named.0).unwrap_or_default() {
        let path = key_path("endpoints", &name);
        if let Err(why) = EndpointName::from_text(&name) {
            report.add(&path, format!("{} {why}", shown_text(&name)));
        }
        let mut met = |outward| {
            if outward != Outward::default() {
                externals.insert(name.as_str().into(), outward);
            }
        };
        if let Some(target) = target(endpoint.unwrap_or_default(), &path, clusters, &mut met, report) {
            definitions.push(Definition { name: name.into(), id: None, target });
        }
    }
    (definitions, externals)
}

fn target(
    endpoint: file::Endpoint,
    path: &str,
    clusters: &[ClusterSettings],
    met: &mut impl FnMut(Outward),
    report: &mut Report<'_>,
) -> Option<Target> {
    match (endpoint.worker, endpoint.external) {
        (Some(worker), None) => worker_target(worker, &format!("{path}.worker"), clusters, report),
        (None, Some(external)) => external_target(external, &format!("{path}.external"), met, report),
        (Some(_), Some(_)) => {
            report.add(path, "has both `worker` and `external`; keep one of them");
            None
        }
        (None, None) => {
            report.add(path, "has no target; write `worker: {…}` or `external: {…}`");
            None
        }
    }
}

fn worker_target(
    worker: file::Worker,
    path: &str,
    clusters: &[ClusterSettings],
    report: &mut Report<'_>,
) -> Option<Target> {
    let missing: Vec<_> = [
        ("cluster", worker.cluster.is_none()),
        ("namespace", worker.namespace.is_none()),
        ("task_queue", worker.task_queue.is_none()),
    ]
    .into_iter()
    .filter_map(|(key, missing)| missing.then_some(key))
    .collect();
    if !missing.is_empty() {
        report.add(path, format!("lacks {}; a worker target has all three", quoted_list(missing)));
    }
    let cluster = known_cluster(&worker.cluster?.0, &format!("{path}.cluster"), clusters, report)?;
    Some(Target::Worker { cluster, namespace: worker.namespace?.0, task_queue: worker.task_queue?.0 })
}

/// The cluster of this name, which stands at `path`.
pub(super) fn known_cluster(
    name: &str,
    path: &str,
    clusters: &[ClusterSettings],
    report: &mut Report<'_>,
) -> Option<Arc<str>> {
    let known = clusters.iter().map(|cluster| &cluster.name);
    let found = known.clone().find(|known| &***known == name).cloned();
    if found.is_none() {
        let hint = did_you_mean(name, known.map(|name| &**name));
        let hint = hint.unwrap_or_else(|| "; define it under `clusters`, or write the name of one there".into());
        report.add_about(path, &format!("is not a cluster{hint}"));
    }
    found
}

fn external_target(
    external: file::External,
    path: &str,
    met: &mut impl FnMut(Outward),
    report: &mut Report<'_>,
) -> Option<Target> {
    if external.url.is_none() {
        report.add(path, "has no URL; write `url: http://HOST[:PORT][/PATH]`");
    }
    let url = external.url.map(|url| url.0);
    let file::External { tls, credentials, headers, pass, caller, allow_cleartext, .. } = external;
    let shown = file::Shown { credentials, headers, pass, caller, allow_cleartext };
    met(outward(tls, shown, url.as_slice(), path, report));
    Some(Target::External { url: url? })
}
