//! The files of a folder as one: mappings merge, lists append in the order of the files, a value is written once.

use super::problem::Problem;
use super::tree::{Node, Value, key_path};

/// Merges the roots of all files; `None` when there are none.
pub(super) fn merge(roots: Vec<Node>, problems: &mut Vec<Problem>) -> Option<Node> {
    let mut merged = roots.into_iter().reduce(|mut first, later| {
        merge_into(&mut first, later, problems);
        first
    })?;
    merged.set_paths(String::new());
    Some(merged)
}

fn merge_into(first: &mut Node, later: Node, problems: &mut Vec<Problem>) {
    match (&mut first.value, later.value) {
        (_, Value::Null) => {}
        (Value::Null, value) => *first = Node { value, ..later },
        (Value::Map(entries), Value::Map(later)) => merge_entries(&first.path, entries, later, problems),
        (Value::List(items), Value::List(later)) => items.extend(later),
        _ => {
            let message = format!("already set at {}; write it in one of the two places", first.place);
            problems.push(Problem::at(&later.place, &first.path, message));
        }
    }
}

fn merge_entries(
    path: &str,
    entries: &mut Vec<(String, Node)>,
    later: Vec<(String, Node)>,
    problems: &mut Vec<Problem>,
) {
    for (key, mut node) in later {
        if let Some((_, first)) = entries.iter_mut().find(|(known, _)| *known == key) {
            merge_into(first, node, problems);
        } else {
            node.set_paths(key_path(path, &key));
            entries.push((key, node));
        }
    }
}
