//! `squire connections`: the live connections of the mesh, asked of the sidecars themselves. Arguments, and when to ask;
//! it changes nothing.

mod ask;
mod table;
mod view;
mod watch;

use std::time::Duration;

use anyhow::anyhow;

use self::ask::{Answer, Source};
use crate::{
    cluster::ClusterArgs,
    exit::{Failure, Outcome, block_on},
    fetch::Endpoint,
    output::{Format, show},
};

const EXAMPLES: &str = "\
Examples:
  squire connections
      every live connection that the sidecars of a control plane on this machine know of
  squire connections shop/db --watch
      those of one workload, refreshed until Ctrl-C
  squire connections --control 10.0.0.5:15014 -o json
      asks another control plane where the sidecars are; JSON for programs
  squire connections --kubernetes shop/db-0
      asks a cluster, through its API server and with your kubeconfig
  squire connections --proxy 127.0.0.1:15020
      asks one sidecar directly, without a control plane (`kubectl port-forward POD 15020` leads there)

Each connection within the mesh is seen twice, by the sidecar at either end, under the same id.
Identities are written as policies write principals: without spiffe://.";

/// Live connections: both identities, protocol, bytes, age, what TLS negotiated, the verdict and its rule
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Only what this workload's sidecar sees: NAMESPACE/NAME, a name alone, or a SPIFFE ID
    #[arg(value_name = "WORKLOAD")]
    workload: Option<String>,
    /// Refresh until Ctrl-C
    #[arg(short, long)]
    watch: bool,
    /// Time between two refreshes
    #[arg(long, value_name = "SECONDS", default_value_t = 1, requires = "watch", value_parser = clap::value_parser!(u64).range(1..=3600))]
    every: u64,
    /// In which form
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value = "table")]
    output: Format,
    /// Admin endpoint of the control plane, which knows where the sidecars are
    #[arg(
        long,
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:15014",
        env = "SQUIRE_CONTROL_ADMIN"
    )]
    control: Endpoint,
    /// Ask these sidecars instead of all that the control plane knows; may be given again
    #[arg(long, value_name = "HOST:PORT", conflicts_with_all = ["control", "kubernetes"])]
    proxy: Vec<Endpoint>,
    #[command(flatten)]
    cluster: ClusterArgs,
}

impl Args {
    pub(crate) fn run(self) -> Outcome {
        block_on(async move {
            let source = self.source().await.map_err(Failure::unavailable)?;
            if self.watch {
                return watch::run(&source, self.output, Duration::from_secs(self.every)).await;
            }
            let answer = source.ask().await.map_err(Failure::unavailable)?;
            show(self.output, &answer.connections, |connections| {
                table::table(connections)
            })?;
            answer.complain()
        })
    }

    async fn source(&self) -> anyhow::Result<Source> {
        Ok(Source {
            control: self.cluster.control().await?.unwrap_or_else(|| self.control.clone()),
            proxies: self.proxy.clone(),
            workload: self.workload.clone(),
        })
    }
}

impl Answer {
    /// Says on standard error whom we could not ask; fails when that is everybody.
    #[allow(clippy::print_stderr, reason = "standard output is for the connections")]
    fn complain(self) -> Outcome {
        for silent in &self.silent {
            eprintln!("squire: {silent}");
        }
        if self.asked > 0 && self.silent.len() == self.asked {
            return Err(Failure::unavailable(anyhow!("no sidecar answered")));
        }
        Ok(())
    }
}
