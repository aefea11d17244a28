//! The gRPC door: `istio.v1.auth.IstioCertificateService/CreateCertificate`. It takes the evidence from the request (bearer
//! token, or the identity that the server has put into the extensions as [`PeerIdentity`]), has it attested, and replies
//! with leaf, intermediate and root(s). It never logs or returns a token.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use squire_mesh::{
    ports,
    svid::{Revocations, Revoked, VerifiedPeer},
    wire::ca::{
        IstioCertificateRequest, IstioCertificateResponse,
        istio_certificate_service_server::{IstioCertificateService, IstioCertificateServiceServer},
    },
};
use tokio::sync::watch;
use tonic::{Code, Request, Response, Status, metadata::MetadataMap};
use zeroize::Zeroizing;

use crate::{
    attest::{AttestError, Attested, Attestor, Evidence, attest},
    authority::{CertificateAuthority, IssueError, Issued},
    csr::{Csr, CsrError},
    rate::{DEFAULT_RATE, Rates, TooMany},
};

/// Longest name of a workload, in bytes.
const MAX_WORKLOAD: usize = 512;
/// Longest request message, in bytes.
const MAX_MESSAGE: usize = 64 * 1024;

/// Who is on the other end of the mTLS connection; the server puts it into the extensions of every request.
#[derive(Debug, Clone, Default)]
pub struct PeerIdentity(pub Option<VerifiedPeer>);

