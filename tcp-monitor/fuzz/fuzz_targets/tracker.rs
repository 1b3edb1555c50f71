//! Feeds `targets/tracker/mod.rs` with what libFuzzer makes up.

#![no_main]

#[path = "../targets/tracker/mod.rs"]
mod tracker;

libfuzzer_sys::fuzz_target!(|data: &[u8]| tracker::run(data));
