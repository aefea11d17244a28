//! The control side of a sidecar against a CA and control plane that do what each test tells them, over real mutual TLS.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends at the first surprise"
)]

mod admin;
mod demand;
mod fake;
mod identity;
mod process;
mod sidecar;
mod xds;
