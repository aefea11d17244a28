//! What this sidecar tells the application about who is at the other end: `x-forwarded-client-cert` and
//! `x-forwarded-for`. Only the inbound sidecar writes them; whatever a client sends under these names is taken out.

use std::net::SocketAddr;

use squire_mesh::{spiffe::SpiffeId, svid::VerifiedPeer};

use crate::http::Gate;

/// The verified peer, in Envoy's format.
pub(crate) const CLIENT_CERT: &str = "x-forwarded-client-cert";
/// The address of the other end.
pub(crate) const FORWARDED_FOR: &str = "x-forwarded-for";

/// Both values; the same for every request of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Forwarded {
    /// None: the other end has no verified identity.
    pub(crate) client_cert: Option<String>,
    pub(crate) forwarded_for: String,
}

impl Forwarded {
    /// What is said of the other end of an inbound connection.
    pub(crate) fn of(gate: &Gate) -> Self {
        let own = gate.connection.facts().local.clone();
        Self::new(own.as_ref(), gate.peer.as_deref().map(VerifiedPeer::id), gate.client)
    }

    fn new(own: Option<&SpiffeId>, peer: Option<&SpiffeId>, client: SocketAddr) -> Self {
        let by = own.map(|own| format!("By={own};")).unwrap_or_default();
        Self {
            client_cert: peer.map(|peer| format!("{by}URI={peer}")),
            forwarded_for: client.ip().to_canonical().to_string(),
        }
    }
}

/// Whether a field of this name is ours alone. `_` counts as `-`: many an application framework takes both for one.
pub(crate) fn is_ours(name: &[u8]) -> bool {
    [CLIENT_CERT, FORWARDED_FOR].iter().any(|ours| {
        name.len() == ours.len()
            && name
                .iter()
                .zip(ours.bytes())
                .all(|(byte, ours)| byte.eq_ignore_ascii_case(&ours) || (*byte == b'_' && ours == b'-'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peer_is_named_as_envoy_names_it_and_only_if_it_was_verified() {
        let own: SpiffeId = "spiffe://cluster.local/ns/shop/sa/db".parse().unwrap();
        let peer: SpiffeId = "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap();
        let client = "[::ffff:10.1.2.3]:555".parse().unwrap();
        let said = Forwarded::new(Some(&own), Some(&peer), client);
        assert_eq!(said.forwarded_for, "10.1.2.3");
        assert_eq!(
            said.client_cert.as_deref(),
            Some("By=spiffe://cluster.local/ns/shop/sa/db;URI=spiffe://cluster.local/ns/shop/sa/web")
        );
        assert_eq!(Forwarded::new(Some(&own), None, client).client_cert, None);
    }

    #[test]
    fn every_spelling_an_application_may_take_for_ours_is_ours() {
        for name in [
            "x-forwarded-for",
            "X-Forwarded-For",
            "x_forwarded-for",
            "X_FORWARDED_CLIENT_CERT",
        ] {
            assert!(is_ours(name.as_bytes()), "{name}");
        }
        for name in [
            "x-forwarded-fo",
            "x-forwarded-host",
            "y-forwarded-for",
            "xyforwarded-for",
        ] {
            assert!(!is_ours(name.as_bytes()), "{name}");
        }
    }
}
