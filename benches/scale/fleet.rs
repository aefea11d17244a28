//! The figures of one control plane with thousands of proxies: how long issuing, connecting and each kind of change take until every proxy has
//! acknowledged, a restart under all of them, a rotation of the root, and what it costs the control plane.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use prometheus::Registry;
use serde::Serialize;
use squire_mesh::resource::Kind;
use squire_proxy::{
    config::{Config, Sources},
    vitals::Vitals,
};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::board::Board;
use super::control::Control;
use super::issuer::Issuer;
use super::mesh::{Mesh, Pod};
use super::proxy::{self, Shared};
use crate::ground::Ground;
use crate::process::Process;

/// Proxies that ask for an SVID, or connect for the first time, at once: a rollout, not a storm.
const AT_ONCE: usize = 64;
/// Nothing changes before memory is read.
const REST: Duration = Duration::from_secs(2);

/// What was found with one number of proxies.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Figures {
    /// How many.
    pub(super) proxies: usize,
    /// Start of the control plane until it is ready.
    pub(super) ready_ms: f64,
    /// SVIDs issued by token through gRPC, each on a connection of its own, per second; with the requesters' own work on the same machine.
    pub(super) issued_per_second: f64,
    /// All connected and told everything, one after another in a rollout.
    pub(super) connect: Effort,
    /// Resources of the two tables that every proxy is told.
    pub(super) resources: u64,
    /// Memory of the control plane without a proxy, and with all.
    pub(super) alone_mib: f64,
    pub(super) connected_mib: f64,
    /// The difference, for each proxy.
    pub(super) kib_for_each: f64,
    /// A policy that concerns every workload.
    pub(super) policy_of_all: Spread,
    /// A policy that concerns some.
    pub(super) policy_of_some: Spread,
    /// A pod that every proxy is told of.
    pub(super) pod: Spread,
    /// The control plane is killed and started again: until all proxies are connected and current.
    pub(super) restart: Effort,
    /// A new root, step by step with evidence from every proxy, each of which gets another SVID.
    pub(super) rotation: Option<Effort>,
}

/// How long something took, and what the control plane worked for it.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Effort {
    pub(super) seconds: f64,
    pub(super) cpu_seconds: f64,
}

/// How long after a change the proxies had acknowledged it; medians over the rounds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Spread {
    pub(super) proxies: usize,
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) last_ms: f64,
    /// Of the control plane, for one change.
    pub(super) cpu_seconds: f64,
}

/// Everything one run needs.
pub(super) struct Plan<'a> {
    /// `squire`.
    pub(super) squire: PathBuf,
    pub(super) ground: &'a Ground,
    pub(super) proxies: usize,
    /// Changes of each kind.
    pub(super) rounds: usize,
    /// Whether the root is rotated in the end.
    pub(super) rotate: bool,
}

/// Takes the figures.
pub(super) async fn take(plan: &Plan<'_>) -> Result<Figures> {
    let dir = plan.ground.room(&format!("scale-{}", plan.proxies))?;
    let mesh = Mesh::write(&dir, plan.proxies)?;
    let issuer = Issuer::write(&dir.join("jwks.json"))?;
    let mut control = Control::new(&plan.squire, plan.ground, &dir, mesh.dir())?;
    let (mut process, ready) = control.start().await?;
    sleep(REST).await;
    let alone = process.memory()?.rss;

    let board = Arc::new(Board::new(plan.proxies));
    let shared = Arc::new(Shared {
        vitals: Arc::new(Vitals::register(&Registry::new())?),
        board: Arc::clone(&board),
        gate: watch::Sender::new(0),
    });
    let mut proxies = JoinSet::new();
    let began = Instant::now();
    for number in 0..plan.proxies {
        let config = configure(&dir, &control, &issuer, number)?;
        proxies.spawn(proxy::live(number, config, Arc::clone(&shared)));
        if number >= AT_ONCE {
            board.all_identified(number - AT_ONCE).await?;
        }
    }
    board.all_identified(plan.proxies).await?;
    let issued_per_second = plan.proxies as f64 / began.elapsed().as_secs_f64();
    eprintln!("  {} SVIDs, {issued_per_second:.0}/s", plan.proxies);

    let connect = measured(&mut process, async {
        for open in (AT_ONCE..plan.proxies + AT_ONCE).step_by(AT_ONCE / 2) {
            shared.gate.send_replace(open);
            board.complete((open - AT_ONCE).min(plan.proxies)).await?;
        }
        shared.gate.send_replace(plan.proxies);
        board.complete(plan.proxies).await
    })
    .await?;
    eprintln!("  all connected after {:.1} s", connect.seconds);
    let resources = board.resources();
    sleep(REST).await;
    let connected = process.memory()?.rss;

    let policy_of_all = rounds(plan, &board, &mut process, Kind::Policy, plan.proxies, |turn| {
        mesh.change_policy_of_all(turn)
    });
    let policy_of_all = policy_of_all.await?;
    let some = mesh.concerned_by_one();
    let policy_of_some = rounds(plan, &board, &mut process, Kind::Policy, some, |turn| {
        mesh.change_policy_of_one(turn)
    });
    let policy_of_some = policy_of_some.await?;
    let pod = rounds(plan, &board, &mut process, Kind::Workload, plan.proxies, |turn| {
        mesh.change_pod(turn * 37 % plan.proxies, turn)
    });
    let pod = pod.await?;
    eprintln!(
        "  changes: {:.0}, {:.0}, {:.0} ms",
        policy_of_all.last_ms, policy_of_some.last_ms, pod.last_ms
    );

    // What holds its port is gone when the process is.
    drop(process);
    board.lost(plan.proxies).await?;
    let began = Instant::now();
    let (mut process, _) = control.start().await?;
    board.complete(plan.proxies).await?;
    let restart = Effort {
        seconds: began.elapsed().as_secs_f64(),
        cpu_seconds: process.cpu()?.total().as_secs_f64(),
    };
    eprintln!("  restarted after {:.1} s", restart.seconds);

    let rotation = if plan.rotate {
        Some(measured(&mut process, rotate(&control)).await?)
    } else {
        None
    };
    if let Some(ended) = proxies.try_join_next() {
        ended?.context("while the figures were taken")?;
    }
    process.check()?;
    Ok(Figures {
        proxies: plan.proxies,
        ready_ms: ready.as_secs_f64() * 1e3,
        issued_per_second,
        connect,
        resources,
        alone_mib: alone as f64 / 1024.0,
        connected_mib: connected as f64 / 1024.0,
        kib_for_each: connected.saturating_sub(alone) as f64 / plan.proxies as f64,
        policy_of_all,
        policy_of_some,
        pod,
        restart,
        rotation,
    })
}

