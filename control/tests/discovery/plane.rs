//! A control plane with a directory of its own, and the ways into it: certificates by join token, channels, its admin
//! pages.

use std::{
    fs, io,
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use http::Uri;
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{PrivateKeyDer, ServerName, pem::PemObject};
use squire_ca::{
    admin::{self, Command, Reply},
    hierarchy::Hierarchy,
    revocation::Target,
    store::{DirStore, Store},
    token::JoinToken,
};
use squire_control::{Running, config::Config};
use squire_mesh::{
    bundle::TrustBundles,
    spiffe::{SpiffeId, TrustDomain},
    tls::{Expect, Svid, anonymous_client_config, client_config},
    wire::ca::{IstioCertificateRequest, istio_certificate_service_client::IstioCertificateServiceClient},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::{
    Code, Request,
    transport::{Channel, Endpoint},
};

use crate::client::{Client, WORKLOAD};

const PATIENCE: Duration = Duration::from_secs(20);

/// A pod with a squire, in namespace `shop`, with its name as service account and as label `app`.
pub(crate) fn pod(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\n\
         metadata: {{name: {name}, namespace: shop, labels: {{app: {name}, squire.mesh/transport: squire}}}}\n\
         spec: {{serviceAccountName: {name}, containers: [{{name: app, ports: [{{name: http, containerPort: 8080}}]}}]}}\n\
         status: {{podIP: 127.10.0.1}}\n"
    )
}

pub(crate) struct Plane {
    dirs: tempfile::TempDir,
    running: Running,
}

impl Plane {
    pub(crate) async fn start(files: &[(&str, &str)]) -> Self {
        let plane = Self::start_unready(files).await;
        plane.until_metric("squire_control_ready 1").await;
        plane
    }

    pub(crate) async fn start_unready(files: &[(&str, &str)]) -> Self {
        let dirs = tempfile::tempdir().unwrap();
        fs::create_dir(dirs.path().join("mesh")).unwrap();
        for (name, content) in files {
            write(dirs.path(), name, content);
        }
        let running = run(dirs.path()).await;
        Self { dirs, running }
    }

    pub(crate) async fn restart(self) -> Self {
        let Self { dirs, running } = self;
        running.stop().await.unwrap();
        let plane = Self {
            running: run(dirs.path()).await,
            dirs,
        };
        plane.until_metric("squire_control_ready 1").await;
        plane
    }

    pub(crate) async fn stop(self) {
        self.running.stop().await.unwrap();
    }

    pub(crate) fn write(&self, name: &str, content: &str) {
        write(self.dirs.path(), name, content);
    }

    pub(crate) fn remove(&self, name: &str) {
        fs::remove_file(self.dirs.path().join("mesh").join(name)).unwrap();
    }

    pub(crate) async fn revoke(&self, account: &str) {
        let command = Command::Revoke {
            target: Target::Identity(id(account)),
            reason: "test".into(),
            issued_only: false,
        };
        let dir = self.dirs.path().join("ca");
        let reply = tokio::task::spawn_blocking(move || admin::ask(&dir, &command)).await;
        let reply = reply.unwrap().unwrap();
        assert!(matches!(reply, Reply::Revocation { .. }), "{reply:?}");
    }

    fn store(&self) -> DirStore {
        DirStore::shared(&self.dirs.path().join("ca")).unwrap()
    }

    /// A certificate for a service account of namespace `shop`, by join token, from the CA's own service.
    pub(crate) async fn svid(&self, account: &str) -> Svid {
        let token = JoinToken::create(
            &self.store(),
            "cluster.local",
            &id(account),
            Duration::from_secs(60),
            SystemTime::now(),
        )
        .unwrap();
        let key = KeyPair::generate().unwrap();
        let csr = CertificateParams::default()
            .serialize_request(&key)
            .unwrap()
            .pem()
            .unwrap();
        let mut request = Request::new(IstioCertificateRequest {
            csr,
            ..Default::default()
        });
        let bearer = format!("Bearer {}", &*token.expose());
        request.metadata_mut().insert("authorization", bearer.parse().unwrap());
        let channel = self.try_channel(None).await.unwrap();
        let reply = IstioCertificateServiceClient::new(channel)
            .create_certificate(request)
            .await
            .unwrap();
        let chain = &reply.get_ref().cert_chain[..2];
        let chain = chain
            .iter()
            .map(|pem| PemObject::from_pem_slice(pem.as_bytes()).unwrap())
            .collect();
        Svid::new(chain, PrivateKeyDer::Pkcs8(key.serialize_der().into())).unwrap()
    }

    pub(crate) async fn try_channel(&self, svid: Option<Svid>) -> Result<Channel, tonic::transport::Error> {
        let state = self.store().load().unwrap().unwrap();
        let bundles = Arc::new(TrustBundles::new([Hierarchy::load(&state).unwrap().bundle().clone()]));
        let expected = Expect::Exact(
            "spiffe://cluster.local/ns/squire-system/sa/squire-control"
                .parse()
                .unwrap(),
        );
        let config = match svid {
            Some(svid) => client_config(&svid, bundles, expected, &[b"h2"]),
            None => anonymous_client_config(bundles, expected, &[b"h2"]),
        };
        let dial = Dial {
            address: self.running.grpc(),
            tls: TlsConnector::from(config),
        };
        Endpoint::from_static("http://control")
            .connect_with_connector(dial)
            .await
    }

    pub(crate) async fn connect(&self, account: &str, node: &str) -> Client {
        let svid = self.svid(account).await;
        self.connect_with(svid, node).await
    }

    pub(crate) async fn connect_with(&self, svid: Svid, node: &str) -> Client {
        let channel = self.try_channel(Some(svid.clone())).await.unwrap();
        Client::open(channel, svid, node).await.unwrap()
    }

    /// How a stream is refused.
    pub(crate) async fn refusal(&self, svid: Option<Svid>, node: &str) -> Code {
        let channel = match self.try_channel(svid.clone()).await {
            Ok(channel) => channel,
            Err(_) => return Code::Unavailable,
        };
        let stand_in = match svid {
            Some(svid) => svid,
            None => self.svid("web").await,
        };
        match Client::open(channel, stand_in, node).await {
            Ok(mut client) => {
                client.subscribe(WORKLOAD, &[]).await;
                client.end().await.code()
            }
            Err(status) => status.code(),
        }
    }

    /// The body of an admin page.
    pub(crate) async fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.running.admin()).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: control\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await.unwrap();
        reply.split_once("\r\n\r\n").unwrap().1.to_owned()
    }

    pub(crate) async fn sync(&self) -> serde_json::Value {
        serde_json::from_str(&self.get("/debug/sync").await).unwrap()
    }

    /// Waits until the one proxy is subscribed to so many names of a kind.
    pub(crate) async fn until_subscribed(&self, kind: &str, names: usize) {
        let wait = async {
            while self.sync().await["proxies"][0]["proxy"]["kinds"][kind]["subscribed"] != names {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let waited = timeout(PATIENCE, wait).await;
        waited.unwrap_or_else(|_| panic!("the subscription never came to {names} names of {kind}"));
    }

    /// Waits until a counter, named with its labels, has counted something.
    pub(crate) async fn until_counted(&self, counter: &str) {
        let counted = |line: &str| {
            let value = line
                .strip_prefix(counter)
                .and_then(|rest| rest.trim().parse::<f64>().ok());
            value.is_some_and(|value| value >= 1.0)
        };
        let wait = async {
            while !self.get("/metrics").await.lines().any(counted) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, wait)
            .await
            .unwrap_or_else(|_| panic!("{counter} stays 0"));
    }

    /// Waits until the metrics contain a line.
    pub(crate) async fn until_metric(&self, line: &str) {
        let wait = async {
            while !self.get("/metrics").await.lines().any(|each| each == line) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("no {line}"));
    }
}

fn id(account: &str) -> SpiffeId {
    let domain: TrustDomain = "cluster.local".parse().unwrap();
    SpiffeId::workload(&domain, "shop", account).unwrap()
}

async fn run(root: &Path) -> Running {
    let mut config = Config::new(root.join("mesh"), root.join("ca"), "cluster.local".parse().unwrap());
    config.grpc = ([127, 0, 0, 1], 0).into();
    config.admin = ([127, 0, 0, 1], 0).into();
    Running::start(config).await.unwrap()
}

/// As editors and `kubectl` plugins do it: beside, then renamed.
fn write(root: &Path, name: &str, content: &str) {
    let aside = root.join("aside");
    fs::write(&aside, content).unwrap();
    fs::rename(aside, root.join("mesh").join(name)).unwrap();
}

/// Dials the control plane with mutual TLS.
#[derive(Clone)]
struct Dial {
    address: std::net::SocketAddr,
    tls: TlsConnector,
}

impl tower_service::Service<Uri> for Dial {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Self { address, tls } = self.clone();
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            let name = ServerName::IpAddress(address.ip().into());
            Ok(TokioIo::new(tls.connect(name, stream).await?))
        })
    }
}
