//! Who a caller is by its client certificate, which the handshake has verified.

use std::sync::Arc;

use super::pattern::IdentityPattern;
use crate::admission::{How, Identity};
use crate::tls::PeerCertificate;

/// A part of a certificate that may name its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// A SPIFFE id: the one URI of the subject alternative name. A certificate with several is no X.509-SVID and has none
    /// (X509-SVID §2).
    Spiffe,
    /// A DNS name of the subject alternative name; of several the first that fits.
    Dns,
    /// The whole subject, as RFC 4514 writes it.
    Subject,
    /// The common name of the subject.
    CommonName,
}

/// How one part of a certificate names its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateRule {
    /// Which part.
    pub field: Field,
    /// How it is read.
    pub pattern: IdentityPattern,
}

/// Who owns `certificate`, by the first rule that fits it.
pub(super) fn identify(rules: &[CertificateRule], certificate: &PeerCertificate) -> Option<Arc<Identity>> {
    let read = rules.iter().find_map(|CertificateRule { field, pattern }| match field {
        Field::Spiffe => match &*certificate.uris {
            [only] if only.starts_with("spiffe://") => pattern.read(only),
            _ => None,
        },
        Field::Dns => certificate.dns.iter().find_map(|name| pattern.read(name)),
        Field::Subject => pattern.read(&certificate.subject),
        Field::CommonName => pattern.read(certificate.common_name.as_deref()?),
    })?;
    Some(Arc::new(Identity { name: read.name, namespace: read.namespace, how: How::Certificate }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(rules: &[(Field, &str)], certificate: &PeerCertificate) -> Option<String> {
        let rule = |(field, pattern): &(Field, &str)| CertificateRule {
            field: *field,
            pattern: IdentityPattern::new(pattern).unwrap(),
        };
        let rules: Vec<_> = rules.iter().map(rule).collect();
        identify(&rules, certificate).map(|identity| match &identity.namespace {
            Some(namespace) => format!("{} in {namespace}", identity.name),
            None => identity.name.to_string(),
        })
    }

    #[test]
    fn the_first_rule_that_fits_names_the_caller() {
        use Field::{CommonName, Dns, Spiffe, Subject};
        let spiffe = "spiffe://a.example/ns/{namespace}/sa/{name}";
        let workload = PeerCertificate {
            uris: vec!["spiffe://a.example/ns/shop/sa/orders".into()],
            dns: vec!["www.example".into(), "orders.shop.svc".into()],
            subject: "CN=of orders, O=Example".into(),
            common_name: Some("of orders".into()),
        };
        let id = "spiffe://a.example/ns/shop/sa/orders";
        for (rules, expected) in [
            (&[(Spiffe, spiffe), (CommonName, "{name}")][..], Some("orders in shop")),
            (&[(CommonName, "{name}"), (Spiffe, spiffe)], Some("of orders")),
            (&[(Spiffe, "spiffe://b.example/{name}"), (Dns, "{name}.{namespace}.svc")], Some("orders in shop")),
            (&[(Dns, "{name}")], Some("www.example")),
            (&[(Subject, "CN={name}, O=Example")], Some("of orders")),
            (&[(Spiffe, "{name}")], Some(id)),
            (&[(Spiffe, "spiffe://b.example/{name}")], None),
            (&[], None),
        ] {
            assert_eq!(who(rules, &workload).as_deref(), expected, "{rules:?}");
        }
        let uris = vec!["spiffe://a.example/ns/shop/sa/orders".into(), "spiffe://a.example/ns/shop/sa/admin".into()];
        let several = PeerCertificate { uris, ..PeerCertificate::default() };
        assert_eq!(who(&[(Spiffe, spiffe)], &several), None, "which one would be a guess");
        let https = PeerCertificate { uris: vec!["https://a.example/".into()], ..PeerCertificate::default() };
        assert_eq!(who(&[(Spiffe, "{name}")], &https), None);
        assert_eq!(who(&[(CommonName, "{name}"), (Subject, "{name}")], &PeerCertificate::default()), None);
    }
}
