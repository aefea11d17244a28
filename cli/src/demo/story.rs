//! The steps of the demo, in order. A step is shown as done only after what it claims was seen in a metric, a log line or an
//! admin page of the processes concerned. It knows the order; how things are started and seen lives elsewhere.

mod begin;
mod change;
mod finish;
mod traffic;

use std::path::PathBuf;

use serde_json::Value;

use super::{
    files::Files,
    observe::{AccessLog, Stream},
    place::Place,
    processes::Processes,
    screen::Screen,
    workload::Workload,
};

/// The process of the control plane.
const CONTROL: &str = "control";

/// Everything the steps work with.
pub(super) struct Story<'a> {
    pub(super) screen: &'a mut Screen,
    pub(super) place: &'a Place,
    pub(super) files: &'a Files,
    pub(super) processes: &'a mut Processes,
    pub(super) proxy: PathBuf,
}

impl Story<'_> {
    /// All steps; the first that cannot be seen ends the story. `stay`: somebody wants to go on with it afterwards.
    pub(super) async fn tell(&mut self, stay: bool) -> anyhow::Result<()> {
        self.control_plane().await?;
        self.workloads().await?;
        self.identities().await?;
        self.mutual_tls().await?;
        self.who_may().await?;
        let mut web = Stream::open(self.place.app(Workload::Web)).await?;
        let mut api = Stream::open(self.place.app(Workload::Api)).await?;
        self.renewal(&mut web, &mut api).await?;
        self.live_edit(&mut web, &mut api).await?;
        self.outage(&mut web).await?;
        self.not_a_byte_lost(&mut web).await?;
        self.figures().await?;
        if stay { self.return_of_control().await } else { Ok(()) }
    }

    /// The process of a workload's application.
    fn app_name(workload: Workload) -> String {
        format!("{workload}-app")
    }

    /// The process of a workload's sidecar.
    fn proxy_name(workload: Workload) -> String {
        format!("{workload}-proxy")
    }

    /// What `db`'s sidecar will write from now on.
    fn db_log(&self) -> AccessLog {
        AccessLog::from_now(self.files.access_log(Workload::Db))
    }
}

/// A text field of a log line or an admin page; `-` where there is none.
fn field<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or("-")
}

/// A number of bytes for people.
#[allow(clippy::cast_precision_loss, reason = "rounded for people anyway")]
fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
