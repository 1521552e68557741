//! YAML text to a tree whose nodes know where they stand.
//!
//! `saphyr` reads the YAML. What this format leaves out is refused here: several documents, tags, keys that are not
//! text. Anchors and aliases are fine; `saphyr` bounds how far they expand.

use std::path::Path;
use std::sync::Arc;

use saphyr::{LoadableYamlNode, MarkedYaml, Scalar, ScanError, YamlData};

use super::problem::{Place, Problem};

/// Deepest indentation. `saphyr` bounds the nesting of `[` and `{` but not of blocks, and recurses on it.
const MAX_INDENT: usize = 64;
/// Where a text is, or was meant as, a URL with a password or a key, however it looks.
const SECRETS: [&str; 7] = ["redis", "redis.url", "callbacks", "park", "park.store", "admin", "admin.token"];
/// Nothing that stands here is shown, names of keys included: an id and a secret may have changed places.
const KEYS: [&str; 2] = ["callbacks.keys", "authentication.api_keys.keys"];

/// Names of keys below what is guarded.
const KNOWN: [&str; 20] = [
    "audience",
    "bearer",
    "ca",
    "certificate",
    "client_auth",
    "client_id",
    "client_secret",
    "header",
    "id",
    "key",
    "name",
    "namespace",
    "oauth2",
    "scope",
    "secret",
    "server_name",
    "sha256",
    "tls",
    "token_url",
    "value",
];

#[derive(Clone, Debug)]
pub(super) struct Node {
    /// Such as `policies[1].timeout`; empty at the root.
    pub(super) path: String,
    /// Where its key stands, or the value itself in a list.
    pub(super) place: Place,
    pub(super) value: Value,
    /// Whether the text came from `${env:…}` or `${file:…}` and must not be shown.
    pub(super) expanded: bool,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    /// Nothing was written: the same as leaving the key out.
    Null,
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    /// In file order, keys unique.
    Map(Vec<(String, Node)>),
}

impl Node {
    /// The root where there is no file.
    pub(super) fn empty() -> Self {
        Self { path: String::new(), place: Place::flag("no file"), value: Value::Null, expanded: false }
    }

    /// How a message speaks of the value.
    pub(super) fn shown(&self) -> String {
        match &self.value {
            _ if self.expanded => "the expanded value".into(),
            Value::Text(_) if is_secret(&self.path) => "this text".into(),
            Value::Integer(_) | Value::Float(_) if is_secret(&self.path) => "this number".into(),
            Value::Null => "nothing".into(),
            Value::Bool(value) => format!("`{value}`"),
            Value::Integer(value) => format!("`{value}`"),
            Value::Float(value) => format!("`{value}`"),
            Value::Text(text) => shown_text(text),
            Value::List(_) => "a list".into(),
            Value::Map(_) => "a mapping".into(),
        }
    }

    pub(super) fn children_mut(&mut self) -> Box<dyn Iterator<Item = &mut Node> + '_> {
        match &mut self.value {
            Value::List(items) => Box::new(items.iter_mut()),
            Value::Map(entries) => Box::new(entries.iter_mut().map(|(_, node)| node)),
            _ => Box::new(std::iter::empty()),
        }
    }

    fn children(&self) -> Box<dyn Iterator<Item = &Node> + '_> {
        match &self.value {
            Value::List(items) => Box::new(items.iter()),
            Value::Map(entries) => Box::new(entries.iter().map(|(_, node)| node)),
            _ => Box::new(std::iter::empty()),
        }
    }

    /// The node at `path`, or the nearest one above it.
    pub(super) fn nearest(&self, path: &str) -> &Node {
        match self.children().find(|child| is_at_or_below(path, &child.path)) {
            Some(child) => child.nearest(path),
            None => self,
        }
    }

    /// Takes out the node at `path`: as if nothing had been written there.
    pub(super) fn clear(&mut self, path: &str) {
        if self.path == path {
            self.value = Value::Null;
        } else if let Some(child) = self.children_mut().find(|child| is_at_or_below(path, &child.path)) {
            child.clear(path);
        }
    }

    /// Takes out the mapping's entry at `path`, key and all.
    pub(super) fn remove(&mut self, path: &str) {
        if let Value::Map(entries) = &mut self.value {
            entries.retain(|(_, node)| node.path != path);
        }
        if let Some(child) = self.children_mut().find(|child| is_at_or_below(path, &child.path)) {
            child.remove(path);
        }
    }

    /// Gives every node below its path anew, as it is after a merge.
    pub(super) fn set_paths(&mut self, path: String) {
        self.path = path;
        match &mut self.value {
            Value::List(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    item.set_paths(item_path(&self.path, index));
                }
            }
            Value::Map(entries) => {
                for (key, node) in entries {
                    node.set_paths(key_path(&self.path, key));
                }
            }
            _ => {}
        }
    }
}

