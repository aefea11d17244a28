//! The first steps: control plane, workloads with their sidecars, identities.

use std::{
    ffi::OsStr,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, ensure};
use serde_json::Value;
use squire_ca::{
    hierarchy::Hierarchy,
    log::rfc3339,
    status::Status,
    store::{DirStore, Store as _},
    token::{self, JoinToken},
};

use super::{CONTROL, Story, field};
use crate::demo::{
    files::Files,
    observe::{self, until},
    workload::{TRUST_DOMAIN, Workload},
};

impl Story<'_> {
    /// The control plane, which founds its CA.
    pub(super) async fn control_plane(&mut self) -> anyhow::Result<()> {
        self.screen.step("The control plane, with its own CA");
        self.files.write_mesh(self.place)?;
        let pid = self.start_control()?;
        observe::ready("the control plane", self.place.control_admin()).await?;
        let status = Status::read(&DirStore::shared(&self.files.ca())?)?;
        self.screen.seen(&format!(
            "squire control (pid {pid}) serves {}, reads {}",
            self.place.control(),
            self.files.mesh().display()
        ));
        let root = status.roots.first().context("the CA has no root")?;
        self.screen.seen(&format!(
            "its CA has a root until {}, and an intermediate until {}",
            root.not_after, status.intermediate.not_after
        ));
        Ok(())
    }

    /// Starts it, for the first time or again.
    pub(super) fn start_control(&mut self) -> anyhow::Result<i32> {
        let (dir, ca) = (self.files.mesh(), self.files.ca());
        let (grpc, admin) = (self.place.control().to_string(), self.place.control_admin().to_string());
        let mut arguments = vec![OsStr::new("control"), OsStr::new("--dir"), dir.as_os_str()];
        arguments.extend([OsStr::new("--ca-dir"), ca.as_os_str()]);
        arguments.extend(["--grpc", &grpc, "--admin", &admin, "--trust-domain", TRUST_DOMAIN].map(OsStr::new));
        self.processes.start_squire(self.files, CONTROL, &arguments)
    }

    /// Every workload: its application, and its sidecar with a one-time join token.
    pub(super) async fn workloads(&mut self) -> anyhow::Result<()> {
        self.screen
            .step("Four workloads, each an ordinary process beside its own sidecar");
        self.write_trust_bundle()?;
        let mut started = Vec::new();
        for workload in Workload::ALL {
            started.push((
                workload,
                Instant::now(),
                self.start_app(workload)?,
                self.start_sidecar(workload)?,
            ));
        }
        for (workload, since, app, proxy) in started {
            let admin = self.place.admin(workload);
            observe::ready(&Self::proxy_name(workload), admin).await?;
            let took = since.elapsed().as_millis();
            let address = self.place.app(workload);
            until(&format!("{workload} listening on {address}"), async || {
                Ok(Some(tokio::net::TcpStream::connect(address).await.map(drop)?))
            })
            .await?;
            self.screen.seen(&format!(
                "{workload:<5} {ip}  app pid {app}, squire-proxy pid {proxy}, ready after {took} ms",
                ip = self.place.pod_ip(workload)
            ));
        }
        self.in_sync().await
    }

    /// What sidecars trust at their start.
    fn write_trust_bundle(&self) -> anyhow::Result<()> {
        let state = DirStore::shared(&self.files.ca())?
            .load()?
            .context("the CA has no state")?;
        let path = self.files.trust_bundle();
        std::fs::write(&path, Hierarchy::load(&state)?.bundle().to_pem()).with_context(|| path.display().to_string())
    }

    fn start_app(&mut self, workload: Workload) -> anyhow::Result<i32> {
        let (listen, db) = (
            self.place.app(workload).to_string(),
            self.place.outbound(workload).to_string(),
        );
        let mut arguments = vec!["demo-app", "--listen", &listen, "--name", workload.name()];
        if workload != Workload::Db {
            arguments.extend(["--db", &db]);
        }
        self.processes
            .start_squire(self.files, &Self::app_name(workload), &arguments)
    }

    fn start_sidecar(&mut self, workload: Workload) -> anyhow::Result<i32> {
        let store = DirStore::shared(&self.files.ca())?;
        let id = workload.id().parse()?;
        let token = JoinToken::create(&store, TRUST_DOMAIN, &id, token::DEFAULT_TTL, SystemTime::now())?;
        Files::write_secret(&self.files.token(workload), &token.expose())?;
        self.files.write_sidecar(self.place, workload)?;
        let config = self.files.sidecar(workload);
        let proxy = self.proxy.clone();
        self.processes.start(
            self.files,
            &Self::proxy_name(workload),
            proxy.as_os_str(),
            &["run", "--config", &*config.to_string_lossy()],
        )
    }

    /// Every sidecar has acknowledged everything the control plane sent it.
    async fn in_sync(&mut self) -> anyhow::Result<()> {
        let admin = self.place.control_admin();
        let proxies = until("every sidecar in sync with the control plane", async || {
            let sync = observe::json(admin, "/debug/sync").await?;
            let proxies = sync["proxies"].as_array().map_or(0, Vec::len);
            let complete =
                proxies == Workload::ALL.len() && sync["proxies"].as_array().into_iter().flatten().all(acknowledged);
            if complete {
                Ok(Some(proxies))
            } else {
                Err(anyhow::anyhow!("{sync}"))
            }
        })
        .await?;
        self.screen.seen(&format!(
            "all {proxies} sidecars have acknowledged workloads, services, policies and trust bundle"
        ));
        Ok(())
    }

    /// The SVIDs that sidecars hold, and that the control plane knows of.
    pub(super) async fn identities(&mut self) -> anyhow::Result<()> {
        self.screen
            .step("Identities, issued by the CA for keys that never leave the sidecars");
        for workload in Workload::ALL {
            let svid = self.svid(workload).await?;
            let id = field(&svid, "id");
            ensure!(id == workload.id(), "{workload}: holds {id}, not {}", workload.id());
            self.reported(workload, field(&svid, "serial")).await?;
            let ends = SystemTime::UNIX_EPOCH + Duration::from_secs(svid["notAfter"].as_u64().unwrap_or(0));
            let left = ends
                .duration_since(SystemTime::now())
                .context("an SVID that has ended")?;
            self.screen.seen(&format!(
                "{id:<40} expires {} (in {} min), serial {}",
                rfc3339(ends),
                left.as_secs() / 60,
                short(field(&svid, "serial"))
            ));
        }
        Ok(())
    }

    /// The SVID of a sidecar, as it shows it.
    pub(super) async fn svid(&self, workload: Workload) -> anyhow::Result<Value> {
        let config = observe::json(self.place.admin(workload), "/config").await?;
        ensure!(
            config["identity"]["status"] == "valid",
            "{workload}: {}",
            config["identity"]
        );
        Ok(config["identity"]["svid"].clone())
    }

    /// Waits until the control plane has been told of an SVID.
    pub(super) async fn reported(&self, workload: Workload, serial: &str) -> anyhow::Result<()> {
        let admin = self.place.control_admin();
        until(
            &format!("the control plane knows of {workload}'s SVID {serial}"),
            async || {
                let sync = observe::json(admin, "/debug/sync").await?;
                let proxies = sync["proxies"].as_array().cloned().unwrap_or_default();
                let known = proxies
                    .iter()
                    .any(|proxy| proxy["proxy"]["node"] == workload.uid() && proxy["report"]["svid_serial"] == serial);
                Ok(known.then_some(()))
            },
        )
        .await
    }
}

/// Nothing is under way to this proxy, and nothing was refused.
fn acknowledged(proxy: &Value) -> bool {
    let kinds = proxy["proxy"]["kinds"].as_object();
    kinds.is_some_and(|kinds| {
        !kinds.is_empty()
            && kinds
                .values()
                .all(|kind| kind["pending"] == false && kind["nack"].is_null())
    })
}

/// The first digits of a serial number, enough for people.
pub(super) fn short(serial: &str) -> &str {
    serial.get(..12).unwrap_or(serial)
}
