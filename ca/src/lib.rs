//! The mini-CA: root, intermediate and leaf certificates of one trust domain; attesting who asks; a durable store; a log of
//! everything that was signed. It knows no policy and no proxy, and never reads names out of a certificate request.

pub mod admin;
pub mod attest;
pub mod authority;
pub mod backup;
pub mod csr;
pub mod digest;
pub mod hierarchy;
pub mod jwt;
pub mod log;
pub mod profile;
pub mod rate;
pub mod revocation;
pub mod roster;
pub mod rotation;
pub mod seal;
pub mod secret;
pub mod service;
pub mod state;
pub mod status;
pub mod store;
pub mod supplied;
pub mod token;
