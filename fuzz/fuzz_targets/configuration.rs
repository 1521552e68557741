//! `cargo +nightly fuzz run configuration`
#![no_main]

#[path = "../checks/configuration.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|input: &[u8]| checks::check(input));