/// The configuration of a simulated proxy, with a token of its own.
fn configure(dir: &Path, control: &Control, issuer: &Issuer, number: usize) -> Result<Config> {
    let pod = Pod(number);
    let token = dir.join(format!("token-{number}"));
    std::fs::write(&token, issuer.token(&pod.subject())?)?;
    let flags = vec![
        format!("workload={}", pod.workload()),
        "trustDomain=cluster.local".to_owned(),
        format!("control={}", control.grpc),
        format!("trustBundle={}", dir.join("root.pem").display()),
        format!("token={}", token.display()),
    ];
    let sources = Sources {
        flags,
        ..Sources::default()
    };
    Config::load(&sources).map_err(|problems| anyhow::anyhow!("{problems}"))
}

/// Does something and says how long it took and what the control plane worked meanwhile.
async fn measured(process: &mut Process, act: impl Future<Output = Result<()>>) -> Result<Effort> {
    let (began, before) = (Instant::now(), process.cpu()?);
    act.await
        .with_context(|| format!("last words of the control plane:\n{}", process.last_words()))?;
    process.check()?;
    Ok(Effort {
        seconds: began.elapsed().as_secs_f64(),
        cpu_seconds: (process.cpu()? - before).total().as_secs_f64(),
    })
}

/// Changes something again and again, and waits each time until it has arrived everywhere.
async fn rounds(
    plan: &Plan<'_>,
    board: &Board,
    process: &mut Process,
    kind: Kind,
    proxies: usize,
    change: impl Fn(usize) -> Result<()>,
) -> Result<Spread> {
    let mut all: Vec<Spread> = Vec::new();
    for turn in 1..=plan.rounds {
        let mut arrivals = Vec::new();
        let effort = measured(process, async {
            board.mark(kind);
            change(turn)?;
            arrivals = board.arrivals(proxies).await?;
            Ok(())
        })
        .await?;
        arrivals.sort_unstable();
        let at = |percent: usize| arrivals[(arrivals.len() - 1) * percent / 100].as_secs_f64() * 1e3;
        all.push(Spread {
            proxies,
            p50_ms: at(50),
            p99_ms: at(99),
            last_ms: at(100),
            cpu_seconds: effort.cpu_seconds,
        });
        // The next change is one of its own, not part of this one's.
        sleep(Duration::from_millis(300)).await;
    }
    let median = |of: fn(&Spread) -> f64| {
        let mut values: Vec<f64> = all.iter().map(of).collect();
        values.sort_unstable_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or_default()
    };
    Ok(Spread {
        proxies,
        p50_ms: median(|one| one.p50_ms),
        p99_ms: median(|one| one.p99_ms),
        last_ms: median(|one| one.last_ms),
        cpu_seconds: median(|one| one.cpu_seconds),
    })
}

/// Rotates the root and waits for the end.
async fn rotate(control: &Control) -> Result<()> {
    const PATIENCE: Duration = Duration::from_secs(300);
    control.ca(&["rotate"])?;
    let began = Instant::now();
    loop {
        let status: serde_json::Value = serde_json::from_str(&control.ca(&["status", "-o", "json"])?)?;
        if status["phase"]["name"] == "stable" {
            return Ok(());
        }
        if began.elapsed() > PATIENCE {
            bail!("the rotation has not ended after {PATIENCE:?}: {}", status["phase"]);
        }
        sleep(Duration::from_millis(250)).await;
    }
}
