//! Files of the keys that sign who calls: the one that does, and those that are told beside it.

use std::path::Path;

use nexus_gateway::config::{Overrides, load, load_changed};
use nexus_gateway::credentials::PublicKey;
use tempfile::tempdir;

use crate::{load_path, refusal, write};

/// A configuration that signs by `a.key` and tells of `published`; there are the files `a.key`, `a.pub`, `b.key` and `b.pub`.
fn signing(folder: &Path, published: &str) -> std::path::PathBuf {
    for name in ["a", "b"] {
        let pair = rcgen::KeyPair::generate().expect("a key");
        write(folder, &format!("{name}.key"), &pair.serialize_pem());
        write(folder, &format!("{name}.pub"), &pair.public_key_pem());
    }
    let text = format!("callers:\n  signing_key: FOLDER/a.key\n  published_keys: [{published}]\n");
    write(folder, "gateway.yaml", &text.replace("FOLDER", folder.to_str().expect("a path of text")))
}

#[test]
fn public_keys_are_read_from_either_kind_of_file() {
    let folder = tempdir().unwrap();
    let settings = load_path(&signing(folder.path(), "FOLDER/b.key, FOLDER/a.pub")).unwrap().callers.unwrap();
    let read = |name: &str| PublicKey::read(&std::fs::read_to_string(folder.path().join(name)).unwrap()).unwrap();
    assert_eq!(settings.published, [read("b.pub"), read("a.key")]);
    assert_eq!(settings.key.public(), read("a.pub"), "it may be among them");
}

#[test]
fn a_key_is_published_once() {
    let folder = tempdir().unwrap();
    let report = refusal(load_path(&signing(folder.path(), "FOLDER/b.pub, FOLDER/b.key")));
    let expected = "FOLDER/gateway.yaml:3: callers.published_keys[1]: has the same key as `callers.published_keys[0]` \
        (FOLDER/gateway.yaml:3); remove one of them\n";
    assert_eq!(report.replace(folder.path().to_str().unwrap(), "FOLDER"), expected);
}

#[test]
fn a_changed_public_key_is_a_changed_configuration() {
    let folder = tempdir().unwrap();
    let (file, overrides) = (signing(folder.path(), "FOLDER/b.pub"), Overrides::default());
    let (inputs, first) = load(Some(&file), &overrides);
    assert!(load_changed(Some(&file), &overrides, &inputs).is_none());
    write(folder.path(), "b.pub", &rcgen::KeyPair::generate().unwrap().public_key_pem());
    let (_, second) = load_changed(Some(&file), &overrides, &inputs).unwrap();
    assert_ne!(first.unwrap().callers, second.unwrap().callers);
}
