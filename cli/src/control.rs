//! `squire control`: the arguments of the control plane. What it does is in the room of that name.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use squire_control::{
    config::{Config, JwtConfig, Kubernetes, Objects, ROTATE_ROOT_AT},
    source::kubernetes::Access,
};
use squire_mesh::{ports, spiffe::TrustDomain};

use crate::{
    ca::KeyArgs,
    exit::{Failure, Outcome, block_on},
    logs::LogArgs,
};

const EXAMPLES: &str = "\
Examples:
  squire control --dir mesh/
      reads every .yaml, .yml and .json below mesh/ and follows edits; the CA is kept in mesh-ca/
  squire control --kubernetes
      watches the cluster of the current kubeconfig context, or the one whose pod this is; the CA is kept in the Secret
      squire-ca of --namespace, shared by all replicas, of which one leads
  squire control --dir mesh/ --ca-dir /var/lib/squire --grpc 0.0.0.0:15012
      serves proxies on other machines
  squire control --dir mesh/ --jwks keys.json --jwt-issuer https://kubernetes.default.svc --jwt-audience squire-ca
      accepts projected service-account tokens
  curl localhost:15014/debug/problems
      what is wrong with the files, and which state is in force instead

Ready (/ready answers 200) once every file in --dir has been read without an error, or every kind has been listed, at
least once. A file or an object that becomes wrong later is reported, and its last good state stays in force.";

/// The control plane with its CA: reads objects, issues identities, pushes workloads and policies to every proxy
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Directory of Kubernetes objects as YAML or JSON: Namespace, Pod, Service, EndpointSlice, WorkloadEntry, policies
    #[arg(long, value_name = "DIR", required_unless_present = "kubernetes")]
    dir: Option<PathBuf>,
    /// Watch the objects of a Kubernetes cluster instead
    #[arg(long, conflicts_with_all = ["dir", "jwks"])]
    kubernetes: bool,
    /// How to reach the cluster [default: KUBECONFIG, ~/.kube/config, or the service account of this pod]
    #[arg(long, value_name = "FILE", requires = "kubernetes", help_heading = "Kubernetes")]
    kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig [default: the current one]
    #[arg(long, value_name = "NAME", requires = "kubernetes", help_heading = "Kubernetes")]
    context: Option<String>,
    /// Name of this replica: its pod's
    #[arg(
        long,
        value_name = "NAME",
        env = "HOSTNAME",
        default_value = "squire-control",
        help_heading = "Kubernetes"
    )]
    replica: String,
    /// Namespace of the control plane: of the Lease of its leader and of its CA
    #[arg(long, value_name = "NAME", default_value = ports::SYSTEM_NAMESPACE, help_heading = "Kubernetes")]
    namespace: String,
    /// How long a leader may be silent before another replica leads
    #[arg(long, value_name = "SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u64).range(2..=300), help_heading = "Kubernetes")]
    lease_seconds: u64,
    /// Directory of the CA's keys and state [default: the name of --dir with `-ca` appended; with --kubernetes, a Secret]
    #[arg(long, value_name = "DIR")]
    ca_dir: Option<PathBuf>,
    /// Where proxies connect: issuing, discovery and reports over mutual TLS
    #[arg(long, value_name = "ADDR", default_value_t = SocketAddr::from(([127, 0, 0, 1], ports::CONTROL)))]
    grpc: SocketAddr,
    /// Where people and Prometheus connect: /metrics /ready /live /debug/sync /debug/problems /debug/objects
    #[arg(long, value_name = "ADDR", default_value_t = SocketAddr::from(([127, 0, 0, 1], ports::CONTROL_ADMIN)))]
    admin: SocketAddr,
    /// Trust domain of every identity
    #[arg(long, value_name = "NAME", default_value = "cluster.local")]
    trust_domain: TrustDomain,
    /// DNS suffix of Services
    #[arg(long, value_name = "NAME", default_value = "cluster.local")]
    cluster_domain: String,
    /// Public keys (JWKS) of the issuer whose tokens prove an identity to the CA
    #[arg(long, value_name = "FILE", requires = "jwt_issuer", help_heading = "Tokens")]
    jwks: Option<PathBuf>,
    /// The issuer (`iss`) that tokens must carry
    #[arg(long, value_name = "URL", requires = "jwks", help_heading = "Tokens")]
    jwt_issuer: Option<String>,
    /// The audience (`aud`) that tokens must name
    #[arg(long, value_name = "NAME", default_value = ports::CA_AUDIENCE, help_heading = "Tokens")]
    jwt_audience: String,
    #[command(flatten)]
    ca_key: KeyArgs,
    /// File that is kept current with the CA's roots (PEM), for sidecars and others to be given
    #[arg(long, value_name = "FILE", help_heading = "CA")]
    trust_bundle_file: Option<PathBuf>,
    /// Percent of the root's life after which it is rotated by itself; 0: never. A root that you brought is never rotated by itself
    #[arg(long, value_name = "N", default_value_t = ROTATE_ROOT_AT, value_parser = clap::value_parser!(u32).range(0..=95), help_heading = "CA")]
    rotate_root_at: u32,
    /// Most connections open at once on --grpc
    #[arg(long, value_name = "N", default_value_t = 20_000, help_heading = "Limits")]
    max_connections: usize,
    /// Most TLS handshakes under way at once on --grpc
    #[arg(long, value_name = "N", default_value_t = 512, help_heading = "Limits")]
    max_handshakes: usize,
    /// Most certificates a second for each identity, after a burst of 20 seconds' worth
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..), help_heading = "Limits")]
    issue_rate: u32,
    #[command(flatten)]
    logs: LogArgs,
}

