//! What a client's certificate says of who it is.

use std::fmt::Write;
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::objects::{oid_registry, oid2abbrev};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

/// The parts of a verified certificate by which a caller can be known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerCertificate {
    /// URIs of the subject alternative name, SPIFFE ids among them, in their order.
    pub uris: Vec<Box<str>>,
    /// Its DNS names, in their order.
    pub dns: Vec<Box<str>>,
    /// The subject, such as `CN=orders, O=Example`, in its own order; empty where it has none. What parts its attributes
    /// is escaped inside them (RFC 4514, section 2.4): `CN=orders\, O\=Example` is one attribute.
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
        let mut read = Self { subject: written(subject).into(), common_name, ..Self::default() };
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

/// When it expires, in seconds since 1970.
pub(super) fn expires(certificate: &CertificateDer<'static>) -> Result<i64, String> {
    let parsed = X509Certificate::from_der(certificate).map_err(|error| error.to_string());
    parsed.map(|(_, parsed)| parsed.validity().not_after.timestamp())
}

/// How long from `now`, since 1970, a handshake with these certificates, the client's own first, can still come to
/// something. One of the others that expired already was not needed. None where none is shown.
pub(super) fn good_for(shown: &[CertificateDer<'static>], now: Duration) -> Option<Duration> {
    let (own, others) = shown.split_first()?;
    // One is good up to that second, and in it.
    let end = |certificate| Some(Duration::from_secs(u64::try_from(expires(certificate).ok()?).ok()? + 1));
    let others = others.iter().filter_map(end).filter(|end| *end > now);
    Some(others.fold(end(own).unwrap_or_default(), Duration::min).saturating_sub(now))
}

/// A name as text, in which no value of an attribute can pass for more than that.
fn written(name: &X509Name<'_>) -> String {
    let mut text = String::new();
    for (number, rdn) in name.iter_rdn().enumerate() {
        text.push_str(if number == 0 { "" } else { ", " });
        for (number, attribute) in rdn.iter().enumerate() {
            text.push_str(if number == 0 { "" } else { " + " });
            write_attribute(&mut text, attribute);
        }
    }
    text
}

fn write_attribute(text: &mut String, attribute: &AttributeTypeAndValue<'_>) {
    match oid2abbrev(attribute.attr_type(), oid_registry()) {
        Ok(kind) => text.push_str(kind),
        Err(_) => text.push_str(&attribute.attr_type().to_id_string()),
    }
    text.push('=');
    match attribute.as_str() {
        Err(_) => {
            text.push('#');
            // Writing to a `String` cannot fail, here and below.
            for byte in attribute.as_slice() {
                let _ = write!(text, "{byte:02x}");
            }
        }
        Ok(value) => {
            for character in value.chars() {
                match character {
                    ',' | '+' | '"' | '\\' | '<' | '>' | ';' | '=' | '#' => text.extend(['\\', character]),
                    character if character.is_ascii_control() => {
                        let _ = write!(text, "\\{:02x}", u32::from(character));
                    }
                    character => text.push(character),
                }
            }
        }
    }
}
