//! One attempt to get an SVID from the CA: a fresh key, one call, and every check of what comes back. It never retries
//! and never publishes.

use std::{
    fs, io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use prost_types::{Struct, Value, value::Kind};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use squire_mesh::{
    bundle::{TrustBundle, TrustBundles},
    ports,
    spiffe::SpiffeId,
    svid::{IdentifyError, Role, VerifiedPeer, identify},
    tls::{Svid, SvidError},
    wire::ca::{
        IstioCertificateRequest, IstioCertificateResponse,
        istio_certificate_service_client::IstioCertificateServiceClient,
    },
};
use tokio::time::timeout;
use tonic::{Code, Request, Status, metadata::AsciiMetadataValue};

use super::request::KeyRequest;
use crate::{channel::ChannelError, config::Config, roots::Roots, state::Snapshot};

/// A CA that is under load may take its time; one that is gone is not waited for.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Leaf, intermediates, roots: a chain is not longer than that.
const MAX_CHAIN: usize = 16;
/// Less life than that is no use.
const MIN_LIFE: Duration = Duration::from_secs(2);

/// How we prove who we are.
#[derive(Clone, Copy)]
pub(super) enum Proof<'a> {
    /// By the bearer token in the configured file.
    Token,
    /// By the SVID we hold.
    Svid(&'a Svid),
}

/// Why no SVID was issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The token file cannot be read.
    #[error("token file {}: {source}; check that the token is mounted there, and its permissions", path.display())]
    TokenFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The token file does not hold a token.
    #[error("token file {} {what}; write one bearer token there", path.display())]
    Token {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: &'static str,
    },
    /// No key or request could be made.
    #[error("no private key could be made: {0}; the cryptographic library failed, please report this")]
    Key(#[from] rcgen::Error),
    /// The CA was not reached, or is not whom it should be.
    #[error("the CA at {0}")]
    Channel(#[from] ChannelError),
    /// The CA said no.
    #[error("the CA at {address} refused the {proof}: {message:?} ({code:?}); {advice}")]
    Refused {
        /// Where.
        address: String,
        /// What we proved ourselves with.
        proof: &'static str,
        /// gRPC status.
        code: Code,
        /// Its words.
        message: String,
        /// What to do.
        advice: &'static str,
    },
    /// The answer did not come.
    #[error("the CA at {address} did not answer within {CALL_TIMEOUT:?}; check its load, and `squire ca status`")]
    Timeout {
        /// Where.
        address: String,
    },
    /// The answer is not a chain of certificates.
    #[error("the CA's answer is unusable: {0}; check that the CA's version fits this proxy's")]
    Answer(String),
    /// The certificate is not for the key we sent, or not an SVID.
    #[error("the CA's answer is unusable: {0}")]
    Svid(#[from] SvidError),
    /// The SVID does not verify under our own roots, so no peer would accept it.
    #[error("the SVID from the CA does not verify under our trust bundle: {0}")]
    Unverified(#[from] IdentifyError),
    /// A good SVID for somebody else.
    #[error("the CA issued {actual}, expected {expected}; check which service account the token is for")]
    OtherIdentity {
        /// Who we are.
        expected: SpiffeId,
        /// Who it says we are.
        actual: SpiffeId,
    },
    /// It has ended, or nearly.
    #[error("the SVID from the CA ends in {0:?}; check the clocks of this machine and of the CA")]
    TooShort(Duration),
}

/// Asks for an SVID. `expected`: who we have to be, as far as we know.
pub(super) async fn issue(
    config: &Config,
    roots: &Roots,
    snapshot: &Snapshot,
    proof: Proof<'_>,
    expected: Option<&SpiffeId>,
) -> Result<(Svid, VerifiedPeer), IssueError> {
    let Signed { chain, key, bundles } = ask(config, roots, snapshot, proof).await?;
    let svid = Svid::new(chain, key)?;
    let verified = check(&svid, &bundles, expected, SystemTime::now())?;
    Ok((svid, verified))
}

/// Asks for another SVID of the identity that `own` is of, under a key that is handed out with it.
pub(super) async fn issue_another(
    config: &Config,
    roots: &Roots,
    snapshot: &Snapshot,
    own: &Svid,
) -> Result<(Svid, PrivateKeyDer<'static>, VerifiedPeer), IssueError> {
    let Signed { chain, key, bundles } = ask(config, roots, snapshot, Proof::Svid(own)).await?;
    let svid = Svid::new(chain, key.clone_key())?;
    let verified = check(&svid, &bundles, Some(own.id()), SystemTime::now())?;
    Ok((svid, key, verified))
}

/// What the CA has signed for a new key; not looked at yet.
struct Signed {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    bundles: Arc<TrustBundles>,
}

async fn ask(config: &Config, roots: &Roots, snapshot: &Snapshot, proof: Proof<'_>) -> Result<Signed, IssueError> {
    let (svid, token) = match proof {
        Proof::Token => (None, Some(bearer(config)?)),
        Proof::Svid(svid) => (Some(svid), None),
    };
    let (channel, bundles) = roots.connect(&config.ca, svid, snapshot).await?;
    let KeyRequest { csr, key } = KeyRequest::new()?;
    let validity_duration = i64::try_from(config.svid_lifetime.as_secs()).unwrap_or(i64::MAX);
    let mut request = Request::new(IstioCertificateRequest {
        csr,
        validity_duration,
        metadata: Some(metadata(config)),
    });
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", token);
    }
    let origin = channel.origin();
    let mut client = IstioCertificateServiceClient::with_origin(channel, origin);
    let answer = match timeout(CALL_TIMEOUT, client.create_certificate(request)).await {
        Ok(Ok(answer)) => answer.into_inner(),
        Ok(Err(status)) => return Err(refused(config, proof, &status)),
        Err(_) => {
            return Err(IssueError::Timeout {
                address: config.ca.address.to_string(),
            });
        }
    };
    let chain = chain(&answer, &bundles)?;
    Ok(Signed { chain, key, bundles })
}

/// Which of the workloads of our identity we stand beside: what the CA waits for when it rotates its root.
fn metadata(config: &Config) -> Struct {
    let workload = Value {
        kind: Some(Kind::StringValue(config.workload.to_string())),
    };
    Struct {
        fields: [(ports::CA_METADATA_WORKLOAD.to_owned(), workload)].into(),
    }
}

/// `Bearer …` from the token file, which the kubelet replaces now and then.
fn bearer(config: &Config) -> Result<AsciiMetadataValue, IssueError> {
    let path = &config.token;
    let wrong = |what| IssueError::Token {
        path: path.clone(),
        what,
    };
    let text = fs::read_to_string(path).map_err(|source| IssueError::TokenFile {
        path: path.clone(),
        source,
    })?;
    let token = text.trim();
    if token.is_empty() {
        return Err(wrong("is empty"));
    }
    if token.contains(char::is_whitespace) {
        return Err(wrong("holds more than one word"));
    }
    let mut value =
        AsciiMetadataValue::try_from(format!("Bearer {token}")).map_err(|_| wrong("holds no ASCII text"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Leaf and intermediates; the roots at the end are what peers have themselves.
fn chain(
    answer: &IstioCertificateResponse,
    bundles: &TrustBundles,
) -> Result<Vec<CertificateDer<'static>>, IssueError> {
    let mut chain: Vec<CertificateDer<'static>> = Vec::new();
    for pem in &answer.cert_chain {
        for der in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            chain.push(der.map_err(|error| IssueError::Answer(format!("not PEM: {error}")))?);
        }
    }
    if chain.is_empty() || chain.len() > MAX_CHAIN {
        return Err(IssueError::Answer(format!("a chain of {} certificates", chain.len())));
    }
    let is_root = |der: &CertificateDer<'_>| {
        bundles
            .iter()
            .flat_map(TrustBundle::roots)
            .any(|root| root.der() == der)
    };
    while chain.len() > 1 && chain.last().is_some_and(is_root) {
        chain.pop();
    }
    Ok(chain)
}

/// What peers will check, checked first.
fn check(
    svid: &Svid,
    bundles: &TrustBundles,
    expected: Option<&SpiffeId>,
    now: SystemTime,
) -> Result<VerifiedPeer, IssueError> {
    let verified = identify(svid.chain(), bundles, now, Role::Client)?;
    if let Some(expected) = expected
        && expected != verified.id()
    {
        return Err(IssueError::OtherIdentity {
            expected: expected.clone(),
            actual: verified.id().clone(),
        });
    }
    let life = verified.not_after().duration_since(now).unwrap_or_default();
    if life < MIN_LIFE {
        return Err(IssueError::TooShort(life));
    }
    Ok(verified)
}

fn refused(config: &Config, proof: Proof<'_>, status: &Status) -> IssueError {
    let denied = matches!(status.code(), Code::Unauthenticated | Code::PermissionDenied);
    let (proof, advice) = match proof {
        Proof::Token if denied => (
            "token",
            "check that the token is current, for this CA's audience, and not used up",
        ),
        Proof::Svid(_) if denied => ("SVID", "check whether the identity was revoked: `squire ca status`"),
        Proof::Token => ("token", "see the control plane's log"),
        Proof::Svid(_) => ("SVID", "see the control plane's log"),
    };
    IssueError::Refused {
        address: config.ca.address.to_string(),
        proof,
        code: status.code(),
        message: status.message().to_owned(),
        advice,
    }
}
