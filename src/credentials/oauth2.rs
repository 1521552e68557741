//! OAuth 2.0 client credentials (RFC 6749 §4.4): a token that is fetched ahead of its end, by one task.
//!
//! The last token is shown until it ends, whatever its server says meanwhile. Nothing of an answer is logged but the
//! error codes of RFC 6749 §5.2.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{StatusCode, Uri};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::NoCredentials;
use crate::fetch::{Bounds, Fetched, Fetcher, shown};
use crate::secret::Secret;
use crate::tls::ClientTlsSettings;

/// `application/x-www-form-urlencoded`, as RFC 6749 Appendix B has it; a space may be `%20` as well.
const FORM: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'*');
/// What one answer of a token server may take.
const BOUNDS: Bounds = Bounds { bytes: 64 << 10, time: Duration::from_secs(10) };
/// Longest token in bytes: it has to fit into a header.
const MAX_TOKEN: usize = 16 << 10;
/// How long a token is taken to hold where its server does not say.
const USUAL: Duration = Duration::from_secs(3600);
/// Longest time for which a server's word is taken.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// A token is not shown in its last seconds, or last part where it has few: it has to arrive, and clocks differ.
const LAST: Duration = Duration::from_secs(5);
/// Pauses after failures, doubled from the first to the last.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// A token younger than this is not renewed because a target refused it: that may be for other reasons.
const YOUNG: Duration = Duration::from_secs(30);
/// Error codes of RFC 6749 §5.2; other texts are not repeated.
const CODES: [&str; 6] = [
    "invalid_request",
    "invalid_client",
    "invalid_grant",
    "unauthorized_client",
    "unsupported_grant_type",
    "invalid_scope",
];

/// Where and as whom to ask for tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OAuth2Settings {
    /// The token endpoint.
    pub token_url: Uri,
    /// Who asks.
    pub client_id: Box<str>,
    /// And proves it.
    pub client_secret: Secret,
    /// How it does.
    pub client_auth: ClientAuth,
    /// The scope to ask for.
    pub scope: Option<Box<str>>,
    /// The audience to ask for; no part of RFC 6749, but of many servers.
    pub audience: Option<Box<str>>,
    /// How the token endpoint is met.
    pub tls: ClientTlsSettings,
}

/// How a client proves who it is (RFC 6749 §2.3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientAuth {
    /// In an `Authorization` header; every server takes that.
    #[default]
    Basic,
    /// In the body of the request.
    Body,
}

/// Keeps a token for as long as it lives.
pub(super) struct Keeper {
    settings: OAuth2Settings,
    shared: Arc<Shared>,
    task: AbortHandle,
}

struct Shared {
    target: Box<str>,
    state: watch::Sender<State>,
    ok: AtomicU64,
    failed: AtomicU64,
}

#[derive(Default)]
struct State {
    token: Option<Token>,
    /// Whether the last request for one failed.
    failing: bool,
}

struct Token {
    value: HeaderValue,
    fetched: Instant,
    ends: Instant,
    /// Whether another one is wanted before this one's time.
    refused: bool,
}

impl Keeper {
    /// A keeper that begins to fetch at once, on the current runtime, and ends when it is dropped.
    pub(super) fn begin(target: &str, settings: OAuth2Settings) -> Arc<Self> {
        let shared = Arc::new(Shared {
            target: target.into(),
            state: watch::Sender::default(),
            ok: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        });
        let task = tokio::spawn(keep(settings.clone(), Arc::clone(&shared))).abort_handle();
        Arc::new(Self { settings, shared, task })
    }

    pub(super) fn settings(&self) -> &OAuth2Settings {
        &self.settings
    }

