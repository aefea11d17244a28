//! Squire as one more peer: real processes, as an admin would start them. A control plane with its CA and a mesh of 1,000 workloads and 100
//! policies (supporting, not counted), and two `squire-proxy` with explicit listeners.

mod objects;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::{Layer, Pair, Startup, launch};
use crate::ground::Ground;
use crate::load::Protocol;
use crate::process::Process;

const TRUST_DOMAIN: &str = "cluster.local";

/// In which shape Squire is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Variant {
    /// As it ships.
    Standard,
    /// A handshake for each application connection: no mesh connection is kept.
    Unpooled,
    /// No TLS between the sidecars: what copying and waking alone cost in the same code.
    Plaintext,
    /// As it ships, beside so many rules of policies that select other workloads.
    Rules(Rules),
}

/// How many rules of others there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rules {
    /// 10.
    Few,
    /// 1,000.
    Many,
    /// 100,000.
    Masses,
}

impl Rules {
    /// All of them.
    pub(crate) const ALL: [Self; 3] = [Self::Few, Self::Many, Self::Masses];

    fn number(self) -> usize {
        match self {
            Self::Few => 10,
            Self::Many => 1_000,
            Self::Masses => 100_000,
        }
    }
}

/// How to start Squire.
pub(crate) struct Squire {
    /// Directory of `squire` and `squire-proxy`.
    binaries: PathBuf,
    /// In which shape.
    pub(crate) variant: Variant,
    /// At which layer its proxies handle the traffic.
    pub(crate) layer: Layer,
}

/// The addresses of one pair.
struct Addresses {
    control: SocketAddr,
    control_admin: SocketAddr,
    entry: SocketAddr,
    mesh: SocketAddr,
    client_admin: SocketAddr,
    server_admin: SocketAddr,
}

impl Squire {
    /// With the binaries in `binaries`.
    pub(crate) fn new(binaries: PathBuf, variant: Variant, layer: Layer) -> Self {
        Self {
            binaries,
            variant,
            layer,
        }
    }

