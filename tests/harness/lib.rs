//! What the scenarios stand on: real `squire control` and `squire-proxy` processes on addresses of their own, real clients
//! and servers around them, and ways to wait for what they do. It never waits by sleeping for a fixed time, and whatever
//! it starts ends with the value that started it, also when a test panics.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    clippy::missing_panics_doc,
    reason = "everything here is only used by tests, and a panic is how a test fails"
)]

mod addresses;
pub mod apps;
pub mod authority;
pub mod backend;
mod capture;
pub mod clock;
pub mod cluster;
mod figures;
pub mod forge;
pub mod grpc;
pub mod http;
pub mod http2;
pub mod issuer;
pub mod judge;
mod kubelet;
pub mod kubernetes;
pub mod load;
mod mesh;
pub mod mirror;
pub mod namespace;
mod pair;
pub mod pattern;
mod peers;
mod process;
pub mod relay;
mod sidecar;
pub mod tls;
mod wait;
pub mod workload_api;

pub use addresses::Subnet;
pub use capture::Capture;
pub use cluster::{Cluster, ClusterPod, PodSidecar};
pub use figures::Figures;
pub use kubelet::Kubelet;
pub use kubernetes::ApiServer;
pub use mesh::{DOMAIN, Mesh, Papers, id};
pub use pair::{Listens, Pair};
pub use peers::{Peer, require};
pub use process::{Process, Signal, alone, binary, raise_file_limit};
pub use sidecar::{Pod, Sidecar};
pub use wait::{PATIENCE, eventually, in_time};
