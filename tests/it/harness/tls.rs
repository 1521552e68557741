//! A raw caller that speaks TLS, with a library of its own beside the gateway's settings.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use nexus_gateway::config::Settings;
use nexus_gateway::server::ListenerSettings;
use nexus_gateway::tls::{ClientAuth, KeyPair, Roots, ServerTlsSettings};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::{ClientConfig, HandshakeKind, RootCertStore, SupportedProtocolVersion};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::caller::Request;
use super::message::{GUARD, Message, Reader};
use crate::certificates::{Authority, Issued};

/// One TLS connection to a gateway.
pub(crate) struct TlsCaller {
    reader: Reader<ReadHalf<TlsStream<TcpStream>>>,
    writer: WriteHalf<TlsStream<TcpStream>>,
    /// The gateway's certificate.
    pub(crate) shown: CertificateDer<'static>,
    pub(crate) resumed: bool,
}

impl TlsCaller {
    pub(crate) async fn connect(
        address: SocketAddr,
        host: &'static str,
        config: &Arc<ClientConfig>,
    ) -> io::Result<Self> {
        let stream = tls_stream(address, host, config).await?;
        let session = stream.get_ref().1;
        let shown = session.peer_certificates().expect("a server shows one")[0].clone().into_owned();
        let resumed = session.handshake_kind() == Some(HandshakeKind::Resumed);
        let (read, writer) = tokio::io::split(stream);
        Ok(Self { reader: Reader::new(read), writer, shown, resumed })
    }

    /// Sends a request and reads its answer; none where the gateway closed. With TLS 1.3 a client whose certificate is
    /// refused learns of it only here.
    pub(crate) async fn call(&mut self, request: &Request) -> Option<Message> {
        self.writer.write_all(&request.bytes()).await.ok()?;
        self.writer.flush().await.ok()?;
        self.reader.answer().await
    }

    /// Waits until the gateway closes; nothing comes before.
    pub(crate) async fn closed(mut self) {
        assert!(self.reader.answer().await.is_none(), "an answer to nothing");
    }
}

/// A connection after its handshake.
pub(crate) async fn tls_stream(
    address: SocketAddr,
    host: &'static str,
    config: &Arc<ClientConfig>,
) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from(host).expect("a host's name");
    let shaking = TlsConnector::from(Arc::clone(config)).connect(name, stream);
    tokio::time::timeout(GUARD, shaking).await.expect("a handshake ends")
}

/// A client that believes `authority`, shows `certificate`, and speaks `versions`.
pub(crate) fn tls_client(
    authority: &Authority,
    certificate: Option<&Issued>,
    versions: &[&'static SupportedProtocolVersion],
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).expect("PEM")).expect("an authority");
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
    let builder = builder.with_protocol_versions(versions).expect("known versions").with_root_certificates(roots);
    Arc::new(match certificate {
        None => builder.with_no_client_auth(),
        Some(issued) => {
            let chain =
                CertificateDer::pem_slice_iter(issued.chain.as_bytes()).map(|read| read.expect("PEM")).collect();
            let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).expect("PEM");
            builder.with_client_auth_cert(chain, key).expect("they fit")
        }
    })
}

/// What a listener shows and asks for, TLS 1.3 only.
pub(crate) fn server_tls(issued: &[&Issued], clients: ClientAuth) -> ServerTlsSettings {
    let certificates =
        issued.iter().map(|issued| KeyPair::read(&issued.chain, &issued.key).expect("they fit")).collect();
    ServerTlsSettings { certificates, clients, only_tls13: true }
}

/// What is asked of clients who are to be of `authority`.
pub(crate) fn of(authority: &Authority, required: bool) -> ClientAuth {
    let roots = Roots::read(&authority.pem).expect("an authority");
    if required { ClientAuth::Required(roots) } else { ClientAuth::Optional(roots) }
}

/// The same settings with TLS on their first listener.
pub(crate) fn over_tls(settings: Settings, tls: ServerTlsSettings) -> Settings {
    let listener = ListenerSettings { tls: Some(tls), ..settings.listen[0].clone() };
    Settings { listen: vec![listener], ..settings }
}
