//! `squire ca csr` and `squire ca import`: an intermediate that is signed where its root's key is kept; and the files of a
//! root that an admin brings. What does for a CA is said in its room.

use std::{
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::{Context as _, anyhow};
use squire_ca::{
    admin::{Command, Reply},
    secret::Secret,
    state::RootRecord,
    supplied,
};
use squire_mesh::spiffe::TrustDomain;

use super::{
    admin::{Asked, unexpected},
    output::{Format, print, show},
    rotate::progress_table,
};
use crate::exit::{Failure, Outcome};

const CSR_EXAMPLES: &str = "\
Examples:
  squire ca csr --dir mesh-ca > intermediate.csr
  openssl x509 -req -in intermediate.csr -CA root.pem -CAkey root.key -copy_extensions copyall -days 365 > intermediate.pem
      where the root's key is kept; the request says everything that the certificate should
  cat intermediate.pem root.pem > signed.pem; squire ca import signed.pem --dir mesh-ca

The key is made once and never leaves the CA's directory. Asking again prints the same request until one is imported.";

const EXAMPLES: &str = "\
Examples:
  squire ca import intermediate.pem --dir mesh-ca
      under the root in use: it signs from now on
  squire ca import signed.pem --dir mesh-ca
      intermediate and another root: begins a rotation to that root (`squire ca rotate --watch` follows it)";

/// Print a request for an intermediate, to be signed where the root's key is kept
#[derive(Debug, clap::Args)]
#[command(after_help = CSR_EXAMPLES)]
pub(super) struct CsrArgs {
    #[command(flatten)]
    asked: Asked,
}

/// Take in an intermediate that was signed elsewhere
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// PEM: the intermediate, and its root after it where that is new
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    asked: Asked,
    /// In which form
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value = "table")]
    output: Format,
}

/// A root that an admin brings.
#[derive(Debug, clap::Args)]
pub(super) struct RootArgs {
    /// Certificate (PEM) of a root of your own, instead of one that is made
    #[arg(long, value_name = "FILE", requires = "root_key", help_heading = "Your own root")]
    root_cert: Option<PathBuf>,
    /// Its key (PKCS#8 PEM). Where the key has to stay elsewhere, use `squire ca csr` and `squire ca import`
    #[arg(long, value_name = "FILE", requires = "root_cert", help_heading = "Your own root")]
    root_key: Option<PathBuf>,
}

impl CsrArgs {
    pub(super) fn run(self) -> Outcome {
        match self.asked.perform(Command::Csr)? {
            Reply::Csr { pem } => print(&pem),
            other => Err(unexpected(&other)),
        }
    }
}

impl Args {
    pub(super) fn run(self) -> Outcome {
        let pem = read(&self.file)?;
        match self.asked.perform(Command::Import { pem })? {
            Reply::Progress { progress } => show(self.output, &*progress, progress_table),
            other => Err(unexpected(&other)),
        }
    }
}

impl RootArgs {
    /// Whether an admin brings one.
    pub(super) fn is_given(&self) -> bool {
        self.root_cert.is_some()
    }

    /// The root, checked; `None`: make one.
    pub(super) fn read(&self, domain: &TrustDomain) -> Result<Option<RootRecord>, Failure> {
        let (Some(certificate), Some(key)) = (&self.root_cert, &self.root_key) else {
            return Ok(None);
        };
        let pem = read(certificate)?;
        let key = Secret::new(read(key)?);
        let root = supplied::root(domain, &pem, Some(key), SystemTime::now());
        root.map(Some)
            .map_err(|error| Failure::usage(anyhow!("--root-cert {}: {error}", certificate.display())))
    }
}

fn read(path: &Path) -> Result<String, Failure> {
    fs::read_to_string(path)
        .with_context(|| format!("{}: cannot be read", path.display()))
        .map_err(Failure::usage)
}
