//! Collects what is wrong with settings that can each be read, but do not fit together.

use super::problem::{Place, Problem};
use super::tree::{Node, is_at_or_below};

pub(super) struct Report<'a> {
    root: &'a Node,
    problems: &'a mut Vec<Problem>,
    /// So many were found before: what follows from them is not worth saying.
    earlier: usize,
}

impl<'a> Report<'a> {
    pub(super) fn new(root: &'a Node, problems: &'a mut Vec<Problem>) -> Self {
        let earlier = problems.len();
        Self { root, problems, earlier }
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

    /// Where `path` stands, or what it would be a part of.
    pub(super) fn place(&self, path: &str) -> Place {
        self.root.nearest(path).place.clone()
    }

    /// Whether something is written at `path`.
    pub(super) fn is_written(&self, path: &str) -> bool {
        self.root.nearest(path).path == path
    }

    /// Whether a part of the setting at `path` was wrong already.
    pub(super) fn is_known_bad(&self, path: &str) -> bool {
        self.problems.iter().take(self.earlier).any(|problem| is_at_or_below(&problem.key, path))
    }
}
