//! Many sidecars at once, as a control plane sees them: each with a stream of its own, SVIDs of five minutes, reports. A rotation
//! makes all of them renew, and is over within a minute. What one control plane issues in a second is measured here too.
//!
//! `SQUIRE_ROTATION_PROXIES=1000` runs it with as many (default 60), `SQUIRE_ISSUE_SECONDS=10` measures issuing for so long
//! (default 1) and wants a thousand a second; `SQUIRE_TEST_BINARIES` may name a directory with release builds.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::SystemTime,
};

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use serde_json::json;
use squire_mesh::{
    bundle::{TrustBundle, TrustBundles},
    ports::{CA_METADATA_WORKLOAD, TYPE_TRUST_BUNDLE},
    svid::{Role, identify},
    wire::{
        self,
        ca::{IstioCertificateRequest, istio_certificate_service_client::IstioCertificateServiceClient},
        core::Node,
        discovery::{DeltaDiscoveryRequest, aggregated_discovery_service_client::AggregatedDiscoveryServiceClient},
        squire::{ReportRequest, report_service_client::ReportServiceClient},
    },
};
use squire_tests::{
    Mesh,
    authority::{self, Channel, Driver},
    eventually,
    forge::Shown,
    issuer::Issuer,
    raise_file_limit,
};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_stream::wrappers::ReceiverStream;

use super::*;

/// Sidecars of one service account.
const EACH: usize = 10;
const LIFETIME: i64 = 300;

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// A control plane that takes tokens of an issuer of ours.
async fn with_issuer(mesh: &Mesh) -> Issuer {
    let issuer = Issuer::new("https://issuer.example");
    let keys = mesh.dir().join("keys.json");
    std::fs::write(&keys, issuer.jwks().to_string()).unwrap();
    let arguments = [
        "--jwks",
        keys.to_str().unwrap(),
        "--jwt-issuer",
        "https://issuer.example",
    ];
    mesh.start_with(&[&arguments[..], &["--issue-rate", "1000000"]].concat())
        .await;
    issuer
}

fn token(issuer: &Issuer, account: &str) -> String {
    issuer.token(&json!({"sub": format!("system:serviceaccount:shop:{account}")}))
}

struct Request {
    text: String,
    key: KeyPair,
}

impl Request {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let request = CertificateParams::new(Vec::new())
            .unwrap()
            .serialize_request(&key)
            .unwrap();
        Self {
            text: request.pem().unwrap(),
            key,
        }
    }

    fn of(&self, workload: &str, token: Option<&str>) -> tonic::Request<IstioCertificateRequest> {
        let workload = prost_types::Value {
            kind: Some(prost_types::value::Kind::StringValue(workload.to_owned())),
        };
        let mut request = tonic::Request::new(IstioCertificateRequest {
            csr: self.text.clone(),
            validity_duration: LIFETIME,
            metadata: Some(prost_types::Struct {
                fields: BTreeMap::from([(CA_METADATA_WORKLOAD.to_owned(), workload)]),
            }),
        });
        if let Some(token) = token {
            let bearer = format!("Bearer {token}").parse().unwrap();
            request.metadata_mut().insert("authorization", bearer);
        }
        request
    }

    /// A certificate by a token, or by the SVID that is shown.
    async fn answered(self, to: SocketAddr, workload: &str, token: Option<&str>, svid: Option<&Shown>) -> Shown {
        let (channel, origin, _driver) = authority::open(to, svid).await.unwrap();
        let mut client = IstioCertificateServiceClient::with_origin(channel, origin);
        let answer = client
            .create_certificate(self.of(workload, token))
            .await
            .unwrap()
            .into_inner();
        let certificates = answer.cert_chain[..2].iter();
        Shown {
            chain: certificates
                .map(|pem| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap())
                .collect(),
            key: PrivateKeyDer::try_from(self.key.serialize_der()).unwrap(),
        }
    }
}

/// One of many sidecars.
struct Simulated {
    control: SocketAddr,
    workload: String,
    svid: Shown,
    /// A moment within the time that renewals are spread over, in thousandths.
    moment: u32,
    renewed: Arc<AtomicUsize>,
}

