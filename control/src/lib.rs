//! The control plane: sources (a directory of Kubernetes objects, or an API server) → facts → compile → push. It hosts the CA's issuing
//! service, but signing and deciding never import each other.

pub mod admin;
pub mod compile;
pub mod config;
mod error;
pub mod expiry;
pub mod facts;
pub mod federation;
pub mod forecast;
pub mod inventory;
pub mod issuing;
mod labelled;
pub mod lease;
pub mod listener;
pub mod manifest;
pub mod memory;
pub mod metrics;
pub mod pages;
pub mod peer;
pub mod pipeline;
mod plane;
pub mod policy;
pub mod push;
pub mod reports;
pub mod routes;
pub mod source;
pub mod tables;

pub use error::ControlError;
pub use plane::{Running, run};
