//! Three replicas of the control plane: all sign and serve, one leads, and killing that one loses and doubles nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use rcgen::{CertificateParams, KeyPair};
use serde_json::Value;
use squire_tests::{
    apps,
    authority::{self, Proof},
    eventually, in_time,
};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
};

use super::world::{Replica, SYSTEM, World, gets_through, is_kept_out};

/// Certificates that are asked for after the leader is gone.
const AFTERWARDS: usize = 60;
/// How many ask at once.
const ASKERS: usize = 4;

/// What the Service of the control plane does: new connections go to a replica that is there.
pub(super) async fn balances(listen: SocketAddr, replicas: Vec<SocketAddr>) -> tokio::task::JoinHandle<()> {
    let listener = TcpListener::bind(listen).await.unwrap();
    tokio::spawn(async move {
        let mut next = 0;
        loop {
            let Ok((mut client, _)) = listener.accept().await else {
                return;
            };
            let from = next;
            next += 1;
            let replicas = replicas.clone();
            tokio::spawn(async move {
                for number in 0..replicas.len() {
                    if let Ok(mut server) = TcpStream::connect(replicas[(from + number) % replicas.len()]).await {
                        let _ = copy_bidirectional(&mut client, &mut server).await;
                        return;
                    }
                }
            });
        }
    })
}

pub(super) async fn leader(replicas: &[Option<Replica>]) -> Option<usize> {
    let mut leading = Vec::new();
    for (number, replica) in replicas.iter().enumerate() {
        if let Some(replica) = replica
            && replica.figure("squire_control_leads", &[]).await == 1.0
        {
            leading.push(number);
        }
    }
    assert!(leading.len() <= 1, "two lead: {leading:?}");
    leading.first().copied()
}

/// The serial number of a certificate as the log has it, found by the certificate's own bytes.
fn key_digest(chain: &[String]) -> Vec<u8> {
    pem::parse(&chain[0]).unwrap().contents().to_vec()
}

