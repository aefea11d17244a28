//! `squire inject`: the webhook's patch without a cluster.

use std::{
    io::{self, Read as _},
    path::PathBuf,
};

use anyhow::Context as _;
use squire_injector::offline::{self, OfflineError};

use crate::{
    exit::{Failure, Outcome},
    install::Values,
    output::print,
};

const EXAMPLES: &str = "\
Examples:
  squire inject -f web.yaml | kubectl apply -f -
      Pods and the templates of Deployments, StatefulSets, DaemonSets, ReplicaSets, Jobs and CronJobs get a sidecar;
      everything else passes as it is
  kubectl get deployment web -o yaml | squire inject -f - --values values.yaml
      with the values of `squire install`

Exit codes: 0 done, 1 an object cannot have a sidecar (each is named), 2 wrong usage, 69 a file cannot be read.";

/// Put sidecars into workloads in files, as the webhook would
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// File of YAML or JSON objects, or - for standard input
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    values: Values,
}

impl Args {
    pub(crate) fn run(self) -> Outcome {
        let values = self.values.read()?;
        let text = self.text().map_err(Failure::unavailable)?;
        let output = offline::inject(&text, &values.sidecar).map_err(|error| match error {
            OfflineError::Yaml(..) => Failure::configuration(error),
            OfflineError::Denied(_) => Failure::denied(error),
        })?;
        remark(&output.remarks);
        print(&output.yaml)
    }

    fn text(&self) -> anyhow::Result<String> {
        let mut text = String::new();
        if self.file.as_os_str() == "-" {
            io::stdin().read_to_string(&mut text).context("standard input")?;
            return Ok(text);
        }
        std::fs::read_to_string(&self.file).with_context(|| self.file.display().to_string())
    }
}

#[allow(
    clippy::print_stderr,
    reason = "what is to be read stands beside what is to be piped"
)]
fn remark(remarks: &[String]) {
    for remark in remarks {
        eprintln!("{remark}");
    }
}
