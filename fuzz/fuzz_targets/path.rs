//! `cargo +nightly fuzz run path`
#![no_main]

#[path = "../checks/path.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|input: &[u8]| checks::check(input));
