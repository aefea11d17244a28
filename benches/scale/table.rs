//! The figures of one real sidecar in a mesh of many workloads: memory, time until it is ready, and time until a change of one pod has arrived.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use tokio::time::sleep;

use super::control::Control;
use super::issuer::Issuer;
use super::mesh::{Mesh, Pod};
use crate::ground::Ground;
use crate::load;
use crate::process::Process;

const PATIENCE: Duration = Duration::from_secs(120);
const REST: Duration = Duration::from_secs(3);

/// How a sidecar learns about workloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Subscribes {
    /// To all there are.
    All,
    /// To those that its connections need.
    OnDemand,
}

impl Subscribes {
    /// Its name, in the report and in a sidecar's configuration.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::OnDemand => "on-demand",
        }
    }
}

/// What was found with one number of workloads.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Figures {
    pub(super) workloads: usize,
    pub(super) subscribes: Subscribes,
    /// From the start of the process until it is ready.
    pub(super) ready_ms: f64,
    /// CPU until then.
    pub(super) ready_cpu_seconds: f64,
    /// After some rest.
    pub(super) rss_mib: f64,
    /// From the change of one pod's file until the sidecar has applied it; median.
    pub(super) change_ms: f64,
    /// Memory of the control plane.
    pub(super) control_mib: f64,
}

/// Takes the figures of that many workloads.
pub(super) async fn take(
    binaries: &Path,
    ground: &Ground,
    workloads: usize,
    subscribes: Subscribes,
    rounds: usize,
) -> Result<Figures> {
    let dir = ground.room(&format!("table-{workloads}-{}", subscribes.name()))?;
    let mesh = Mesh::write(&dir, workloads)?;
    let issuer = Issuer::write(&dir.join("jwks.json"))?;
    let mut control = Control::new(&binaries.join("squire"), ground, &dir, mesh.dir())?;
    let (control_process, _) = control.start().await?;
    let admin = ground.address()?;
    let pod = Pod(0);
    std::fs::write(dir.join("token"), issuer.token(&pod.subject())?)?;
    let config = serde_json::json!({
        "workload": pod.workload(), "trustDomain": "cluster.local", "control": control.grpc, "admin": admin,
        "trustBundle": dir.join("root.pem"), "token": dir.join("token"), "log": {"level": "warn"},
        "subscription": {"mode": subscribes.name()},
    });
    std::fs::write(dir.join("sidecar.yaml"), serde_json::to_vec(&config)?)?;
    let text = |path: PathBuf| path.display().to_string();
    let argv = [
        text(binaries.join("squire-proxy")),
        "run".to_owned(),
        "--config".to_owned(),
        text(dir.join("sidecar.yaml")),
    ];
    let began = Instant::now();
    let mut sidecar = Process::spawn("sidecar", &argv, &dir)?;
    while !load::is_ready(admin).await {
        sidecar.check()?;
        if began.elapsed() > PATIENCE {
            bail!("the sidecar is not ready; last words:\n{}", sidecar.last_words());
        }
        sleep(Duration::from_millis(1)).await;
    }
    let (ready, ready_cpu) = (began.elapsed(), sidecar.cpu()?.total());
    sleep(REST).await;
    let rss = sidecar.memory()?.rss;

    let mut changes = Vec::new();
    for turn in 1..=rounds {
        let known = updates(admin).await?;
        let began = Instant::now();
        mesh.change_pod(0, turn)?;
        while updates(admin).await? == known {
            if began.elapsed() > PATIENCE {
                bail!(
                    "a change of a pod has not arrived; last words:\n{}",
                    sidecar.last_words()
                );
            }
            sleep(Duration::from_millis(1)).await;
        }
        changes.push(began.elapsed().as_secs_f64() * 1e3);
    }
    changes.sort_unstable_by(f64::total_cmp);
    sidecar.check()?;
    Ok(Figures {
        workloads,
        subscribes,
        ready_ms: ready.as_secs_f64() * 1e3,
        ready_cpu_seconds: ready_cpu.as_secs_f64(),
        rss_mib: rss as f64 / 1024.0,
        change_ms: changes.get(changes.len() / 2).copied().unwrap_or_default(),
        control_mib: control_process.memory()?.rss as f64 / 1024.0,
    })
}

/// Updates of the table of workloads that a sidecar has applied.
async fn updates(admin: SocketAddr) -> Result<u64> {
    let page = load::page(admin, "/metrics").await?;
    let applied = |line: &&str| {
        line.starts_with("squire_state_updates_total{") && line.contains("\"workload\"") && !line.contains("refused")
    };
    let line = page
        .lines()
        .find(applied)
        .context("the sidecar does not count its updates")?;
    let value = line.rsplit(' ').next().unwrap_or_default();
    value.parse().with_context(|| format!("unreadable: {line}"))
}
