//! Reads the files of a configuration and remembers every text it read.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::problem::Problem;

/// Far above any real configuration; keeps a wrong path (`/dev/zero`, a log) from filling the memory.
const MAX_FILE: u64 = 4 << 20;

/// Every text that a load read: the configuration files and the files named by `${file:…}`.
///
/// Two loads with equal `Inputs` gave the same result, so a watcher loads again every now and then and compares.
/// A file that could not be read is part of it too: it may be there the next time.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Inputs {
    texts: BTreeMap<PathBuf, Result<Arc<str>, String>>,
    /// Whether there is nothing but what is here already.
    closed: bool,
}

impl Inputs {
    /// The files that were read or looked for.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.texts.keys().map(PathBuf::as_path)
    }

    /// Whether everything that was read to load `path` still reads the same. Far cheaper than to load it again.
    pub fn are_current(&self, path: Option<&Path>) -> bool {
        let same = |(file, text): (&PathBuf, &Result<Arc<str>, String>)| match (read_text(file), text) {
            (Ok(now), Ok(then)) => *now == **then,
            (Err(now), Err(then)) => now.to_string() == *then,
            _ => false,
        };
        let none_added = || match path.filter(|path| path.is_dir()).map(yaml_files) {
            Some(Ok(files)) => files.iter().all(|file| self.texts.contains_key(file)),
            Some(Err(_)) => false,
            None => true,
        };
        self.texts.iter().all(same) && none_added()
    }

    /// One file with this text, beside which there is no other.
    pub(super) fn only(file: &Path, text: &str) -> Self {
        Self { texts: BTreeMap::from([(file.to_path_buf(), Ok(text.into()))]), closed: true }
    }

    /// The text of a file, or why there is none. Read once: a load sees one state of each file.
    pub(super) fn read(&mut self, file: &Path) -> Result<Arc<str>, String> {
        if self.closed {
            return self.texts.get(file).cloned().unwrap_or_else(|| Err("no other file is read".to_owned()));
        }
        let read = || read_text(file).map(Arc::from).map_err(|error| error.to_string());
        self.texts.entry(file.to_path_buf()).or_insert_with(read).clone()
    }

    fn refuse(&mut self, path: &Path, why: &str) -> Problem {
        self.texts.insert(path.to_path_buf(), Err(why.to_owned()));
        Problem::in_file(path, why)
    }
}

/// Shows the names only: the texts may be secrets.
impl fmt::Debug for Inputs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.texts.keys()).finish()
    }
}

/// The configuration files that `path` stands for: itself, or the `*.yaml` and `*.yml` in it, in name order.
pub(super) fn files_of(path: &Path, inputs: &mut Inputs) -> Result<Vec<PathBuf>, Problem> {
    if !path.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let files = yaml_files(path).map_err(|error| inputs.refuse(path, &format!("cannot be listed: {error}")))?;
    if files.is_empty() {
        return Err(inputs.refuse(path, "this folder has no *.yaml or *.yml file; put one there, or name a file"));
    }
    Ok(files)
}

fn yaml_files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in folder.read_dir()? {
        let entry = entry?;
        if is_yaml_name(&entry.file_name().to_string_lossy()) && !entry.path().is_dir() {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

/// Names with a leading dot are left out: Kubernetes keeps a `ConfigMap`'s real files below `..data`, and editors their
/// unsaved copies in `.#name`.
fn is_yaml_name(name: &str) -> bool {
    let extension = Path::new(name).extension();
    !name.starts_with('.') && extension.is_some_and(|extension| extension == "yaml" || extension == "yml")
}

fn read_text(file: &Path) -> io::Result<String> {
    let mut text = String::new();
    let length = File::open(file)?.take(MAX_FILE + 1).read_to_string(&mut text)?;
    if length as u64 > MAX_FILE {
        return Err(io::Error::other(format!("longer than {} MiB", MAX_FILE >> 20)));
    }
    Ok(text)
}
