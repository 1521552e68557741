//! `cargo +nightly fuzz run link`
#![no_main]

#[path = "../checks/link.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|input: &[u8]| checks::check(input));
