//! `cargo +nightly fuzz run failure`
#![no_main]

#[path = "../checks/failure.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|input: &[u8]| checks::check(input));