impl Simulated {
    /// Follows the trust bundle, renews when another root signs, and reports what it trusts and holds.
    async fn run(mut self, ready: mpsc::Sender<()>) {
        let shown = Arc::new(Shown {
            chain: self.svid.chain.clone(),
            key: self.svid.key.clone_key(),
        });
        let (channel, origin, _driver) = authority::open(self.control, Some(&shown)).await.unwrap();
        let (send, requests) = mpsc::channel(4);
        let mut first = ack(String::new());
        first.node = Some(Node {
            id: self.workload.clone(),
            ..Node::default()
        });
        send.send(first).await.unwrap();
        let mut discovery = AggregatedDiscoveryServiceClient::with_origin(channel, origin);
        let answers = discovery
            .delta_aggregated_resources(ReceiverStream::new(requests))
            .await;
        let mut answers = answers.unwrap().into_inner();
        let (channel, origin, _reporting): (Channel, _, Driver) =
            authority::open(self.control, Some(&shown)).await.unwrap();
        let mut reports = ReportServiceClient::with_origin(channel, origin);
        let mut ready = Some(ready);
        while let Ok(Some(answer)) = answers.message().await {
            let bundles = answer
                .resources
                .iter()
                .filter_map(|resource| resource.resource.as_ref());
            let bundles = bundles.map(|any| {
                let message: wire::squire::TrustBundle = prost::Message::decode(&*any.value).unwrap();
                TrustBundle::try_from(message).unwrap()
            });
            let bundles: Vec<_> = bundles.collect();
            send.send(ack(answer.nonce)).await.unwrap();
            for bundle in bundles {
                self.take(&bundle, &mut reports).await;
            }
            if let Some(ready) = ready.take() {
                ready.send(()).await.unwrap();
            }
        }
    }

    async fn take(&mut self, bundle: &TrustBundle, reports: &mut ReportServiceClient<Channel>) {
        reports.report(self.report(bundle)).await.unwrap();
        let signing = bundle.signing().unwrap();
        if self.stands_on(bundle) == signing.root.to_string() {
            return;
        }
        tokio::time::sleep(signing.renew_within * self.moment / 1000).await;
        self.svid = Request::new()
            .answered(self.control, &self.workload, None, Some(&self.svid))
            .await;
        self.renewed.fetch_add(1, SeqCst);
        assert_eq!(self.stands_on(bundle), signing.root.to_string());
        reports.report(self.report(bundle)).await.unwrap();
    }

    /// The root of its SVID.
    fn stands_on(&self, bundle: &TrustBundle) -> String {
        let bundles = TrustBundles::new([bundle.clone()]);
        let peer = identify(&self.svid.chain, &bundles, SystemTime::now(), Role::Client);
        peer.unwrap().root().to_string()
    }

    fn report(&self, bundle: &TrustBundle) -> ReportRequest {
        let bundles = TrustBundles::new([bundle.clone()]);
        let peer = identify(&self.svid.chain, &bundles, SystemTime::now(), Role::Client).unwrap();
        let seconds = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        ReportRequest {
            workload: self.workload.clone(),
            bundle_digest: bundles.digest().to_owned(),
            own_bundle_digest: bundle.digest(),
            own_bundle_sequence: bundle.sequence(),
            svid_root: peer.root().to_string(),
            svid_serial: peer.serial().to_string(),
            svid_not_after: i64::try_from(seconds(peer.not_after())).unwrap(),
            now: i64::try_from(seconds(SystemTime::now())).unwrap(),
            ..ReportRequest::default()
        }
    }
}

