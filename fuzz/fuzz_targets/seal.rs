//! `cargo +nightly fuzz run seal`
#![no_main]

#[path = "../checks/seal.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|input: &[u8]| checks::check(input));
