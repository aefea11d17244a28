//! `cargo +nightly fuzz run wire_service`: see `bodies.rs` for what must hold.
#![no_main]

#[path = "../bodies.rs"]
#[allow(dead_code)]
mod bodies;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bodies::wire_service(bytes));
