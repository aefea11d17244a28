//! `cargo +nightly fuzz run objects_page`: see `bodies.rs` for what must hold.
#![no_main]

#[path = "../bodies.rs"]
#[allow(dead_code)]
mod bodies;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bodies::objects_page(bytes));
