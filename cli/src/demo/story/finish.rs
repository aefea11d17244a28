//! The last step: what `db`'s sidecar has written of every connection, and that its metrics say the same.

use serde_json::Value;

use super::{Story, field, traffic::from};
use crate::{
    demo::{
        observe::{self, AccessLog, metric, until},
        workload::Workload,
    },
    output::columns,
};

const HEADINGS: [&str; 9] = [
    "SOURCE", "VERDICT", "OUTCOME", "PROTOCOL", "GROUP", "REUSED", "RECEIVED", "SENT", "MS",
];

impl Story<'_> {
    /// Access log and metrics agree, connection by connection.
    pub(super) async fn figures(&mut self) -> anyhow::Result<()> {
        self.screen
            .step("Every connection to db, from its sidecar's access log");
        let log = AccessLog::from_start(self.files.access_log(Workload::Db));
        let admin = self.place.admin(Workload::Db);
        let lines = until("db's access log and metrics say the same", async || {
            let page = observe::page(admin, "/metrics").await?.text();
            let lines = log.lines()?;
            for workload in [Workload::Web, Workload::Api, Workload::Batch] {
                agree(&page, &lines, workload)?;
            }
            Ok(Some(lines))
        })
        .await?;
        let rows: Vec<_> = lines.iter().map(row).collect();
        self.screen.note(&columns(HEADINGS, &rows));
        self.screen.seen(&format!(
            "{} connections; squire_received_bytes_total, squire_sent_bytes_total and squire_connections_closed_total at \
             http://{admin}/metrics say the same",
            lines.len()
        ));
        Ok(())
    }
}

/// The counters of one source are the sums of its lines.
fn agree(page: &str, lines: &[Value], workload: Workload) -> anyhow::Result<()> {
    let id = workload.id();
    let labels = [("direction", "inbound"), ("source", &*id)];
    let of = || lines.iter().filter(|line| from(line, workload));
    let sum = |name: &str| of().filter_map(|line| line[name].as_f64()).sum::<f64>();
    for (name, logged) in [
        ("squire_received_bytes_total", sum("bytes_from_client")),
        ("squire_sent_bytes_total", sum("bytes_to_client")),
        (
            "squire_connections_closed_total",
            f64::from(u32::try_from(of().count())?),
        ),
    ] {
        let counted = metric(page, name, &labels).unwrap_or(0.0);
        // Whole numbers far below 2^53: both are exact.
        #[allow(clippy::float_cmp, reason = "both are exact")]
        let same = counted == logged;
        anyhow::ensure!(same, "{workload}: {name} is {counted}, the access log says {logged}");
    }
    Ok(())
}

fn row(line: &Value) -> [String; 9] {
    let source = field(line, "source").rsplit('/').next().unwrap_or("-");
    let bytes = |name: &str| line[name].as_u64().unwrap_or(0).to_string();
    [
        source.to_owned(),
        field(line, "verdict").to_owned(),
        field(line, "outcome").to_owned(),
        field(line, "protocol").to_owned(),
        field(line, "tls_group").to_owned(),
        if line["reused"] == true { "yes" } else { "no" }.to_owned(),
        bytes("bytes_from_client"),
        bytes("bytes_to_client"),
        format!("{:.1}", line["duration_ms"].as_f64().unwrap_or(0.0)),
    ]
}
