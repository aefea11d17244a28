//! What a kubelet, a container runtime and kube-proxy do on a node, for tests: pods that the scheduler has put here are run
//! as the API server has admitted them. Each pod has a network namespace with an address of its own; each container is a
//! process with a root directory, mounts, variables, user and capabilities as its spec says. Init containers, native
//! sidecars, probes, restarts, graceful ends and status are as in Kubernetes; our own images are run by runc and hold
//! nothing but their program, applications are this machine's own programs. It decides nothing that the API server, the scheduler or a controller decides.

mod container;
mod dns;
mod image;
mod network;
mod pod;
mod probe;
mod volumes;

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process::Output,
    sync::{Arc, Mutex},
    time::Duration,
};

use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{Node, Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Client,
    api::{ListParams, Patch, PatchParams},
};
use rustix::process::{Pid, kill_process};
use serde_json::{Value, json};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream, UdpSocket},
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::{sleep, timeout},
};

use self::{container::Place, network::Network};
use crate::{ApiServer, PATIENCE, Signal, eventually, in_time};

/// Between two looks at what is to run here.
const LOOK: Duration = Duration::from_millis(200);
/// The controllers take a node for lost when it has not been heard of for 50 s.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// The Service that pods reach the API server by.
const API: &str = "kubernetes.default.svc";
/// Lines of each log that are shown when a test fails.
const SHOWN: usize = 30;

/// A node that runs what is scheduled to it; everything ends when it is dropped.
#[derive(Debug)]
pub struct Kubelet {
    node: Arc<NodeState>,
    tasks: Vec<JoinHandle<()>>,
}

/// What the tasks of a node share.
struct NodeState {
    name: String,
    client: Client,
    dir: PathBuf,
    network: Network,
    /// Process IDs of containers: `namespace/pod`, container.
    containers: Mutex<BTreeMap<(String, String), u32>>,
    /// Where the containers of each pod live.
    places: Mutex<BTreeMap<String, Arc<Place>>>,
    /// What pods find by DNS.
    names: dns::Names,
}

impl std::fmt::Debug for NodeState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Kubelet {
    /// Registers a node and runs its pods. `services` (name, namespace, port) are what processes outside of the mesh reach
    /// by a Service: kube-proxy's part. Needs root.
    pub async fn start(api: &ApiServer, name: &str, services: &[(&str, &str, u16)]) -> Self {
        let dir = api.dir().join(format!("node-{name}"));
        fs::create_dir_all(dir.join("logs")).unwrap();
        let node = Arc::new(NodeState {
            name: name.to_owned(),
            client: api.client().await,
            network: Network::new(),
            containers: Mutex::default(),
            places: Mutex::default(),
            names: dns::Names::default(),
            dir,
        });
        api.node(name).await;
        node.register().await;
        let server: SocketAddr = api.url().trim_start_matches("https://").parse().unwrap();
        let host = node.network.host();
        let mut tasks = vec![
            tokio::spawn(relay(bound(host, 443).await, async move || vec![server])),
            tokio::spawn(heartbeats(Arc::clone(&node))),
        ];
        for (service, namespace, port) in services {
            let endpoints = Endpoints {
                client: node.client.clone(),
                service: (*service).to_owned(),
                namespace: (*namespace).to_owned(),
                port: *port,
            };
            let listener = bound(host, *port).await;
            tasks.push(tokio::spawn(relay(listener, async move || endpoints.ready().await)));
        }
        let socket = UdpSocket::bind((host, 53)).await.unwrap();
        tasks.push(tokio::spawn(dns::serve(socket, Arc::clone(&node.names))));
        tasks.push(tokio::spawn(run_pods(Arc::clone(&node), names(host, services))));
        Self { node, tasks }
    }

    /// The address of a pod (`namespace/name`) that runs here.
    #[must_use]
    pub fn address(&self, pod: &str) -> Option<IpAddr> {
        let places = self.node.places.lock().unwrap();
        places.get(pod).map(|place| place.address)
    }

    /// The node's own address in the pods' network.
    #[must_use]
    pub fn host(&self) -> IpAddr {
        self.node.network.host()
    }

