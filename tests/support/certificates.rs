//! Certificates for tests: an authority of their own, and what it issues.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};

/// Somebody who issues certificates.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate, PEM.
    pub(crate) pem: String,
}

/// A certificate with its key, both PEM.
#[derive(Clone)]
pub(crate) struct Issued {
    /// The chain.
    pub(crate) chain: String,
    /// The private key.
    pub(crate) key: String,
}

/// For whom a certificate is.
#[derive(Clone, Copy, Default)]
pub(crate) struct For<'a> {
    /// Common name of the subject.
    pub(crate) common_name: &'a str,
    /// DNS names and IP addresses.
    pub(crate) hosts: &'a [&'a str],
    /// URIs, such as a SPIFFE id.
    pub(crate) uris: &'a [&'a str],
    /// Whether it expired yesterday.
    pub(crate) expired: bool,
    /// How long it is good; none: for days.
    pub(crate) lasts: Option<Duration>,
}

impl Authority {
    /// An authority that nobody believes who is not told to.
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A certificate for a server or a client.
    pub(crate) fn issue(&self, to: For<'_>) -> Issued {
        let hosts: Vec<String> = to.hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut params = CertificateParams::new(hosts).expect("host names");
        for uri in to.uris {
            params.subject_alt_names.push(SanType::URI((*uri).try_into().expect("a URI")));
        }
        params.distinguished_name = rcgen::DistinguishedName::new();
        if !to.common_name.is_empty() {
            params.distinguished_name.push(DnType::CommonName, to.common_name);
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let day = Duration::from_secs(86_400);
        let now = SystemTime::now();
        params.not_before = (now - 10 * day).into();
        params.not_after = if to.expired { now - day } else { now + to.lasts.unwrap_or(10 * day) }.into();
        let key = KeyPair::generate().expect("a key");
        let chain = params.signed_by(&key, &self.issuer).expect("a certificate").pem();
        Issued { chain, key: key.serialize_pem() }
    }
}
