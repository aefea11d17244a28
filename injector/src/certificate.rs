//! The webhook's certificate, from our own CA: asked for with our service-account token, under the roots of the mesh, and
//! renewed in time. The key is made here, new each time, and never leaves memory.

use std::{
    fmt::Display,
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use http::{Request, Response, Uri};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _};
use squire_mesh::{
    bundle::{TrustBundle, TrustBundles},
    ports,
    spiffe::SpiffeId,
    svid::{Role, identify},
    tls::{self, Expect, Svid},
    wire::ca::{IstioCertificateRequest, istio_certificate_service_client::IstioCertificateServiceClient},
};
use tokio::{
    net::{TcpStream, lookup_host},
    sync::{Notify, watch},
    time::{sleep, timeout},
};
use tokio_rustls::TlsConnector;
use tonic::body::Body;
use tower_service::Service;

use crate::metrics::Metrics;

/// Resolving, connecting, handshake, signing: all of it.
const TIMEOUT: Duration = Duration::from_secs(10);
/// After a failure, doubled up to the second.
const RETRY: Duration = Duration::from_millis(500);
const MAX_RETRY: Duration = Duration::from_secs(30);
/// Leaf, intermediates and roots are not more.
const LONGEST_ANSWER: usize = 16;
/// Of a certificate's life, in percent, when it is renewed.
const RENEW_AT: std::ops::Range<u32> = 50..60;

/// Where certificates come from.
#[derive(Debug, Clone)]
pub struct Issuer {
    /// host:port of the control plane.
    pub control: String,
    /// File with our service-account token, read anew at every use.
    pub token: PathBuf,
    /// How long a certificate is to be valid; the CA has the last word.
    pub lifetime: Duration,
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {why}")]
pub struct CertificateError {
    what: String,
    why: String,
}

fn failed<E: Display>(what: impl Into<String>) -> impl FnOnce(E) -> CertificateError {
    let what = what.into();
    move |why| CertificateError {
        what,
        why: why.to_string(),
    }
}

/// Keeps a valid certificate in `current` as long as there are readers. Other roots are reason to ask for another one: what
/// the old root signed will not be believed for long; `now` is another.
pub(crate) async fn keep(
    issuer: Issuer,
    mut roots: watch::Receiver<Option<Arc<TrustBundle>>>,
    now: Arc<Notify>,
    current: watch::Sender<Option<Arc<Svid>>>,
    metrics: Metrics,
) {
    let mut retry = RETRY;
    while !current.is_closed() {
        let Some(bundle) = roots.borrow_and_update().clone() else {
            if roots.changed().await.is_err() {
                return;
            }
            continue;
        };
        let issued = timeout(TIMEOUT, issuer.issue(&bundle)).await;
        let issued = issued.unwrap_or_else(|_| {
            Err(CertificateError {
                what: issuer.control.clone(),
                why: format!("no answer within {TIMEOUT:?}"),
            })
        });
        let wait = match issued {
            Ok(svid) => {
                let expiry = svid
                    .not_after()
                    .duration_since(SystemTime::UNIX_EPOCH)
                    .unwrap_or_default();
                metrics.renewal(Some(expiry.as_secs()));
                tracing::info!(serial = %svid.serial(), "the webhook has a certificate");
                retry = RETRY;
                let wait = renewal_in(&svid);
                current.send_replace(Some(Arc::new(svid)));
                wait
            }
            Err(error) => {
                metrics.renewal(None);
                tracing::warn!(%error, "the webhook's certificate was not issued; trying again");
                retry = (retry * 2).min(MAX_RETRY);
                retry.mul_f64(rand::random_range(0.5..1.0))
            }
        };
        tokio::select! {
            () = sleep(wait) => {}
            () = now.notified() => {}
            changed = roots.changed() => if changed.is_err() { return },
            () = current.closed() => return,
        }
    }
}

fn renewal_in(svid: &Svid) -> Duration {
    let left = svid.not_after().duration_since(SystemTime::now()).unwrap_or_default();
    (left * rand::random_range(RENEW_AT) / 100).max(RETRY)
}

impl Issuer {
    async fn issue(&self, roots: &TrustBundle) -> Result<Svid, CertificateError> {
        let token = std::fs::read_to_string(&self.token);
        let token = token.map_err(failed(format!("the token {}", self.token.display())))?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed("making a key"))?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let csr = params.serialize_request(&key).and_then(|csr| csr.pem());
        let csr = csr.map_err(failed("making a request"))?;

        let channel = self.connect(roots).await?;
        let origin = Uri::builder()
            .scheme("https")
            .authority(self.control.as_str())
            .path_and_query("/")
            .build();
        let origin = origin.map_err(failed(format!("the address {}", self.control)))?;
        let mut message = tonic::Request::new(IstioCertificateRequest {
            csr,
            validity_duration: i64::try_from(self.lifetime.as_secs()).unwrap_or(0),
            metadata: None,
        });
        let bearer = format!("Bearer {}", token.trim()).parse();
        // The error would show the token.
        let bearer = bearer.map_err(|_| failed("the token")("is not one line of text"))?;
        message.metadata_mut().insert("authorization", bearer);
        let asked = IstioCertificateServiceClient::with_origin(channel, origin)
            .create_certificate(message)
            .await;
        let answer = asked.map_err(|status| failed("the CA refused")(status.message().to_owned()))?;

        let chain = path(&answer.into_inner().cert_chain, roots).map_err(failed("the CA's answer"))?;
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        Svid::new(chain, key).map_err(failed("the CA's answer"))
    }

