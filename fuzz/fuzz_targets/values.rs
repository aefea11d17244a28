//! `cargo +nightly fuzz run values`: see `bodies.rs` for what must hold.
#![no_main]

#[path = "../bodies.rs"]
#[allow(dead_code)]
mod bodies;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bodies::values(bytes));
