//! Which certificate a client is shown: the first one for the host that it names.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::{KeyPair, PeerCertificate};

/// Certificates in the order of the configuration, with the names that they are for, so that none is parsed again.
#[derive(Debug)]
pub(super) struct ByName {
    certified: Vec<Arc<CertifiedKey>>,
    /// The first one for each name, in small letters.
    exact: HashMap<Box<str>, usize>,
    /// The first one for each name's children, in small letters: what comes after `*.`.
    below: HashMap<Box<str>, usize>,
}

impl ByName {
    pub(super) fn new(pairs: &[KeyPair]) -> Result<Self, String> {
        if pairs.is_empty() {
            return Err("no certificate to show".into());
        }
        let mut all = Self { certified: Vec::new(), exact: HashMap::new(), below: HashMap::new() };
        for (index, pair) in pairs.iter().enumerate() {
            for name in PeerCertificate::read(&pair.chain[0])?.dns {
                let name = name.to_ascii_lowercase();
                match name.strip_prefix("*.") {
                    Some(parent) => all.below.entry(parent.into()).or_insert(index),
                    None => all.exact.entry(name.into()).or_insert(index),
                };
            }
            all.certified.push(Arc::new(pair.certified().map_err(|error| error.to_string())?));
        }
        Ok(all)
    }

    /// A `*` stands for one label (RFC 9525 §6.3).
    fn find(&self, host: &str) -> usize {
        let host = host.to_ascii_lowercase();
        let below = host.split_once('.').and_then(|(_, parent)| self.below.get(parent));
        self.exact.get(&*host).into_iter().chain(below).min().copied().unwrap_or(0)
    }
}

impl ResolvesServerCert for ByName {
    /// The first one is for whoever names no host, or an unknown one: the client sees for itself that it does not fit.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let index = hello.server_name().map_or(0, |host| self.find(host));
        self.certified.get(index).cloned()
    }
}
