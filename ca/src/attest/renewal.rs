//! Renewal by current SVID: whoever holds a good SVID of our trust domain, on this very connection, gets another one for the
//! same identity. It never changes an identity.

use squire_mesh::spiffe::TrustDomain;

use super::{AttestError, Attested, Attestor, Evidence, Verdict};

/// Accepts the verified peer of the connection.
pub struct Renewal {
    domain: TrustDomain,
}

impl Renewal {
    /// For identities of this trust domain; others (of federated domains) are renewed where they were issued.
    #[must_use]
    pub fn new(domain: TrustDomain) -> Self {
        Self { domain }
    }
}

impl Attestor for Renewal {
    fn recognises(&self, evidence: &Evidence) -> bool {
        evidence.bearer.is_none() && evidence.peer.is_some()
    }

    fn attest<'a>(&'a self, evidence: &'a Evidence) -> Verdict<'a> {
        Box::pin(async move {
            let peer = evidence.peer.as_ref().ok_or(AttestError::NoCredential)?;
            if *peer.id().trust_domain() != self.domain {
                return Err(AttestError::OtherTrustDomain {
                    id: peer.id().clone(),
                    domain: self.domain.clone(),
                });
            }
            // The handshake may be hours old: what it proved must still hold.
            if peer.not_after() <= evidence.now {
                return Err(AttestError::ExpiredToken {
                    what: "SVID",
                    at: crate::log::rfc3339(peer.not_after()),
                });
            }
            Ok(Attested {
                id: peer.id().clone(),
                attestor: "svid",
                subject: format!("serial:{}", peer.serial()),
                workload: None,
            })
        })
    }
}
