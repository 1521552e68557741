//! The arrows between the modules, and the size of files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// What each module uses. A new arrow is a decision: write it here, with care that no circle comes of it.
const ARROWS: [(&str, &[&str]); 24] = [
    ("main", &["cli", "config", "resolve", "run", "telemetry"]),
    ("cli", &["config"]),
    ("resolve", &["admission", "config", "gates", "registry", "resilience", "route", "telemetry"]),
    (
        "run",
        &[
            "admin",
            "admission",
            "callback",
            "config",
            "credentials",
            "gates",
            "gateway",
            "park",
            "registry",
            "route",
            "server",
            "telemetry",
        ],
    ),
    (
        "config",
        &[
            "admin",
            "admission",
            "callback",
            "credentials",
            "gates",
            "nexus",
            "park",
            "registry",
            "resilience",
            "route",
            "secret",
            "server",
            "telemetry",
            "tls",
            "upstream",
        ],
    ),
    (
        "admin",
        &["gates", "gateway", "park", "registry", "resilience", "route", "server", "telemetry", "tls", "upstream"],
    ),
    ("server", &["admission", "body", "gates", "gateway", "response", "telemetry", "tls"]),
    (
        "gateway",
        &[
            "admission",
            "body",
            "callback",
            "credentials",
            "gates",
            "nexus",
            "park",
            "registry",
            "resilience",
            "response",
            "route",
            "telemetry",
            "upstream",
        ],
    ),
    ("route", &["callback", "credentials", "gates", "nexus", "registry", "resilience", "telemetry", "tls", "upstream"]),
    ("telemetry", &["body", "nexus", "resilience", "response"]),
    ("response", &["body", "credentials", "nexus", "upstream"]),
    ("callback", &["admission", "body", "credentials", "nexus", "tls", "upstream"]),
    ("park", &["resilience", "tls"]),
    ("upstream", &["credentials", "nexus", "resilience", "tls"]),
    ("registry", &["credentials", "fetch", "gates", "nexus"]),
    ("fetch", &["tls"]),
    ("credentials", &["admission", "fetch", "secret", "tls"]),
    ("secret", &[]),
    ("admission", &["fetch", "secret", "tls"]),
    ("tls", &[]),
    ("body", &[]),
    ("gates", &["resilience", "tls"]),
    // Pure: functions of their arguments.
    ("nexus", &[]),
    ("resilience", &[]),
];

/// A file beyond this wants to be two.
const MAX_LINES: usize = 600;

/// Libraries that would bring I/O, tasks or state into modules that must stay pure.
const IMPURE: [&str; 6] = ["tokio::net", "tokio::sync", "tokio::task", "tokio::spawn", "std::net", "std::sync"];

#[test]
fn modules_use_each_other_as_the_table_says() {
    let table: BTreeMap<_, _> = ARROWS.into_iter().map(|(from, to)| (from, BTreeSet::from_iter(to.to_vec()))).collect();
    let found = arrows();
    let found = found.iter().map(|(from, to)| (from.as_str(), to.iter().map(String::as_str).collect()));
    for (module, uses) in found.collect::<BTreeMap<_, BTreeSet<_>>>() {
        let allowed = table.get(module).unwrap_or_else(|| panic!("{module} is not in the table"));
        assert_eq!(&uses, allowed, "left: what {module} uses, right: what the table says");
    }
}

#[test]
fn modules_do_not_use_each_other_in_circles() {
    let table: BTreeMap<_, _> = ARROWS.into_iter().collect();
    let mut settled = BTreeSet::new();
    while let Some((module, _)) =
        table.iter().find(|(name, uses)| !settled.contains(*name) && uses.iter().all(|used| settled.contains(used)))
    {
        settled.insert(*module);
    }
    let circling: Vec<_> = table.keys().filter(|name| !settled.contains(*name)).collect();
    assert!(circling.is_empty(), "{circling:?}");
}

#[test]
fn pure_modules_do_no_input_and_output() {
    for (file, code) in sources().filter(|(file, _)| matches!(&*module_of(file), "nexus" | "resilience")) {
        for library in IMPURE {
            assert!(!code.contains(library), "{} uses {library}", file.display());
        }
    }
}

#[test]
fn no_file_is_too_long() {
    for (file, code) in sources() {
        let lines = code.lines().count();
        assert!(lines <= MAX_LINES, "{} has {lines} lines", file.display());
    }
}

/// What each module uses, by its code.
fn arrows() -> BTreeMap<String, BTreeSet<String>> {
    let mut arrows: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (file, code) in sources() {
        let module = module_of(&file);
        if module == "lib" {
            continue;
        }
        let uses = arrows.entry(module.clone()).or_default();
        for line in code.lines().filter(|line| !line.trim_start().starts_with("//")) {
            let prefix = if module == "main" { "nexus_gateway::" } else { "crate::" };
            uses.extend(line.split(prefix).skip(1).map(first_name).filter(|used| *used != module));
        }
        uses.remove("");
    }
    arrows
}

fn first_name(text: &str) -> String {
    text.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
}

/// The top-level module that a file belongs to.
fn module_of(file: &Path) -> String {
    let inside = file.strip_prefix(source_folder()).expect("a file below src");
    let first = inside.iter().next().expect("a file has a name");
    first.to_string_lossy().trim_end_matches(".rs").to_owned()
}

/// Every source file with its text.
fn sources() -> impl Iterator<Item = (PathBuf, String)> {
    let mut files = Vec::new();
    collect(&source_folder(), &mut files);
    assert!(files.len() > 20, "the sources are where this test looks");
    files.into_iter().map(|file| {
        let code = std::fs::read_to_string(&file).expect("a source file is text");
        (file, code)
    })
}

fn source_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in folder.read_dir().expect("the folder can be read") {
        let path = entry.expect("the folder can be read").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}
