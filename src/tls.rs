//! TLS: certificates and keys as values, and the two sides of a handshake made from them.
//!
//! Knows rustls and X.509. Must not know files (whoever reads the configuration does), listeners or targets: a change of a
//! certificate is a new value, from which a new side is made. Cryptography is that of aws-lc-rs; TLS 1.2 is the least.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::client::WebPkiServerVerifier;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ProtocolVersion, RootCertStore, ServerConfig, SupportedProtocolVersion};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

mod certificates;
mod peer;
/// Certificates for the tests of every module.
#[cfg(test)]
#[path = "../tests/support/certificates.rs"]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use peer::PeerCertificate;
use peer::{can_issue, expires, good_for};

/// Which HTTP is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

impl Protocol {
    /// Its name in ALPN (RFC 7301 §6, RFC 9113 §3.1).
    fn alpn(self) -> &'static [u8] {
        match self {
            Self::Http1 => b"http/1.1",
            Self::Http2 => b"h2",
        }
    }

    /// What was agreed on; HTTP/1.1 where nothing was.
    fn agreed(alpn: Option<&[u8]>) -> Self {
        if alpn == Some(b"h2") { Self::Http2 } else { Self::Http1 }
    }
}

/// A certificate with those that lead to its root, and its private key.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyPair {
    chain: Arc<[CertificateDer<'static>]>,
    expires: i64,
    key: Arc<PrivateKeyDer<'static>>,
}

impl KeyPair {
    /// Reads a chain, its own certificate first, and a key, both PEM.
    pub fn read(chain: &str, key: &str) -> Result<Self, PairError> {
        let chain = certificates(chain).map_err(PairError::Certificate)?;
        let unusable = |why| PairError::Certificate(format!("has a certificate that cannot be used: {why}"));
        ParsedCertificate::try_from(&chain[0]).map_err(|error| unusable(error.to_string()))?;
        let expires = chain.iter().map(expires).collect::<Result<Vec<_>, _>>().map_err(unusable)?;
        let expires = expires.into_iter().min().unwrap_or(i64::MAX);
        let pair = Self { chain: chain.into(), expires, key: Arc::new(private_key(key)?) };
        match pair.certified() {
            Ok(_) => Ok(pair),
            Err(rustls::Error::InconsistentKeys(_)) => Err(PairError::Mismatch),
            // What it says is of the kind of key, or that it cannot be parsed, with nothing of it.
            Err(error) => Err(PairError::Key(format!("has a private key that cannot be used: {error}"))),
        }
    }

    /// The certificates, the pair's own one first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// When the first of the certificates expires, in seconds since 1970.
    pub fn expires(&self) -> i64 {
        self.expires
    }

    fn certified(&self) -> Result<CertifiedKey, rustls::Error> {
        CertifiedKey::from_der(self.chain.to_vec(), self.key.clone_key(), &provider())
    }
}

fn private_key(pem: &str) -> Result<PrivateKeyDer<'static>, PairError> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| {
        let message = if pem.contains("-----BEGIN ENCRYPTED PRIVATE KEY") || pem.contains("Proc-Type: 4,ENCRYPTED") {
            "is encrypted; write it without a passphrase, in a file that nobody else can read"
        } else {
            "has no PEM private key (PKCS#8, PKCS#1 or SEC1)"
        };
        PairError::Key(message.into())
    })
}

/// Why a certificate and a key are not a pair, as it is said after the name of the file. Nothing of a key is repeated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PairError {
    /// The certificate's file.
    #[error("{0}")]
    Certificate(String),
    /// The key's file.
    #[error("{0}")]
    Key(String),
    /// Each is good, but not with the other.
    #[error("is not the key of the certificate beside it")]
    Mismatch,
}

/// Shows nothing of the key.
impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyPair({} certificates)", self.chain.len())
    }
}

