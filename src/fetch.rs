//! Small documents over HTTP and HTTPS: a cluster's registry, a key set, a token.
//!
//! Every fetch has a bound on its time and on the bytes of its answer, and a redirect is an answer like any other: what is
//! sent may be secret, and goes nowhere but where it was told to. Texts of errors have nothing of a query, a header or a
//! body. Must not know what is fetched.

use std::error::Error;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_rustls::{DefaultServerNameResolver, FixedServerNameResolver, HttpsConnector, ResolveServerName};
use hyper_util::client::legacy::{self, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::timeout;

use crate::tls::{ClientTls, ClientTlsSettings, Protocol};

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

/// Longest time for one TCP connect; what is asked for in all may be less.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a connection is kept for the next fetch.
const IDLE: Duration = Duration::from_secs(60);

/// An answer, whatever its status.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// The status; never followed where it redirects.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

/// What may be fetched at most, and until when.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Bytes of the body.
    pub bytes: usize,
    /// Time for everything: connecting, shaking hands, the answer to its last byte.
    pub time: Duration,
}

/// Fetches with HTTP/1.1, over TLS where the URL says `https`. Its clones share their connections.
#[derive(Clone)]
pub struct Fetcher(Arc<Inner>);

type Client = legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

struct Inner {
    tls: ClientTlsSettings,
    plain: legacy::Client<HttpConnector, Full<Bytes>>,
    /// Made when it is needed first: without a `https` URL the system's roots need not even exist.
    secure: OnceLock<Result<Client, String>>,
}

impl Fetcher {
    /// A fetcher that meets servers by these settings. An error says what of them cannot be used.
    pub fn new(tls: &ClientTlsSettings) -> Result<Self, String> {
        let plain = builder().build(connector());
        let inner = Inner { tls: tls.clone(), plain, secure: OnceLock::new() };
        if *tls != ClientTlsSettings::default() {
            inner.secure()?;
        }
        Ok(Self(Arc::new(inner)))
    }

    /// Gets `uri`. An error says why there was no answer, or none within `bounds`; it does not repeat the URI.
    pub async fn get(&self, uri: &Uri, headers: HeaderMap, bounds: Bounds) -> Result<Fetched, String> {
        self.fetch(Method::GET, uri, headers, Bytes::new(), bounds).await
    }

    /// Posts `body` to `uri`, otherwise as [`get`](Self::get).
    pub async fn post(&self, uri: &Uri, headers: HeaderMap, body: Bytes, bounds: Bounds) -> Result<Fetched, String> {
        self.fetch(Method::POST, uri, headers, body, bounds).await
    }

    async fn fetch(
        &self,
        method: Method,
        uri: &Uri,
        headers: HeaderMap,
        body: Bytes,
        bounds: Bounds,
    ) -> Result<Fetched, String> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = uri.clone();
        *request.headers_mut() = headers;
        let exchange = async {
            let answer = if uri.scheme() == Some(&http::uri::Scheme::HTTPS) {
                self.0.secure()?.request(request).await
            } else {
                self.0.plain.request(request).await
            };
            let (head, body) = answer.map_err(|error| root(&error))?.into_parts();
            let body = Limited::new(body, bounds.bytes).collect().await.map_err(|error| {
                if error.is::<LengthLimitError>() {
                    format!("the answer is longer than {} bytes", bounds.bytes)
                } else {
                    root(&*error)
                }
            })?;
            Ok(Fetched { status: head.status, headers: head.headers, body: body.to_bytes() })
        };
        let late = |_| format!("no answer within {:?}", bounds.time);
        timeout(bounds.time, exchange).await.map_err(late)?
    }
}

impl fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Fetcher").field(&self.0.tls).finish()
    }
}

impl Inner {
    fn secure(&self) -> Result<&Client, String> {
        self.secure.get_or_init(|| secure(&self.tls)).as_ref().map_err(Clone::clone)
    }
}

/// `uri` as a message may show it: without its query, and without a password before its host.
pub fn shown(uri: &Uri) -> String {
    let scheme = uri.scheme_str().unwrap_or("http");
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{scheme}://{host}{}", uri.path())
}

fn secure(tls: &ClientTlsSettings) -> Result<Client, String> {
    let tls = ClientTls::new(tls, &[Protocol::Http1])?;
    let names: Arc<dyn ResolveServerName + Send + Sync> = match tls.server_name() {
        Some(name) => Arc::new(FixedServerNameResolver::new(name.clone())),
        None => Arc::new(DefaultServerNameResolver::default()),
    };
    Ok(builder().build(HttpsConnector::new(connector(), Arc::clone(tls.config()), true, names)))
}

fn connector() -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    connector.set_nodelay(true);
    connector.enforce_http(false);
    connector
}

fn builder() -> legacy::Builder {
    let mut builder = legacy::Client::builder(TokioExecutor::new());
    builder.pool_timer(TokioTimer::new()).pool_idle_timeout(IDLE);
    builder
}

/// The innermost cause: what the operating system or the handshake said.
fn root(error: &dyn Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
