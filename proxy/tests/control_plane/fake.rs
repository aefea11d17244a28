//! A CA and control plane in this process, over real mutual TLS: it does what a test tells it, and tells the test what
//! it saw.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
};
use squire_mesh::{
    bundle::TrustBundles,
    spiffe::SpiffeId,
    svid::{Role, identify},
    tls::{ClientAuth, Svid, server_config},
    wire::{
        ca::{
            IstioCertificateRequest, IstioCertificateResponse,
            istio_certificate_service_server::{IstioCertificateService, IstioCertificateServiceServer},
        },
        discovery::{
            DeltaDiscoveryRequest, DeltaDiscoveryResponse,
            aggregated_discovery_service_server::{AggregatedDiscoveryService, AggregatedDiscoveryServiceServer},
        },
        squire::{
            ReportRequest, ReportResponse,
            report_service_server::{ReportService, ReportServiceServer},
        },
    },
};
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle};
use tokio_rustls::TlsAcceptor;
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use tower_service::Service as _;

pub(crate) const DOMAIN: &str = "cluster.local";
pub(crate) const CONTROL: &str = "spiffe://cluster.local/ns/squire-system/sa/squire-control";
pub(crate) const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";

/// A root that signs leaves.
pub(crate) struct Ca(CertifiedIssuer<'static, KeyPair>);

impl Ca {
    pub(crate) fn new(name: &str) -> Arc<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Arc::new(Self(
            CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap(),
        ))
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    pub(crate) fn der(&self) -> Vec<u8> {
        self.0.der().to_vec()
    }

    pub(crate) fn bundles(&self) -> Arc<TrustBundles> {
        Arc::new(TrustBundles::from_pem(&DOMAIN.parse().unwrap(), self.pem().as_bytes()).unwrap())
    }

    fn sign(&self, id: &str, key: &impl PublicKeyData, lifetime: Duration) -> rcgen::Certificate {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let now = SystemTime::now();
        params.not_before = (now - Duration::from_secs(300)).into();
        params.not_after = (now + lifetime).into();
        params.signed_by(key, &self.0).unwrap()
    }

    /// An SVID for whoever is named.
    pub(crate) fn svid(&self, id: &str) -> Arc<Svid> {
        let key = KeyPair::generate().unwrap();
        let leaf = self.sign(id, &key, Duration::from_secs(3600));
        Arc::new(Svid::new(vec![leaf.der().clone()], key.serialize_der().try_into().unwrap()).unwrap())
    }
}

/// What the fake saw.
#[derive(Debug)]
pub(crate) enum Event {
    /// A certificate was asked for, with this token, by this client, for this lifetime.
    Issue {
        token: Option<String>,
        client: Option<SpiffeId>,
        seconds: i64,
        csr: String,
    },
    /// A stream was opened by this client.
    Stream {
        client: Option<SpiffeId>,
        send: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
    },
    /// A request came on a stream.
    Request(DeltaDiscoveryRequest),
    /// A report came.
    Report(ReportRequest),
}

/// What the CA does with requests.
#[derive(Clone)]
pub(crate) struct Behaviour {
    pub(crate) ca: Arc<Ca>,
    pub(crate) identity: &'static str,
    pub(crate) lifetime: Duration,
    pub(crate) refuse_svid: bool,
    pub(crate) refuse_token: bool,
}

/// A running fake; ends when dropped.
pub(crate) struct Fake {
    pub(crate) address: SocketAddr,
    pub(crate) behaviour: Arc<Mutex<Behaviour>>,
    pub(crate) events: mpsc::Receiver<Event>,
    stop: CancellationToken,
    accepting: JoinHandle<()>,
}

#[derive(Clone)]
struct Serving {
    behaviour: Arc<Mutex<Behaviour>>,
    events: mpsc::Sender<Event>,
}

#[derive(Clone)]
struct Client(Option<SpiffeId>);

impl Fake {
    /// Starts as the control plane of this CA; on a given address, or on any.
    pub(crate) async fn start(ca: &Arc<Ca>, address: Option<SocketAddr>) -> Self {
        Self::start_as(ca, ca.svid(CONTROL), address).await
    }

    /// Starts with another certificate.
    pub(crate) async fn start_as(ca: &Arc<Ca>, svid: Arc<Svid>, address: Option<SocketAddr>) -> Self {
        let listener = TcpListener::bind(address.unwrap_or(([127, 0, 0, 1], 0).into()))
            .await
            .unwrap();
        let behaviour = Arc::new(Mutex::new(Behaviour {
            ca: Arc::clone(ca),
            identity: WEB,
            lifetime: Duration::from_secs(3600),
            refuse_svid: false,
            refuse_token: false,
        }));
        let (sender, events) = mpsc::channel(1_000);
        let stop = CancellationToken::new();
        let address = listener.local_addr().unwrap();
        let serving = Serving {
            behaviour: Arc::clone(&behaviour),
            events: sender,
        };
        let accepting = tokio::spawn(accept(listener, serving, svid, ca.bundles(), stop.clone()));
        Self {
            address,
            behaviour,
            events,
            stop,
            accepting,
        }
    }

    /// Closes everything; says where it was.
    pub(crate) async fn kill(mut self) -> SocketAddr {
        self.stop.cancel();
        (&mut self.accepting).await.unwrap();
        self.address
    }

    pub(crate) fn set(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.behaviour.lock().unwrap());
    }

    /// The next event that is wanted; the others are skipped.
    pub(crate) async fn expect<T>(&mut self, what: &str, mut wanted: impl FnMut(Event) -> Option<T>) -> T {
        let found = async {
            loop {
                if let Some(found) = wanted(self.events.recv().await.expect("the fake lives")) {
                    return found;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(30), found)
            .await
            .unwrap_or_else(|_| panic!("never saw {what}"))
    }

    pub(crate) async fn issue(&mut self) -> (Option<String>, Option<SpiffeId>, String) {
        self.expect("a certificate request", |event| match event {
            Event::Issue { token, client, csr, .. } => Some((token, client, csr)),
            _ => None,
        })
        .await
    }

    pub(crate) async fn stream(&mut self) -> mpsc::Sender<Result<DeltaDiscoveryResponse, Status>> {
        self.expect("a stream", |event| match event {
            Event::Stream { client, send } => {
                assert_eq!(client.map(|id| id.to_string()).as_deref(), Some(WEB));
                Some(send)
            }
            _ => None,
        })
        .await
    }

    pub(crate) async fn request(&mut self, wanted: impl Fn(&DeltaDiscoveryRequest) -> bool) -> DeltaDiscoveryRequest {
        self.expect("a request", |event| match event {
            Event::Request(request) if wanted(&request) => Some(request),
            _ => None,
        })
        .await
    }

    pub(crate) async fn report(&mut self, wanted: impl Fn(&ReportRequest) -> bool) -> ReportRequest {
        self.expect("a report", |event| match event {
            Event::Report(report) if wanted(&report) => Some(report),
            _ => None,
        })
        .await
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn accept(
    listener: TcpListener,
    serving: Serving,
    svid: Arc<Svid>,
    bundles: Arc<TrustBundles>,
    stop: CancellationToken,
) {
    let tls = TlsAcceptor::from(server_config(
        svid,
        Arc::clone(&bundles),
        ClientAuth::Optional,
        &[b"h2"],
    ));
    let routes = tonic::service::Routes::new(IstioCertificateServiceServer::new(serving.clone()))
        .add_service(AggregatedDiscoveryServiceServer::new(serving.clone()))
        .add_service(ReportServiceServer::new(serving))
        .prepare();
    loop {
        let (tcp, _) = tokio::select! {
            accepted = listener.accept() => accepted.unwrap(),
            () = stop.cancelled() => return,
        };
        let (tls, routes, bundles, stop) = (tls.clone(), routes.clone(), Arc::clone(&bundles), stop.clone());
        tokio::spawn(async move {
            let Ok(stream) = tls.accept(tcp).await else { return };
            let client = stream.get_ref().1.peer_certificates().map(|chain| {
                identify(chain, &bundles, SystemTime::now(), Role::Client)
                    .expect("verified in the handshake")
                    .id()
                    .clone()
            });
            let service = hyper::service::service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
                request.extensions_mut().insert(Client(client.clone()));
                let mut routes = routes.clone();
                async move { Ok::<_, Infallible>(routes.call(request).await.unwrap()) }
            });
            let connection = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                _ = connection => {}
                () = stop.cancelled() => {}
            }
        });
    }
}

fn client<T>(request: &Request<T>) -> Option<SpiffeId> {
    request.extensions().get::<Client>().and_then(|client| client.0.clone())
}

#[tonic::async_trait]
impl IstioCertificateService for Serving {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let client = client(&request);
        let token = request
            .metadata()
            .get("authorization")
            .map(|value| value.to_str().unwrap().to_owned());
        let message = request.into_inner();
        let seconds = message.validity_duration;
        let event = Event::Issue {
            token: token.clone(),
            client: client.clone(),
            seconds,
            csr: message.csr.clone(),
        };
        let _ = self.events.send(event).await;
        let behaviour = self.behaviour.lock().unwrap().clone();
        match (&client, &token) {
            (_, Some(_)) if behaviour.refuse_token => return Err(Status::unauthenticated("the token is used up")),
            (Some(_), None) if behaviour.refuse_svid => return Err(Status::permission_denied("revoked")),
            (None, None) => return Err(Status::unauthenticated("neither token nor certificate")),
            _ => {}
        }
        let csr = CertificateSigningRequestParams::from_pem(&message.csr)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let leaf = behaviour
            .ca
            .sign(behaviour.identity, &csr.public_key, behaviour.lifetime);
        Ok(Response::new(IstioCertificateResponse {
            cert_chain: vec![leaf.pem(), behaviour.ca.pem()],
        }))
    }
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Serving {
    type DeltaAggregatedResourcesStream = Pin<Box<dyn Stream<Item = Result<DeltaDiscoveryResponse, Status>> + Send>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let (send, receiver) = mpsc::channel(16);
        let _ = self
            .events
            .send(Event::Stream {
                client: client(&request),
                send,
            })
            .await;
        let (mut requests, events) = (request.into_inner(), self.events.clone());
        tokio::spawn(async move {
            while let Ok(Some(request)) = requests.message().await {
                let _ = events.send(Event::Request(request)).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

#[tonic::async_trait]
impl ReportService for Serving {
    async fn report(&self, request: Request<ReportRequest>) -> Result<Response<ReportResponse>, Status> {
        let _ = self.events.send(Event::Report(request.into_inner())).await;
        Ok(Response::new(ReportResponse {
            next_seconds: 1,
            ..Default::default()
        }))
    }
}
