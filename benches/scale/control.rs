//! The control plane under measurement: `squire control` over a directory, as an admin would start it; its CPU and memory.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::time::sleep;

use super::issuer;
use crate::ground::Ground;
use crate::load;
use crate::process::Process;

/// How long it may take to read its objects.
const PATIENCE: Duration = Duration::from_secs(180);

/// How to start a control plane, again and again with the same CA.
pub(super) struct Control {
    argv: Vec<String>,
    dir: PathBuf,
    /// Where proxies connect.
    pub(super) grpc: SocketAddr,
    admin: SocketAddr,
    starts: usize,
}

impl Control {
    /// One for the objects in `mesh`, with its CA below `dir`; starts nothing.
    pub(super) fn new(squire: &Path, ground: &Ground, dir: &Path, mesh: &Path) -> Result<Self> {
        let (grpc, admin) = (ground.address()?, ground.address()?);
        let text = |path: PathBuf| path.display().to_string();
        let argv = [
            squire.display().to_string(),
            "control".to_owned(),
            "--dir".to_owned(),
            mesh.display().to_string(),
            "--ca-dir".to_owned(),
            text(dir.join("ca")),
            "--grpc".to_owned(),
            grpc.to_string(),
            "--admin".to_owned(),
            admin.to_string(),
            "--jwks".to_owned(),
            text(dir.join("jwks.json")),
            "--jwt-issuer".to_owned(),
            issuer::NAME.to_owned(),
            "--trust-bundle-file".to_owned(),
            text(dir.join("root.pem")),
            "--log".to_owned(),
            "warn".to_owned(),
        ]
        .to_vec();
        Ok(Self {
            argv,
            dir: dir.to_owned(),
            grpc,
            admin,
            starts: 0,
        })
    }

    /// Starts it and waits until it is ready; says how long that took.
    pub(super) async fn start(&mut self) -> Result<(Process, Duration)> {
        self.starts += 1;
        let started = Instant::now();
        let mut process = Process::spawn(&format!("control-{}", self.starts), &self.argv, &self.dir)?;
        while !load::is_ready(self.admin).await {
            process.check()?;
            if started.elapsed() > PATIENCE {
                bail!(
                    "the control plane is not ready after {PATIENCE:?}; last words:\n{}",
                    process.last_words()
                );
            }
            sleep(Duration::from_millis(2)).await;
        }
        Ok((process, started.elapsed()))
    }

    /// Runs `squire ca …` on its CA; what it prints.
    pub(super) fn ca(&self, words: &[&str]) -> Result<String> {
        let output = Command::new(&self.argv[0])
            .arg("ca")
            .args(words)
            .arg("--dir")
            .arg(self.dir.join("ca"))
            .output()
            .context("cannot start squire ca")?;
        if !output.status.success() {
            bail!(
                "squire ca {} failed: {}",
                words.join(" "),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(String::from_utf8(output.stdout)?)
    }
}
