//! `squire ca backup` and `squire ca restore`: state and log of a CA in one file. What is checked is said in the CA's room.

use std::{path::PathBuf, time::SystemTime};

use squire_ca::backup::{self, BackupError, Header};

use super::{Place, output::print};
use crate::exit::{Failure, Outcome};

const EXAMPLES: &str = "\
Examples:
  squire ca backup --dir mesh-ca --out mesh-ca-2026-01-31.backup
      also beside a running control plane; for its owner only (0600): keys are inside, encrypted only if the CA's state is

Join tokens are not part of it.";

const RESTORE_EXAMPLES: &str = "\
Examples:
  squire ca restore mesh-ca-2026-01-31.backup --dir mesh-ca
      into a directory without a CA; the file is checked whole first

Restore the newest backup there is: who was issued certificates since is unknown to it, so that a rotation waits until the
longest of them has ended (24 h). A root that came into use after the backup was made is not in it.";

/// Write the CA's state and log to a file
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    place: Place,
    /// The file; it must not be there yet
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Make a CA of a backup
#[derive(Debug, clap::Args)]
#[command(after_help = RESTORE_EXAMPLES)]
pub(super) struct RestoreArgs {
    /// The backup
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    place: Place,
}

impl Args {
    pub(super) fn run(self) -> Outcome {
        let header = backup::make(&self.place.shared()?, &self.out, SystemTime::now())?;
        print(&format!("{}: {}\n", self.out.display(), says(&header)))
    }
}

impl RestoreArgs {
    pub(super) fn run(self) -> Outcome {
        let header = backup::restore(&self.file, &self.place.dir, self.place.seal()?, SystemTime::now())?;
        print(&format!("{}: restored: {}\n", self.place.dir.display(), says(&header)))
    }
}

fn says(header: &Header) -> String {
    format!("state and {} log entries of {}", header.log.count, header.made)
}

impl From<BackupError> for Failure {
    fn from(error: BackupError) -> Self {
        match error {
            BackupError::Ca(error) => error.into(),
            BackupError::File { .. } => Self::unavailable(error),
            BackupError::Bad { .. } => Self::configuration(error),
        }
    }
}
