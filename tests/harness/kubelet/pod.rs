//! The life of one pod: sandbox, volumes, init containers in order (a sidecar counts as done once it has started), then the
//! containers; probes and restarts as long as it runs; then the containers' end, and the sidecars' after it.

use std::{fs, net::IpAddr, process::ExitStatus, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use super::{
    NodeState,
    container::{self, Place},
    dns,
    image::Runtime,
    probe::{At, Probe},
    volumes,
};
use crate::{Process, Signal};

/// Between two looks at its containers.
const LOOK: Duration = Duration::from_millis(250);
/// Between two looks at its ConfigMaps.
const REFRESH: Duration = Duration::from_secs(2);
/// What a container gets to end by itself.
const GRACE: Duration = Duration::from_secs(10);
/// Before a container that has ended is started again.
const BACKOFF: Duration = Duration::from_secs(1);

/// A pod that runs.
struct Sandbox {
    node: Arc<NodeState>,
    place: Arc<Place>,
    key: String,
    running: Vec<Running>,
}

/// One of its containers.
struct Running {
    spec: Value,
    process: Process,
    runtime: Option<Runtime>,
    sidecar: bool,
    ended: Option<ExitStatus>,
    restarts: u32,
    readiness: Option<Probe>,
    liveness: Option<Probe>,
    ready: bool,
}

impl Running {
    fn new(spec: &Value, (process, runtime): (Process, Option<Runtime>), sidecar: bool, restarts: u32) -> Self {
        Self {
            spec: spec.clone(),
            process,
            runtime,
            sidecar,
            ended: None,
            restarts,
            readiness: Probe::of(spec, "readinessProbe", false),
            liveness: Probe::of(spec, "livenessProbe", true),
            ready: false,
        }
    }

    /// Asks after readiness and life. One that has no life in it is told to end, and is started again once it has.
    async fn look(&mut self, address: IpAddr) {
        let at = At {
            address,
            pid: self.process.pid(),
        };
        self.ready = match &mut self.readiness {
            Some(probe) => probe.holds(at).await,
            None => true,
        };
        if let Some(probe) = &mut self.liveness
            && !probe.holds(at).await
        {
            self.end().await;
        }
    }

    /// Told to end, and made to end when it does not.
    async fn end(&mut self) {
        self.process.signal(Signal::TERM);
        let ends = async {
            while self.process.exit().is_none() {
                sleep(Duration::from_millis(20)).await;
            }
        };
        if timeout(GRACE, ends).await.is_err() {
            self.runtime = None;
            self.process.kill().await;
        }
    }
}

/// Runs a pod from its first sight to its end. The API server's object goes last.
pub(super) async fn live(node: Arc<NodeState>, mut told: watch::Receiver<Arc<Value>>) {
    let pod = told.borrow().clone();
    let mut sandbox = Sandbox::new(node, pod);
    let deleted = async {
        // Also when nothing more is told: it is gone.
        let _ = told
            .wait_for(|pod| pod["metadata"].get("deletionTimestamp").is_some())
            .await;
    };
    let succeeded = tokio::select! {
        biased;
        () = deleted => None,
        succeeded = sandbox.run() => Some(succeeded),
    };
    sandbox.stop().await;
    if let Some(succeeded) = succeeded {
        sandbox
            .says(if succeeded { "Succeeded" } else { "Failed" }, false)
            .await;
        let _ = told
            .wait_for(|pod| pod["metadata"].get("deletionTimestamp").is_some())
            .await;
    }
    sandbox.forget().await;
}

impl Sandbox {
    fn new(node: Arc<NodeState>, pod: Arc<Value>) -> Self {
        let metadata = &pod["metadata"];
        let text = |key: &str| metadata[key].as_str().unwrap();
        let key = format!("{}/{}", text("namespace"), text("name"));
        let dir = node.dir.join(text("uid"));
        fs::create_dir_all(dir.join("etc")).unwrap();
        let (namespace, address) = node.network.plug();
        let place = Arc::new(Place {
            namespace,
            dir,
            pod,
            address,
        });
        node.places.lock().unwrap().insert(key.clone(), Arc::clone(&place));
        Self {
            node,
            key,
            place,
            running: Vec::new(),
        }
    }

    /// Until it ends by itself: whether well.
    async fn run(&mut self) -> bool {
        self.says("Pending", false).await;
        self.write_etc();
        volumes::mount(&self.node.client, &self.place.pod, &self.place.dir).await;
        let spec = self.place.pod["spec"].clone();
        let mut all = ["initContainers", "containers"]
            .into_iter()
            .flat_map(|list| spec[list].as_array().into_iter().flatten());
        if !all.all(container::is_known) {
            // As while an image cannot be pulled.
            return std::future::pending().await;
        }
        for init in spec["initContainers"].as_array().into_iter().flatten() {
            if init["restartPolicy"] == "Always" {
                self.start(init, true);
                self.started(self.running.len() - 1).await;
            } else {
                self.completes(init).await;
            }
        }
        let before = self.running.len();
        for container in spec["containers"].as_array().unwrap() {
            self.start(container, false);
        }
        if self.running[before..]
            .iter()
            .any(|running| running.spec["startupProbe"].is_object())
        {
            self.says("Running", false).await;
        }
        for index in before..self.running.len() {
            self.started(index).await;
        }
        self.watch(spec["restartPolicy"].as_str().unwrap_or("Always")).await
    }

    /// Restarts what has to run, asks after readiness, until all that has to end has ended.
    async fn watch(&mut self, policy: &str) -> bool {
        let (mut told, mut refreshed) = (None, Instant::now());
        loop {
            let mut ended = Vec::new();
            for index in 0..self.running.len() {
                let running = &mut self.running[index];
                running.ended = running.process.exit();
                let again = running.sidecar || policy == "Always" || policy == "OnFailure";
                match running.ended {
                    Some(status) if running.sidecar || !status.success() || policy == "Always" => {
                        if again {
                            sleep(BACKOFF).await;
                            self.restart(index);
                        } else {
                            ended.push(status);
                        }
                    }
                    Some(status) => ended.push(status),
                    None => {}
                }
            }
            if ended.len() == self.running.iter().filter(|running| !running.sidecar).count() {
                return ended.iter().all(ExitStatus::success);
            }
            for running in self.running.iter_mut().filter(|running| running.ended.is_none()) {
                running.look(self.place.address).await;
            }
            let seen: Vec<_> = self.running.iter().map(|one| (one.ready, one.restarts)).collect();
            if told.as_ref() != Some(&seen) {
                self.says("Running", seen.iter().all(|(ready, _)| *ready)).await;
                told = Some(seen);
            }
            if refreshed.elapsed() > REFRESH {
                volumes::refresh(&self.node.client, &self.place.pod, &self.place.dir).await;
                refreshed = Instant::now();
            }
            sleep(LOOK).await;
        }
    }

    fn spawn(&self, container: &Value) -> (Process, Option<Runtime>) {
        let name = self.node.log_name(&self.key, container["name"].as_str().unwrap());
        let (mut command, runtime) = container::command(&self.place, container);
        let process = Process::start(&name, &mut command, &self.node.dir.join("logs"));
        let key = (self.key.clone(), container["name"].as_str().unwrap().to_owned());
        self.node.containers.lock().unwrap().insert(key, process.pid());
        (process, runtime)
    }

    fn start(&mut self, container: &Value, sidecar: bool) {
        let process = self.spawn(container);
        self.running.push(Running::new(container, process, sidecar, 0));
    }

    fn restart(&mut self, index: usize) {
        let before = &self.running[index];
        let process = self.spawn(&before.spec);
        self.running[index] = Running::new(&before.spec, process, before.sidecar, before.restarts + 1);
    }

    /// Runs an init container until it has succeeded.
    async fn completes(&mut self, container: &Value) {
        loop {
            let (mut process, _runtime) = self.spawn(container);
            let status = loop {
                match process.exit() {
                    Some(status) => break status,
                    None => sleep(Duration::from_millis(20)).await,
                }
            };
            if status.success() {
                return;
            }
            eprintln!("{}: {}: {status}\n{}", self.key, container["name"], process.log());
            sleep(BACKOFF).await;
        }
    }

    /// Waits until a container has started, as its startup probe says it.
    async fn started(&mut self, index: usize) {
        let Some(mut probe) = Probe::of(&self.running[index].spec, "startupProbe", false) else {
            return;
        };
        loop {
            let running = &mut self.running[index];
            if running.process.exit().is_some() {
                sleep(BACKOFF).await;
                self.restart(index);
                continue;
            }
            let at = At {
                address: self.place.address,
                pid: running.process.pid(),
            };
            if probe.holds(at).await {
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// The containers first, then the sidecars, the last one first.
    async fn stop(&mut self) {
        for sidecars in [false, true] {
            for running in self
                .running
                .iter_mut()
                .rev()
                .filter(|running| running.sidecar == sidecars)
            {
                if running.process.exit().is_some() {
                    continue;
                }
                running.end().await;
            }
        }
        let mut containers = self.node.containers.lock().unwrap();
        containers.retain(|(pod, _), _| *pod != self.key);
    }

    /// What every container finds in its `/etc`.
    fn write_etc(&self) {
        let hosts = format!("127.0.0.1 localhost\n{} {}\n", self.place.address, self.name());
        fs::write(self.place.dir.join("etc/hosts"), hosts).unwrap();
        let namespace = self.place.pod["metadata"]["namespace"].as_str().unwrap();
        let resolv = dns::resolv_conf(self.node.network.host(), namespace);
        fs::write(self.place.dir.join("etc/resolv.conf"), resolv).unwrap();
    }

    fn api(&self) -> Api<Pod> {
        let namespace = self.place.pod["metadata"]["namespace"].as_str().unwrap();
        Api::namespaced(self.node.client.clone(), namespace)
    }

    fn name(&self) -> &str {
        self.place.pod["metadata"]["name"].as_str().unwrap()
    }

    /// Tells the API server how it is.
    async fn says(&self, phase: &str, ready: bool) {
        let truth = |value: bool| if value { "True" } else { "False" };
        let conditions: Vec<Value> = ["PodReadyToStartContainers", "Initialized", "ContainersReady", "Ready"]
            .iter()
            .map(|kind| {
                let holds = ready || (phase == "Running" && *kind != "Ready" && *kind != "ContainersReady");
                json!({"type": kind, "status": truth(holds)})
            })
            .collect();
        let of = |sidecars: bool| {
            let containers = self.running.iter().filter(|running| running.sidecar == sidecars);
            let status = |running: &Running| {
                json!({
                    "name": running.spec["name"], "image": running.spec["image"], "imageID": "",
                    "ready": running.ready && phase == "Running", "restartCount": running.restarts, "started": true,
                })
            };
            containers.map(status).collect::<Vec<_>>()
        };
        let status = json!({"status": {
            "phase": phase, "podIP": self.place.address, "podIPs": [{"ip": self.place.address}], "conditions": conditions,
            "containerStatuses": of(false), "initContainerStatuses": of(true),
        }});
        let params = PatchParams::default();
        // One that is gone, or an API server that is away for a moment: nobody to be told.
        if let Err(error) = self
            .api()
            .patch_status(self.name(), &params, &Patch::Strategic(&status))
            .await
        {
            eprintln!("the status of {}: {error}", self.key);
        }
    }

    /// Nothing of it runs any more: the object goes.
    async fn forget(&self) {
        self.node.places.lock().unwrap().remove(&self.key);
        let params = DeleteParams::default().grace_period(0).preconditions(Preconditions {
            uid: self.place.pod["metadata"]["uid"].as_str().map(str::to_owned),
            resource_version: None,
        });
        // It may have been removed by force.
        let _ = self.api().delete(self.name(), &params).await;
        let _ = fs::remove_dir_all(self.place.dir.join("volumes"));
    }
}
