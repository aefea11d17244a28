//! `squire injector`: the arguments of the admission webhook. What it does is in the room of that name.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::Context as _;
use squire_injector::{Config, RunError, certificate::Issuer, settings::Settings};
use squire_mesh::ports;

use crate::{
    exit::{Failure, Outcome, block_on},
    logs::LogArgs,
};

const EXAMPLES: &str = "\
Examples:
  squire injector --settings settings.yaml --token /var/run/squire/token
      in a pod of squire-system: asks the control plane for its certificate, keeps the webhook's caBundle current
  squire injector --settings settings.yaml --token token --control 10.0.0.5:15012 --listen 10.0.0.6:15017
      elsewhere, with the cluster of the kubeconfig
  curl localhost:15016/gaps
      pods of meshed namespaces that run without a sidecar, and why

Ready (/ready answers 200) once it has a certificate. SIGUSR1 renews it now.";

/// The admission webhook: puts a sidecar into every pod of a meshed namespace
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// What sidecars are like: a YAML file, the part `sidecar` of the values of `squire install`
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
    /// File with the service-account token for the CA (audience squire-ca), read anew at every use
    #[arg(long, value_name = "FILE", default_value = "/var/run/squire/token")]
    token: PathBuf,
    /// host:port of the control plane, which issues the webhook's certificate [default: as in the settings]
    #[arg(long, value_name = "HOST:PORT")]
    control: Option<String>,
    /// Where the API server connects
    #[arg(long, value_name = "ADDR", default_value_t = SocketAddr::from(([0, 0, 0, 0], ports::WEBHOOK)))]
    listen: SocketAddr,
    /// Where people and Prometheus connect: /metrics /ready /live /gaps
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:15016")]
    admin: SocketAddr,
    /// Only clients that show a certificate under these roots (PEM) may ask; API servers show one when configured to
    #[arg(long, value_name = "FILE")]
    client_ca: Option<PathBuf>,
    /// Lifetime of the certificate to ask for, in minutes; the CA has the last word
    #[arg(long, value_name = "MINUTES", default_value_t = 60)]
    certificate_minutes: u64,
    /// How long requests are still answered after the signal to stop, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    linger: u64,
    #[command(flatten)]
    logs: LogArgs,
}

impl Args {
    pub(crate) fn run(self) -> Outcome {
        self.logs.init()?;
        let settings = match &self.settings {
            None => Settings::default(),
            Some(path) => settings(path).map_err(Failure::configuration)?,
        };
        let config = Config {
            listen: self.listen,
            admin: self.admin,
            issuer: Issuer {
                control: self.control.unwrap_or_else(|| settings.control.clone()),
                token: self.token,
                lifetime: Duration::from_secs(self.certificate_minutes * 60),
            },
            settings,
            clients: self.client_ca,
            linger: Duration::from_secs(self.linger),
        };
        block_on(async move { squire_injector::run(config).await.map_err(Failure::from) })
    }
}

fn settings(path: &std::path::Path) -> anyhow::Result<Settings> {
    let name = || path.display().to_string();
    let text = std::fs::read_to_string(path).with_context(name)?;
    serde_yaml_ng::from_str(&text).with_context(name)
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Self {
        if error.is_configuration() {
            Self::configuration(error)
        } else {
            Self::unavailable(error)
        }
    }
}
