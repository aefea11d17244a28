//! JWT-SVIDs from the CA: asked for with the sidecar's SVID, verified before they are handed on, and handed out again while
//! more than half of their life is left.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use squire_mesh::{
    jwt_svid,
    wire::squire::{JwtSvidRequest, JwtSvidResponse, jwt_svid_service_client::JwtSvidServiceClient},
};
use tokio::time::timeout;
use tonic::{Code, Status};

use super::Parts;
use crate::{channel::Channel, config::Config, identity::Issued, roots::Roots, state::State};

/// A CA that is under load may take its time.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Tokens that are kept.
const MAX_KEPT: usize = 256;

/// Gets tokens.
pub(super) struct Tokens {
    config: Arc<Config>,
    roots: Roots,
    state: State,
    /// The connection to the CA, and the SVID that it was made with.
    channel: tokio::sync::Mutex<Option<(u64, Channel)>>,
    kept: Mutex<HashMap<Vec<String>, Kept>>,
}

/// A token, and until when it is handed out again.
struct Kept {
    token: String,
    /// The SVID that it was asked for with.
    generation: u64,
    fresh_until: SystemTime,
}

impl Tokens {
    pub(super) fn new(parts: &Parts) -> Self {
        Self {
            config: Arc::clone(&parts.config),
            roots: parts.roots.clone(),
            state: parts.state.clone(),
            channel: tokio::sync::Mutex::default(),
            kept: Mutex::default(),
        }
    }

    /// A token of `own` identity for this audience.
    pub(super) async fn token(&self, own: &Issued, audience: Vec<String>) -> Result<String, Status> {
        if let Some(token) = self.kept(own, &audience) {
            return Ok(token);
        }
        let answer = self.ask(own, &audience).await?;
        self.check(own, &audience, &answer.token)?;
        self.keep(own, audience, &answer);
        Ok(answer.token)
    }

    async fn ask(&self, own: &Issued, audience: &[String]) -> Result<JwtSvidResponse, Status> {
        let channel = self.connected(own).await?;
        let origin = channel.origin();
        let request = JwtSvidRequest {
            audience: audience.to_vec(),
            lifetime_seconds: 0,
        };
        let mut client = JwtSvidServiceClient::with_origin(channel, origin);
        match timeout(CALL_TIMEOUT, client.create_jwt_svid(request)).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => {
                tracing::warn!(reason = status.message(), code = ?status.code(), "the CA issued no JWT-SVID");
                Err(for_application(&status))
            }
            Err(_) => Err(Status::unavailable("the CA did not answer in time")),
        }
    }

    async fn connected(&self, own: &Issued) -> Result<Channel, Status> {
        let mut held = self.channel.lock().await;
        if let Some((generation, channel)) = &*held
            && *generation == own.generation
            && !channel.is_closed()
        {
            return Ok(channel.clone());
        }
        let snapshot = Arc::clone(&self.state.borrow());
        let connected = self.roots.connect(&self.config.ca, Some(&own.svid), &snapshot).await;
        let (channel, _) = connected.map_err(|error| {
            tracing::warn!(%error, "no JWT-SVID: the CA was not reached");
            Status::unavailable(format!("the CA at {error}"))
        })?;
        *held = Some((own.generation, channel.clone()));
        Ok(channel)
    }

    /// What others will check, checked first.
    fn check(&self, own: &Issued, audience: &[String], token: &str) -> Result<(), Status> {
        let bundles = Arc::clone(&self.state.borrow().bundles);
        let first = audience.first().map_or("", String::as_str);
        let unusable = |reason: String| {
            tracing::warn!(reason, "the CA's JWT-SVID is unusable");
            Status::unavailable(format!("the CA's answer is unusable: {reason}"))
        };
        let svid =
            jwt_svid::verify(token, first, &bundles, SystemTime::now()).map_err(|error| unusable(error.to_string()))?;
        if svid.id != *own.svid.id() {
            return Err(unusable(format!("it is for {}", svid.id)));
        }
        Ok(())
    }

    fn kept(&self, own: &Issued, audience: &[String]) -> Option<String> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = kept.get(audience)?;
        let fresh = kept.generation == own.generation && SystemTime::now() < kept.fresh_until;
        fresh.then(|| kept.token.clone())
    }

    fn keep(&self, own: &Issued, audience: Vec<String>, answer: &JwtSvidResponse) {
        let (from, to) = (moment(answer.issued_at), moment(answer.expires_at));
        let life = to.duration_since(from).unwrap_or_default();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= MAX_KEPT {
            let now = SystemTime::now();
            kept.retain(|_, token| now < token.fresh_until);
            if kept.len() >= MAX_KEPT {
                kept.clear();
            }
        }
        kept.insert(
            audience,
            Kept {
                token: answer.token.clone(),
                generation: own.generation,
                fresh_until: from + life / 2,
            },
        );
    }
}

/// What the CA said, in the terms of the Workload API (Workload Endpoint 6).
fn for_application(status: &Status) -> Status {
    let code = match status.code() {
        code @ (Code::InvalidArgument | Code::PermissionDenied) => code,
        Code::Unauthenticated => Code::PermissionDenied,
        _ => Code::Unavailable,
    };
    Status::new(code, status.message())
}

fn moment(seconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}
