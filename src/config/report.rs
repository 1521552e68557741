//! Collects what is wrong with settings that can each be read, but do not fit together.

use std::path::Path;
use std::sync::Arc;

use super::inputs::Inputs;
use super::problem::{Place, Problem};
use super::tree::{Node, is_at_or_below};

pub(super) struct Report<'a> {
    root: &'a Node,
    inputs: &'a mut Inputs,
    problems: &'a mut Vec<Problem>,
    /// So many were found before: what follows from them is not worth saying.
    earlier: usize,
}

impl<'a> Report<'a> {
    pub(super) fn new(root: &'a Node, inputs: &'a mut Inputs, problems: &'a mut Vec<Problem>) -> Self {
        let earlier = problems.len();
        Self { root, inputs, problems, earlier }
    }

    /// Says something about the setting at `path`, unless a part of it was wrong already.
    pub(super) fn add(&mut self, path: &str, message: impl Into<String>) {
        if !self.is_known_bad(path) {
            self.problems.push(Problem::at(&self.place(path), path, message));
        }
    }

    /// The same, beginning with the value itself, or with something neutral where it is not to be shown.
    pub(super) fn add_about(&mut self, path: &str, message: &str) {
        self.add(path, format!("{} {message}", self.root.nearest(path).shown()));
    }

    /// Says something about a command-line flag.
    pub(super) fn add_flag(&mut self, flag: &str, message: impl Into<String>) {
        self.problems.push(Problem::at(&Place::flag(flag), "", message));
    }

    /// The text of a file that the configuration names, or why there is none. A change of it is one of the configuration.
    pub(super) fn read(&mut self, file: &Path) -> Result<Arc<str>, String> {
        self.inputs.read(file)
    }

    /// Where `path` stands, or what it would be a part of.
    pub(super) fn place(&self, path: &str) -> Place {
        self.root.nearest(path).place.clone()
    }

    /// Whether something is written at `path`.
    pub(super) fn is_written(&self, path: &str) -> bool {
        self.root.nearest(path).path == path
    }

    /// Whether the text at `path` comes from somewhere else, in part at least.
    pub(super) fn is_expanded(&self, path: &str) -> bool {
        self.root.nearest(path).expanded
    }

    /// Whether a part of the setting at `path` was wrong already.
    pub(super) fn is_known_bad(&self, path: &str) -> bool {
        self.problems.iter().take(self.earlier).any(|problem| is_at_or_below(&problem.key, path))
    }
}
