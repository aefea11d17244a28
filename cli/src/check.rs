//! `squire check`: whether a cluster can take the mesh, and whether the mesh stands. What is asked is the room `deploy`'s.

use std::{path::PathBuf, time::SystemTime};

use anyhow::Context as _;
use squire_control::source::kubernetes::Access;
use squire_deploy::check::{self, Finding, Mark, Stage};

use crate::{
    exit::{Failure, Outcome, block_on},
    install::Values,
    output::{Format, show},
};

const EXAMPLES: &str = "\
Examples:
  squire check --before && squire install | kubectl apply -f -
  squire check
      before or after an installation, whichever it finds: version, clock, permissions, Pod Security, replicas,
      certificates, webhook, a pod created for the sake of asking, every proxy's state
  squire check -o json | jq '.[] | select(.mark == \"failed\")'

Exit codes: 0 all well (warnings included), 1 something failed, 69 the API server cannot be reached.";

/// Look whether a cluster can take the mesh, and whether the mesh stands
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(flatten)]
    values: Values,
    /// Ask what matters before an installation, whether there is one or not
    #[arg(long)]
    before: bool,
    /// Kubeconfig [default: KUBECONFIG, ~/.kube/config, or the service account of this pod]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig [default: the current one]
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

impl Args {
    pub(crate) fn run(self) -> Outcome {
        let values = self.values.read()?;
        block_on(async {
            let access = Access {
                kubeconfig: self.kubeconfig,
                context: self.context,
            };
            let client = access.client().await.map_err(Failure::unavailable)?;
            let stage = match self.before {
                true => Ok(Stage::Before),
                false => check::stage(&client).await,
            };
            let asked = async { check::run(&client, &values, stage?, SystemTime::now()).await };
            let findings = asked.await.context("the API server").map_err(Failure::unavailable)?;
            show(self.output, &findings, |findings| table(findings))?;
            match findings.iter().any(|finding| finding.mark == Mark::Failed) {
                true => Err(Failure::finding()),
                false => Ok(()),
            }
        })
    }
}

fn table(findings: &[Finding]) -> String {
    let line = |finding: &Finding| {
        let mark = match finding.mark {
            Mark::Ok => "ok     ",
            Mark::Warning => "warning",
            Mark::Failed => "FAILED ",
        };
        let fix = if finding.fix.is_empty() {
            String::new()
        } else {
            format!("\n          {}", finding.fix)
        };
        format!("{mark}  {}: {}{fix}\n", finding.what, finding.seen)
    };
    findings.iter().map(line).collect()
}
