//! Which certificate a client is shown: the one for the host that it names.

use std::sync::Arc;

use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::ServerName;

use super::KeyPair;

/// Certificates in the order of the configuration.
#[derive(Debug)]
pub(super) struct ByName(Vec<Arc<CertifiedKey>>);

impl ByName {
    pub(super) fn new(pairs: &[KeyPair]) -> Result<Self, String> {
        let certified = pairs.iter().map(|pair| pair.certified().map(Arc::new).map_err(|error| error.to_string()));
        let all: Vec<_> = certified.collect::<Result<_, _>>()?;
        if all.is_empty() { Err("no certificate to show".into()) } else { Ok(Self(all)) }
    }

    fn find(&self, host: &str) -> Option<&Arc<CertifiedKey>> {
        let name = ServerName::try_from(host).ok()?;
        self.0.iter().find(|certified| {
            let parsed = certified.end_entity_cert().ok().and_then(|own| ParsedCertificate::try_from(own).ok());
            parsed.is_some_and(|parsed| rustls::client::verify_server_name(&parsed, &name).is_ok())
        })
    }
}

impl ResolvesServerCert for ByName {
    /// The first one is for whoever names no host, or an unknown one: the client sees for itself that it does not fit.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        hello.server_name().and_then(|host| self.find(host)).or_else(|| self.0.first()).cloned()
    }
}
