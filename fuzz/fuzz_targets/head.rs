//! `cargo +nightly fuzz run head`
#![no_main]

#[path = "../checks/head.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|input: &[u8]| checks::check(input));
