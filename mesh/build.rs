//! Compiles `proto/` into Rust with protox, so that no protoc has to be installed.

use std::{env, error::Error, fs, path::PathBuf};

use protox::prost::Message as _;

const FILES: [&str; 11] = [
    "istio/v1/auth/ca.proto",
    "envoy/service/auth/v3/external_auth.proto",
    "envoy/service/discovery/v3/discovery.proto",
    "google/rpc/status.proto",
    "grpc/health/v1/health.proto",
    "spiffe/workload.proto",
    "squire/v1/jwt.proto",
    "squire/v1/mesh.proto",
    "squire/v1/policy.proto",
    "squire/v1/report.proto",
    "squire/v1/traffic.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    let path = PathBuf::from(env::var("OUT_DIR")?).join("descriptors.bin");
    fs::write(&path, descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .btree_map(".")
        .bytes(".squire.v1")
        .build_transport(false)
        .include_file("wire.rs")
        .compile_fds(descriptors)?;
    Ok(())
}
