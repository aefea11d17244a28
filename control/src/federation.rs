//! Trust between meshes (SPIFFE Federation): the bundles of other trust domains are fetched, refreshed and kept, each for
//! itself and never merged; ours is served to them. It decides nothing about workloads, and signs nothing.

mod address;
mod endpoint;
mod fetch;
mod figures;
mod follow;
mod keep;
mod settings;
mod web;

pub use address::EndpointUrl;
pub use endpoint::{Endpoints, WebCertificate};
pub use figures::FederationFigures;
pub use follow::{Federation, FederationView, Views};
pub use settings::{Federated, Profile, configured};

pub(crate) use settings::read;
