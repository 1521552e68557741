//! What fuzzing found worth keeping holds on: each file of `fuzz/corpus` goes through the check of its target.

use std::path::Path;

#[path = "../fuzz/checks/failure.rs"]
mod failure;
#[path = "../fuzz/checks/link.rs"]
mod link;
#[path = "../fuzz/checks/path.rs"]
mod path;
#[path = "../fuzz/checks/query.rs"]
mod query;
#[path = "../fuzz/checks/redact.rs"]
mod redact;
#[path = "../fuzz/checks/seal.rs"]
mod seal;
#[path = "../fuzz/checks/started.rs"]
mod started;
#[path = "../fuzz/checks/timeout.rs"]
mod timeout;

fn replay(target: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut replayed = 0;
    for entry in folder.read_dir().expect("the corpus is there") {
        let file = entry.expect("the folder can be read").path();
        // Shown only where the check fails.
        println!("{}", file.display());
        check(&std::fs::read(&file).expect("the file can be read"));
        replayed += 1;
    }
    assert!(replayed > 0, "{} is empty", folder.display());
}

#[test]
fn paths() {
    replay("path", path::check);
}

#[test]
fn timeouts() {
    replay("timeout", timeout::check);
}

#[test]
fn links() {
    replay("link", link::check);
}

#[test]
fn failures() {
    replay("failure", failure::check);
}

#[test]
fn redacted_failures() {
    replay("redact", redact::check);
}

#[test]
fn seals() {
    replay("seal", seal::check);
}

#[test]
fn queries() {
    replay("query", query::check);
}

#[test]
fn started_operations() {
    replay("started", started::check);
}
