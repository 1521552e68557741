//! `cargo +nightly fuzz run authority`
#![no_main]

#[path = "../checks/authority.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|input: &[u8]| checks::check(input));
