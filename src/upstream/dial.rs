//! How a connection to an address comes about: TCP, TLS where the URL says so, and which HTTP is spoken on it.
//!
//! The host name of the URL is the name to verify, whatever address it has; `tls.server_name` stands in for it. A
//! handshake that fails is a target that cannot be reached: nothing was sent that it could have acted on.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};
use tokio::time::{Instant, timeout_at};

use super::pool::Address;
use super::stream::{Connect, Stream};
use super::{UpstreamSettings, http1, http2};
use crate::nexus::BaseUrl;
use crate::tls::{ClientTls, ClientTlsSettings, Protocol};

/// Longest text of a failed handshake, in characters: the other side has a say in it.
const MAX_TEXT: usize = 300;

/// Makes the connections to a target.
pub(super) struct Dialer {
    connector: Arc<dyn Connect>,
    /// Without, no URL of the target asks for it; or it cannot be had, and this is why.
    tls: Option<Result<ClientTls, String>>,
    settings: UpstreamSettings,
}

/// A new connection.
pub(super) enum Dialed {
    /// For one request at a time.
    Http1(http1::Connection),
    /// For many.
    Http2(Arc<http2::Connection>),
}

impl Dialer {
    /// Connections to addresses of `urls`.
    pub(super) fn new(
        connector: Arc<dyn Connect>,
        urls: &[BaseUrl],
        tls: &ClientTlsSettings,
        settings: UpstreamSettings,
    ) -> Self {
        let wanted = urls.iter().any(|url| url.tls);
        let tls = wanted.then(|| ClientTls::new(tls, &[Protocol::Http2, Protocol::Http1]));
        Self { connector, tls, settings }
    }

    /// Connects within `patience`, the handshake included.
    pub(super) async fn dial(&self, address: &Address, patience: Duration) -> io::Result<Dialed> {
        let until = Instant::now() + patience;
        let connecting = timeout_at(until, self.connector.connect(address.socket()));
        let stream = connecting.await.map_err(|_| timed_out("connect timed out"))??;
        let Some(name) = address.tls_name() else {
            return http1::Connection::open(stream).await.map(Dialed::Http1).map_err(io::Error::other);
        };
        let secured = timeout_at(until, self.secure(name, stream)).await;
        let (stream, protocol) = secured.map_err(|_| timed_out("the TLS handshake timed out"))??;
        address.speaks(protocol);
        match protocol {
            Protocol::Http1 => http1::Connection::open(stream).await.map(Dialed::Http1).map_err(io::Error::other),
            Protocol::Http2 => {
                let opening = http2::Connection::open(stream, &self.settings, address.open());
                let opened = timeout_at(until, opening).await.map_err(|_| timed_out("HTTP/2 did not begin in time"))?;
                opened.map(Dialed::Http2).map_err(|error| no_http2(&error))
            }
        }
    }

    async fn secure(&self, name: &str, stream: Stream) -> io::Result<(Stream, Protocol)> {
        let tls = match &self.tls {
            Some(Ok(tls)) => tls,
            Some(Err(why)) => return Err(io::Error::other(format!("no TLS: {why}"))),
            None => return Err(io::Error::other("no TLS")),
        };
        let secured = tls.connect(name, stream).await.map_err(|error| io::Error::other(explain(&error)));
        secured.map(|(stream, protocol)| (Stream::Tls(Box::new(stream)), protocol))
    }
}

fn timed_out(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, what)
}

/// In TLS 1.3 this is where the other side says that it does not take the certificate shown to it.
fn no_http2(error: &io::Error) -> io::Error {
    io::Error::other(format!("HTTP/2 did not begin: {error}"))
}

/// What went wrong in a handshake, for whoever configured it.
fn explain(error: &io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    let what = match inner {
        Some(Error::InvalidCertificate(why)) => format!("its certificate is refused: {}", refused(why)),
        Some(Error::AlertReceived(alert)) if is_about_certificates(*alert) => {
            format!("it refuses the certificate shown to it, or wants one and sees none ({alert:?})")
        }
        Some(
            Error::AlertReceived(AlertDescription::ProtocolVersion)
            | Error::PeerIncompatible(PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig),
        ) => "it speaks no version of TLS that `tls.min_version` takes".into(),
        Some(error) => error.to_string(),
        None => error.to_string(),
    };
    let text = format!("the TLS handshake failed: {what}");
    if text.chars().count() > MAX_TEXT { text.chars().take(MAX_TEXT).chain("…".chars()).collect() } else { text }
}

fn refused(why: &CertificateError) -> String {
    match why {
        CertificateError::UnknownIssuer => "no authority that is believed here issued it; `tls.ca` names those".into(),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "it has expired".into(),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => "it is not valid yet".into(),
        other => other.to_string(),
    }
}

/// Whether whoever sends this alert saw a certificate that it does not take, or none. In TLS 1.3 it comes after the
/// client's side of the handshake is done (RFC 8446 §4.4.2.4), instead of an answer: whatever was sent was not read.
fn is_about_certificates(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::DecryptError
            | AlertDescription::HandshakeFailure
    )
}

/// What the other side thinks of the certificate that was, or was not, shown to it, where that is why it closed the
/// connection instead of answering.
pub(super) fn refusal(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
            let is_refusal = matches!(inner, Some(Error::AlertReceived(alert)) if is_about_certificates(*alert));
            return is_refusal.then(|| explain(error));
        }
        next = error.source();
    }
    None
}
