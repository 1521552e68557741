//! What a client's certificate says of who it is.

use rustls_pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// The parts of a verified certificate by which a caller can be known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerCertificate {
    /// URIs of the subject alternative name, SPIFFE ids among them, in their order.
    pub uris: Vec<Box<str>>,
    /// Its DNS names, in their order.
    pub dns: Vec<Box<str>>,
    /// The subject as RFC 4514 writes it, such as `CN=orders, O=Example`; empty where it has none.
    pub subject: Box<str>,
    /// The common name of the subject.
    pub common_name: Option<Box<str>>,
}

impl PeerCertificate {
    /// Reads one that was verified; an error says what is wrong with it.
    pub fn read(certificate: &CertificateDer<'static>) -> Result<Self, String> {
        let (_, parsed) =
            X509Certificate::from_der(certificate).map_err(|error| format!("a certificate cannot be read: {error}"))?;
        let subject = parsed.subject();
        let common_name = subject.iter_common_name().next().and_then(|name| name.as_str().ok()).map(Into::into);
        let mut read = Self { subject: subject.to_string().into(), common_name, ..Self::default() };
        let names = parsed.subject_alternative_name().map_err(|error| format!("its alternative names: {error}"))?;
        for name in names.iter().flat_map(|names| &names.value.general_names) {
            match name {
                GeneralName::URI(uri) => read.uris.push((*uri).into()),
                GeneralName::DNSName(name) => read.dns.push((*name).into()),
                _ => {}
            }
        }
        Ok(read)
    }
}

/// Whether it can be that of an authority: it says so, or signs for itself, as those from before there were extensions do.
pub(super) fn can_issue(certificate: &CertificateDer<'static>) -> bool {
    X509Certificate::from_der(certificate)
        .is_ok_and(|(_, parsed)| parsed.is_ca() || parsed.subject() == parsed.issuer())
}
