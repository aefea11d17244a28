//! The ground floor of Squire: the nouns that cross a process boundary. SPIFFE IDs, SVID verification, the policy table
//! and its pure decision function, the wire messages, the well-known ports and annotations. It opens no sockets, reads
//! no files and knows no Kubernetes client.

pub mod bundle;
pub mod json;
pub mod jwk;
pub mod jwt_svid;
pub mod policy;
pub mod ports;
pub mod probe;
pub mod resource;
pub mod spiffe;
pub mod svid;
pub mod tls;
pub mod traffic;
pub mod wire;
pub mod workload;