/// How a message speaks of a text. One with an `@` may be a URL with a password, and one in PEM a key.
pub(super) fn shown_text(text: &str) -> String {
    match text {
        "" => "the empty text".into(),
        text if text.contains('@') || text.contains("-----BEGIN") || text.chars().count() > 100 => "this text".into(),
        text => format!("`{}`", text.escape_debug()),
    }
}

/// Whether what stands at `path` must not be shown.
pub(super) fn is_secret(path: &str) -> bool {
    SECRETS.contains(&path)
        || guarded(path).is_some()
        || KEYS.iter().any(|keys| is_at_or_below(path, keys))
        || names_key_file(path)
        || path.ends_with(".jwks.bearer")
}

/// Whether the path of a private key's file stands there, or the key itself by mistake.
fn names_key_file(path: &str) -> bool {
    let of_tls = |(above, key): (&str, &str)| key == "key" && above.split('.').any(|part| part == "tls");
    path == "callers.signing_key"
        || is_at_or_below(path, "callers.published_keys")
        || path.rsplit_once('.').is_some_and(of_tls)
}

/// What of `path` may be shown of an unknown key there, if that is not all of it.
pub(super) fn shown_part(path: &str) -> Option<&str> {
    if let Some(part) = known_part(path) {
        return Some(part);
    }
    let keys = KEYS.iter().find(|keys| is_at_or_below(path, keys))?;
    path[keys.len()..].find(']').map(|end| &path[..=keys.len() + end])
}

/// What of `path` may be shown, if that is not all of it: below what is guarded, names that the format has. Others may be a
/// secret that stands where a key should, or has become a part of one.
pub(super) fn known_part(path: &str) -> Option<&str> {
    let below = guarded(path)?;
    let unknown = |(_, segment): &(usize, &str)| {
        let name = segment.split('[').next().unwrap_or_default();
        let is_header = below.headers && !name.starts_with('"') && (1..=64).contains(&name.len());
        !is_header && !KNOWN.contains(&name)
    };
    let hidden = segments(path).into_iter().find(|found| found.0 > below.start && unknown(found));
    hidden.map(|(start, _)| &path[..start - 1])
}

/// Where a path comes to what is guarded.
struct Guarded {
    /// Of the name that says so.
    start: usize,
    /// Whether the names below are those of headers.
    headers: bool,
}

fn guarded(path: &str) -> Option<Guarded> {
    if let Some(keys) = KEYS.iter().find(|keys| is_at_or_below(path, keys)) {
        return Some(Guarded { start: keys.rfind('.').map_or(0, |dot| dot + 1), headers: false });
    }
    if !is_at_or_below(path, "clusters") && !is_at_or_below(path, "endpoints") {
        return None;
    }
    let mut below_names = segments(path).into_iter().skip(2);
    let found = below_names.find(|(_, name)| matches!(name.split('[').next(), Some("credentials" | "headers")))?;
    Some(Guarded { start: found.0, headers: found.1 == "headers" })
}

/// The names of a path, each with its place in it.
fn segments(path: &str) -> Vec<(usize, &str)> {
    let (mut found, mut start, mut quoted, mut escaped) = (Vec::new(), 0, false, false);
    for (at, c) in path.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '.' if !quoted => {
                found.push((start, &path[start..at]));
                start = at + 1;
            }
            _ => {}
        }
    }
    found.push((start, &path[start..]));
    found
}

/// Whether `path` is `above` or a part of it.
pub(super) fn is_at_or_below(path: &str, above: &str) -> bool {
    path.strip_prefix(above).is_some_and(|rest| above.is_empty() || rest.is_empty() || rest.starts_with(['.', '[']))
}

/// The path of `key` in the mapping at `parent`.
pub(super) fn key_path(parent: &str, key: &str) -> String {
    let plain = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    let key = if plain { key.to_owned() } else { format!("{key:?}") };
    if parent.is_empty() { key } else { format!("{parent}.{key}") }
}

/// The path of the item number `index` of the list at `parent`.
pub(super) fn item_path(parent: &str, index: usize) -> String {
    format!("{parent}[{index}]")
}