    /// Process IDs of all containers of this name, with their pods.
    #[must_use]
    pub fn processes(&self, container: &str) -> Vec<(String, u32)> {
        let containers = self.node.containers.lock().unwrap();
        let of = containers.iter().filter(|((_, name), _)| name == container);
        of.map(|((pod, _), pid)| (pod.clone(), *pid)).collect()
    }

    /// Sends a signal to every container of this name.
    pub fn signal(&self, container: &str, signal: Signal) {
        for (_, pid) in self.processes(container) {
            // One that has just ended needs no signal.
            let _ = kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), signal);
        }
    }

    /// Runs a program in a container, as `kubectl exec` does: as the container's user, with its variables.
    pub async fn exec(&self, pod: &str, container: &str, arguments: &[&str]) -> Output {
        let key = (pod.to_owned(), container.to_owned());
        let pid = self.node.containers.lock().unwrap().get(&key).copied();
        let pid = pid.unwrap_or_else(|| panic!("{container} of {pod} does not run"));
        let what = format!("{container} of {pod} has begun");
        let mut command = eventually(&what, async || container::enter(pid, arguments)).await;
        let output = timeout(PATIENCE, command.output()).await;
        output
            .unwrap_or_else(|_| panic!("not within {PATIENCE:?}: {arguments:?}"))
            .unwrap()
    }

    /// Runs one more container of our own images in a pod to its end, as `kubectl debug` does.
    pub async fn run(&self, pod: &str, container: &Value) -> Output {
        let place = self.node.places.lock().unwrap().get(pod).cloned();
        let place = place.unwrap_or_else(|| panic!("{pod} does not run"));
        let (mut command, _runtime) = container::command(&place, container);
        in_time("a container ends", command.output()).await.unwrap()
    }

    /// What a container has written so far.
    #[must_use]
    pub fn log(&self, pod: &str, container: &str) -> String {
        let path = self.node.log_name(pod, container);
        fs::read_to_string(self.node.dir.join("logs").join(format!("{path}.log"))).unwrap_or_default()
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        if !std::thread::panicking() {
            return;
        }
        for entry in fs::read_dir(self.node.dir.join("logs")).unwrap().flatten() {
            let text = fs::read_to_string(entry.path()).unwrap_or_default();
            let lines: Vec<_> = text.lines().collect();
            let last = lines[lines.len().saturating_sub(SHOWN)..].join("\n");
            eprintln!("--- {} (its last lines)\n{last}\n", entry.file_name().display());
        }
    }
}

impl NodeState {
    fn log_name(&self, pod: &str, container: &str) -> String {
        format!("{}.{container}", pod.replace('/', "."))
    }

    /// What a kubelet says of its node when it starts.
    async fn register(&self) {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let labels =
            json!({"metadata": {"labels": {"kubernetes.io/os": "linux", "kubernetes.io/hostname": self.name}}});
        let params = PatchParams::default();
        nodes.patch(&self.name, &params, &Patch::Merge(&labels)).await.unwrap();
        let room = json!({"cpu": "64", "memory": "64Gi", "pods": "500", "ephemeral-storage": "64Gi"});
        let mut status = nodes.get_status(&self.name).await.unwrap().status.unwrap_or_default();
        let mut addresses = status.addresses.take().unwrap_or_default();
        addresses.push(serde_json::from_value(json!({"type": "InternalIP", "address": self.network.host()})).unwrap());
        let patch = json!({"status": {"capacity": room, "allocatable": room, "addresses": addresses}});
        nodes
            .patch_status(&self.name, &params, &Patch::Merge(&patch))
            .await
            .unwrap();
    }
}

/// The names that every pod of the node finds, beside the Services there are.
fn names(host: IpAddr, services: &[(&str, &str, u16)]) -> BTreeMap<String, IpAddr> {
    let named = services
        .iter()
        .map(|(service, namespace, _)| (format!("{service}.{namespace}.svc"), host));
    std::iter::once((API.to_owned(), host)).chain(named).collect()
}

