//! The SPIFFE Workload API (opt-in): a Unix socket at which the application gets an SVID of its own, JWT-SVIDs, and the
//! bundles to verify others by. The application never gets the sidecar's key: it gets another SVID for the same identity,
//! under a key that was made for it. Who may ask is decided by user ID, as the kernel tells it; nobody has to prove more
//! (Workload Endpoint 5). It holds nothing that a peer of the mesh could reach.

mod answers;
mod authority;
mod endpoint;
mod figures;
mod handed;
mod service;
mod streams;
mod svid;
mod tokens;

use std::sync::Arc;

pub use endpoint::Endpoint;
pub use figures::WorkloadApiFigures;
pub use handed::Handed;

use self::{service::Api, svid::ApplicationSvids, tokens::Tokens};
use crate::{config::Config, identity, roots::Roots, state::State};

/// What the API is made of.
pub struct Parts {
    /// Who may ask, and the CA.
    pub config: Arc<Config>,
    /// Whom to trust before the control plane has said so.
    pub roots: Roots,
    /// The sidecar's own identity, which every request to the CA is made with.
    pub identity: identity::Receiver,
    /// Bundles and revocations.
    pub state: State,
    /// What is counted.
    pub figures: Arc<WorkloadApiFigures>,
    /// What is out, for the evidence that a rotation waits for.
    pub handed: Handed,
}

/// Serves until it is dropped.
pub async fn serve(endpoint: Endpoint, parts: Parts) {
    let (svids, keeper) = ApplicationSvids::new(&parts);
    let api = Api {
        svids,
        tokens: Tokens::new(&parts),
        identity: parts.identity,
        state: parts.state,
        figures: Arc::clone(&parts.figures),
    };
    tokio::join!(keeper.run(), endpoint.serve(api, parts.figures));
}
