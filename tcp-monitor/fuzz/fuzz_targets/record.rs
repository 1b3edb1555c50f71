//! Feeds `targets/record.rs` with what libFuzzer makes up.

#![no_main]

#[path = "../targets/record.rs"]
mod record;

libfuzzer_sys::fuzz_target!(|data: &[u8]| record::run(data));