impl Args {
    pub(crate) fn run(self) -> Outcome {
        self.logs.init()?;
        let config = self.into_config();
        config.check().map_err(Failure::configuration)?;
        block_on(async move { squire_control::run(config).await.map_err(Failure::from) })
    }

    fn into_config(self) -> Config {
        let beside = self.dir.as_deref().map(beside);
        let objects = match self.dir {
            Some(dir) => Objects::Directory(dir),
            None => Objects::Kubernetes(Kubernetes {
                access: Access {
                    kubeconfig: self.kubeconfig,
                    context: self.context,
                },
                replica: self.replica,
                namespace: self.namespace,
                lease: Duration::from_secs(self.lease_seconds),
            }),
        };
        // With a cluster and no directory, the replicas share a CA in it.
        let ca_dir = self.ca_dir.or(beside).unwrap_or_default();
        let mut config = Config::of(objects, ca_dir, self.trust_domain);
        config.grpc = self.grpc;
        config.admin = self.admin;
        config.cluster_domain = self.cluster_domain;
        config.jwt = self.jwks.zip(self.jwt_issuer).map(|(jwks, issuer)| JwtConfig {
            jwks,
            issuer,
            audience: self.jwt_audience,
        });
        config.ca_key = self.ca_key.config();
        config.trust_bundle_file = self.trust_bundle_file;
        config.rotate_root_at = Some(self.rotate_root_at).filter(|percent| *percent > 0);
        config.limits.issue_rate = self.issue_rate;
        config.limits.connections = self.max_connections;
        config.limits.handshakes = self.max_handshakes;
        config
    }
}

/// `mesh-ca` for `mesh/`: beside the objects, never among them.
fn beside(dir: &std::path::Path) -> PathBuf {
    let absolute = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    let name = absolute
        .file_name()
        .map_or_else(|| "mesh".into(), |name| name.to_string_lossy());
    absolute.with_file_name(format!("{name}-ca"))
}

impl From<squire_control::ControlError> for Failure {
    fn from(error: squire_control::ControlError) -> Self {
        if error.is_configuration() {
            Self::configuration(error)
        } else {
            Self::unavailable(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ca_is_kept_beside_the_objects() {
        assert_eq!(beside("/etc/mesh/".as_ref()), PathBuf::from("/etc/mesh-ca"));
        assert!(beside("mesh".as_ref()).ends_with("mesh-ca"));
    }
}
