//! The key of a gateway that was given none: made once, and kept in the state folder.
//!
//! A key that gets lost takes with it the results of all operations that were started under it. So one that is there is
//! never written over, whatever is wrong with it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use uuid::Uuid;

use super::seal::Key;

/// In the state folder.
const FILE: &str = "callback-key";

/// The key in the state folder, made if there is none; without a folder one that ends with the process. Blocks.
///
/// # Errors
/// Where a key cannot be written, or one that is there cannot be read; the message names the file.
pub fn load_or_generate(state: Option<&Path>) -> io::Result<Key> {
    let Some(state) = state else {
        tracing::warn!(
            "callbacks and tokens of operations are sealed with a key that ends with this process: what runs then can \
            neither complete nor be canceled; set `callbacks.keys`, or `state.directory`"
        );
        return Ok(generate());
    };
    let path = state.join(FILE);
    let key = match load(&path)? {
        Some(key) => key,
        None => make(state, &path)?,
    };
    tracing::warn!(
        path = %path.display(),
        key = &*key.id,
        "callbacks and tokens of operations are sealed with a key that only this gateway has; replicas need a shared \
        one: set `callbacks.keys`"
    );
    Ok(key)
}

/// The key in the state folder, if there is one, for what it sealed when something was sealed. Blocks.
pub fn kept(state: Option<&Path>) -> Option<Key> {
    let damaged = |error: &io::Error| tracing::warn!(%error, "tokens that were sealed before do not open");
    load(&state?.join(FILE)).inspect_err(damaged).ok().flatten()
}

/// Its name is not the same in two gateways, so that a log tells their keys apart.
fn generate() -> Key {
    let mut name = Uuid::new_v4().simple().to_string();
    name.truncate(8);
    Key::generate(&format!("local-{name}"))
}

fn load(path: &Path) -> io::Result<Option<Key>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(about(path, "cannot be read", &error)),
    };
    let advice = "put back what was there; without it, operations that still run lose their results";
    let key = Key::parse(&text).map_err(|error| {
        io::Error::new(io::ErrorKind::InvalidData, format!("{}: is damaged: {error}; {advice}", path.display()))
    })?;
    Ok(Some(key))
}

/// Where another gateway made one meanwhile, that one.
fn make(state: &Path, path: &Path) -> io::Result<Key> {
    let key = generate();
    match keep(state, path, &key) {
        Ok(()) => Ok(key),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => load(path)?.ok_or(error),
        Err(error) => Err(about(path, "cannot be written", &error)),
    }
}

/// Before it is complete it has another name.
fn keep(state: &Path, path: &Path, key: &Key) -> io::Result<()> {
    fs::create_dir_all(state)?;
    let incomplete = path.with_extension(format!("{}.tmp", Uuid::new_v4().simple()));
    let kept = write(&incomplete, key).and_then(|()| publish(&incomplete, path));
    // After a rename there is none.
    let _ = fs::remove_file(&incomplete);
    kept?;
    File::open(state)?.sync_all()
}

fn write(path: &Path, key: &Key) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    writeln!(file, "{}", key.to_text())?;
    file.sync_all()
}

/// A link, unlike a rename, leaves a key that was made meanwhile. Not every file system has links.
fn publish(incomplete: &Path, path: &Path) -> io::Result<()> {
    match fs::hard_link(incomplete, path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists && !path.exists() => fs::rename(incomplete, path),
        linked => linked,
    }
}

fn about(path: &Path, what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {what}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::thread;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_only_for_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("a/b");
        let key = load_or_generate(Some(&state)).unwrap();
        let path = state.join(FILE);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_to_string(&path).unwrap(), key.to_text() + "\n");
        assert_eq!(load_or_generate(Some(&state)).unwrap(), key);
        assert_eq!(state.read_dir().unwrap().count(), 1, "something was left behind");
        let other = tempfile::tempdir().unwrap();
        assert_ne!(load_or_generate(Some(other.path())).unwrap().id, key.id);
    }

    #[test]
    fn what_is_there_is_never_written_over() {
        for text in
            ["", "\n", "k1", "k1:short", ":", "\u{0}", "k1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA-hunter2"]
        {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join(FILE);
            fs::write(&path, text).unwrap();
            let error = load_or_generate(Some(folder.path())).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{}: is damaged: ", path.display())), "{text:?}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn what_cannot_be_read_or_written_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        fs::create_dir(&path).unwrap();
        let error = load_or_generate(Some(folder.path())).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{}: cannot be read: ", path.display())), "{error}");
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let error = load_or_generate(Some(&file)).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{}/{FILE}: cannot be ", file.display())), "{error}");
    }

    #[test]
    fn gateways_that_start_together_get_the_same_key() {
        let folder = tempfile::tempdir().unwrap();
        let load = || load_or_generate(Some(folder.path())).unwrap();
        let keys: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(load)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");
        assert_eq!(folder.path().read_dir().unwrap().count(), 1);
    }

    #[test]
    fn without_a_folder_there_is_a_key_as_well() {
        assert_ne!(load_or_generate(None).unwrap(), load_or_generate(None).unwrap());
    }
}