/// Certificates of the authorities that are believed.
#[derive(Clone, PartialEq, Eq)]
pub struct Roots(Arc<[CertificateDer<'static>]>);

impl Roots {
    /// Reads a bundle of PEM certificates; at least one that can be used as an authority.
    pub fn read(bundle: &str) -> Result<Self, String> {
        let roots = Self(certificates(bundle)?.into());
        roots.store()?;
        if roots.0.iter().any(can_issue) {
            Ok(roots)
        } else {
            Err("has no certificate of an authority, only such as authorities issue".into())
        }
    }

    /// The certificates.
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.0
    }

    fn store(&self) -> Result<Arc<RootCertStore>, String> {
        let mut store = RootCertStore::empty();
        for certificate in &*self.0 {
            store
                .add(certificate.clone())
                .map_err(|error| format!("has a certificate that cannot be used: {error}"))?;
        }
        Ok(Arc::new(store))
    }
}

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Roots({} certificates)", self.0.len())
    }
}

/// Whether clients show certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ClientAuth {
    /// None is asked for.
    #[default]
    Off,
    /// One that is shown has to be good.
    Optional(Roots),
    /// A good one has to be shown.
    Required(Roots),
}

/// The side that is connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerTlsSettings {
    /// The first one is for whoever names no host, or one that none of them is for.
    pub certificates: Vec<KeyPair>,
    /// Whether clients show certificates.
    pub clients: ClientAuth,
    /// Whether TLS 1.2 is refused.
    pub only_tls13: bool,
}

/// The side that connects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientTlsSettings {
    /// Whom to believe; none: the system's roots.
    pub roots: Option<Roots>,
    /// What to show where a certificate is asked for.
    pub certificate: Option<KeyPair>,
    /// The name that the certificate of the other side has to be for, where it is not the host's.
    pub server_name: Option<Box<str>>,
    /// Whether TLS 1.2 is refused.
    pub only_tls13: bool,
}

/// Takes handshakes.
#[derive(Clone)]
pub struct ServerTls {
    acceptor: TlsAcceptor,
    clients: Arc<dyn ClientCertVerifier>,
}

/// What a client and this side agreed on.
pub struct Accepted<S> {
    /// The connection.
    pub stream: server::TlsStream<S>,
    /// Which HTTP is spoken.
    pub protocol: Protocol,
    /// The client's certificate, where it showed one: it is good.
    pub certificate: Option<Arc<PeerCertificate>>,
    /// The same one, with those that lead to its root.
    pub certificates: Arc<[CertificateDer<'static>]>,
    /// How long from now on they are good; none where none was shown.
    pub good_for: Option<Duration>,
    /// Whether TLS 1.3 is spoken.
    pub is_tls13: bool,
}

impl ServerTls {
    /// A side that offers `protocols`, the one it likes best first.
    pub fn new(settings: &ServerTlsSettings, protocols: &[Protocol]) -> Result<Self, String> {
        let builder =
            ServerConfig::builder_with_provider(provider()).with_protocol_versions(versions(settings.only_tls13));
        let builder = builder.map_err(|error| error.to_string())?;
        let verifier = |roots: &Roots| {
            let builder = WebPkiClientVerifier::builder_with_provider(roots.store()?, provider());
            Ok::<_, String>(builder)
        };
        let verifier = match &settings.clients {
            ClientAuth::Off => WebPkiClientVerifier::no_client_auth(),
            ClientAuth::Optional(roots) => {
                verifier(roots)?.allow_unauthenticated().build().map_err(|error| error.to_string())?
            }
            ClientAuth::Required(roots) => verifier(roots)?.build().map_err(|error| error.to_string())?,
        };
        let certificates = certificates::ByName::new(&settings.certificates)?;
        let mut config =
            builder.with_client_cert_verifier(Arc::clone(&verifier)).with_cert_resolver(Arc::new(certificates));
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.alpn().to_vec()).collect();
        if settings.clients != ClientAuth::Off {
            // A resumed session would bring back the certificate of its first handshake, believed or not by now.
            config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), clients: verifier })
    }

    /// Whether a client that showed these certificates, or none, would be let in now.
    pub fn admits(&self, shown: &[CertificateDer<'_>]) -> bool {
        match shown {
            _ if !self.clients.offer_client_auth() => true,
            [] => !self.clients.client_auth_mandatory(),
            [own, others @ ..] => self.clients.verify_client_cert(own, others, UnixTime::now()).is_ok(),
        }
    }

    /// Shakes hands. Whoever calls this bounds its time.
    pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S) -> io::Result<Accepted<S>> {
        let stream = self.acceptor.accept(stream).await?;
        let (_, session) = stream.get_ref();
        let protocol = Protocol::agreed(session.alpn_protocol());
        let certificate = session.peer_certificates().and_then(<[_]>::first).map(PeerCertificate::read).transpose();
        let certificate = certificate.map_err(io::Error::other)?.map(Arc::new);
        let certificates = session.peer_certificates().unwrap_or_default();
        let certificates: Arc<[_]> = certificates.iter().map(|certificate| certificate.clone().into_owned()).collect();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let good_for = good_for(&certificates, now);
        let is_tls13 = session.protocol_version() == Some(ProtocolVersion::TLSv1_3);
        Ok(Accepted { stream, protocol, certificate, certificates, good_for, is_tls13 })
    }
}

