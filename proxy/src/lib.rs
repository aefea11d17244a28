//! The sidecar: it gives the workload beside it a cryptographic identity, speaks mutual TLS for it in both directions,
//! lets in only the peers that policy allows, and tells people what it saw. It knows no Kubernetes and signs nothing.

#![allow(dead_code, unused_imports, reason = "HTTP is being built on it")]

mod accept;
mod access_log;
pub mod admin;
mod authorize;
pub mod backoff;
mod begin;
mod callouts;
pub mod channel;
mod chunk;
pub mod config;
pub mod connection;
mod credentials;
pub mod data_path;
mod destinations;
mod dial;
mod ext_authz;
mod first_bytes;
mod forward;
mod http;
pub mod identity;
mod inbound;
mod jwt;
mod link;
pub mod logging;
pub mod metrics;
mod open_files;
mod outbound;
mod outcome;
mod pool;
pub mod readiness;
pub mod redirect;
pub mod report;
pub mod roots;
mod route;
pub mod run;
mod shared;
pub mod shutdown;
mod sniff;
mod socket;
pub mod state;
mod sys;
mod tls;
#[allow(dead_code, reason = "the data path is about to use it")]
pub mod traffic;
pub mod vitals;
mod watch_grounds;
pub mod xds;
