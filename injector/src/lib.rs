//! The admission webhook and, at its heart, the pure function from a Pod to a patched Pod: redirect init container,
//! native sidecar, projected token, rewritten probes. It decides no policy and signs nothing.

mod admin;
mod annotations;
pub mod certificate;
mod edits;
pub mod gaps;
pub mod inject;
pub mod metrics;
pub mod offline;
pub mod owner;
mod probes;
mod quantity;
pub mod review;
pub mod run;
pub mod settings;
mod sidecar;
mod trust;
pub mod webhook;

pub use annotations::{KNOBS, Knob};
pub use run::{Config, RunError, run};
