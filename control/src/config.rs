//! What a control plane is told at its start. Checked as a whole: every mistake is shown, not only the first. It reads no
//! environment and no file contents.

use std::{fmt, net::SocketAddr, path::PathBuf, time::Duration};

use squire_mesh::{ports, spiffe::TrustDomain};

use crate::{federation::WebCertificate, source::kubernetes::Access};

/// The configuration of a control plane.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the objects come from.
    pub objects: Objects,
    /// Where the CA keeps its keys and state, unless the replicas of a cluster share it.
    pub ca_dir: PathBuf,
    /// The mTLS gRPC endpoint: issuing, discovery, reports.
    pub grpc: SocketAddr,
    /// The admin endpoint: plain HTTP.
    pub admin: SocketAddr,
    /// The trust domain of every identity.
    pub trust_domain: TrustDomain,
    /// The DNS suffix of Services.
    pub cluster_domain: String,
    /// Tokens that prove an identity to the CA.
    pub jwt: Option<JwtConfig>,
    /// What the CA's state is encrypted with; `None`: it is not.
    pub ca_key: Option<CaKey>,
    /// A file that is kept current with the CA's roots, as PEM.
    pub trust_bundle_file: Option<PathBuf>,
    /// The share of its root's life, in percent, after which the CA rotates it by itself; `None`: never.
    pub rotate_root_at: Option<u32>,
    /// Where our trust bundle is served to other meshes.
    pub bundle_endpoints: BundleEndpoints,
    /// Where bundles of other trust domains are kept; `None`: they are fetched anew after each start.
    pub federation_dir: Option<PathBuf>,
    /// What one control plane takes on.
    pub limits: Limits,
}

/// Where the objects come from.
#[derive(Clone, Debug)]
pub enum Objects {
    /// A directory of YAML and JSON files.
    Directory(PathBuf),
    /// A Kubernetes API server.
    Kubernetes(Kubernetes),
}

/// A control plane of a Kubernetes cluster.
#[derive(Clone, Debug)]
pub struct Kubernetes {
    /// How the API server is reached.
    pub access: Access,
    /// The name of this replica: its pod's.
    pub replica: String,
    /// The namespace of the control plane: of the Lease of its leader, and of the CA that its replicas share.
    pub namespace: String,
    /// How long a leader may be silent before another replica takes its place.
    pub lease: Duration,
}

impl fmt::Display for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(dir) => dir.display().fmt(f),
            Self::Kubernetes(_) => f.write_str("the Kubernetes API server"),
        }
    }
}

/// What the CA's state is encrypted with.
#[derive(Clone, Debug)]
pub enum CaKey {
    /// The passphrase in this file.
    PassphraseFile(PathBuf),
    /// A key that this command wraps and unwraps.
    Command(String),
}

/// When a root is rotated by itself unless configured otherwise, in percent of its life: two years of ten are left.
pub const ROTATE_ROOT_AT: u32 = 80;

/// Where our trust bundle is served to other meshes (SPIFFE Federation 5.2).
#[derive(Clone, Debug)]
pub struct BundleEndpoints {
    /// `https_spiffe`: it shows the control plane's SVID.
    pub spiffe: Option<SocketAddr>,
    /// `https_web`: it shows a certificate of the web.
    pub web: Option<(SocketAddr, WebCertificate)>,
    /// How often others should look for changes.
    pub refresh_hint: Duration,
}

impl Default for BundleEndpoints {
    fn default() -> Self {
        Self {
            spiffe: None,
            web: None,
            refresh_hint: Duration::from_secs(300),
        }
    }
}

/// Bearer tokens accepted by the CA: OIDC JWTs, as Kubernetes projects them.
#[derive(Clone, Debug)]
pub struct JwtConfig {
    /// The issuer's public keys.
    pub jwks: PathBuf,
    /// The `iss` claim they must carry.
    pub issuer: String,
    /// The audience they must name.
    pub audience: String,
}

/// Bounds of one control plane.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Open connections on the gRPC endpoint.
    pub connections: usize,
    /// TLS handshakes under way at once; further connections wait.
    pub handshakes: usize,
    /// How long a TLS handshake may take.
    pub handshake_timeout: Duration,
    /// Certificates a second for each identity, after a burst.
    pub issue_rate: u32,
    /// How long a stop waits for streams to end by themselves.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 20_000,
            handshakes: 512,
            handshake_timeout: Duration::from_secs(5),
            issue_rate: 50,
            grace: Duration::from_secs(5),
        }
    }
}

