//! `squire policy why`: may this one talk to that one, and which rule says so?

use std::{fmt::Write as _, path::PathBuf};

use anyhow::anyhow;

use squire_control::policy::why::{Explanation, HttpQuestion, Question, World, headers};

use super::{manifest, page};
use crate::{
    cluster::ClusterArgs,
    exit::{Failure, Outcome},
    output::{Format, show},
};

const EXAMPLES: &str = "\
Examples:
  squire policy why -f mesh/ --from shop/web-1 --to shop/db:5432
  squire policy why -f mesh/ --from spiffe://cluster.local/ns/shop/sa/web --to shop/api:http --method GET --path /orders
  squire policy why -f mesh/ --from 203.0.113.7 --to shop/web:80 --plaintext
  squire policy why --control 127.0.0.1:15014 --from shop/web-1 --to shop/db:5432
  squire policy why --kubernetes --from shop/web-1 --to shop/db:5432

Exit code 0 if it is allowed, 1 if it is denied.";

/// Explain whether one workload may talk to another: every gate, the rule that decided, the rule that came nearest
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Files or directories with policies and workloads (Pod, Service, EndpointSlice, WorkloadEntry, Namespace)
    #[arg(short = 'f', long = "file", value_name = "PATH", num_args = 1.., required_unless_present_any = ["control", "kubernetes"])]
    files: Vec<PathBuf>,
    /// The admin endpoint of a running control plane, instead of files
    #[arg(long, value_name = "HOST:PORT", conflicts_with_all = ["files", "kubernetes"])]
    control: Option<String>,
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Who opens the connection: a SPIFFE ID, a workload (namespace/name) or an address
    #[arg(long, value_name = "ID")]
    from: String,
    /// Who is reached: a workload or Service (namespace/name) or an address, with the port
    #[arg(long, value_name = "WORKLOAD:PORT")]
    to: String,
    /// The connection is not mutual TLS
    #[arg(long)]
    plaintext: bool,
    /// Ask about an HTTP request with this method
    #[arg(long, value_name = "METHOD", help_heading = "HTTP")]
    method: Option<String>,
    /// … with this path
    #[arg(long, value_name = "PATH", help_heading = "HTTP")]
    path: Option<String>,
    /// … for this host
    #[arg(long, value_name = "HOST", help_heading = "HTTP")]
    host: Option<String>,
    /// … with this header field; may be repeated
    #[arg(long, value_name = "NAME: VALUE", help_heading = "HTTP")]
    header: Vec<String>,
    /// How to show the answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

impl Args {
    pub(super) fn run(self) -> Outcome {
        let world = match (&self.control, page::of_cluster(&self.cluster, "/debug/objects")?) {
            (_, Some(objects)) => World::from_control_plane(&objects),
            (Some(address), None) => World::from_control_plane(&page::get(address, "/debug/objects")?),
            (None, None) => World::from_manifest(&manifest(&self.files)?),
        };
        let world = world.map_err(Failure::configuration)?;
        let explanation = world
            .why(&self.question())
            .map_err(|error| Failure::usage(anyhow!(error)))?;
        show(self.output, &explanation, lines)?;
        if explanation.verdict == "ALLOW" {
            Ok(())
        } else {
            Err(Failure::finding())
        }
    }

    fn question(&self) -> Question {
        let asked = self.method.is_some() || self.path.is_some() || self.host.is_some() || !self.header.is_empty();
        let http = asked.then(|| HttpQuestion {
            method: self.method.clone().unwrap_or_else(|| "GET".to_owned()),
            path: self.path.clone().unwrap_or_else(|| "/".to_owned()),
            host: self.host.clone().unwrap_or_default(),
            headers: headers(&self.header),
        });
        Question {
            from: self.from.clone(),
            to: self.to.clone(),
            http,
            plaintext: self.plaintext,
        }
    }
}

fn lines(explanation: &Explanation) -> String {
    let mut text = String::new();
    // Writing to a String does not fail.
    let mut line = |line: String| {
        let _ = writeln!(text, "{line}");
    };
    let by = |by: &Option<String>| by.as_ref().map(|by| format!(" ({by})")).unwrap_or_default();
    line(format!(
        "{}  {} → {}",
        explanation.verdict, explanation.from, explanation.to
    ));
    line(format!("  because {}{}", explanation.why, by(&explanation.by)));
    for gate in &explanation.gates {
        line(format!(
            "  {:<22} {:<5} {}{}",
            gate.gate,
            gate.verdict,
            gate.why,
            by(&gate.by)
        ));
    }
    for nearest in &explanation.nearest {
        line(format!("  nearest: {} would allow it, if", nearest.rule));
        nearest.failed.iter().for_each(|failed| line(format!("    {failed}")));
    }
    explanation
        .notes
        .iter()
        .for_each(|note| line(format!("  note: {note}")));
    text
}