/// Hears of every request's end; for metrics. All names are from closed sets.
pub trait Observer: Send + Sync + 'static {
    /// A certificate was issued on this attestor's word, after this time.
    fn issued(&self, attestor: &'static str, took: Duration);
    /// None was, for this reason.
    fn refused(&self, reason: &'static str);
}

/// The service.
pub struct IssuingService {
    ca: Arc<CertificateAuthority>,
    attestors: Vec<Box<dyn Attestor>>,
    revocations: watch::Receiver<Arc<Revocations>>,
    observer: Arc<dyn Observer>,
    rates: Rates,
}

/// Why a request got no certificate.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The request itself.
    #[error(transparent)]
    Csr(#[from] CsrError),
    /// Who asks.
    #[error(transparent)]
    Attest(#[from] AttestError),
    /// Revoked.
    #[error(transparent)]
    Revoked(#[from] Revoked),
    /// Too often.
    #[error(transparent)]
    TooMany(#[from] TooMany),
    /// The CA itself.
    #[error(transparent)]
    Issue(#[from] IssueError),
}

impl IssuingService {
    /// Serves this CA; the first attestor that recognises the evidence decides.
    #[must_use]
    pub fn new(
        ca: Arc<CertificateAuthority>,
        attestors: Vec<Box<dyn Attestor>>,
        revocations: watch::Receiver<Arc<Revocations>>,
        observer: Arc<dyn Observer>,
    ) -> Self {
        Self {
            ca,
            attestors,
            revocations,
            observer,
            rates: Rates::new(DEFAULT_RATE),
        }
    }

    /// So many certificates a second for each identity.
    #[must_use]
    pub fn limited(mut self, per_second: u32) -> Self {
        self.rates = Rates::new(per_second);
        self
    }

    /// The tonic service, with a limit on the size of requests.
    #[must_use]
    pub fn into_server(self) -> IstioCertificateServiceServer<Self> {
        IstioCertificateServiceServer::new(self).max_decoding_message_size(MAX_MESSAGE)
    }

    async fn create(
        &self,
        request: &IstioCertificateRequest,
        evidence: &Evidence,
    ) -> Result<(Attested, Issued), Refusal> {
        // The request first: a bad one must not cost its sender a one-time token.
        let csr = Csr::parse(request.csr.as_bytes())?;
        let revocations = Arc::clone(&self.revocations.borrow());
        if let Some(peer) = &evidence.peer {
            revocations.check(peer)?;
        }
        let mut attested = attest(&self.attestors, evidence).await?;
        attested.workload = attested.workload.or_else(|| workload(request));
        revocations.check_identity(&attested.id, evidence.now)?;
        self.rates.take(&attested.id, evidence.now)?;
        let ttl = u64::try_from(request.validity_duration)
            .ok()
            .filter(|seconds| *seconds > 0)
            .map(Duration::from_secs);
        let issued = self.ca.issue(&attested, &csr, ttl, evidence.now).await?;
        Ok((attested, issued))
    }
}

#[tonic::async_trait]
impl IstioCertificateService for IssuingService {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let started = Instant::now();
        let peer = request
            .extensions()
            .get::<PeerIdentity>()
            .and_then(|peer| peer.0.clone());
        let evidence = Evidence {
            bearer: bearer(request.metadata()),
            peer,
            now: SystemTime::now(),
        };
        match self.create(request.get_ref(), &evidence).await {
            Ok((attested, issued)) => {
                self.observer.issued(attested.attestor, started.elapsed());
                tracing::info!(id = %issued.id, serial = %issued.serial, attestor = attested.attestor, entry = issued.entry, "issued");
                Ok(Response::new(IstioCertificateResponse {
                    cert_chain: issued.pem_chain(),
                }))
            }
            Err(refusal) => {
                self.observer.refused(refusal.label());
                let peer = evidence.peer.as_ref().map(|peer| peer.id().to_string());
                tracing::warn!(reason = refusal.label(), peer, error = %refusal, "no certificate was issued");
                Err(refusal.into())
            }
        }
    }
}

impl Refusal {
    /// A short name from a closed set, for metrics.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Csr(CsrError::WeakKey(_)) => "weak_key",
            Self::Csr(CsrError::NoProof) => "no_proof_of_possession",
            Self::Csr(CsrError::Unsupported(_)) => "unsupported_key",
            Self::Csr(CsrError::NotACsr(_) | CsrError::TooLong(_)) => "not_a_csr",
            Self::Attest(error) => error.label(),
            Self::Revoked(_) | Self::Issue(IssueError::Revoked(_)) => "revoked",
            Self::TooMany(_) => "rate_limited",
            Self::Issue(IssueError::NotOurs { .. }) => "other_trust_domain",
            Self::Issue(IssueError::Intermediate { .. }) => "intermediate_not_valid",
            Self::Issue(IssueError::Log(_)) => "log",
            Self::Issue(IssueError::Stale { .. }) => "stale",
            Self::Issue(IssueError::Sign(_) | IssueError::Own(_)) => "sign",
        }
    }

    fn code(&self) -> Code {
        match self {
            Self::Csr(_) => Code::InvalidArgument,
            Self::TooMany(_) => Code::ResourceExhausted,
            Self::Attest(AttestError::Store(_) | AttestError::Keys(_) | AttestError::Reviewer) => Code::Unavailable,
            Self::Attest(AttestError::OtherTrustDomain { .. } | AttestError::NoServiceAccount(_))
            | Self::Revoked(_) => Code::PermissionDenied,
            Self::Attest(_) => Code::Unauthenticated,
            Self::Issue(IssueError::NotOurs { .. } | IssueError::Revoked(_)) => Code::PermissionDenied,
            Self::Issue(IssueError::Log(_) | IssueError::Stale { .. } | IssueError::Intermediate { .. }) => {
                Code::Unavailable
            }
            Self::Issue(IssueError::Sign(_) | IssueError::Own(_)) => Code::Internal,
        }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal.code(), refusal.to_string())
    }
}

/// The workload that the requester says it stands beside: `metadata.workload`. What is too long to be a name is none.
fn workload(request: &IstioCertificateRequest) -> Option<String> {
    let field = request.metadata.as_ref()?.fields.get(ports::CA_METADATA_WORKLOAD)?;
    match field.kind.as_ref()? {
        prost_types::value::Kind::StringValue(name) => {
            let fits = !name.is_empty() && name.len() <= MAX_WORKLOAD && !name.chars().any(char::is_control);
            fits.then(|| name.clone())
        }
        _ => None,
    }
}

/// The token after `authorization: Bearer`, if there is one.
fn bearer(metadata: &MetadataMap) -> Option<Zeroizing<String>> {
    let header = metadata.get("authorization")?.to_str().ok()?;
    let (scheme, token) = header.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| Zeroizing::new(token.to_owned()))
}

#[cfg(test)]
mod tests;
