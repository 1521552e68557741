//! Connections to the database: how many, how long they may take, and what their failures are called.
//!
//! Every call is bounded in time, on this side and on the server's. A connection whose call failed, took too long or was
//! given up is closed, never used again: its transaction ends with it. Texts of failures name neither the URL nor the
//! password.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{Hook, HookError, Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod};
use tokio::time::timeout;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, NoTls, Row, Statement};

use super::clock::Clock;
use super::tls::Connector;
use super::url;
use crate::park::store::StoreError;
use crate::tls::{ClientTls, ClientTlsSettings};

/// Connections of a process.
const CONNECTIONS: usize = 8;

/// Longest time to reach one address of the server.
const CONNECT: Duration = Duration::from_secs(3);

/// Longest time for a call, connecting included.
pub(super) const SHORT: Duration = Duration::from_secs(5);

/// Longest time for a call that may look at every row.
pub(super) const LONG: Duration = Duration::from_secs(15);

/// How long the network may be silent before it is probed, and between the probes.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// What every connection starts with.
///
/// The limits end on the server what was given up here. Rows are durable before they are reported, and what one
/// transaction locks the other one sees, whatever the defaults of the database are. The plans of the few statements are
/// known, and must not depend on statistics of a table that may grow by a million rows before these are renewed.
const SESSION: &str = "
    SET statement_timeout = '15s';
    SET lock_timeout = '4s';
    SET idle_in_transaction_session_timeout = '10s';
    SET default_transaction_isolation = 'read committed';
    SET default_transaction_read_only = off;
    SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off';
    SET enable_seqscan = off;
    SET enable_bitmapscan = off;
    SET enable_hashjoin = off;
    SET enable_mergejoin = off;
    SET jit = off;
";

/// A database, reached by a few connections that are made when they are needed.
pub(super) struct Database {
    pool: Pool,
    password: Option<String>,
    /// Its clock.
    pub(super) clock: Arc<Clock>,
}

/// A connection in use. Unless it is [`done`](Self::done), it is closed when this is dropped.
pub(super) struct Session {
    client: Option<Object>,
}

impl Database {
    /// The database at `url`, met by `tls` where it says so. Connects to nothing yet.
    pub(super) fn new(url: &str, tls: &ClientTlsSettings) -> Result<Self, StoreError> {
        let (config, is_over_tls) = read(url)?;
        let password = config.get_password().map(|password| String::from_utf8_lossy(password).into_owned());
        let clock = Arc::new(Clock::default());
        let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = if is_over_tls {
            let tls = ClientTls::new(tls, &[]).map_err(StoreError)?;
            Manager::from_config(config, Connector(tls), recycling)
        } else {
            Manager::from_config(config, NoTls, recycling)
        };
        let at_start = Arc::clone(&clock);
        let pool = Pool::builder(manager)
            .max_size(CONNECTIONS)
            .post_create(Hook::async_fn(move |client, _| {
                let clock = Arc::clone(&at_start);
                Box::pin(async move { start(client, &clock).await.map_err(HookError::Backend) })
            }))
            .build()
            .map_err(|error| StoreError(error.to_string()))?;
        Ok(Self { pool, password, clock })
    }

    /// What `call` gives, or an error when it takes longer than `limit`.
    pub(super) async fn bounded<T>(
        &self,
        limit: Duration,
        call: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        if let Ok(result) = timeout(limit, call).await {
            return result.map_err(|error| self.without_password(error));
        }
        // The others lead to the same server: better to connect anew than to wait for each of them.
        self.pool.retain(|_, _| false);
        Err(StoreError(format!("the database did not answer within {} s", limit.as_secs())))
    }

    /// A connection that nobody else uses.
    pub(super) async fn session(&self) -> Result<Session, StoreError> {
        let client = self.pool.get().await.map_err(|error| match error {
            PoolError::Backend(error) | PoolError::PostCreateHook(HookError::Backend(error)) => error.into(),
            other => StoreError(other.to_string()),
        })?;
        Ok(Session { client: Some(client) })
    }

    fn without_password(&self, error: StoreError) -> StoreError {
        match self.password.as_deref() {
            Some(password) if !password.is_empty() => StoreError(error.0.replace(password, "***")),
            _ => error,
        }
    }
}

fn read(url: &str) -> Result<(Config, bool), StoreError> {
    let (mut config, tls) = url::read(url).map_err(|why| {
        StoreError(format!("the URL of the database (postgres://[user[:password]@]host[:port]/database) {why}"))
    })?;
    if config.get_application_name().is_none() {
        config.application_name("nexus-gateway");
    }
    config.connect_timeout(CONNECT);
    config.keepalives_idle(KEEPALIVE).keepalives_interval(KEEPALIVE).keepalives_retries(2);
    Ok((config, tls))
}

async fn start(client: &Client, clock: &Clock) -> Result<(), tokio_postgres::Error> {
    client.batch_execute(SESSION).await?;
    clock.measure(client).await
}

impl Session {
    /// Gives the connection back to be used again.
    pub(super) fn done(mut self) {
        drop(self.client.take());
    }

    /// The statement, known to the server from its first use on.
    pub(super) async fn prepare(&self, sql: &str) -> Result<Statement, StoreError> {
        Ok(self.object()?.prepare_cached(sql).await?)
    }

    /// The rows that the statement gives.
    pub(super) async fn query(&self, sql: &str, values: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, StoreError> {
        let statement = self.prepare(sql).await?;
        Ok(self.client()?.query(&statement, values).await?)
    }

    /// The connection itself.
    pub(super) fn client(&self) -> Result<&Client, StoreError> {
        Ok(self.object()?)
    }

    fn object(&self) -> Result<&Object, StoreError> {
        self.client.as_ref().ok_or_else(|| StoreError("the connection is closed".into()))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(client) = self.client.take() {
            drop(Object::take(client));
        }
    }
}

impl From<tokio_postgres::Error> for StoreError {
    fn from(error: tokio_postgres::Error) -> Self {
        // Neither the detail nor the hint of the database: they may quote what is in a row.
        if let Some(error) = error.as_db_error() {
            return Self(format!("the database says: {} ({})", error.message(), error.code().code()));
        }
        match error.source() {
            Some(source) => Self(format!("{error}: {source}")),
            None => Self(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(url: &str) -> String {
        Database::new(url, &ClientTlsSettings::default()).err().expect("refused").to_string()
    }

    #[test]
    fn a_url_that_wants_tls_with_anybody_is_refused() {
        for mode in ["require", "verify-ca"] {
            let error = refusal(&format!("postgres://gateway:secret@db.example/parked?sslmode={mode}"));
            assert!(error.contains("verify-full") && !error.contains("secret"), "{error}");
        }
        for mode in ["prefer", "verify-full"] {
            let url = format!("postgres://gateway:secret@db.example/parked?sslmode={mode}");
            Database::new(&url, &ClientTlsSettings::default()).expect("taken");
        }
    }

    #[test]
    fn what_is_no_url_is_refused_without_being_quoted() {
        for url in ["redis://:secret@db", "postgres://a:b@c/d?secret=1", "secret", "postgres://a:b@c:secret/d"] {
            let error = refusal(url);
            assert!(!error.contains("secret") && error.contains("postgres://"), "{error}");
        }
    }
}
