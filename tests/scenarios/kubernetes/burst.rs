//! Many objects at once, and many proxies: everything arrives, within bounds of time and memory. The sizes of the issue
//! (5,000 pods, 500 policies, 1,000 proxies) with `SQUIRE_BURST=full`; a tenth of them otherwise.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use serde_json::json;
use squire_mesh::{
    ports::TYPE_POLICY,
    wire::{
        core::Node,
        discovery::{DeltaDiscoveryRequest, aggregated_discovery_service_client::AggregatedDiscoveryServiceClient},
    },
};
use squire_tests::{
    authority::{self, Proof},
    forge::Shown,
};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;

use super::world::{Replica, World};

/// Nothing here takes that long.
const LIMIT: Duration = Duration::from_secs(300);
/// Requests under way at the API server.
const AT_ONCE: usize = 24;
/// Times that a policy is applied and waited for.
const ROUNDS: usize = 12;

struct Sizes {
    pods: usize,
    policies: usize,
    proxies: usize,
}

fn sizes() -> Sizes {
    let full = std::env::var("SQUIRE_BURST").is_ok_and(|size| size == "full");
    let part = if full { 1 } else { 10 };
    Sizes {
        pods: 5000 / part,
        policies: 500 / part,
        proxies: 1000 / part,
    }
}

