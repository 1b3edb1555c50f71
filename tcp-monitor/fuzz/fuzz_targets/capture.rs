//! Feeds `targets/capture.rs` with what libFuzzer makes up.

#![no_main]

#[path = "../targets/capture.rs"]
mod capture;

libfuzzer_sys::fuzz_target!(|data: &[u8]| capture::run(data));
