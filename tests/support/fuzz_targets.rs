//! The fuzz targets: what holds for any bytes that come from elsewhere.

#[path = "../../fuzz/checks/authority.rs"]
mod authority;
#[path = "../../fuzz/checks/certificate.rs"]
mod certificate;
#[path = "../../fuzz/checks/configuration.rs"]
mod configuration;
#[path = "../../fuzz/checks/failure.rs"]
mod failure;
#[path = "../../fuzz/checks/head.rs"]
mod head;
#[path = "../../fuzz/checks/jwt.rs"]
mod jwt;
#[path = "../../fuzz/checks/link.rs"]
mod link;
#[path = "../../fuzz/checks/path.rs"]
mod path;
#[path = "../../fuzz/checks/query.rs"]
mod query;
#[path = "../../fuzz/checks/redact.rs"]
mod redact;
#[path = "../../fuzz/checks/seal.rs"]
mod seal;
#[path = "../../fuzz/checks/started.rs"]
mod started;
#[path = "../../fuzz/checks/timeout.rs"]
mod timeout;

use std::path::Path;

/// One of them.
pub(crate) struct Target {
    /// As in `fuzz/fuzz_targets` and `fuzz/corpus`.
    pub(crate) name: &'static str,
    /// Panics where something does not hold.
    pub(crate) check: fn(&[u8]),
}

/// All of them, in the order of their names.
pub(crate) const TARGETS: &[Target] = &[
    Target { name: "authority", check: authority::check },
    Target { name: "certificate", check: certificate::check },
    Target { name: "configuration", check: configuration::check },
    Target { name: "failure", check: failure::check },
    Target { name: "head", check: head::check },
    Target { name: "jwt", check: jwt::check },
    Target { name: "link", check: link::check },
    Target { name: "path", check: path::check },
    Target { name: "query", check: query::check },
    Target { name: "redact", check: redact::check },
    Target { name: "seal", check: seal::check },
    Target { name: "started", check: started::check },
    Target { name: "timeout", check: timeout::check },
];

impl Target {
    /// What of its inputs is worth keeping, with the names of the files, in their order.
    pub(crate) fn corpus(&self) -> Vec<(String, Vec<u8>)> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(self.name);
        let mut files: Vec<_> = folder
            .read_dir()
            .expect("the corpus is there")
            .map(|entry| entry.expect("the folder can be read").path())
            .collect();
        files.sort();
        let read = |file: &std::path::PathBuf| std::fs::read(file).expect("the file can be read");
        files.iter().map(|file| (file.display().to_string(), read(file))).collect()
    }
}