/// Lines of the issuance log, in order.
pub(super) async fn log(world: &World) -> Vec<String> {
    let arguments = [
        "get",
        "configmaps",
        "-n",
        SYSTEM,
        "-l",
        "squire.mesh/ca=log",
        "-o",
        "json",
    ];
    let list: Value = serde_json::from_str(&world.kubectl(&arguments).await).unwrap();
    let chunk = |item: &Value| {
        let name = item["metadata"]["name"].as_str().unwrap().to_owned();
        (name, item["data"]["log.jsonl"].as_str().unwrap_or_default().to_owned())
    };
    let chunks: BTreeMap<String, String> = list["items"].as_array().unwrap().iter().map(chunk).collect();
    chunks
        .values()
        .flat_map(|lines| lines.lines().map(str::to_owned))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_the_leader_of_three_amid_issuing_and_pushing_loses_nothing_and_doubles_nothing() {
    let Some(world) = World::new().await else { return };
    let world = Arc::new(world);
    for (pod, account) in [("db", "db"), ("web", "web"), ("batch", "batch")] {
        world.pod(pod, account, "").await;
    }
    let addresses: Vec<SocketAddr> = (1..=3)
        .map(|number| SocketAddr::new(world.api.address(100 + number), 15012))
        .collect();
    let mut replicas: Vec<Option<Replica>> = Vec::new();
    for (number, grpc) in addresses.iter().enumerate() {
        let admin = SocketAddr::new(grpc.ip(), 15014);
        let name = format!("control-{number}");
        replicas.push(Some(world.replica(&name, *grpc, admin, &world.api.kubeconfig())));
    }
    let mut bundles = BTreeSet::new();
    for replica in replicas.iter().flatten() {
        replica.ready().await;
        bundles.insert(replica.page("/ca/bundle").await);
    }
    assert_eq!(bundles.len(), 1, "one CA, whoever was first");
    // The sidecars' way to the control plane, and where tests look for its pages.
    let _grpc = balances(world.mesh.grpc(), addresses.clone()).await;
    let pages: Vec<_> = addresses.iter().map(|grpc| SocketAddr::new(grpc.ip(), 15014)).collect();
    let _admin = balances(world.mesh.admin(), pages).await;
    let echo = apps::echo().await;
    let _db = world.sidecar("db", "db", Some(&echo), &[]).await;
    let web = world.sidecar("web", "web", None, &["db:5432"]).await;
    let mut open = gets_through(&web, "db:5432").await;
    let first = eventually("one of them leads", async || leader(&replicas).await).await;

    // Certificates are asked for all the time, of every replica.
    let token = world.token("batch", "batch").await;
    let issued: Arc<Mutex<Vec<Vec<String>>>> = Arc::default();
    let done = Arc::new(AtomicBool::new(false));
    let askers: Vec<_> = (0..ASKERS)
        .map(|number| {
            let (addresses, token) = (addresses.clone(), token.clone());
            let (issued, done) = (Arc::clone(&issued), Arc::clone(&done));
            tokio::spawn(async move {
                let mut next = number;
                while !done.load(Ordering::Relaxed) {
                    next += 1;
                    let key = KeyPair::generate().unwrap();
                    let request = CertificateParams::new(Vec::new())
                        .unwrap()
                        .serialize_request(&key)
                        .unwrap();
                    let proof = Proof {
                        token: Some(&token),
                        svid: None,
                    };
                    let request = request.pem().unwrap();
                    let asked = authority::ask_at(addresses[next % 3], &request, proof);
                    // A replica that is gone does not answer; whoever asks, asks another.
                    match asked.await {
                        Ok(chain) => issued.lock().unwrap().push(chain),
                        Err(_) => tokio::task::yield_now().await,
                    }
                }
            })
        })
        .collect();
    let count = || issued.lock().unwrap().len();
    eventually("certificates are issued", async || (count() >= 20).then_some(())).await;

    // The leader is killed while it issues, and while a policy is on its way.
    world
        .api
        .apply(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: only, namespace: shop}\nspec:\n  \
             selector: {matchLabels: {app: db}}\n  rules: [{from: [{source: {principals: \
             [cluster.local/ns/shop/sa/batch]}}]}]\n",
        )
        .await;
    let mut killed = replicas[first].take().unwrap();
    killed.process.kill().await;
    is_kept_out(&web, "db:5432").await;
    let mut end = [0; 1];
    let cut = in_time(
        "the open connection is cut",
        tokio::io::AsyncReadExt::read(&mut open, &mut end),
    )
    .await;
    assert!(cut.is_err(), "not an orderly end");
    let second = eventually("another leads", async || leader(&replicas).await).await;
    assert_ne!(first, second);
    let before = count();
    eventually("certificates are issued all the same", async || {
        (count() >= before + AFTERWARDS).then_some(())
    })
    .await;
    done.store(true, Ordering::Relaxed);
    for asker in askers {
        in_time("whoever asks, ends", asker).await.unwrap();
    }
    world
        .kubectl(&["delete", "authorizationpolicy", "only", "-n", "shop"])
        .await;
    gets_through(&web, "db:5432").await;

    // The log holds together, whoever wrote it, and shows every certificate that anybody holds, once.
    let lines = log(&world).await;
    let mut serials = BTreeSet::new();
    let mut before = "0".repeat(64);
    for (number, line) in lines.iter().enumerate() {
        let entry: Value = serde_json::from_str(line).unwrap();
        assert_eq!(entry["seq"], number as u64 + 1, "{line}");
        assert_eq!(
            entry["prev"],
            before.as_str(),
            "line {} follows another one",
            number + 1
        );
        before = sha256(line.as_bytes());
        if let Some(serial) = entry["event"]["serial"].as_str() {
            assert!(serials.insert(serial.to_owned()), "{serial} stands there twice");
        }
    }
    let issued = issued.lock().unwrap().clone();
    for chain in &issued {
        let certificate = key_digest(chain);
        let found = serials.iter().any(|serial| holds(&certificate, serial));
        assert!(found, "a certificate that the log does not show");
    }
    let roots = lines.iter().filter(|line| line.contains("\"kind\":\"root\"")).count();
    assert_eq!(roots, 1, "one root was ever made");
    let survivor = replicas[second].as_ref().unwrap();
    let status: Value = serde_json::from_str(&survivor.page("/ca/status").await).unwrap();
    assert!(status["log_entries"].as_u64() >= Some(lines.len() as u64), "{status}");
}

/// Whether a certificate has a serial number: an INTEGER near its beginning.
fn holds(certificate: &[u8], serial: &str) -> bool {
    let bytes: Vec<u8> = (0..serial.len() / 2)
        .filter_map(|at| u8::from_str_radix(&serial[2 * at..2 * at + 2], 16).ok())
        .collect();
    let head = &certificate[..certificate.len().min(64)];
    head.windows(bytes.len()).any(|window| window == bytes)
}

fn sha256(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let digest = rustls::crypto::aws_lc_rs::default_provider()
        .cipher_suites
        .iter()
        .find_map(|suite| {
            let suite = suite.tls13()?;
            let hash = suite.common.hash_provider;
            (hash.output_len() == 32).then(|| hash.hash(bytes))
        })
        .unwrap();
    digest.as_ref().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