    /// Its name in the report.
    pub(crate) fn name(&self) -> &'static str {
        match self.variant {
            Variant::Standard => "squire",
            Variant::Unpooled => "squire-unpooled",
            Variant::Plaintext => "squire-plaintext",
            Variant::Rules(Rules::Few) => "squire-10-rules",
            Variant::Rules(Rules::Many) => "squire-1000-rules",
            Variant::Rules(Rules::Masses) => "squire-100000-rules",
        }
    }

    /// Whether both binaries are there.
    pub(crate) fn installed(&self) -> bool {
        self.program("squire").is_file() && self.program("squire-proxy").is_file()
    }

    /// The sidecar's executable.
    pub(crate) fn proxy(&self) -> PathBuf {
        self.program("squire-proxy")
    }

    /// What `squire-proxy version` prints.
    pub(crate) fn version(&self) -> Option<String> {
        crate::machine::first_line(&self.proxy().display().to_string(), &["version".to_owned()])
    }

    fn program(&self, name: &str) -> PathBuf {
        self.binaries.join(name)
    }

    /// Starts the control plane, then the server side, then the client side; times the last.
    pub(crate) async fn start(&self, ground: &Ground, app: SocketAddr, protocol: Protocol) -> Result<Pair> {
        self.start_pair(ground, app, protocol)
            .await
            .context("cannot start squire")
    }

    async fn start_pair(&self, ground: &Ground, app: SocketAddr, protocol: Protocol) -> Result<Pair> {
        let dir = ground.room("squire")?;
        let at = Addresses::choose(ground)?;
        let mut control = self.control(&dir, &at).await?;
        self.prepare(&dir, "server", at.server_config(app))?;
        self.prepare(&dir, "client", at.client_config(self.variant))?;

        let mut server = self.run_proxy(&dir, "server")?;
        launch::ready(at.server_admin, &mut server).await?;
        let started = Instant::now();
        let mut client = self.run_proxy(&dir, "client")?;
        launch::accepting(at.entry, &mut client).await?;
        let accept = started.elapsed();
        launch::serving(at.entry, protocol, &mut [&mut client, &mut server, &mut control]).await?;
        let startup = Startup {
            accept,
            serve: started.elapsed(),
        };
        if self.variant != Variant::Plaintext {
            launch::refusing_plaintext(at.mesh).await?;
        }
        if self.layer == Layer::L7 {
            launch::authorizing(at.entry).await?;
        }
        Ok(Pair {
            entry: at.entry,
            client: Some(client),
            server: Some(server),
            support: vec![control],
            startup: Some(startup),
        })
    }

    /// The control plane, ready.
    async fn control(&self, dir: &Path, at: &Addresses) -> Result<Process> {
        let mesh = dir.join("mesh");
        fs::create_dir_all(&mesh)?;
        fs::write(
            mesh.join("objects.json"),
            serde_json::to_string_pretty(&objects::all(self.variant, self.layer, at.mesh.port()))?,
        )?;
        let argv = [
            self.program("squire").display().to_string(),
            "control".to_owned(),
            "--dir".to_owned(),
            mesh.display().to_string(),
            "--ca-dir".to_owned(),
            ca_dir(dir),
            "--grpc".to_owned(),
            at.control.to_string(),
            "--admin".to_owned(),
            at.control_admin.to_string(),
        ];
        let mut control = Process::spawn("control", &argv, dir)?;
        launch::ready(at.control_admin, &mut control).await?;
        Ok(control)
    }

    /// Writes what the proxy of `side` starts with: its configuration, a join token and the trust bundle.
    fn prepare(&self, dir: &Path, side: &str, mut config: Value) -> Result<()> {
        let token = dir.join(format!("{side}.token"));
        let bundle = dir.join("bundle.pem");
        let id = format!("spiffe://{TRUST_DOMAIN}/ns/{}/sa/{side}", objects::NAMESPACE);
        self.ca(dir, &["token", "--id", &id, "--out", &token.display().to_string()])?;
        fs::write(&bundle, self.ca(dir, &["bundle"])?)?;
        config["trustBundle"] = json!(bundle);
        config["token"] = json!(token);
        fs::write(dir.join(format!("{side}.yaml")), serde_json::to_string_pretty(&config)?)?;
        Ok(())
    }

    /// What `squire ca …` prints.
    fn ca(&self, dir: &Path, words: &[&str]) -> Result<String> {
        let output = Command::new(self.program("squire"))
            .arg("ca")
            .args(words)
            .args(["--dir", &ca_dir(dir)])
            .output()?;
        if !output.status.success() {
            bail!(
                "squire ca {} failed: {}",
                words.join(" "),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    fn run_proxy(&self, dir: &Path, side: &str) -> Result<Process> {
        let config = dir.join(format!("{side}.yaml")).display().to_string();
        let argv = [
            self.proxy().display().to_string(),
            "run".to_owned(),
            "--config".to_owned(),
            config,
        ];
        Process::spawn(side, &argv, dir)
    }
}

impl Addresses {
    fn choose(ground: &Ground) -> Result<Self> {
        let mut mesh = ground.address()?;
        mesh.set_ip(objects::SERVER_ADDRESS.parse()?);
        Ok(Self {
            control: ground.address()?,
            control_admin: ground.address()?,
            entry: ground.address()?,
            mesh,
            client_admin: ground.address()?,
            server_admin: ground.address()?,
        })
    }

    fn client_config(&self, variant: Variant) -> Value {
        let mut config = self.config("client", self.client_admin);
        if variant == Variant::Unpooled {
            config["pool"] = json!({"ready": 0, "maxIdlePerPeer": 0});
        }
        config["outbound"] = json!([{"listen": self.entry, "to": self.mesh}]);
        config
    }

    fn server_config(&self, app: SocketAddr) -> Value {
        let mut config = self.config("server", self.server_admin);
        config["inbound"] = json!([{"listen": self.mesh, "app": app}]);
        config
    }

    /// JSON is YAML. No access log, as none of the peers writes one here.
    fn config(&self, side: &str, admin: SocketAddr) -> Value {
        json!({
            "workload": format!("{}/{side}", objects::NAMESPACE),
            "trustDomain": TRUST_DOMAIN,
            "control": self.control,
            "admin": admin,
            "accessLog": "off",
            "log": {"level": "warn"},
        })
    }
}

fn ca_dir(dir: &Path) -> String {
    dir.join("mesh-ca").display().to_string()
}
