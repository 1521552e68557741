//! `tls`, of listeners and of whatever is connected to.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::value::{Checked, FilePath, MinVersion, TlsName};

/// The side that is connected to.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct ServerTls {
    /// A PEM file: the certificate, and after it those that lead to its root. For whoever names no host, or one that no
    /// certificate is for. Mandatory.
    pub(in crate::config) certificate: Option<Checked<FilePath>>,
    /// A PEM file: the private key of `certificate`. Mandatory.
    pub(in crate::config) key: Option<Checked<FilePath>>,
    /// Certificates for other hosts: each client gets the first that is for the host that it names.
    pub(in crate::config) more: Option<Vec<Option<CertificateFiles>>>,
    /// Certificates of clients. Left out: none is asked for.
    pub(in crate::config) clients: Option<ClientCertificates>,
    /// `"1.3"`, or `"1.2"` to take TLS 1.2 as well. Default: "1.3".
    pub(in crate::config) min_version: Option<Checked<MinVersion>>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct CertificateFiles {
    /// A PEM file: the certificate, and after it those that lead to its root. Mandatory.
    pub(in crate::config) certificate: Option<Checked<FilePath>>,
    /// A PEM file: its private key. Mandatory.
    pub(in crate::config) key: Option<Checked<FilePath>>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct ClientCertificates {
    /// A PEM file: the authorities that issue them. Mandatory.
    pub(in crate::config) ca: Option<Checked<FilePath>>,
    /// Whether who shows none is refused. Default: true.
    pub(in crate::config) required: Option<bool>,
}

/// The side that connects.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct ClientTls {
    /// A PEM file: the authorities that are believed. Left out: those of the operating system.
    pub(in crate::config) ca: Option<Checked<FilePath>>,
    /// A PEM file: the certificate to show where one is asked for, and after it those that lead to its root. Left out:
    /// none.
    pub(in crate::config) certificate: Option<Checked<FilePath>>,
    /// A PEM file: the private key of `certificate`.
    pub(in crate::config) key: Option<Checked<FilePath>>,
    /// The name or address that the other side's certificate has to be for. Left out: the URL's host.
    pub(in crate::config) server_name: Option<Checked<TlsName>>,
    /// `"1.2"`, or `"1.3"` to refuse TLS 1.2. Default: "1.2".
    pub(in crate::config) min_version: Option<Checked<MinVersion>>,
}