async fn heartbeats(node: Arc<NodeState>) {
    let leases: Api<Lease> = Api::namespaced(node.client.clone(), "kube-node-lease");
    loop {
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": node.name},
            "spec": {
                "holderIdentity": node.name, "leaseDurationSeconds": 40,
                "renewTime": format!("{:.6}", k8s_openapi::jiff::Timestamp::now()),
            },
        });
        let params = PatchParams::apply("kubelet").force();
        if let Err(error) = leases.patch(&node.name, &params, &Patch::Apply(&lease)).await {
            eprintln!("the node's heartbeat: {error}");
        }
        sleep(HEARTBEAT).await;
    }
}

/// Runs the pods of a node, each in a task of its own.
async fn run_pods(node: Arc<NodeState>, names: BTreeMap<String, IpAddr>) {
    let api: Api<Pod> = Api::all(node.client.clone());
    let services: Api<Service> = Api::all(node.client.clone());
    let here = ListParams::default().fields(&format!("spec.nodeName={}", node.name));
    let mut tasks = JoinSet::new();
    let mut known: BTreeMap<String, watch::Sender<Arc<Value>>> = BTreeMap::new();
    loop {
        // An API server that is restarted is asked again.
        let (Ok(pods), Ok(services)) = (api.list(&here).await, services.list(&ListParams::default()).await) else {
            sleep(LOOK).await;
            continue;
        };
        let mut found = names.clone();
        for service in services {
            let address = service.spec.and_then(|spec| spec.cluster_ip?.parse().ok());
            let (name, namespace) = (service.metadata.name.unwrap(), service.metadata.namespace.unwrap());
            if let Some(address) = address {
                found.entry(format!("{name}.{namespace}.svc")).or_insert(address);
            }
        }
        *node.names.lock().unwrap() = found;
        let mut there = Vec::new();
        for pod in pods {
            let pod = serde_json::to_value(pod).unwrap();
            let uid = pod["metadata"]["uid"].as_str().unwrap().to_owned();
            there.push(uid.clone());
            let pod = Arc::new(pod);
            match known.get(&uid) {
                Some(sender) => drop(sender.send_if_modified(|before| {
                    let news = *before != pod;
                    *before = pod;
                    news
                })),
                None => {
                    let (sender, receiver) = watch::channel(pod);
                    known.insert(uid, sender);
                    tasks.spawn(pod::live(Arc::clone(&node), receiver));
                }
            }
        }
        // Whoever is told nothing more of a pod ends it.
        known.retain(|uid, _| there.contains(uid));
        while let Some(ended) = tasks.try_join_next() {
            if let Err(error) = ended {
                eprintln!("a pod's task has ended badly: {error}");
            }
        }
        sleep(LOOK).await;
    }
}

/// The ready endpoints of a Service.
struct Endpoints {
    client: Client,
    service: String,
    namespace: String,
    port: u16,
}

impl Endpoints {
    async fn ready(&self) -> Vec<SocketAddr> {
        let slices: Api<EndpointSlice> = Api::namespaced(self.client.clone(), &self.namespace);
        let of = ListParams::default().labels(&format!("kubernetes.io/service-name={}", self.service));
        let listed = slices.list(&of).await.map(|list| list.items).unwrap_or_default();
        let endpoints = listed.into_iter().flat_map(|slice| slice.endpoints.unwrap_or_default());
        let ready = endpoints.filter(|endpoint| endpoint.conditions.as_ref().and_then(|c| c.ready) != Some(false));
        ready
            .flat_map(|endpoint| endpoint.addresses)
            .filter_map(|address| Some(SocketAddr::new(address.parse().ok()?, self.port)))
            .collect()
    }
}

async fn bound(address: IpAddr, port: u16) -> TcpListener {
    TcpListener::bind((address, port)).await.unwrap()
}

/// What kube-proxy does: each new connection goes to one of the endpoints that are there.
async fn relay(listener: TcpListener, endpoints: impl AsyncFn() -> Vec<SocketAddr> + Send + Sync + 'static) {
    let mut next = 0;
    let mut connections = JoinSet::new();
    loop {
        let Ok((mut client, _)) = listener.accept().await else {
            return;
        };
        let all = endpoints().await;
        next += 1;
        connections.spawn(async move {
            for number in 0..all.len() {
                if let Ok(mut server) = TcpStream::connect(all[(next + number) % all.len()]).await {
                    let _ = copy_bidirectional(&mut client, &mut server).await;
                    return;
                }
            }
        });
        while connections.try_join_next().is_some() {}
    }
}
