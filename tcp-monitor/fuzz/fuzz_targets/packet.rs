//! Feeds `targets/packet.rs` with what libFuzzer makes up.

#![no_main]

#[path = "../targets/packet.rs"]
mod packet;

libfuzzer_sys::fuzz_target!(|data: &[u8]| packet::run(data));
