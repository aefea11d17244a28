//! What the application is told of its client: `x-forwarded-for` and `x-forwarded-client-cert`. Squires alone set them;
//! whatever a client claims is dropped before (spec §3.13.51). Made once for each connection.

use std::fmt::Write as _;

use super::Gate;

/// The fields for the requests of one connection.
pub(crate) struct Forwarded {
    fields: Vec<(&'static str, String)>,
}

/// The client's address.
const FOR: &str = "x-forwarded-for";
/// The client's verified identity, in Envoy's format.
const CLIENT_CERT: &str = "x-forwarded-client-cert";

impl Forwarded {
    /// For what comes in through `gate`.
    pub(crate) fn of(gate: &Gate) -> Self {
        let mut fields = vec![(FOR, gate.client.ip().to_canonical().to_string())];
        if let Some(peer) = &gate.peer {
            let mut value = String::new();
            if let Some(by) = &gate.connection.facts().local {
                let _ = write!(value, "By={by};");
            }
            value.push_str("Hash=");
            for byte in peer.fingerprint() {
                let _ = write!(value, "{byte:02x}");
            }
            let _ = write!(value, ";URI={}", peer.id());
            fields.push((CLIENT_CERT, value));
        }
        Self { fields }
    }

    /// None are added: what leaves towards a peer is told by the peer's own sidecar.
    pub(crate) fn none() -> Self {
        Self { fields: Vec::new() }
    }

    /// Bytes of all names and values.
    pub(crate) fn len(&self) -> usize {
        self.fields.iter().map(|(name, value)| name.len() + value.len()).sum()
    }

    /// Name and value of each.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'static str, &[u8])> {
        self.fields.iter().map(|(name, value)| (*name, value.as_bytes()))
    }
}
