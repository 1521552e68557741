//! Files of certificates and keys turned into the two sides of TLS. What cannot work is said here, not at a handshake.

use std::path::Path;
use std::sync::Arc;

use crate::config::file;
use crate::config::report::Report;
use crate::config::tree::item_path;
use crate::config::value::{Checked, FilePath};
use crate::tls::{
    ClientAuth, ClientTls, ClientTlsSettings, KeyPair, PairError, Protocol, Roots, ServerTls, ServerTlsSettings,
};

/// The side that is connected to, which stands at `path`; none where something is wrong, and was said.
pub(super) fn server(file: file::ServerTls, path: &str, report: &mut Report<'_>) -> Option<ServerTlsSettings> {
    let first = pair((file.certificate, file.key), path, report);
    let more = file.more.unwrap_or_default().into_iter().map(Option::unwrap_or_default).enumerate();
    let more = more.map(|(index, files)| {
        let path = item_path(&format!("{path}.more"), index);
        pair((files.certificate, files.key), &path, report)
    });
    // All are read, so that all that is wrong is said.
    let certificates: Vec<_> = std::iter::once(first).chain(more.collect::<Vec<_>>()).collect();
    let clients_path = format!("{path}.clients");
    if file.clients.is_none() && report.is_written(&clients_path) {
        report.add(&clients_path, "has no value; write `ca: /PATH/TO/FILE` below it, or remove it");
    }
    let clients = match file.clients {
        None => Some(ClientAuth::Off),
        Some(clients) => client_auth(clients, &clients_path, report),
    };
    let settings = ServerTlsSettings {
        certificates: certificates.into_iter().collect::<Option<_>>()?,
        clients: clients?,
        only_tls13: file.min_version.is_none_or(|only_tls13| only_tls13.0),
    };
    let made = ServerTls::new(&settings, &[Protocol::Http1]);
    made.map_err(|why| report.add(path, format!("cannot be used: {why}"))).ok().map(|_| settings)
}

fn client_auth(file: file::ClientCertificates, path: &str, report: &mut Report<'_>) -> Option<ClientAuth> {
    let Some(ca) = file.ca else {
        report.add(path, "lacks `ca`; write `ca: /PATH/TO/FILE`, a file of the authorities that are believed");
        return None;
    };
    let roots = roots(&ca.0, &format!("{path}.ca"), report)?;
    let required = file.required.unwrap_or(true);
    Some(if required { ClientAuth::Required(roots) } else { ClientAuth::Optional(roots) })
}

/// The side that connects, if it is written at `path`. `useless` says why it is of no use, where it is.
pub(super) fn client_beside(
    useless: Option<String>,
    file: Option<file::ClientTls>,
    path: &str,
    report: &mut Report<'_>,
) -> ClientTlsSettings {
    let Some(file) = file else {
        if report.is_written(path) {
            report.add(path, "has no value; write `ca: /PATH/TO/FILE` below it, or remove it");
        }
        return ClientTlsSettings::default();
    };
    if let Some(useless) = useless {
        report.add(path, format!("is of no use: {useless}"));
    }
    client(file, path, report)
}

/// The side that connects, which stands at `path`; of no use where something is wrong, and was said.
pub(super) fn client(file: file::ClientTls, path: &str, report: &mut Report<'_>) -> ClientTlsSettings {
    let roots = file.ca.and_then(|ca| roots(&ca.0, &format!("{path}.ca"), report));
    let certificate = match (file.certificate, file.key) {
        (None, None) => None,
        files => pair(files, path, report),
    };
    let settings = ClientTlsSettings {
        roots,
        certificate,
        server_name: file.server_name.map(|name| name.0),
        only_tls13: file.min_version.is_some_and(|only_tls13| only_tls13.0),
    };
    if let Err(why) = ClientTls::new(&settings, &[Protocol::Http1]) {
        report.add(path, format!("cannot be used: {why}"));
    }
    settings
}

/// A certificate and its key, of which the keys `certificate` and `key` below `path` name the files.
fn pair(
    (certificate, key): (Option<Checked<FilePath>>, Option<Checked<FilePath>>),
    path: &str,
    report: &mut Report<'_>,
) -> Option<KeyPair> {
    let (Some(certificate), Some(key)) = (&certificate, &key) else {
        let message = match (certificate, key) {
            (Some(_), None) => "lacks `key`; write `key: /PATH/TO/FILE` beside the certificate",
            (None, Some(_)) => "lacks `certificate`; write `certificate: /PATH/TO/FILE` beside the key",
            _ => "lacks `certificate` and `key`; write `certificate: /PATH/TO/FILE` and `key: /PATH/TO/FILE`",
        };
        report.add(path, message);
        return None;
    };
    let (certificate_path, key_path) = (format!("{path}.certificate"), format!("{path}.key"));
    let chain = read(&certificate.0, &certificate_path, report);
    let secret = read(&key.0, &key_path, report);
    let refused = match KeyPair::read(&chain?, &secret?) {
        Ok(pair) => return Some(pair),
        Err(refused) => refused,
    };
    let (at, file) = match &refused {
        PairError::Certificate(_) => (&certificate_path, &certificate.0),
        PairError::Key(_) | PairError::Mismatch => (&key_path, &key.0),
    };
    report.add(at, format!("`{}` {refused}", file.display()));
    None
}

fn roots(file: &Path, path: &str, report: &mut Report<'_>) -> Option<Roots> {
    let bundle = read(file, path, report)?;
    Roots::read(&bundle).map_err(|why| report.add(path, format!("`{}` {why}", file.display()))).ok()
}

fn read(file: &Path, path: &str, report: &mut Report<'_>) -> Option<Arc<str>> {
    let text = report.read(file);
    text.map_err(|why| report.add(path, format!("cannot read `{}`: {why}; it has to be a PEM file", file.display())))
        .ok()
}