fn ack(nonce: String) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: TYPE_TRUST_BUNDLE.to_owned(),
        response_nonce: nonce,
        ..DeltaDiscoveryRequest::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_over_a_fleet_of_sidecars_renews_every_svid_and_is_over_within_a_minute() {
    raise_file_limit();
    let proxies = setting("SQUIRE_ROTATION_PROXIES", 60);
    let mesh = Mesh::strict();
    let mut pods = String::new();
    for number in 0..proxies {
        pods += &format!(
            "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: p-{number}, namespace: shop, labels: {{app: p}}, annotations: \
             {{squire.mesh/transport: squire}}}}, spec: {{serviceAccountName: a-{account}, containers: [{{name: app}}]}}, status: \
             {{phase: Running, podIP: 10.9.{high}.{low}}}}}\n",
            account = number / EACH,
            high = number / 250,
            low = 1 + number % 250,
        );
    }
    mesh.write("fleet.yaml", &pods);
    let issuer = with_issuer(&mesh).await;
    let renewed = Arc::new(AtomicUsize::new(0));
    let (ready, mut started) = mpsc::channel(proxies);
    let mut fleet = JoinSet::new();
    for number in 0..proxies {
        let (control, workload) = (mesh.grpc(), format!("shop/p-{number}"));
        let token = token(&issuer, &format!("a-{}", number / EACH));
        let (ready, renewed) = (ready.clone(), Arc::clone(&renewed));
        fleet.spawn(async move {
            let svid = Request::new().answered(control, &workload, Some(&token), None).await;
            let simulated = Simulated {
                control,
                workload,
                svid,
                moment: u32::try_from(number * 7919 % 1000).unwrap(),
                renewed,
            };
            simulated.run(ready).await;
        });
    }
    for _ in 0..proxies {
        squire_tests::in_time("a sidecar is there", started.recv())
            .await
            .unwrap();
    }
    let before = status(&mesh).await.unwrap();
    let begun = Instant::now();
    rotate(&mesh).await;
    let waiting = status(&mesh).await.unwrap();
    // And the control plane itself.
    assert_eq!(waiting["rotation"]["holders"], proxies + 1, "{waiting}");
    let stable = reaches(&mesh, "stable").await;
    let took = begun.elapsed();
    eprintln!("a rotation over {proxies} sidecars took {took:.1?}");
    assert_ne!(root(&stable), root(&before));
    assert_eq!(renewed.load(SeqCst), proxies, "each has renewed, once");
    assert!(took <= Duration::from_secs(60), "{took:?}");
    assert!(fleet.try_join_next().is_none(), "every stream is there to the end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attested_certificates_are_issued_through_grpc_all_the_time_by_many_who_ask_at_once() {
    const ASKERS: usize = 128;
    let seconds = setting("SQUIRE_ISSUE_SECONDS", 1);
    let mesh = Mesh::new();
    let issuer = with_issuer(&mesh).await;
    let (count, over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let mut askers = JoinSet::new();
    for number in 0..ASKERS {
        let (control, workload) = (mesh.grpc(), format!("shop/p-{number}"));
        let token = token(&issuer, &format!("a-{number}"));
        let (count, over) = (Arc::clone(&count), Arc::clone(&over));
        askers.spawn(async move {
            let svid = Request::new().answered(control, &workload, Some(&token), None).await;
            // Renewals by the SVID of the connection; half of the others show their token each time.
            let (channel, origin, _driver) = authority::open(control, Some(&svid)).await.unwrap();
            let mut client = IstioCertificateServiceClient::with_origin(channel, origin);
            let token = (number % 2 == 0).then_some(&*token);
            let request = Request::new();
            while !over.load(SeqCst) {
                client.create_certificate(request.of(&workload, token)).await.unwrap();
                count.fetch_add(1, SeqCst);
            }
        });
    }
    eventually("all ask", async || (count.load(SeqCst) > ASKERS).then_some(())).await;
    let cpu = || mesh.with_control(squire_tests::Process::cpu_seconds);
    let (from, begun, used) = (count.load(SeqCst), Instant::now(), cpu());
    tokio::time::sleep(Duration::from_secs(seconds as u64)).await;
    let (issued, took) = (count.load(SeqCst) - from, begun.elapsed());
    over.store(true, SeqCst);
    askers.join_all().await;
    let each_second = issued as f64 / took.as_secs_f64();
    let cost = 1000.0 * (cpu() - used) / issued as f64;
    eprintln!("{issued} attested certificates in {took:.1?}: {each_second:.0} a second, {cost:.2} ms of CPU time each");
    assert!(issued > 0);
    if seconds > 1 {
        assert!(each_second >= 1000.0, "{each_second:.0} a second");
    }
    succeeds(&mesh, &["ca", "log", "--dir", "ca", "--verify"]).await;
}
