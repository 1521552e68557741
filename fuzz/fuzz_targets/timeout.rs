//! `cargo +nightly fuzz run timeout`
#![no_main]

#[path = "../checks/timeout.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|input: &[u8]| checks::check(input));
