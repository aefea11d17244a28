//! `squire ca issue`: a certificate by the admin's own hand, for tests and for peers that are not squires. When nobody runs
//! the CA, it is opened here; when a control plane does, that one signs: a one-time token is put into its directory and
//! shown to it over its own port. So there is one writer of state and log at any time, and both ways end in the log.

use std::{
    fs,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use squire_ca::{
    attest::Attested,
    authority::CertificateAuthority,
    csr::Csr,
    hierarchy::Hierarchy,
    profile,
    store::{DirStore, Store as _, StoreError},
    token::{self, JoinToken},
};
use squire_mesh::spiffe::SpiffeId;
use zeroize::Zeroizing;

use super::{Place, lifetime, output::print, remote, token::write_private};
use crate::exit::{Failure, Outcome, block_on};

const EXAMPLES: &str = "\
Examples:
  squire ca issue --dir mesh-ca --id spiffe://cluster.local/ns/shop/sa/web --out web/
      writes web/cert.pem (leaf and intermediate), web/key.pem (0600) and web/bundle.pem (root)
  openssl s_client -connect 127.0.0.1:8080 -alpn squire-tls/1 -cert web/cert.pem -cert_chain web/cert.pem \\
      -key web/key.pem -CAfile web/bundle.pem
      talks to a workload as that identity
  squire ca issue --dir mesh-ca --id spiffe://cluster.local/ns/shop/sa/web --ttl 5m --out -
      prints all three

While a control plane runs the CA, it signs; the certificate is in its log either way.";

/// Issue a certificate for a workload and write it with its key
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    place: Place,
    /// For whom: spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT
    #[arg(long, value_name = "SPIFFE-ID")]
    id: SpiffeId,
    /// How long it is valid: 5m to 24h
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = lifetime)]
    ttl: Duration,
    /// Directory for cert.pem, key.pem and bundle.pem, or - for standard output
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// What comes out: PEM texts.
pub(super) struct Papers {
    pub(super) chain: String,
    pub(super) bundle: String,
}

impl Args {
    pub(super) fn run(self) -> Outcome {
        if !(profile::MIN_TTL..=profile::MAX_TTL).contains(&self.ttl) {
            return Err(Failure::usage(anyhow::anyhow!(
                "--ttl: a certificate is valid for 5m to 24h"
            )));
        }
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(Failure::unavailable)?;
        let request = CertificateParams::default()
            .serialize_request(&key)
            .map_err(Failure::unavailable)?;
        let request = request.pem().map_err(Failure::unavailable)?;
        let papers = match self.place.open() {
            Ok(store) => self.sign_here(store, &request)?,
            Err(StoreError::Locked { .. }) => self.have_signed(&request)?,
            Err(other) => return Err(other.into()),
        };
        self.write(&papers, &Zeroizing::new(key.serialize_pem()))
    }

    fn sign_here(&self, store: DirStore, request: &str) -> Result<Papers, Failure> {
        let now = SystemTime::now();
        let ca = CertificateAuthority::open(Arc::new(store), None, now)?;
        let csr = Csr::parse(request.as_bytes()).map_err(Failure::unavailable)?;
        let attested = Attested {
            id: self.id.clone(),
            attestor: "admin",
            subject: format!("squire ca issue, process {}", std::process::id()),
            workload: None,
        };
        let mut papers = None;
        block_on(async {
            let issued = ca.issue(&attested, &csr, Some(self.ttl), now).await?;
            let pem = issued.pem_chain();
            let (chain, roots) = pem.split_at(issued.chain.len());
            papers = Some(Papers {
                chain: chain.concat(),
                bundle: roots.concat(),
            });
            Ok(())
        })?;
        papers.ok_or_else(|| Failure::unavailable(anyhow::anyhow!("nothing was issued")))
    }

    fn have_signed(&self, request: &str) -> Result<Papers, Failure> {
        let dir = &self.place.dir;
        let owner = DirStore::owner(dir);
        let pid = owner.as_ref().map_or(0, |owner| owner.pid);
        let address = owner.and_then(|owner| owner.address).ok_or_else(|| {
            Failure::unavailable(anyhow::anyhow!(
                "{}: process {pid} uses this CA but serves nobody yet: try again when it has started or ended",
                dir.display()
            ))
        })?;
        let store = self.place.shared()?;
        let state = store.load()?.ok_or_else(|| StoreError::NotInitialised(dir.clone()))?;
        let bundle = Hierarchy::load(&state)
            .map_err(Failure::configuration)?
            .bundle()
            .clone();
        let token = JoinToken::create(
            &store,
            &state.trust_domain,
            &self.id,
            token::DEFAULT_TTL,
            SystemTime::now(),
        )?;
        remote::issue(address, bundle, &token, request, self.ttl)
    }

    fn write(&self, papers: &Papers, key: &str) -> Outcome {
        if self.out == Path::new("-") {
            return print(&format!("{}{key}{}", papers.chain, papers.bundle));
        }
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.out);
        made.with_context(|| format!("{}: cannot be made", self.out.display()))
            .map_err(Failure::unavailable)?;
        write_private(&self.out.join("key.pem"), key.as_bytes())?;
        for (name, text) in [("cert.pem", &papers.chain), ("bundle.pem", &papers.bundle)] {
            let path = self.out.join(name);
            let written = fs::write(&path, text);
            written
                .with_context(|| format!("{}: cannot be written", path.display()))
                .map_err(Failure::unavailable)?;
        }
        let files = ["cert.pem", "key.pem", "bundle.pem"].map(|name| self.out.join(name).display().to_string());
        print(&format!("{}: wrote {}\n", self.id, files.join(", ")))
    }
}
