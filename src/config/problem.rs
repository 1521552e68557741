//! What is wrong with a configuration, and where.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One thing to correct. Its text never contains a value that came from `${env:…}` or `${file:…}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file, or the command-line flag (`--cluster`), that has to change.
    pub file: PathBuf,
    /// Line in that file, counted from 1.
    pub line: Option<usize>,
    /// The setting, such as `policies[1].timeout`; empty where the whole file is meant.
    pub key: String,
    /// What is wrong, and what to write instead.
    pub message: String,
}

impl Problem {
    pub(super) fn in_file(file: &Path, message: impl Into<String>) -> Self {
        Self { file: file.into(), line: None, key: String::new(), message: message.into() }
    }

    pub(super) fn at(place: &Place, key: &str, message: impl Into<String>) -> Self {
        let line = (place.line > 0).then_some(place.line);
        Self { file: place.file.to_path_buf(), line, key: key.into(), message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.message)
    }
}

impl std::error::Error for Problem {}

/// A line of a file; line 0 stands for a command-line flag, whose name is then the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) file: Arc<Path>,
    pub(super) line: usize,
}

impl Place {
    pub(super) fn flag(name: &str) -> Self {
        Self { file: Path::new(name).into(), line: 0 }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}", self.file.display()),
            line => write!(f, "{}:{line}", self.file.display()),
        }
    }
}

/// `` ; did you mean `near`? `` where one of `known` is near to `word`, else nothing.
pub(super) fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let near = known.into_iter().map(|name| (strsim::damerau_levenshtein(word, name), name)).min()?;
    let farthest = (word.chars().count() / 3).max(1);
    (near.0 <= farthest).then(|| format!("; did you mean `{}`?", near.1))
}

/// `` `a`, `b`, `c` ``
pub(super) fn quoted_list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggests_only_what_is_near() {
        assert_eq!(did_you_mean("tiemout", ["timeout", "match"]).as_deref(), Some("; did you mean `timeout`?"));
        assert_eq!(did_you_mean("speed", ["timeout", "match"]), None);
        assert_eq!(did_you_mean("speed", []), None);
    }
}
