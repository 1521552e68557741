//! `cargo +nightly fuzz run query`
#![no_main]

#[path = "../checks/query.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|input: &[u8]| checks::check(input));
