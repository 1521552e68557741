//! The configuration as files: the shipped ones are right, and every mistake is reported where it is.

#[path = "config/admin.rs"]
mod admin;
#[path = "config/authorization.rs"]
mod authorization;
#[path = "config/callbacks.rs"]
mod callbacks;
#[path = "support/certificates.rs"]
mod certificates;
#[path = "config/mistakes.rs"]
mod mistakes;
#[path = "config/parking.rs"]
mod parking;
#[path = "config/resolving.rs"]
mod resolving;
#[path = "config/shipped.rs"]
mod shipped;
#[path = "config/signing.rs"]
mod signing;
#[path = "config/sources.rs"]
mod sources;
#[path = "config/tls.rs"]
mod tls;
#[path = "support/tokens.rs"]
mod tokens;

use std::path::{Path, PathBuf};

use nexus_gateway::config::{Overrides, Problem, Settings, load};

/// Loads without flags.
fn load_path(path: &Path) -> Result<Settings, Vec<Problem>> {
    load(Some(path), &Overrides::default()).1
}

/// Loads `text` as the only file.
fn load_text(text: &str) -> Result<Settings, Vec<Problem>> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    load_path(&write(folder.path(), "gateway.yaml", text))
}

fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).expect("a file can be written");
    path
}

/// The messages of a configuration that must be refused, one a line.
fn refusal(settings: Result<Settings, Vec<Problem>>) -> String {
    let problems = settings.expect_err("this configuration is wrong");
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n") + "\n"
}

/// Compares with a file of the repository, or writes it where the environment variable `update` is set.
fn assert_same_as_file(path: &Path, text: &str, update: &str) {
    if std::env::var_os(update).is_some() {
        std::fs::write(path, text).expect("the file can be written");
    }
    let expected = std::fs::read_to_string(path).unwrap_or_default();
    let advice = format!("if that is meant: {update}=1 cargo test --test config");
    assert!(expected == text, "{} is stale\n--- it has\n{expected}--- now\n{text}\n{advice}", path.display());
}
