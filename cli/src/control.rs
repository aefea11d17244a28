//! `squire control`: the arguments of the control plane. What it does is in the room of that name.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use squire_control::{
    config::{BundleEndpoints, Config, JwtConfig, Kubernetes, Objects, ROTATE_ROOT_AT},
    federation::WebCertificate,
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
  squire control --dir mesh/ --bundle-endpoint 0.0.0.0:8443
      lets other meshes fetch our trust bundle; whom we federate with stands in the mesh settings (MeshConfig)
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
    /// Serve our trust bundle to other meshes here, under the control plane's SVID (profile https_spiffe)
    #[arg(long, value_name = "ADDR", help_heading = "Federation")]
    bundle_endpoint: Option<SocketAddr>,
    /// Serve it here too, under a certificate of the web (profile https_web)
    #[arg(long, value_name = "ADDR", requires_all = ["bundle_endpoint_cert", "bundle_endpoint_key"], help_heading = "Federation")]
    bundle_endpoint_web: Option<SocketAddr>,
    /// The certificate chain for --bundle-endpoint-web, PEM; read again when it changes
    #[arg(
        long,
        value_name = "FILE",
        requires = "bundle_endpoint_web",
        help_heading = "Federation"
    )]
    bundle_endpoint_cert: Option<PathBuf>,
    /// Its private key, PEM
    #[arg(
        long,
        value_name = "FILE",
        requires = "bundle_endpoint_web",
        help_heading = "Federation"
    )]
    bundle_endpoint_key: Option<PathBuf>,
    /// How often other meshes should look for changes
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=86_400), help_heading = "Federation")]
    bundle_refresh_hint: u64,
    /// Where the bundles of other trust domains are kept [default: the name of --ca-dir with `-federation` appended]
    #[arg(long, value_name = "DIR", help_heading = "Federation")]
    federation_dir: Option<PathBuf>,
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
        squire_control::memory::settle();
        self.logs.init()?;
        let config = self.into_config();
        config.check().map_err(Failure::configuration)?;
        block_on(async move { squire_control::run(config).await.map_err(Failure::from) })
    }

    fn into_config(self) -> Config {
        let ca_beside = self.dir.as_deref().map(|dir| beside(dir, "ca"));
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
        let ca_dir = self.ca_dir.or(ca_beside).unwrap_or_default();
        // Without a directory of its own there is none to keep bundles beside: they are fetched anew after a start.
        let federation_dir = (!ca_dir.as_os_str().is_empty()).then(|| beside(&ca_dir, "federation"));
        let mut config = Config::of(objects, ca_dir, self.trust_domain);
        config.federation_dir = self.federation_dir.or(federation_dir);
        let certificate = self.bundle_endpoint_cert.zip(self.bundle_endpoint_key);
        let certificate = certificate.map(|(certificate, key)| WebCertificate { certificate, key });
        config.bundle_endpoints = BundleEndpoints {
            spiffe: self.bundle_endpoint,
            web: self.bundle_endpoint_web.zip(certificate),
            refresh_hint: Duration::from_secs(self.bundle_refresh_hint),
        };
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
fn beside(dir: &std::path::Path, what: &str) -> PathBuf {
    let absolute = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    let name = absolute
        .file_name()
        .map_or_else(|| "mesh".into(), |name| name.to_string_lossy());
    absolute.with_file_name(format!("{name}-{what}"))
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
        assert_eq!(beside("/etc/mesh/".as_ref(), "ca"), PathBuf::from("/etc/mesh-ca"));
        assert!(beside("mesh".as_ref(), "ca").ends_with("mesh-ca"));
    }
}