/// Does something for each number, some at once.
async fn for_each<F>(numbers: std::ops::Range<usize>, mut act: impl FnMut(usize) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let slots = Arc::new(Semaphore::new(AT_ONCE));
    let mut tasks = JoinSet::new();
    for number in numbers {
        let (slots, task) = (Arc::clone(&slots), act(number));
        tasks.spawn(async move {
            let _slot = slots.acquire_owned().await;
            task.await;
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
}

/// A pod as its owner, the scheduler and a kubelet would make it.
async fn make_pod(client: Client, number: usize) {
    let api: Api<Pod> = Api::namespaced(client, "shop");
    let name = format!("p-{number}");
    let pod = json!({
        "metadata": {
            "name": name, "labels": {"app": "web", "group": format!("g{}", number % 50)},
            "annotations": {"squire.mesh/transport": "squire"},
        },
        "spec": {"nodeName": "node-1", "serviceAccountName": "web", "containers": [{"name": "app", "image": "app"}]},
    });
    api.create(&PostParams::default(), &serde_json::from_value(pod).unwrap())
        .await
        .unwrap();
    let ip = format!("10.{}.{}.{}", 1 + number / 62500, number / 250 % 250, 1 + number % 250);
    let status = json!({"status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
        "conditions": [{"type": "Ready", "status": "True"}]}});
    api.patch_status(&name, &PatchParams::default(), &Patch::Merge(&status))
        .await
        .unwrap();
}

fn policy(name: &str, group: &str, account: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  \
         selector: {{matchLabels: {{{group}}}}}\n  rules: [{{from: [{{source: {{principals: \
         [cluster.local/ns/shop/sa/{account}]}}}}]}}]\n"
    )
}

/// Waits until the control plane has published that many resources of a kind.
async fn published(control: &Replica, kind: &str, number: usize) {
    let whole = async {
        while control.figure("squire_control_resources", &[("kind", kind)]).await != number as f64 {
            sleep(Duration::from_millis(200)).await;
        }
    };
    timeout(LIMIT, whole)
        .await
        .unwrap_or_else(|_| panic!("{number} resources of kind {kind} are published"));
}

/// What the simulated proxies have seen: how long after `since` each policy arrived.
#[derive(Default)]
struct Watchers {
    since: Mutex<Option<Instant>>,
    latencies: Mutex<Vec<Duration>>,
    arrived: AtomicUsize,
    ready: AtomicUsize,
}

/// The policy stream of one proxy.
async fn follow(address: SocketAddr, svid: Arc<Shown>, node: String, seen: Arc<Watchers>) {
    let (channel, origin, _driver) = authority::open(address, Some(&svid)).await.unwrap();
    let (send, requests) = mpsc::channel(4);
    let first = DeltaDiscoveryRequest {
        type_url: TYPE_POLICY.to_owned(),
        node: Some(Node {
            id: node,
            ..Node::default()
        }),
        ..DeltaDiscoveryRequest::default()
    };
    send.send(first).await.unwrap();
    let mut discovery = AggregatedDiscoveryServiceClient::with_origin(channel, origin);
    let answers = discovery
        .delta_aggregated_resources(ReceiverStream::new(requests))
        .await;
    let mut answers = answers.unwrap().into_inner();
    let mut begun = false;
    while let Ok(Some(answer)) = answers.message().await {
        if !std::mem::replace(&mut begun, true) {
            seen.ready.fetch_add(1, Ordering::Relaxed);
        } else if !answer.resources.is_empty() {
            if let Some(since) = *seen.since.lock().unwrap() {
                seen.latencies.lock().unwrap().push(since.elapsed());
            }
            seen.arrived.fetch_add(1, Ordering::Relaxed);
        }
        let ack = DeltaDiscoveryRequest {
            type_url: TYPE_POLICY.to_owned(),
            response_nonce: answer.nonce,
            ..DeltaDiscoveryRequest::default()
        };
        if send.send(ack).await.is_err() {
            return;
        }
    }
}

async fn svid(world: &World) -> Shown {
    let token = world.token("p-0", "web").await;
    let key = KeyPair::generate().unwrap();
    let request = CertificateParams::new(Vec::new())
        .unwrap()
        .serialize_request(&key)
        .unwrap();
    let proof = Proof {
        token: Some(&token),
        svid: None,
    };
    let chain = authority::ask(&world.mesh, &request.pem().unwrap(), proof)
        .await
        .unwrap();
    let certificates = chain[..2]
        .iter()
        .map(|pem| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap());
    Shown {
        chain: certificates.collect(),
        key: PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_pods_and_policies_arrives_whole_and_a_policy_reaches_every_proxy_within_a_second() {
    squire_tests::raise_file_limit();
    let Some(world) = World::new().await else { return };
    let Sizes {
        pods,
        policies,
        proxies,
    } = sizes();
    let control = world.control().await;
    let client = world.api.client().await;

    let begun = Instant::now();
    for_each(0..pods, |number| make_pod(client.clone(), number)).await;
    let made = begun.elapsed();
    let yaml: String = (0..policies)
        .map(|number| policy(&format!("burst-{number}"), &format!("group: g{}", number % 50), "web"))
        .collect();
    world.api.apply_within(&yaml, LIMIT).await;
    published(&control, "workload", pods).await;
    published(&control, "policy", pods).await;
    let whole = begun.elapsed();
    let objects = control.process.resident_kib() / 1024;

    // Every proxy has a stream of its own.
    let (seen, svid) = (Arc::new(Watchers::default()), Arc::new(svid(&world).await));
    let mut streams = JoinSet::new();
    for number in 0..proxies {
        let node = format!("shop/p-{number}");
        streams.spawn(follow(world.mesh.grpc(), Arc::clone(&svid), node, Arc::clone(&seen)));
        if number % 50 == 49 {
            while seen.ready.load(Ordering::Relaxed) + 50 < number {
                sleep(Duration::from_millis(20)).await;
            }
        }
    }
    let connected = async {
        while seen.ready.load(Ordering::Relaxed) < proxies {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(LIMIT, connected).await.expect("every proxy has its policy");
    eprintln!(
        "control plane: {objects} MiB with all objects, {} MiB with all streams",
        control.process.resident_kib() / 1024
    );

    // One policy, for all of them, again and again.
    for round in 0..ROUNDS {
        let before = seen.arrived.load(Ordering::Relaxed);
        let account = if round % 2 == 0 { "batch" } else { "db" };
        let body: serde_json::Value = json!({
            "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
            "metadata": {"name": "everybody", "namespace": "shop"},
            "spec": {"selector": {"matchLabels": {"app": "web"}}, "rules": [{"from": [{"source": {"principals":
                [format!("cluster.local/ns/shop/sa/{account}")]}}]}]},
        });
        *seen.since.lock().unwrap() = Some(Instant::now());
        apply(&client, &body).await;
        let everywhere = async {
            while seen.arrived.load(Ordering::Relaxed) < before + proxies {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(LIMIT, everywhere)
            .await
            .expect("the policy reaches every proxy");
    }
    let mut latencies = seen.latencies.lock().unwrap().clone();
    latencies.sort_unstable();
    let at = |percent: usize| latencies[(latencies.len() - 1) * percent / 100];
    let memory = control.process.resident_kib() / 1024;
    eprintln!(
        "{pods} pods made in {made:.1?}, with {policies} policies published after {whole:.1?}; policy to {proxies} proxies: p50 {:.0?}, \
         p99 {:.0?}, last {:.0?}; control plane {memory} MiB",
        at(50),
        at(99),
        at(100)
    );

    // Churn: half of the pods go, the others change.
    for_each(pods / 2..pods, |number| {
        let api: Api<Pod> = Api::namespaced(client.clone(), "shop");
        async move {
            let params = DeleteParams::default().grace_period(0);
            api.delete(&format!("p-{number}"), &params).await.unwrap();
        }
    })
    .await;
    for_each(0..pods / 2, |number| {
        let api: Api<Pod> = Api::namespaced(client.clone(), "shop");
        async move {
            let patch = json!({"metadata": {"labels": {"turn": (number % 7).to_string()}}});
            api.patch(&format!("p-{number}"), &PatchParams::default(), &Patch::Merge(&patch))
                .await
                .unwrap();
        }
    })
    .await;
    published(&control, "workload", pods / 2).await;
    published(&control, "policy", pods / 2).await;
    control.problems(&[]).await;
    let afterwards = control.process.resident_kib() / 1024;
    eprintln!("after the churn: control plane {afterwards} MiB");
    // What the issue allows at full size, and a tenth more for what an allocator keeps after the churn.
    assert!(memory <= 150 && afterwards <= 165, "{memory} and {afterwards} MiB");
    assert!(
        at(50) <= Duration::from_secs(1),
        "half of all within a second, on however busy a machine"
    );
}

/// As `kubectl apply --server-side`.
async fn apply(client: &Client, object: &serde_json::Value) {
    let path =
        "/apis/security.istio.io/v1/namespaces/shop/authorizationpolicies/everybody?fieldManager=test&force=true";
    let request = http::Request::patch(path).header("content-type", "application/apply-patch+yaml");
    let request = request.body(serde_json::to_vec(object).unwrap()).unwrap();
    client.request::<serde_json::Value>(request).await.unwrap();
}
