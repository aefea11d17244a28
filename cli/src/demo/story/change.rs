//! Steps in which something changes under traffic: identities, policy, and the control plane itself.

use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use rustix::process::Signal;

use super::{CONTROL, Story, begin::short, field, mebibytes, traffic::from};
use crate::demo::{
    observe::{self, Stream, metric, until},
    stream::Line,
    workload::Workload,
};

/// How soon a connection must be cut that policy no longer allows.
const CUT_WITHIN: Duration = Duration::from_secs(1);
/// So much has to get through after a change before traffic counts as going on.
const GOES_ON: u64 = 1 << 20;

impl Story<'_> {
    /// New keys and certificates on both sides of live streams.
    pub(super) async fn renewal(&mut self, web: &mut Stream, api: &mut Stream) -> anyhow::Result<()> {
        self.screen
            .step("web and api stream through db and back; identities are renewed under them");
        web.grown(GOES_ON).await?;
        api.grown(GOES_ON).await?;
        self.open_at_db(&[Workload::Web, Workload::Api]).await?;
        let before = web.echoed()?;
        for workload in [Workload::Db, Workload::Web, Workload::Api] {
            let old = self.svid(workload).await?;
            self.processes.signal(&Self::proxy_name(workload), Signal::USR1)?;
            let new = until(&format!("{workload} holds a new SVID"), async || {
                let new = self.svid(workload).await?;
                Ok((new["serial"] != old["serial"]).then_some(new))
            })
            .await?;
            ensure!(new["id"] == old["id"], "{workload} became {new}");
            self.reported(workload, field(&new, "serial")).await?;
            self.screen.seen(&format!(
                "{workload:<4} serial {} → {}, generation {} → {}",
                short(field(&old, "serial")),
                short(field(&new, "serial")),
                old["generation"],
                new["generation"]
            ));
        }
        let now = web.grown(GOES_ON).await?;
        api.grown(GOES_ON).await?;
        self.screen.seen(&format!(
            "web's stream: {} before, {} now, every byte in its place; api's goes on too",
            mebibytes(before),
            mebibytes(now)
        ));
        let line = self.asks(Workload::Web).await?;
        let fresh = if line["reused"] == true { "reused" } else { "new" };
        self.screen.note(&format!(
            "a new request of web succeeds under the new identities (mesh connection: {fresh})"
        ));
        Ok(())
    }

    /// Both streams are what `db`'s sidecar shows as open.
    async fn open_at_db(&mut self, expected: &[Workload]) -> anyhow::Result<()> {
        let admin = self.place.admin(Workload::Db);
        until("db's sidecar shows the streams", async || {
            let open = observe::json(admin, "/connections").await?;
            let shown = |workload: &Workload| {
                open.as_array()
                    .is_some_and(|all| all.iter().any(|c| from(c, *workload)))
            };
            Ok(expected.iter().all(shown).then_some(()))
        })
        .await
    }

    /// One rule taken out of a file.
    pub(super) async fn live_edit(&mut self, web: &mut Stream, api: &mut Stream) -> anyhow::Result<()> {
        self.screen
            .step("The policy is edited while both stream: api is taken out");
        let log = self.db_log();
        let policy = self.files.policy();
        let edited = Instant::now();
        self.files.write_policy(self.place, &[Workload::Web])?;
        let (at, line) = api.ended().await?;
        let took = at.saturating_duration_since(edited);
        let Line::Broken { echoed, .. } = line else {
            bail!("api's stream was not cut: {line:?}");
        };
        ensure!(took < CUT_WITHIN, "api's open connection was cut only after {took:?}");
        let name = policy.file_name().unwrap_or_default().to_string_lossy().into_owned();
        self.screen.seen(&format!(
            "api's open connection was cut {} ms after {name} was saved, after {} of stream",
            took.as_millis(),
            mebibytes(echoed)
        ));
        let cut = log
            .line("db's sidecar cuts api", |line| {
                from(line, Workload::Api) && field(line, "outcome") == "cut_policy"
            })
            .await?;
        self.screen.note(&format!(
            "{}: {} by {}: {}",
            field(&cut, "outcome"),
            field(&cut, "verdict"),
            field(&cut, "rule"),
            field(&cut, "why")
        ));
        let total = web.grown(GOES_ON).await?;
        self.screen.seen(&format!("web's stream goes on: {}", mebibytes(total)));
        let line = self.is_denied(Workload::Api).await?;
        self.show(Workload::Api, &line);
        Ok(())
    }

    /// SIGKILL, no restart.
    pub(super) async fn outage(&mut self, web: &mut Stream) -> anyhow::Result<()> {
        self.screen.step("The control plane is killed, and stays dead");
        let status = self.processes.kill(CONTROL).await?;
        let admin = self.place.control_admin();
        if observe::page(admin, "/live").await.is_ok() {
            bail!("something still answers on {admin}");
        }
        self.screen.seen(&format!("squire control is gone ({status})"));
        self.sidecars_see_control(0.0).await?;
        self.screen
            .seen("all sidecars know it (squire_control_connected 0) and keep the last good state");
        let total = web.grown(GOES_ON).await?;
        self.screen.seen(&format!("web's stream goes on: {}", mebibytes(total)));
        let line = self.asks(Workload::Web).await?;
        self.screen.seen("new connections are made, and judged as before:");
        self.show(Workload::Web, &line);
        let line = self.is_denied(Workload::Batch).await?;
        self.show(Workload::Batch, &line);
        Ok(())
    }

    /// Waits until every sidecar's `squire_control_connected` has this value.
    async fn sidecars_see_control(&self, connected: f64) -> anyhow::Result<()> {
        for workload in Workload::ALL {
            let what = format!("squire_control_connected {connected} at {workload}'s sidecar");
            until(&what, async || {
                let page = observe::page(self.place.admin(workload), "/metrics").await?;
                Ok((metric(&page.text(), "squire_control_connected", &[]) == Some(connected)).then_some(()))
            })
            .await?;
        }
        Ok(())
    }

    /// For those who stay: policies can be edited again.
    pub(super) async fn return_of_control(&mut self) -> anyhow::Result<()> {
        self.screen.step("The control plane is started again, since you stay");
        let pid = self.start_control()?;
        observe::ready("the control plane", self.place.control_admin()).await?;
        self.sidecars_see_control(1.0).await?;
        self.screen.seen(&format!(
            "squire control (pid {pid}) runs on the CA it left; all sidecars have found it"
        ));
        let line = self.asks(Workload::Web).await?;
        self.show(Workload::Web, &line);
        Ok(())
    }

    /// The end of the stream that has seen it all.
    pub(super) async fn not_a_byte_lost(&mut self, web: &mut Stream) -> anyhow::Result<()> {
        self.screen
            .step("web's stream ends: it has lived through renewal, policy edit and outage");
        observe::page(self.place.app(Workload::Web), "/stop").await?;
        let (_, line) = web.ended().await?;
        let Line::End {
            sent,
            echoed,
            sha256_sent,
            sha256_echoed,
        } = line
        else {
            bail!("web's stream broke off: {line:?}");
        };
        ensure!(
            sent == echoed && sha256_sent == sha256_echoed,
            "web sent {sent} bytes ({sha256_sent}), got {echoed} back ({sha256_echoed})"
        );
        self.screen.seen(&format!(
            "{} ({sent} bytes) sent, the same came back: SHA-256 {}…",
            mebibytes(sent),
            short(&sha256_sent)
        ));
        Ok(())
    }
}