impl Config {
    /// A control plane for a directory with everything else at its default.
    pub fn new(dir: impl Into<PathBuf>, ca_dir: impl Into<PathBuf>, trust_domain: TrustDomain) -> Self {
        Self::of(Objects::Directory(dir.into()), ca_dir, trust_domain)
    }

    /// A control plane for these objects with everything else at its default.
    pub fn of(objects: Objects, ca_dir: impl Into<PathBuf>, trust_domain: TrustDomain) -> Self {
        Self {
            objects,
            ca_dir: ca_dir.into(),
            grpc: ([127, 0, 0, 1], ports::CONTROL).into(),
            admin: ([127, 0, 0, 1], ports::CONTROL_ADMIN).into(),
            trust_domain,
            cluster_domain: "cluster.local".to_owned(),
            jwt: None,
            ca_key: None,
            trust_bundle_file: None,
            rotate_root_at: Some(ROTATE_ROOT_AT),
            bundle_endpoints: BundleEndpoints::default(),
            federation_dir: None,
            limits: Limits::default(),
        }
    }

    /// Every mistake that shows without starting anything.
    pub fn check(&self) -> Result<(), Mistakes> {
        let mut found = Vec::new();
        if let Objects::Directory(dir) = &self.objects {
            self.check_directory(dir, &mut found);
        }
        if let Some(jwt) = &self.jwt {
            if let Err(error) = std::fs::metadata(&jwt.jwks) {
                found.push(format!("--jwks {}: {error}", jwt.jwks.display()));
            }
            if jwt.issuer.is_empty() || jwt.audience.is_empty() {
                found.push("--jwks: issuer and audience must not be empty".to_owned());
            }
        }
        if self.grpc == self.admin && self.grpc.port() != 0 {
            found.push(format!(
                "--grpc and --admin are both {}: give each its own port",
                self.grpc
            ));
        }
        if self.limits.connections == 0 || self.limits.handshakes == 0 {
            found.push("limits of 0 would let nobody in: use at least 1".to_owned());
        }
        if found.is_empty() { Ok(()) } else { Err(Mistakes(found)) }
    }

    fn check_directory(&self, dir: &std::path::Path, found: &mut Vec<String>) {
        match std::fs::metadata(dir) {
            Ok(metadata) if metadata.is_dir() => {
                if let Err(error) = std::fs::read_dir(dir) {
                    found.push(format!(
                        "--dir {}: {error}; make it readable for this user",
                        dir.display()
                    ));
                }
            }
            Ok(_) => found.push(format!(
                "--dir {}: not a directory; name the directory of YAML files",
                dir.display()
            )),
            Err(error) => found.push(format!("--dir {}: {error}; create it, or name another", dir.display())),
        }
        if let (Ok(ca), Ok(absolute)) = (std::path::absolute(&self.ca_dir), std::path::absolute(dir))
            && ca.starts_with(&absolute)
        {
            let (ca, dir) = (self.ca_dir.display(), dir.display());
            found.push(format!(
                "--ca-dir {ca}: inside --dir {dir}, whose files are read as objects; keep keys elsewhere"
            ));
        }
    }
}

/// Everything that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistakes(pub Vec<String>);

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n  "))
    }
}

impl std::error::Error for Mistakes {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mistake_is_shown_at_once() {
        let mut config = Config::new("/does/not/exist", "/ca", "cluster.local".parse().unwrap());
        config.admin = config.grpc;
        config.limits.handshakes = 0;
        let mistakes = config.check().unwrap_err();
        assert_eq!(mistakes.0.len(), 3, "{mistakes}");
        assert!(mistakes.to_string().contains("/does/not/exist"));
    }

    #[test]
    fn keys_are_not_kept_among_the_objects() {
        let dir = tempfile::tempdir().unwrap();
        for (ca, accepted) in [(dir.path().join("ca"), false), (dir.path().with_extension("ca"), true)] {
            let config = Config::new(dir.path(), ca, "cluster.local".parse().unwrap());
            assert_eq!(config.check().is_ok(), accepted, "{:?}", config.ca_dir);
        }
    }

    #[test]
    fn a_file_is_not_a_directory() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let config = Config::new(file.path(), "/ca", "cluster.local".parse().unwrap());
        assert!(config.check().unwrap_err().to_string().contains("not a directory"));
    }
}
