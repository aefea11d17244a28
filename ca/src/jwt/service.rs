//! The gRPC door: `squire.v1.JwtSvidService/CreateJwtSvid`. Who asks is whom the SVID of the connection proves: nothing in
//! the request can name an identity, and no other credential is looked at. It never logs a token.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use squire_mesh::{
    spiffe::TrustDomain,
    svid::{Revocations, Revoked},
    wire::squire::{
        JwtSvidRequest, JwtSvidResponse,
        jwt_svid_service_server::{JwtSvidService, JwtSvidServiceServer},
    },
};
use tokio::sync::watch;
use tonic::{Code, Request, Response, Status};

use super::{Audience, AudienceError, SignedJwt};
use crate::{
    attest::{AttestError, Attestor as _, Evidence, Renewal},
    authority::{CertificateAuthority, IssueError},
    service::{Observer, PeerIdentity},
};

/// Longest request message, in bytes.
const MAX_MESSAGE: usize = 64 * 1024;

/// The service.
pub struct JwtIssuingService {
    ca: Arc<CertificateAuthority>,
    attestor: Renewal,
    revocations: watch::Receiver<Arc<Revocations>>,
    observer: Arc<dyn Observer>,
}

/// Why a request got no token.
#[derive(Debug, thiserror::Error)]
pub enum JwtRefusal {
    /// The request itself.
    #[error(transparent)]
    Audience(#[from] AudienceError),
    /// Who asks.
    #[error(transparent)]
    Attest(#[from] AttestError),
    /// Revoked.
    #[error(transparent)]
    Revoked(#[from] Revoked),
    /// The CA itself.
    #[error(transparent)]
    Issue(#[from] IssueError),
}

impl JwtIssuingService {
    /// Serves this CA to holders of its SVIDs.
    #[must_use]
    pub fn new(
        ca: Arc<CertificateAuthority>,
        domain: TrustDomain,
        revocations: watch::Receiver<Arc<Revocations>>,
        observer: Arc<dyn Observer>,
    ) -> Self {
        Self {
            ca,
            attestor: Renewal::new(domain),
            revocations,
            observer,
        }
    }

    /// The tonic server around it.
    #[must_use]
    pub fn into_server(self) -> JwtSvidServiceServer<Self> {
        JwtSvidServiceServer::new(self).max_decoding_message_size(MAX_MESSAGE)
    }

    async fn create(&self, request: JwtSvidRequest, evidence: &Evidence) -> Result<SignedJwt, JwtRefusal> {
        let audience = Audience::new(request.audience)?;
        let peer = evidence.peer.as_ref().ok_or(AttestError::NoCredential)?;
        self.revocations.borrow().check(peer)?;
        let attested = self.attestor.attest(evidence).await?;
        let ttl = Some(request.lifetime_seconds).filter(|seconds| *seconds > 0);
        let ttl = ttl.map(|seconds| Duration::from_secs(seconds.into()));
        // No token outlives the SVID that it was asked for with.
        let limit = peer.not_after();
        Ok(self
            .ca
            .issue_jwt(&attested, &audience, ttl, limit, evidence.now)
            .await?)
    }
}

#[tonic::async_trait]
impl JwtSvidService for JwtIssuingService {
    async fn create_jwt_svid(&self, request: Request<JwtSvidRequest>) -> Result<Response<JwtSvidResponse>, Status> {
        let started = Instant::now();
        let peer = request.extensions().get::<PeerIdentity>();
        let evidence = Evidence {
            bearer: None,
            peer: peer.and_then(|peer| peer.0.clone()),
            now: SystemTime::now(),
        };
        let asks = || evidence.peer.as_ref().map(|peer| peer.id().to_string());
        match self.create(request.into_inner(), &evidence).await {
            Ok(signed) => {
                self.observer.issued("svid", started.elapsed());
                tracing::info!(id = asks(), jti = signed.jti, kid = signed.kid, "a JWT-SVID was issued");
                Ok(Response::new(JwtSvidResponse {
                    issued_at: seconds(signed.issued_at),
                    expires_at: seconds(signed.not_after),
                    token: signed.token,
                }))
            }
            Err(refusal) => {
                self.observer.refused(refusal.label());
                tracing::warn!(reason = refusal.label(), id = asks(), error = %refusal, "no JWT-SVID was issued");
                Err(Status::new(refusal.code(), refusal.to_string()))
            }
        }
    }
}

impl JwtRefusal {
    /// A short name from a closed set, for metrics.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Audience(_) => "audience",
            Self::Attest(error) => error.label(),
            Self::Revoked(_) | Self::Issue(IssueError::Revoked(_)) => "revoked",
            Self::Issue(IssueError::NotOurs { .. }) => "other_trust_domain",
            Self::Issue(IssueError::Log(_)) => "log",
            Self::Issue(IssueError::Stale { .. }) => "stale",
            Self::Issue(_) => "sign",
        }
    }

    fn code(&self) -> Code {
        match self {
            Self::Audience(_) => Code::InvalidArgument,
            Self::Attest(AttestError::OtherTrustDomain { .. }) | Self::Revoked(_) => Code::PermissionDenied,
            Self::Attest(_) => Code::Unauthenticated,
            Self::Issue(IssueError::NotOurs { .. } | IssueError::Revoked(_)) => Code::PermissionDenied,
            Self::Issue(IssueError::Log(_) | IssueError::Stale { .. }) => Code::Unavailable,
            Self::Issue(_) => Code::Internal,
        }
    }
}

fn seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