/// Begins handshakes.
#[derive(Clone)]
pub struct ClientTls {
    config: Arc<ClientConfig>,
    server_name: Option<ServerName<'static>>,
}

impl ClientTls {
    /// A side that offers `protocols`, the one it likes best first.
    pub fn new(settings: &ClientTlsSettings, protocols: &[Protocol]) -> Result<Self, String> {
        let roots = match &settings.roots {
            Some(roots) => roots.store()?,
            None => system_roots(),
        };
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider()).build();
        let verifier = verifier.map_err(|error| format!("no authority can be believed: {error}"))?;
        let builder =
            ClientConfig::builder_with_provider(provider()).with_protocol_versions(versions(settings.only_tls13));
        let builder = builder.map_err(|error| error.to_string())?.with_webpki_verifier(verifier);
        let mut config = match &settings.certificate {
            Some(pair) => builder
                .with_client_auth_cert(pair.chain.to_vec(), pair.key.clone_key())
                .map_err(|error| error.to_string())?,
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.alpn().to_vec()).collect();
        let server_name = settings.server_name.as_deref().map(server_name).transpose()?;
        Ok(Self { config: Arc::new(config), server_name })
    }

    /// Shakes hands with whoever is to be `host`, a name or an address. Whoever calls this bounds its time.
    pub async fn connect<S>(&self, host: &str, stream: S) -> io::Result<(client::TlsStream<S>, Protocol)>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let name = match &self.server_name {
            Some(name) => name.clone(),
            None => server_name(host).map_err(io::Error::other)?,
        };
        let stream = TlsConnector::from(Arc::clone(&self.config)).connect(name, stream).await?;
        let protocol = Protocol::agreed(stream.get_ref().1.alpn_protocol());
        Ok((stream, protocol))
    }

    /// For clients that shake hands themselves; it offers what this side does, and knows no other server name.
    pub fn config(&self) -> &Arc<ClientConfig> {
        &self.config
    }

    /// The name that the other side's certificate has to be for, where it is not the host's.
    pub fn server_name(&self) -> Option<&ServerName<'static>> {
        self.server_name.as_ref()
    }
}

/// Whether a certificate can be for `host`, a name or an address.
pub fn is_server_name(host: &str) -> bool {
    ServerName::try_from(host).is_ok()
}

fn server_name(host: &str) -> Result<ServerName<'static>, String> {
    ServerName::try_from(host.to_owned()).map_err(|_| format!("{host:?} is no name that a certificate can be for"))
}

/// What the operating system believes. Read once: it does not change while a process runs.
fn system_roots() -> Arc<RootCertStore> {
    static ROOTS: std::sync::LazyLock<Arc<RootCertStore>> = std::sync::LazyLock::new(|| {
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "a root certificate of the system cannot be read");
        }
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(found.certs);
        Arc::new(store)
    });
    Arc::clone(&ROOTS)
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let read = read.map_err(|_| "is not a PEM file")?;
    if read.is_empty() { Err("has no PEM certificate".into()) } else { Ok(read) }
}

fn versions(only_tls13: bool) -> &'static [&'static SupportedProtocolVersion] {
    const BOTH: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];
    if only_tls13 { &BOTH[..1] } else { BOTH }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}
