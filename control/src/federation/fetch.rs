//! Gets a bundle document once: dials, lets the endpoint prove itself by its profile, asks, follows redirects under the same
//! checks (SPIFFE Federation 5.2). It keeps nothing and tries nothing twice.

use std::{io, sync::Arc, time::Duration};

use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{
    body::{Bytes, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use squire_mesh::{
    bundle::{BundleError, MAX_DOCUMENT, TrustBundle, TrustBundles},
    svid::IdentifyError,
    tls::{self, Expect},
};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

use super::{EndpointUrl, Federated, Profile, endpoint::HTTP, web};

/// All of it, redirects too.
const LIMIT: Duration = Duration::from_secs(15);
/// Redirects that are followed.
const MAX_REDIRECTS: usize = 5;

/// Why there is no newer bundle.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    /// It took too long.
    #[error("{0}: no answer within {LIMIT:?}")]
    Timeout(EndpointUrl),
    /// Nobody is there.
    #[error("{url}: cannot connect: {source}")]
    Connect {
        /// Where.
        url: EndpointUrl,
        /// What the system said.
        source: io::Error,
    },
    /// The endpoint is not whom it should be.
    #[error("{url}: the endpoint was refused: {source}")]
    Identity {
        /// Where.
        url: EndpointUrl,
        /// Which rule its certificate breaks.
        source: IdentifyError,
    },
    /// TLS failed, or the settings do.
    #[error("{url}: TLS: {reason}")]
    Tls {
        /// Where.
        url: EndpointUrl,
        /// Why.
        reason: String,
    },
    /// It is not a bundle that was answered.
    #[error("{url}: {reason}")]
    Answer {
        /// Where.
        url: EndpointUrl,
        /// What was answered.
        reason: String,
    },
    /// The document is not usable.
    #[error("{url}: {source}")]
    Bundle {
        /// Where.
        url: EndpointUrl,
        /// What is wrong with it.
        source: BundleError,
    },
}

impl FetchError {
    /// A short name from a closed set, for metrics.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Timeout(_) | Self::Connect { .. } => "unreachable",
            Self::Identity { .. } | Self::Tls { .. } => "refused",
            Self::Answer { .. } | Self::Bundle { .. } => "unusable",
        }
    }
}

/// The bundle that the endpoint of a trust domain serves now. `trusted`: what SVIDs of endpoints are verified by.
pub(super) async fn fetch(federated: &Federated, trusted: Arc<TrustBundles>) -> Result<TrustBundle, FetchError> {
    let gotten = timeout(LIMIT, follow_redirects(federated, trusted)).await;
    let (url, document) = gotten.map_err(|_| FetchError::Timeout(federated.url.clone()))??;
    TrustBundle::from_document(&federated.trust_domain, &document).map_err(|source| FetchError::Bundle { url, source })
}

async fn follow_redirects(
    federated: &Federated,
    trusted: Arc<TrustBundles>,
) -> Result<(EndpointUrl, Bytes), FetchError> {
    let mut url = federated.url.clone();
    for _ in 0..=MAX_REDIRECTS {
        let answer = |reason: String| FetchError::Answer {
            url: url.clone(),
            reason,
        };
        let response = get(&url, &federated.profile, &trusted).await?;
        let status = response.status();
        if status.is_redirection() {
            let location = response
                .headers()
                .get(header::LOCATION)
                .and_then(|value| value.to_str().ok());
            let location = location.ok_or_else(|| answer(format!("{status} without a location")))?;
            let next = url.redirected(location);
            url = next.map_err(|reason| answer(format!("it redirects to {location:?}: {reason}")))?;
            continue;
        }
        if status != StatusCode::OK {
            return Err(answer(format!("it answered {status}")));
        }
        let body = Limited::new(response.into_body(), MAX_DOCUMENT).collect().await;
        let body = body.map_err(|error| answer(format!("the document broke off or is too long: {error}")))?;
        return Ok((url, body.to_bytes()));
    }
    Err(FetchError::Answer {
        url,
        reason: format!("more than {MAX_REDIRECTS} redirects"),
    })
}

async fn get(
    url: &EndpointUrl,
    profile: &Profile,
    trusted: &Arc<TrustBundles>,
) -> Result<Response<Incoming>, FetchError> {
    let tls_error = |reason: String| FetchError::Tls {
        url: url.clone(),
        reason,
    };
    let connect_error = |source| FetchError::Connect {
        url: url.clone(),
        source,
    };
    let config: Arc<ClientConfig> = match profile {
        Profile::Web { roots } => web::client(roots.as_deref()).map_err(tls_error)?,
        Profile::Spiffe { id } => tls::anonymous_client_config(Arc::clone(trusted), Expect::Exact(id.clone()), &[HTTP]),
    };
    let tcp = TcpStream::connect((url.host(), url.port()))
        .await
        .map_err(connect_error)?;
    let name = ServerName::try_from(url.host().to_owned()).map_err(|error| tls_error(error.to_string()))?;
    let stream = TlsConnector::from(config).connect(name, tcp).await;
    let stream = stream.map_err(|error| match tls::identify_error_in_io(&error).cloned() {
        Some(source) => FetchError::Identity {
            url: url.clone(),
            source,
        },
        None => tls_error(error.to_string()),
    })?;
    let answer = |error: hyper::Error| FetchError::Answer {
        url: url.clone(),
        reason: error.to_string(),
    };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(answer)?;
    tokio::spawn(connection);
    let request = Request::get(url.path())
        .header(header::HOST, url.authority())
        .header(header::ACCEPT, "application/json")
        .body(Empty::<Bytes>::new())
        .map_err(|error| FetchError::Answer {
            url: url.clone(),
            reason: error.to_string(),
        })?;
    sender.send_request(request).await.map_err(answer)
}
