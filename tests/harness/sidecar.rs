//! A pod's sidecar: how it is configured, and what it shows while it runs.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{Read as _, Seek as _},
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use serde_json::Value;
use tokio::process::Command;

use crate::{Figures, Mesh, Process, binary, clock, http, wait::eventually};

/// Outbound listeners count from here.
const FIRST_OUTBOUND: u16 = 20_001;

/// A pod whose sidecar is not running yet.
#[derive(Debug)]
pub struct Pod<'m> {
    mesh: &'m Mesh,
    name: String,
    serves: Vec<(u16, SocketAddr)>,
    reaches: Vec<String>,
    settings: Vec<String>,
    token: Option<String>,
    bundle: Option<String>,
    file_limit: Option<u32>,
    clock: Option<String>,
    control: Option<SocketAddr>,
}

impl<'m> Pod<'m> {
    pub(crate) fn new(mesh: &'m Mesh, name: &str) -> Self {
        Self {
            mesh,
            name: name.to_owned(),
            serves: Vec::new(),
            reaches: Vec::new(),
            settings: Vec::new(),
            token: None,
            bundle: None,
            file_limit: None,
            clock: None,
            control: None,
        }
    }

    pub(crate) fn mesh(&self) -> &'m Mesh {
        self.mesh
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Peers reach `app` on this port.
    #[must_use]
    pub fn serves(mut self, port: u16, app: SocketAddr) -> Self {
        self.serves.push((port, app));
        self
    }

    /// Its application reaches this `pod:port`, or `name.of.service:port`.
    #[must_use]
    pub fn reaches(mut self, target: &str) -> Self {
        self.reaches.push(target.to_owned());
        self
    }

    /// A setting as for `--set`.
    #[must_use]
    pub fn set(mut self, setting: &str) -> Self {
        self.settings.push(setting.to_owned());
        self
    }

    /// Shows this token to the CA instead of a good one.
    #[must_use]
    pub fn token(mut self, token: &str) -> Self {
        self.token = Some(token.to_owned());
        self
    }

    /// Trusts these roots (PEM) instead of the mesh's.
    #[must_use]
    pub fn trusts(mut self, bundle: &str) -> Self {
        self.bundle = Some(bundle.to_owned());
        self
    }

    /// May open no more files than this.
    #[must_use]
    pub fn file_limit(mut self, limit: u32) -> Self {
        self.file_limit = Some(limit);
        self
    }

    /// Sees a time of day that is off by so much, as in `-4m`.
    #[must_use]
    pub fn clock(mut self, by: &str) -> Self {
        self.clock = Some(by.to_owned());
        self
    }

    /// Finds the control plane here instead of where it is.
    #[must_use]
    pub fn control(mut self, address: SocketAddr) -> Self {
        self.control = Some(address);
        self
    }

    /// Starts the sidecar and waits until it is ready.
    pub async fn start(self) -> Sidecar {
        let sidecar = self.launch().await;
        sidecar.ready().await;
        sidecar
    }

    /// Starts the sidecar; the CA directory must be there, the control plane need not.
    pub async fn launch(self) -> Sidecar {
        let dir = self.mesh.dir().join(format!("pod-{}", self.name));
        fs::create_dir_all(&dir).unwrap();
        let token = match &self.token {
            Some(token) => token.clone(),
            None => self.mesh.token(&self.name).await,
        };
        let bundle = match &self.bundle {
            Some(bundle) => bundle.clone(),
            None => self.mesh.bundle().await,
        };
        fs::write(dir.join("token"), token).unwrap();
        fs::write(dir.join("bundle.pem"), bundle).unwrap();
        let address = self.mesh.address(&self.name);
        let outbound: HashMap<String, SocketAddr> = (FIRST_OUTBOUND..)
            .zip(&self.reaches)
            .map(|(port, target)| (target.clone(), SocketAddr::new(address, port)))
            .collect();
        let config = dir.join("proxy.yaml");
        fs::write(&config, self.config(&outbound)).unwrap();
        let mut arguments = vec!["run".to_owned(), "--config".to_owned(), config.display().to_string()];
        for setting in &self.settings {
            arguments.extend(["--set".to_owned(), setting.clone()]);
        }
        let mut command = match self.file_limit {
            None => Command::new(binary("squire-proxy")),
            Some(limit) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", &format!("ulimit -n {limit}; exec \"$@\""), "sh"]);
                shell.arg(binary("squire-proxy"));
                shell
            }
        };
        if let Some(by) = &self.clock {
            clock::shift(&mut command, by);
        }
        let log = dir.join("access.jsonl");
        drop(File::options().create(true).append(true).open(&log).unwrap());
        let log = File::open(log).unwrap();
        let process = Process::start(
            &format!("proxy-{}", self.name),
            command.args(arguments),
            self.mesh.dir(),
        );
        Sidecar {
            process,
            address,
            outbound,
            access_log: AccessLog(log),
            token: dir.join("token"),
        }
    }

    fn config(&self, outbound: &HashMap<String, SocketAddr>) -> String {
        let address = self.mesh.address(&self.name);
        let path = |name: &str| self.mesh.dir().join(format!("pod-{}", self.name)).join(name);
        let mut text = format!(
            "workload: shop/{}\ntrustDomain: {}\ntrustBundle: {}\ntoken: {}\ncontrol: {}\nadmin: \
             {address}:15020\nmode: explicit\naccessLog: {}\n",
            self.name,
            self.mesh.domain(),
            path("bundle.pem").display(),
            path("token").display(),
            self.control.unwrap_or_else(|| self.mesh.grpc()),
            path("access.jsonl").display(),
        );
        text += "inbound:\n";
        for (port, app) in &self.serves {
            text += &format!("- {{listen: '{address}:{port}', app: '{app}', port: {port}}}\n");
        }
        if self.serves.is_empty() {
            text += "  []\n";
        }
        text += "outbound:\n";
        for (target, listen) in outbound {
            let (host, port) = target.rsplit_once(':').unwrap();
            let to = if host.contains('.') {
                target.clone()
            } else {
                SocketAddr::new(self.mesh.address(host), port.parse().unwrap()).to_string()
            };
            text += &format!("- {{listen: '{listen}', to: '{to}'}}\n");
        }
        if outbound.is_empty() {
            text += "  []\n";
        }
        text
    }
}

