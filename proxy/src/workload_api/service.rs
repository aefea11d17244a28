//! The five methods. Whoever got here may ask: the endpoint has seen to that.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use squire_mesh::{
    jwt_svid::{self, JwtSvid},
    spiffe::SpiffeId,
    wire::workload_api::{
        JwtBundlesRequest, JwtBundlesResponse, JwtSvid as Token, JwtSvidRequest, JwtSvidResponse,
        ValidateJwtsvidRequest, ValidateJwtsvidResponse, X509BundlesRequest, X509BundlesResponse, X509SvidRequest,
        X509SvidResponse, spiffe_workload_api_server::SpiffeWorkloadApi,
    },
};
use tonic::{Request, Response, Status};

use super::{
    answers,
    figures::WorkloadApiFigures,
    streams::{self, Answers},
    svid::ApplicationSvids,
    tokens::Tokens,
};
use crate::{
    identity::{self, Issued},
    state::State,
};

/// Certificates say they began that long before they were issued, and revocations are judged by that; tokens say the truth.
const BACKDATE: Duration = Duration::from_secs(5 * 60);

/// The Workload API of one sidecar.
pub(super) struct Api {
    pub(super) svids: ApplicationSvids,
    pub(super) tokens: Tokens,
    pub(super) identity: identity::Receiver,
    pub(super) state: State,
    pub(super) figures: Arc<WorkloadApiFigures>,
}

impl Api {
    /// The identity that may be asked for: ours, by name or by no name.
    fn identity(&self, wanted: &str) -> Result<Arc<Issued>, Status> {
        let own = self.identity.borrow().valid().cloned();
        let own = own.ok_or_else(|| Status::unavailable("no SVID yet: the sidecar's log says what the CA answered"))?;
        if wanted.is_empty() {
            return Ok(own);
        }
        let wanted: SpiffeId = wanted
            .parse()
            .map_err(|error| Status::invalid_argument(format!("spiffe_id: {error}")))?;
        if wanted == *own.svid.id() {
            Ok(own)
        } else {
            Err(Status::permission_denied(format!(
                "{wanted} is not the identity of this workload, which is {}",
                own.svid.id()
            )))
        }
    }

    async fn token(&self, request: JwtSvidRequest) -> Result<JwtSvidResponse, Status> {
        if request.audience.is_empty() {
            return Err(Status::invalid_argument(
                "audience: name whom the token is to be shown to",
            ));
        }
        let own = self.identity(&request.spiffe_id)?;
        let svid = self.tokens.token(&own, request.audience).await?;
        Ok(JwtSvidResponse {
            svids: vec![Token {
                spiffe_id: own.svid.id().to_string(),
                svid,
                hint: String::new(),
            }],
        })
    }

    fn validate(&self, request: &ValidateJwtsvidRequest, now: SystemTime) -> Result<ValidateJwtsvidResponse, Status> {
        if request.audience.is_empty() || request.svid.is_empty() {
            return Err(Status::invalid_argument("audience and svid: both are needed"));
        }
        let snapshot = Arc::clone(&self.state.borrow());
        let svid = jwt_svid::verify(&request.svid, &request.audience, &snapshot.bundles, now)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let revoked = snapshot.revocations.check_identity(&svid.id, began(&svid));
        revoked.map_err(|revoked| Status::invalid_argument(revoked.to_string()))?;
        Ok(ValidateJwtsvidResponse {
            spiffe_id: svid.id.to_string(),
            claims: Some(answers::claims(&svid.claims)),
        })
    }
}

/// When a certificate that was issued together with the token would say that it began; a token that does not say when it was
/// issued is taken for the oldest.
fn began(svid: &JwtSvid) -> SystemTime {
    let issued = svid.claims.get("iat").and_then(serde_json::Value::as_u64);
    issued.map_or(UNIX_EPOCH, |seconds| {
        UNIX_EPOCH + Duration::from_secs(seconds).saturating_sub(BACKDATE)
    })
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for Api {
    type FetchX509SVIDStream = Answers<X509SvidResponse>;
    type FetchX509BundlesStream = Answers<X509BundlesResponse>;
    type FetchJWTBundlesStream = Answers<JwtBundlesResponse>;

    async fn fetch_x509svid(&self, _: Request<X509SvidRequest>) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        let svids = self.svids.follow();
        Ok(Response::new(streams::svids(svids, self.state.clone(), &self.figures)))
    }

    async fn fetch_x509_bundles(
        &self,
        _: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        let (state, method) = (self.state.clone(), "FetchX509Bundles");
        Ok(Response::new(streams::bundles(
            state,
            method,
            answers::x509_bundles,
            &self.figures,
        )))
    }

    async fn fetch_jwtsvid(&self, request: Request<JwtSvidRequest>) -> Result<Response<JwtSvidResponse>, Status> {
        let answer = self.token(request.into_inner()).await;
        self.figures.answered("FetchJWTSVID", answer.is_ok());
        answer.map(Response::new)
    }

    async fn fetch_jwt_bundles(
        &self,
        _: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        let (state, method) = (self.state.clone(), "FetchJWTBundles");
        Ok(Response::new(streams::bundles(
            state,
            method,
            answers::jwt_bundles,
            &self.figures,
        )))
    }

    async fn validate_jwtsvid(
        &self,
        request: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        let answer = self.validate(request.get_ref(), SystemTime::now());
        self.figures.answered("ValidateJWTSVID", answer.is_ok());
        answer.map(Response::new)
    }
}
