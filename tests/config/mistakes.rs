//! Every mistake is reported, at its line, with what to write instead: `bad/X.yaml` (or the folder `bad/X`) gives the
//! lines of `bad/X.expected`.

use std::path::Path;

use nexus_gateway::config::{Overrides, load};
use proptest::prelude::*;

use crate::{assert_same_as_file, load_path, load_text, refusal};

#[test]
fn each_mistake_is_reported_at_its_place() {
    let folder = Path::new("tests/config/bad");
    let mut seen = 0;
    for entry in folder.read_dir().unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() || path.extension().is_some_and(|extension| extension == "yaml") {
            let report = refusal(load_path(&path)).replace("tests/config/bad/", "");
            assert_same_as_file(&path.with_extension("expected"), &report, "UPDATE_EXPECTED");
            seen += 1;
        }
    }
    assert!(seen > 25, "only {seen} bad configurations were found");
}

#[test]
fn flags_are_checked_too() {
    for (clusters, expected) in [
        (vec!["localhost:7243"], "--cluster: `localhost:7243` is refused"),
        (vec!["ftp://a.example"], "the scheme must be http or https"),
        (vec!["http://a.example", "http://A.example:80"], "`http://a.example` is the same URL as at --cluster"),
        (vec!["http://a.example/x", "http://a.example/y"], "there is a cluster called `a.example` already"),
        (vec!["http://127.0.0.1:7243"], "is the same URL as at config/minimal.yaml:5"),
    ] {
        let overrides =
            Overrides { clusters: clusters.iter().map(ToString::to_string).collect(), ..Overrides::default() };
        let report = refusal(load(Some(Path::new("config/minimal.yaml")), &overrides).1);
        assert!(report.contains(expected) && report.lines().count() == 1, "{clusters:?}: {report}");
    }
    let address = "127.0.0.1:7999".parse().ok();
    let overrides = Overrides { listen: address, admin: address, ..Overrides::default() };
    let report = refusal(load(None, &overrides).1);
    assert_eq!(report, "--admin: takes the same port as `--listen`; write another one\n");
}

#[test]
fn a_missing_file_is_reported() {
    let report = refusal(load_path(Path::new("no/such/file.yaml")));
    assert!(report.starts_with("no/such/file.yaml: cannot be read: No such file"), "{report}");
}

#[test]
fn reports_are_bounded() {
    let keys: Vec<_> = (0..1000).map(|number| format!("wrong{number}: 1")).collect();
    assert_eq!(refusal(load_text(&keys.join("\n"))).lines().count(), 100);
}

#[test]
fn pairs_of_callers_and_namespaces_are_bounded() {
    let rules = |count: usize| {
        let of = |key, number| format!("  - {{ match: {{ {key}: a{number} }}, hold: true }}\n");
        let both = |number| of("caller", number) + &of("caller_namespace", number);
        format!("policies:\n{}", (0..count).map(both).collect::<String>())
    };
    assert_eq!(load_text(&rules(31)).map(|_| ()), Ok(()));
    let report = refusal(load_text(&rules(32)));
    assert!(report.contains("gateway.yaml:1: policies: name 32 callers and 32 namespaces"), "{report}");
}

#[test]
fn nesting_is_bounded() {
    for text in ["[".repeat(100_000), "- ".repeat(100_000), "? ".repeat(100_000), "{a: ".repeat(100_000)] {
        refusal(load_text(&text));
    }
    // The deepest that is parsed at all: a list in a mapping needs no column of its own.
    let blocks: Vec<_> = (0..64).map(|level| format!("{0}a:\n{0}-\n", " ".repeat(level))).collect();
    let deepest = format!("{}{}[{}]", blocks.concat(), " ".repeat(64), "[".repeat(253) + &"]".repeat(253));
    assert!(refusal(load_text(&deepest)).contains("unknown key `a`"));
}

#[test]
fn aliases_are_bounded() {
    let ten_of = |level: u32| vec![format!("*a{level}"); 10].join(", ");
    let levels: Vec<_> = (1..20).map(|level| format!("a{level}: &a{level} [{}]", ten_of(level - 1))).collect();
    let report = refusal(load_text(&format!("a0: &a0 x\n{}", levels.join("\n"))));
    assert!(report.contains("alias expansion exceeded"), "{report}");
}

proptest! {
    #[test]
    fn any_text_is_loaded_or_refused(text in "\\PC*") {
        let _ = load_text(&text);
    }

    #[test]
    fn any_structure_is_loaded_or_refused(text in yaml_like()) {
        let _ = load_text(&text);
    }

    /// Takes a good file and breaks one line of it.
    #[test]
    fn any_broken_line_is_loaded_or_refused(line in 0..200_usize, with in yaml_like()) {
        let good = include_str!("../../config/gateway.yaml");
        let broken = |(number, text): (usize, &str)| if number == line { with.clone() } else { text.to_owned() };
        let text: Vec<_> = good.lines().enumerate().map(broken).collect();
        let _ = load_text(&text.join("\n"));
    }
}

/// Lines of what a configuration is made of, in a wild order.
fn yaml_like() -> impl Strategy<Value = String> {
    let words = vec![
        "listen",
        "admin",
        "server",
        "clusters",
        "endpoints",
        "policies",
        "match",
        "worker",
        "external",
        "url",
        "timeout",
        "rate_limit",
        "rate",
        "retry",
        "breaker",
        "per",
        "redis",
        "callbacks",
        "public_url",
        "keys",
        "secret",
        "allow",
        "private",
        "off",
        "20%",
        "5/s",
        "redis://:p@h",
        "park",
        "on",
        "store",
        "postgres://u:p@h",
        "discover",
        "max_head",
        ":",
        ": ",
        "- ",
        "\n",
        "\n  ",
        "\n    ",
        "{",
        "}",
        "[",
        "]",
        ", ",
        "5s",
        "2MiB",
        "true",
        "~",
        "http://a",
        "127.0.0.1:0",
        "${env:HOME}",
        "${file:/x}",
        "$",
        "\"",
        "'",
        "&a ",
        "*a",
        "!t ",
        "? ",
        "|",
        ">",
        "#",
        "é",
        "---",
        "%YAML 1.2",
        "<<",
        "\t",
        "1e999",
        "0x10",
        ".nan",
    ];
    prop::collection::vec(prop::sample::select(words), 0..40).prop_map(|words| words.concat())
}