/// A running sidecar.
#[derive(Debug)]
pub struct Sidecar {
    /// The process.
    pub process: Process,
    /// The pod's address.
    pub address: IpAddr,
    outbound: HashMap<String, SocketAddr>,
    access_log: AccessLog,
    token: PathBuf,
}

/// Its file, which is shown when a test fails.
#[derive(Debug)]
struct AccessLog(File);

impl AccessLog {
    fn lines(&self) -> Vec<String> {
        let (mut file, mut text) = (&self.0, String::new());
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(str::to_owned).collect()
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let lines = self.lines();
            let last = &lines[lines.len().saturating_sub(20)..];
            eprintln!("--- an access log\n{}\n", last.join("\n"));
        }
    }
}

impl Sidecar {
    /// Where peers reach a port.
    #[must_use]
    pub fn inbound(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.address, port)
    }

    /// Where its application reaches a target it was started with.
    #[must_use]
    pub fn to(&self, target: &str) -> SocketAddr {
        self.outbound[target]
    }

    /// The file it reads its token from.
    #[must_use]
    pub fn token_file(&self) -> &Path {
        &self.token
    }

    /// Its admin endpoint.
    #[must_use]
    pub fn admin(&self) -> SocketAddr {
        SocketAddr::new(self.address, 15020)
    }

    /// Waits until `/ready` says yes.
    pub async fn ready(&self) {
        eventually("a sidecar is ready", async || {
            let answer = http::get(self.admin(), "/ready").await.ok()?;
            (answer.0 == 200).then_some(())
        })
        .await;
    }

    /// A page of its admin endpoint, and its status.
    pub async fn page(&self, path: &str) -> (u16, Value) {
        let (status, body) = http::get(self.admin(), path).await.unwrap();
        (status, serde_json::from_str(&body).unwrap_or(Value::String(body)))
    }

    /// Its live connections.
    pub async fn connections(&self) -> Vec<Value> {
        let (_, page) = self.page("/connections").await;
        page.as_array()
            .unwrap_or_else(|| panic!("/connections is no list: {page}"))
            .clone()
    }

    /// Its metrics.
    pub async fn figures(&self) -> Figures {
        Figures::new(http::get(self.admin(), "/metrics").await.unwrap().1)
    }

    /// The sum of a metric's series with these labels.
    pub async fn figure(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.figures().await.sum(name, labels)
    }

    /// Waits until that sum is at least so much.
    pub async fn counts(&self, name: &str, labels: &[(&str, &str)], at_least: f64) {
        let what = format!("{name} {labels:?} reaches {at_least}");
        eventually(&what, async || {
            let text = http::get(self.admin(), "/metrics").await.ok()?.1;
            (Figures::new(text).sum(name, labels) >= at_least).then_some(())
        })
        .await;
    }

    /// The lines of its access log so far.
    #[must_use]
    pub fn access_log(&self) -> Vec<Value> {
        let lines = self.access_log.lines();
        lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Waits for an access-log line whose fields have these values.
    pub async fn logged(&self, fields: &[(&str, &str)]) -> Value {
        let what = format!("an access-log line with {fields:?}");
        eventually(&what, async || {
            let fits = |line: &Value| fields.iter().all(|(key, value)| line[key] == *value);
            self.access_log().into_iter().find(fits)
        })
        .await
    }
}
