//! `cargo +nightly fuzz run jwt`
#![no_main]

#[path = "../checks/jwt.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|input: &[u8]| checks::check(input));
