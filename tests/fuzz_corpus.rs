//! What fuzzing found worth keeping holds on: each file of `fuzz/corpus` goes through the check of its target.

use std::collections::BTreeSet;
use std::path::Path;

#[path = "support/fuzz_targets.rs"]
mod fuzz_targets;

use fuzz_targets::TARGETS;

#[test]
fn the_corpus_of_every_target_holds() {
    for target in TARGETS {
        let corpus = target.corpus();
        assert!(!corpus.is_empty(), "the corpus of {} is empty", target.name);
        for (file, input) in corpus {
            // Shown only where the check fails.
            println!("{file}");
            (target.check)(&input);
        }
    }
}

#[test]
fn every_target_is_run_in_every_way() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let names_in = |folder: &str| -> BTreeSet<String> {
        let entries = root.join(folder).read_dir().expect("the folder is there");
        let stem = |path: &Path| path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        entries.filter_map(|entry| stem(&entry.expect("the folder can be read").path())).collect()
    };
    let targets: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    for folder in ["fuzz/fuzz_targets", "fuzz/checks", "fuzz/corpus"] {
        assert_eq!(names_in(folder), targets, "{folder}");
    }
    let read = |file: &str| std::fs::read_to_string(root.join(file)).expect("the file can be read");
    let (makefile, manifest) = (read("Makefile"), read("fuzz/Cargo.toml"));
    let line = makefile.lines().find_map(|line| line.trim().strip_prefix("for target in ")).expect("make fuzz");
    let made: BTreeSet<String> = line.trim_end_matches("; do \\").split(' ').map(str::to_owned).collect();
    assert_eq!(made, targets, "make fuzz");
    for target in &targets {
        assert!(manifest.contains(&format!("\nname = \"{target}\"\n")), "fuzz/Cargo.toml has no {target}");
    }
}