    async fn connect(&self, roots: &TrustBundle) -> Result<Channel, CertificateError> {
        let at = || self.control.clone();
        let control = SpiffeId::workload(roots.trust_domain(), ports::SYSTEM_NAMESPACE, ports::CONTROL_ACCOUNT);
        let control = control.map_err(failed(at()))?;
        let bundles = Arc::new(TrustBundles::new([roots.clone()]));
        let config = tls::anonymous_client_config(bundles, Expect::Exact(control), &[b"h2"]);
        let mut last = failed(at())("the name has no address");
        for address in lookup_host(&self.control).await.map_err(failed(at()))? {
            let tcp = match TcpStream::connect(address).await {
                Ok(tcp) => tcp,
                Err(error) => {
                    last = failed(format!("{} ({address})", self.control))(error);
                    continue;
                }
            };
            // The name is neither sent nor checked: the SPIFFE ID is.
            let name = ServerName::IpAddress(address.ip().into());
            let stream = TlsConnector::from(Arc::clone(&config)).connect(name, tcp).await;
            let stream = stream.map_err(failed(format!("TLS with {address}")))?;
            let begun = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
            let (send, connection) = begun.map_err(failed(format!("HTTP/2 with {address}")))?;
            tokio::spawn(connection);
            return Ok(Channel(send));
        }
        Err(last)
    }
}

/// Of the certificates in an answer those that lead from the leaf to our roots: as many as it takes, however many roots the
/// CA has besides.
fn path(answer: &[String], roots: &TrustBundle) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = answer
        .iter()
        .flat_map(|pem| CertificateDer::pem_slice_iter(pem.as_bytes()))
        .take(LONGEST_ANSWER)
        .collect();
    let all = all.map_err(|error| error.to_string())?;
    let bundles = TrustBundles::new([roots.clone()]);
    let mut why = "it is empty".to_owned();
    for length in 1..=all.len() {
        match identify(&all[..length], &bundles, SystemTime::now(), Role::Server) {
            Ok(_) => return Ok(all[..length].to_vec()),
            Err(error) => why = error.to_string(),
        }
    }
    Err(format!("leads to none of the roots we know: {why}"))
}

struct Channel(http2::SendRequest<Body>);

impl Service<Request<Body>> for Channel {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType};

    use super::*;

    struct Signer {
        der: CertificateDer<'static>,
        pem: String,
        issuer: rcgen::Issuer<'static, KeyPair>,
    }

    fn signer(by: Option<&Signer>) -> Signer {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.subject_alt_names = vec![SanType::URI("spiffe://cluster.local".try_into().unwrap())];
        let made = match by {
            None => params.self_signed(&key),
            Some(by) => params.signed_by(&key, &by.issuer),
        };
        let made = made.unwrap();
        Signer {
            der: made.der().clone(),
            pem: made.pem(),
            issuer: rcgen::Issuer::new(params, key),
        }
    }

    fn leaf(by: &Signer) -> String {
        let key = KeyPair::generate().unwrap();
        leaf_params().signed_by(&key, &by.issuer).unwrap().pem()
    }

    fn leaf_params() -> CertificateParams {
        let mut params = CertificateParams::default();
        let id = "spiffe://cluster.local/ns/squire-system/sa/squire-injector";
        params.is_ca = IsCa::ExplicitNoCa;
        params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params
    }

    #[test]
    fn a_certificate_is_renewed_at_half_of_its_life_and_a_bit_and_never_without_a_pause() {
        let lasts = |left: u64| {
            let key = KeyPair::generate().unwrap();
            let mut params = leaf_params();
            params.not_after = (SystemTime::now() + Duration::from_secs(left)).into();
            let leaf = params.signed_by(&key, &signer(None).issuer).unwrap().pem();
            Svid::from_pem(leaf.as_bytes(), key.serialize_pem().as_bytes()).unwrap()
        };
        let hour = lasts(3600);
        for _ in 0..100 {
            let wait = renewal_in(&hour).as_secs();
            assert!((1790..=2160).contains(&wait), "{wait}");
        }
        assert_eq!(renewal_in(&lasts(0)), RETRY);
    }

    #[test]
    fn the_chain_is_what_leads_to_our_roots_however_many_roots_the_answer_has() {
        let (old, new) = (signer(None), signer(None));
        let (below_old, below_new) = (signer(Some(&old)), signer(Some(&new)));
        let know = |roots: &[&Signer]| {
            let ders = roots.iter().map(|root| root.der.clone());
            TrustBundle::new("cluster.local".parse().unwrap(), ders, 1).unwrap()
        };
        // In the middle of a rotation the CA names two roots, and we know one of them, or both.
        let answer = [
            leaf(&below_old),
            below_old.pem.clone(),
            old.pem.clone(),
            new.pem.clone(),
        ];
        for roots in [know(&[&old]), know(&[&old, &new]), know(&[&new, &old])] {
            assert_eq!(path(&answer, &roots).unwrap().len(), 2);
        }
        // Signed under a root that we do not know yet: nobody who has our roots would believe it.
        let answer = [
            leaf(&below_new),
            below_new.pem.clone(),
            old.pem.clone(),
            new.pem.clone(),
        ];
        let why = path(&answer, &know(&[&old])).unwrap_err();
        assert!(why.contains("none of the roots"), "{why}");
        assert!(path(&[], &know(&[&old])).unwrap_err().contains("empty"));
    }
}
