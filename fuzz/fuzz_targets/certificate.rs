//! `cargo +nightly fuzz run certificate`
#![no_main]

#[path = "../checks/certificate.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|input: &[u8]| checks::check(input));
