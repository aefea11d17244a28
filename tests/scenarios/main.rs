//! Every scenario, in one binary: real `squire control` and `squire-proxy` processes, real sockets, real peers. Each test
//! is named as the sentence it proves, waits for what it proves, and has addresses of its own, so that all run side by side.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

mod alerts;
mod clocks;
mod conformance;
mod connections;
mod demand;
mod demo;
mod endurance;
mod federation;
mod forecast;
mod hostile;
mod http;
mod http2;
mod identity;
mod installation;
mod issuing;
mod joining;
mod keeping;
mod kubernetes;
mod mistakes;
mod modes;
mod outages;
mod peers;
mod pods;
mod profile;
mod providers;
mod redirect;
mod resumption;
mod revocation;
mod rotation;
mod routing;
mod smuggling;
mod tokens;
mod traffic;
mod why;
mod workload_api;
