//! `cargo +nightly fuzz run started`
#![no_main]

#[path = "../checks/started.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|input: &[u8]| checks::check(input));
