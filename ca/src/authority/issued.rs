//! Signing one leaf: pure, given a hierarchy and a moment. What comes out is not issued before it is in the log.

use std::time::{Duration, SystemTime};

use rcgen::PublicKeyData;
use rustls::pki_types::CertificateDer;
use squire_mesh::{
    spiffe::{SpiffeId, TrustDomain},
    svid::{Revoked, Serial},
    tls::SvidError,
};

use crate::{
    hierarchy::Hierarchy,
    log::{LogError, rfc3339},
    profile::{self, Validity},
};

/// A certificate that was signed and logged.
#[derive(Debug, Clone)]
pub struct Issued {
    /// Leaf first, then the intermediate.
    pub chain: Vec<CertificateDer<'static>>,
    /// The roots that peers must trust.
    pub roots: Vec<CertificateDer<'static>>,
    /// Whose it is.
    pub id: SpiffeId,
    /// Its serial number.
    pub serial: Serial,
    /// When it is valid.
    pub validity: Validity,
    /// Its number in the issuance log.
    pub entry: u64,
}

/// Why a certificate was not issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The attested identity is not one of this CA's workloads.
    #[error("{id} is not a workload of trust domain {domain}: this CA cannot sign for it")]
    NotOurs {
        /// Who was attested.
        id: SpiffeId,
        /// Whose CA this is.
        domain: TrustDomain,
    },
    /// The identity was revoked.
    #[error(transparent)]
    Revoked(#[from] Revoked),
    /// The intermediate is not valid now.
    #[error(
        "the CA's intermediate is valid from {from} to {until}, not now: check this machine's clock, and `squire ca status`"
    )]
    Intermediate {
        /// RFC 3339.
        from: String,
        /// RFC 3339.
        until: String,
    },
    /// This replica does not know whether the state it has is still the one in force.
    #[error(
        "this replica could not read the CA's state for {seconds} s, and signs nothing until it can: see whether the API server can be reached"
    )]
    Stale {
        /// How long ago it was read.
        seconds: u64,
    },
    /// Keys, names or signing failed.
    #[error("the certificate could not be signed: {0}")]
    Sign(String),
    /// It was signed, but not logged: it is thrown away.
    #[error("the certificate was not issued because {0}")]
    Log(#[from] LogError),
    /// Our own certificate is not an SVID.
    #[error("the CA made an unusable certificate for itself: {0}")]
    Own(#[from] SvidError),
}

impl Issued {
    /// The chain as PEM, leaf first, each element one certificate; the roots last.
    #[must_use]
    pub fn pem_chain(&self) -> Vec<String> {
        let encode = |der: &CertificateDer<'_>| pem::encode(&pem::Pem::new("CERTIFICATE", der.as_ref()));
        self.chain.iter().chain(&self.roots).map(encode).collect()
    }
}

/// Signs a leaf with the intermediate; its log entry is still to be made.
pub(super) fn sign(
    hierarchy: &Hierarchy,
    id: &SpiffeId,
    key: &impl PublicKeyData,
    ttl: Duration,
    now: SystemTime,
) -> Result<Issued, IssueError> {
    let domain = hierarchy.bundle().trust_domain();
    if id.trust_domain() != domain || id.path().is_empty() {
        return Err(IssueError::NotOurs {
            id: id.clone(),
            domain: domain.clone(),
        });
    }
    let intermediate = hierarchy.intermediate();
    let span = intermediate.validity();
    if now < span.not_before || now >= span.not_after {
        return Err(IssueError::Intermediate {
            from: rfc3339(span.not_before),
            until: rfc3339(span.not_after),
        });
    }
    let failed = |error: &dyn std::error::Error| IssueError::Sign(error.to_string());
    let issuer = intermediate
        .issuer()
        .ok_or_else(|| IssueError::Sign("the intermediate has no key".into()))?;
    let validity = Validity::starting(now, ttl).within(span);
    let params = profile::leaf(id, validity).map_err(|error| failed(&error))?;
    let leaf = params.signed_by(key, issuer).map_err(|error| failed(&error))?;
    Ok(Issued {
        chain: vec![leaf.into(), intermediate.der().clone()],
        roots: hierarchy
            .bundle()
            .roots()
            .iter()
            .map(|root| root.der().clone())
            .collect(),
        id: id.clone(),
        serial: Serial::new(&params.serial_number.map(|serial| serial.to_bytes()).unwrap_or_default()),
        validity,
        entry: 0,
    })
}
