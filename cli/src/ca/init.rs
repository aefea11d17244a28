//! `squire ca init`: founds a CA in a directory.

use std::{sync::Arc, time::SystemTime};

use squire_ca::{authority::CertificateAuthority, store::Store};
use squire_mesh::spiffe::TrustDomain;

use super::{
    Place,
    import::RootArgs,
    output::{Format, show},
    status::table,
};
use crate::exit::Outcome;

const EXAMPLES: &str = "\
Examples:
  squire ca init --dir mesh-ca --trust-domain cluster.local
      makes a root (10 years) and an intermediate (30 days, renewed by itself) in mesh-ca/
  squire control --dir mesh/ --ca-dir mesh-ca
      runs it; without `init`, the control plane makes a CA by itself
  squire ca init --dir mesh-ca --root-cert root.pem --root-key root.key
      on a root of your own, which is checked

The directory is for its owner only (0700, files 0600): private keys are inside. Back it up, and keep the copy as safe.";

/// Make a new CA: root, intermediate, issuance log
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    root: RootArgs,
    /// Trust domain of every identity it will sign
    #[arg(long, value_name = "NAME", default_value = "cluster.local")]
    trust_domain: TrustDomain,
    /// In which form to print what was made
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value = "table")]
    output: Format,
}

impl Args {
    pub(super) fn run(self) -> Outcome {
        let root = self.root.read(&self.trust_domain)?;
        let store: Arc<dyn Store> = Arc::new(self.place.create()?);
        let now = SystemTime::now();
        let status = match root {
            Some(root) => CertificateAuthority::init_on(&store, &self.trust_domain, root, now)?,
            None => CertificateAuthority::init(&store, &self.trust_domain, now)?,
        };
        show(self.output, &status, table)
    }
}
