//! The control plane of a cluster, on a real API server: `squire control --kubernetes`, real sidecars, real tokens. Each
//! test has an API server of its own; where there is none, they say that they are skipped.

mod burst;
mod log;
mod objects;
mod reach;
mod replicas;
mod rotation;
mod schemas;
mod survival;
mod tokens;
mod world;
