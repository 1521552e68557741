//! `cargo +nightly fuzz run redact`
#![no_main]

#[path = "../checks/redact.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|input: &[u8]| checks::check(input));
