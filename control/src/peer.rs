//! Who is at the other end of a gRPC connection, as the TLS handshake proved it. Put into every request by the
//! listener; read by the services. It decides nothing.

use std::{net::SocketAddr, sync::Arc};

use squire_mesh::svid::VerifiedPeer;
use tonic::{Request, Status};

/// The other end of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// Its identity; `None` if it showed no certificate.
    pub verified: Option<Arc<VerifiedPeer>>,
}

/// The identity behind a request, or the refusal.
pub(crate) fn required<T>(request: &Request<T>) -> Result<(SocketAddr, Arc<VerifiedPeer>), Status> {
    let peer = request.extensions().get::<Peer>();
    let proved = peer.and_then(|peer| Some((peer.address, Arc::clone(peer.verified.as_ref()?))));
    proved.ok_or_else(|| {
        Status::unauthenticated("this needs a client certificate: connect with the SVID that the CA has issued to you")
    })
}