/// Reads one document. On an error in the syntax there is nothing but that error.
pub(super) fn parse(file: &Path, text: &str, problems: &mut Vec<Problem>) -> Option<Node> {
    let mut reader = Reader { file: file.into(), problems };
    reader.refuse_deep_blocks(text)?;
    match MarkedYaml::load_from_str(text) {
        Ok(documents) => reader.document(&documents),
        Err(error) => reader.syntax_error(&error),
    }
}

struct Reader<'a> {
    file: Arc<Path>,
    problems: &'a mut Vec<Problem>,
}

impl Reader<'_> {
    fn refuse_deep_blocks(&mut self, text: &str) -> Option<()> {
        let is_indent = |c: char| matches!(c, ' ' | '\t' | '-' | '?' | ':');
        let deep = |line: &str| line.chars().take_while(|&c| is_indent(c)).count() > MAX_INDENT;
        let Some(line) = text.split(['\n', '\r']).position(deep) else { return Some(()) };
        let message = format!("a line is indented by more than {MAX_INDENT} columns; indent less");
        self.problem(line + 1, "", message);
        None
    }

    fn syntax_error(&mut self, error: &ScanError) -> Option<Node> {
        let message = match error.info() {
            "duplicated key in mapping" => "this key stands twice in the same mapping; keep one of them".to_owned(),
            info => {
                format!(
                    "not valid YAML: {info}; check the indentation, and put texts with `: `, `{{`, `[` or `,` in quotes"
                )
            }
        };
        self.problem(error.marker().line(), "", message);
        None
    }

    fn document(&mut self, documents: &[MarkedYaml<'_>]) -> Option<Node> {
        match documents {
            [] => Some(self.node(1, "", Value::Null)),
            [document] => Some(self.convert(document, document.span.start.line(), "")),
            [_, second, ..] => {
                let message = "a second document begins here; keep one per file (no `---` between), or use a folder";
                self.problem(second.span.start.line(), "", message);
                None
            }
        }
    }

    fn convert(&mut self, yaml: &MarkedYaml<'_>, line: usize, path: &str) -> Node {
        let value = match &yaml.data {
            YamlData::Value(scalar) => scalar_value(scalar),
            YamlData::Sequence(items) => Value::List(self.items(items, path)),
            YamlData::Mapping(entries) => Value::Map(self.entries(entries.iter(), path)),
            YamlData::Tagged(tag, _) => {
                let tag = if is_secret(path) { "a tag".into() } else { format!("a tag such as `{tag}`") };
                let advice = "remove it, or put a text that begins with `!` in quotes";
                self.problem(line, path, format!("{tag} means nothing here; {advice}"));
                Value::Null
            }
            YamlData::Representation(..) | YamlData::BadValue | YamlData::Alias(_) => {
                self.problem(line, path, "this value does not fit its tag; remove the tag");
                Value::Null
            }
        };
        self.node(line, path, value)
    }

    fn items(&mut self, items: &[MarkedYaml<'_>], path: &str) -> Vec<Node> {
        let convert = |(index, item): (usize, &MarkedYaml<'_>)| {
            self.convert(item, item.span.start.line(), &item_path(path, index))
        };
        items.iter().enumerate().map(convert).collect()
    }

    fn entries<'y, 'i: 'y>(
        &mut self,
        entries: impl Iterator<Item = (&'y MarkedYaml<'i>, &'y MarkedYaml<'i>)>,
        path: &str,
    ) -> Vec<(String, Node)> {
        let mut converted = Vec::new();
        for (key, value) in entries {
            let line = key.span.start.line();
            match &key.data {
                YamlData::Value(Scalar::String(name)) => {
                    let node = self.convert(value, line, &key_path(path, name));
                    converted.push((name.to_string(), node));
                }
                _ => self.problem(line, path, "a key is not text; put it in quotes"),
            }
        }
        converted
    }

    fn node(&self, line: usize, path: &str, value: Value) -> Node {
        Node { path: path.into(), place: Place { file: self.file.clone(), line }, value, expanded: false }
    }

    fn problem(&mut self, line: usize, path: &str, message: impl Into<String>) {
        let place = Place { file: self.file.clone(), line };
        self.problems.push(Problem::at(&place, path, message));
    }
}

fn scalar_value(scalar: &Scalar<'_>) -> Value {
    match scalar {
        Scalar::Null => Value::Null,
        Scalar::Boolean(value) => Value::Bool(*value),
        Scalar::Integer(value) => Value::Integer(*value),
        Scalar::FloatingPoint(value) => Value::Float(**value),
        Scalar::String(text) => Value::Text(text.to_string()),
    }
}
