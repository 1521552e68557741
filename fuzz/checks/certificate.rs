//! What holds for any certificate that a peer shows, and for any file of certificates.

use nexus_gateway::tls::{PeerCertificate, Roots};
use rustls_pki_types::CertificateDer;

pub(crate) fn check(input: &[u8]) {
    if let Ok(certificate) = PeerCertificate::read(&CertificateDer::from(input.to_vec())) {
        let names = certificate.uris.iter().chain(&certificate.dns);
        for name in names {
            assert!(contains(input, name.as_bytes()), "{name:?} does not stand in the certificate");
        }
        if certificate.common_name.is_some() {
            assert!(certificate.subject.contains("CN="), "{:?}", certificate.subject);
        }
        assert!(!certificate.subject.contains(char::is_control) || !certificate.subject.is_ascii());
        let subject = plain(&certificate.subject);
        let attributes = subject.split(", ").flat_map(|rdn| rdn.split(" + ")).filter(|one| !one.is_empty());
        for attribute in attributes {
            assert_eq!(attribute.matches('=').count(), 1, "{attribute:?} of {:?}", certificate.subject);
        }
    }
    if let Ok(text) = std::str::from_utf8(input) {
        let roots = Roots::read(text);
        assert!(roots.is_err() || text.contains("BEGIN CERTIFICATE"), "{text:?} has no certificate");
    }
}

fn contains(whole: &[u8], part: &[u8]) -> bool {
    part.is_empty() || whole.windows(part.len()).any(|window| window == part)
}

/// A name without what is escaped in it.
fn plain(subject: &str) -> String {
    let mut characters = subject.chars();
    let mut plain = String::new();
    while let Some(character) = characters.next() {
        if character == '\\' {
            characters.next();
        } else {
            plain.push(character);
        }
    }
    plain
}