    /// Tokens that came, and requests that failed.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.shared.ok.load(Ordering::Relaxed), self.shared.failed.load(Ordering::Relaxed))
    }

    /// What to show now.
    pub(super) fn current(&self, now: Instant) -> Option<HeaderValue> {
        self.shared.state.borrow().valid(now).map(|token| token.value.clone())
    }

    /// Waits for a token, unless its server fails.
    pub(super) async fn wait(&self, until: Instant) -> Result<(), NoCredentials> {
        let mut state = self.shared.state.subscribe();
        let settled = state.wait_for(|state| state.failing || state.valid(Instant::now()).is_some());
        match timeout_at(until, settled).await {
            Ok(Ok(state)) if state.valid(Instant::now()).is_some() => Ok(()),
            _ => Err(NoCredentials),
        }
    }

    /// A target refused the token: another one is fetched, unless this one is young.
    pub(super) fn refused(&self, now: Instant) {
        self.shared.state.send_if_modified(|state| {
            let of_age = |token: &&mut Token| now.saturating_duration_since(token.fetched) >= YOUNG;
            let token = state.token.as_mut().filter(of_age).filter(|token| !token.refused);
            token.map(|token| token.refused = true).is_some()
        });
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl State {
    fn valid(&self, now: Instant) -> Option<&Token> {
        self.token.as_ref().filter(|token| now < token.ends)
    }
}

async fn keep(settings: OAuth2Settings, shared: Arc<Shared>) {
    let (target, url) = (&*shared.target, shown(&settings.token_url));
    let fetcher = Fetcher::new(&settings.tls);
    let (mut failures, mut last_why) = (0, None);
    let mut state = shared.state.subscribe();
    loop {
        let asked = Instant::now();
        let answer = match &fetcher {
            Ok(fetcher) => fetch(fetcher, &settings).await,
            Err(why) => Err(why.clone()),
        };
        match answer {
            Ok((value, lifetime)) => {
                shared.ok.fetch_add(1, Ordering::Relaxed);
                if last_why.take().is_some() {
                    tracing::info!(target_of = target, "a token came again");
                }
                failures = 0;
                let ends = asked + lifetime.saturating_sub(LAST.min(lifetime / 10));
                let token = Some(Token { value, fetched: asked, ends, refused: false });
                shared.state.send_replace(State { token, failing: false });
                tokio::select! {
                    () = sleep_until(asked + renew_after(lifetime)) => {}
                    _ = state.wait_for(|state| state.token.as_ref().is_some_and(|token| token.refused)) => {}
                }
            }
            Err(why) => {
                shared.failed.fetch_add(1, Ordering::Relaxed);
                if last_why.as_ref() != Some(&why) {
                    tracing::warn!(
                        target_of = target,
                        url,
                        why,
                        "cannot fetch a token; the last one is used to its end"
                    );
                }
                last_why = Some(why);
                shared.state.send_modify(|state| state.failing = true);
                sleep(pause(failures, fastrand::f64())).await;
                failures += 1;
            }
        }
    }
}

/// After four fifths of its time, and never at once.
fn renew_after(lifetime: Duration) -> Duration {
    (lifetime * 4 / 5).max(Duration::from_secs(1))
}

/// How long to pause after so many failures before; `spread` from 0 to 1.
fn pause(failures: u32, spread: f64) -> Duration {
    let (first, last) = PAUSES;
    (first * 2_u32.saturating_pow(failures.min(10))).min(last).mul_f64(0.75 + spread / 4.0)
}

async fn fetch(fetcher: &Fetcher, settings: &OAuth2Settings) -> Result<(HeaderValue, Duration), String> {
    let (headers, body) = request(settings)?;
    let Fetched { status, body, .. } = fetcher.post(&settings.token_url, headers, body, BOUNDS).await?;
    read(status, &body)
}

fn request(settings: &OAuth2Settings) -> Result<(HeaderMap, Bytes), String> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    let mut body = String::from("grant_type=client_credentials");
    let mut add = |name: &str, value: &str| {
        body.push('&');
        body.push_str(name);
        body.push('=');
        body.extend(utf8_percent_encode(value, FORM));
    };
    for (name, value) in [("scope", &settings.scope), ("audience", &settings.audience)] {
        if let Some(value) = value {
            add(name, value);
        }
    }
    match settings.client_auth {
        ClientAuth::Body => {
            add("client_id", &settings.client_id);
            add("client_secret", settings.client_secret.reveal());
        }
        ClientAuth::Basic => {
            let encode = |text| utf8_percent_encode(text, FORM).to_string();
            let pair = format!("{}:{}", encode(&settings.client_id), encode(settings.client_secret.reveal()));
            let value = HeaderValue::try_from(format!("Basic {}", BASE64_STANDARD.encode(pair)));
            let mut value = value.map_err(|_| "the client's id and secret cannot be sent")?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
    }
    Ok((headers, body.into()))
}

/// Reads an answer (RFC 6749 §5). Its texts are not repeated, since one that is misread may be the token.
fn read(status: StatusCode, body: &[u8]) -> Result<(HeaderValue, Duration), String> {
    if status != StatusCode::OK {
        let error = serde_json::from_slice::<Refusal>(body).ok().map(|refusal| refusal.error);
        let code = CODES.into_iter().find(|code| error.as_deref() == Some(*code));
        return Err(format!(
            "it answered {}{}",
            status.as_u16(),
            code.map(|code| format!(" {code}")).unwrap_or_default()
        ));
    }
    let answer: Answer = serde_json::from_slice(body).map_err(|_| "its answer is not the JSON of a token")?;
    if !answer.token_type.eq_ignore_ascii_case("bearer") {
        return Err("its token is not of the type `Bearer`".into());
    }
    let token = answer.access_token;
    if token.is_empty() || token.len() > MAX_TOKEN || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("its token cannot be put into a header".into());
    }
    let lifetime = match answer.expires_in {
        None => USUAL,
        Some(Seconds::Number(seconds)) if seconds >= LONGEST.as_secs_f64() => LONGEST,
        Some(Seconds::Number(seconds)) => Duration::try_from_secs_f64(seconds).unwrap_or(Duration::ZERO),
        Some(Seconds::Text(text)) => text.parse().map_or(Duration::ZERO, Duration::from_secs),
    };
    if lifetime < Duration::from_secs(1) {
        return Err("its token ends at once".into());
    }
    let mut value = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| "its token is no header")?;
    value.set_sensitive(true);
    Ok((value, lifetime.min(LONGEST)))
}

#[derive(Deserialize)]
struct Answer {
    access_token: String,
    token_type: String,
    expires_in: Option<Seconds>,
}

/// A number; some servers write it as a text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Seconds {
    Number(f64),
    Text(String),
}

#[derive(Deserialize)]
struct Refusal {
    error: String,
}

#[cfg(test)]
mod tests;
