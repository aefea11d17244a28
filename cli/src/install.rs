//! `squire install` and `squire uninstall`: manifests to pipe into kubectl. What is in them is the room `deploy`'s.

use std::path::PathBuf;

use anyhow::Context as _;

use crate::{
    exit::{Failure, Outcome},
    output::print,
};

const EXAMPLES: &str = "\
Examples:
  squire install | kubectl apply -f -
      control plane and injector in the namespace squire-system, with the policy kinds
  squire install --values values.yaml | kubectl apply --server-side -f -
      the same with other values; what is not in the file is as by default
  squire install --show-values
      every value with its default: the file to begin with
  kubectl label namespace shop squire.mesh/inject=true
      from now on every pod that is created there gets a sidecar

Applying it again changes nothing. `squire check` says whether the mesh stands.";

const UNINSTALL_EXAMPLES: &str = "\
Examples:
  squire uninstall | kubectl delete --ignore-not-found -f -
      first the webhook, then everything else; the CA's key goes with the namespace
  squire uninstall --keep-crds | kubectl delete --ignore-not-found -f -
      leaves the policy kinds, and with them everybody's policies
  kubectl delete configmap -A -l app.kubernetes.io/managed-by=squire
      the roots that were copied into meshed namespaces

Running pods keep their sidecars until they are created anew.";

/// The values of an installation, from a file.
#[derive(Debug, clap::Args)]
pub(crate) struct Values {
    /// Values of the installation, a YAML file; see `squire install --show-values`
    #[arg(long, value_name = "FILE")]
    values: Option<PathBuf>,
}

impl Values {
    pub(crate) fn read(&self) -> Result<squire_deploy::Values, Failure> {
        let Some(path) = &self.values else {
            return Ok(squire_deploy::Values::default());
        };
        let name = || path.display().to_string();
        let text = std::fs::read_to_string(path)
            .with_context(name)
            .map_err(Failure::unavailable)?;
        squire_deploy::Values::from_yaml(&text)
            .with_context(name)
            .map_err(Failure::configuration)
    }
}

/// Print every object of an installation, to pipe into `kubectl apply -f -`
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(flatten)]
    values: Values,
    /// Print the values in force instead
    #[arg(long)]
    show_values: bool,
}

impl Args {
    pub(crate) fn run(self) -> Outcome {
        let values = self.values.read()?;
        if self.show_values {
            return print(&serde_yaml_ng::to_string(&values).map_err(Failure::unavailable)?);
        }
        print(&squire_deploy::yaml(&squire_deploy::objects(&values)))
    }
}

/// Print what an installation consists of, to pipe into `kubectl delete -f -`
#[derive(Debug, clap::Args)]
#[command(after_help = UNINSTALL_EXAMPLES)]
pub(crate) struct Uninstall {
    #[command(flatten)]
    values: Values,
    /// Leave the policy kinds, and with them all policies
    #[arg(long)]
    keep_crds: bool,
}

impl Uninstall {
    pub(crate) fn run(self) -> Outcome {
        let values = self.values.read()?;
        print(&squire_deploy::yaml(&squire_deploy::removal(&values, self.keep_crds)))
    }
}
