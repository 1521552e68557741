//! `${env:NAME}` and `${file:/path}` in texts, `$$` for a dollar sign.

use std::path::Path;

use super::inputs::Inputs;
use super::problem::Problem;
use super::tree::{Node, Value, is_secret};

/// Looks up an environment variable.
pub(super) type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Expands every text below `node`; one that cannot be expanded counts as not written.
pub(super) fn expand(node: &mut Node, environment: Environment<'_>, inputs: &mut Inputs, problems: &mut Vec<Problem>) {
    if let Value::Text(text) = &node.value
        && text.contains('$')
    {
        let shown = !is_secret(&node.path);
        match expand_text(text, shown, environment, inputs) {
            Ok(expanded) => {
                node.expanded = text.contains("${");
                node.value = Value::Text(expanded);
            }
            Err(message) => {
                problems.push(Problem::at(&node.place, &node.path, message));
                node.value = Value::Null;
            }
        }
    }
    for child in node.children_mut() {
        expand(child, environment, inputs, problems);
    }
}

/// Where the text is not `shown`, a message repeats what is needed to find its source, and nothing that was written in the
/// place of it.
fn expand_text(text: &str, shown: bool, environment: Environment<'_>, inputs: &mut Inputs) -> Result<String, String> {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        expanded.push_str(before);
        rest = if let Some(after) = after.strip_prefix('$') {
            expanded.push('$');
            after
        } else if let Some(reference) = after.strip_prefix('{') {
            let (reference, after) = reference.split_once('}').ok_or("`${` has no `}`; for a plain `$` write `$$`")?;
            expanded.push_str(&look_up(reference, shown, environment, inputs)?);
            after
        } else {
            expanded.push('$');
            after
        };
    }
    expanded.push_str(rest);
    Ok(expanded)
}

fn look_up(reference: &str, shown: bool, environment: Environment<'_>, inputs: &mut Inputs) -> Result<String, String> {
    let is_name = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    match reference.split_once(':') {
        Some(("env", name)) if !shown && !is_name(name) => {
            Err("`${env:` is not followed by the name of a variable".into())
        }
        Some(("env", name)) => environment(name)
            .ok_or_else(|| format!("the environment variable `{name}` is not set; set it, or write the value here")),
        Some(("file", path)) if Path::new(path).is_absolute() => read(path, inputs),
        _ if !shown => {
            Err("has a reference that is unknown; write `${env:NAME}` or `${file:/path}`, or `$$` for `$`".into())
        }
        Some(("file", path)) => Err(format!("`{path}` is not an absolute path; write `${{file:/path}}`")),
        _ => Err(format!("`${{{reference}}}` is unknown; write `${{env:NAME}}` or `${{file:/path}}`, or `$$` for `$`")),
    }
}

/// Without the last newline, which editors and `echo` add to a secret's file.
fn read(path: &str, inputs: &mut Inputs) -> Result<String, String> {
    let text = inputs.read(Path::new(path)).map_err(|why| format!("cannot read `{path}`: {why}"))?;
    let trimmed = text.strip_suffix('\n').unwrap_or(&text);
    Ok(trimmed.strip_suffix('\r').unwrap_or(trimmed).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(text: &str) -> Result<String, String> {
        let environment = |name: &str| (name == "NAME").then(|| "va$lue".to_owned());
        expand_text(text, true, &environment, &mut Inputs::default())
    }

    #[test]
    fn expands_references_and_dollars() {
        for (text, expected) in [
            ("plain", "plain"),
            ("${env:NAME}", "va$lue"),
            ("a-${env:NAME}-${env:NAME}", "a-va$lue-va$lue"),
            ("$${env:NAME}", "${env:NAME}"),
            ("5$ and $$", "5$ and $"),
        ] {
            assert_eq!(expanded(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn says_what_to_write_instead() {
        for (text, part) in [
            ("${env:MISSING}", "`MISSING` is not set"),
            ("${env:NAME", "has no `}`"),
            ("${NAME}", "write `${env:NAME}`"),
            ("${file:relative}", "absolute path"),
            ("${file:/no/such/file}", "cannot read `/no/such/file`"),
        ] {
            let message = expanded(text).expect_err(text);
            assert!(message.contains(part), "{text}: {message}");
        }
    }
}
