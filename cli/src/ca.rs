//! `squire ca`: the CA in an admin's hands. Arguments and what is shown; what is done is in the room of that name. Commands
//! that only read, and `token` and `issue`, also work beside a control plane that runs the same CA.

mod admin;
mod backup;
mod failure;
mod import;
mod init;
mod issue;
mod jwt;
mod log;
mod remote;
mod revoke;
mod rotate;
mod status;
mod token;

use std::{path::PathBuf, sync::Arc, time::Duration};

use clap::Subcommand;
use squire_ca::{
    seal::Seal,
    store::{DirStore, StoreError},
};
use squire_control::config::CaKey;

use crate::{exit::Outcome, output};

/// The certificate authority: make one, see its state, hand out join tokens, issue and revoke certificates, check its log
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: CaCommand,
}

#[derive(Debug, Subcommand)]
enum CaCommand {
    Init(init::Args),
    Status(status::Args),
    Bundle(status::BundleArgs),
    Token(token::Args),
    Issue(issue::Args),
    Log(log::Args),
    RotateJwtKey(jwt::RotateArgs),
    Revoke(revoke::Args),
    Unrevoke(revoke::UnrevokeArgs),
    Revoked(revoke::RevokedArgs),
    Rotate(rotate::Args),
    Abort(rotate::AbortArgs),
    Csr(import::CsrArgs),
    Import(import::Args),
    Backup(backup::Args),
    Restore(backup::RestoreArgs),
}

/// Which CA.
#[derive(Debug, Clone, clap::Args)]
struct Place {
    /// Directory of the CA's keys and state (the control plane's --ca-dir)
    #[arg(long, value_name = "DIR", env = "SQUIRE_CA_DIR")]
    dir: PathBuf,
    #[command(flatten)]
    key: KeyArgs,
}

/// What the CA's state is encrypted with.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Encryption of the CA's keys")]
pub(crate) struct KeyArgs {
    /// File with the passphrase that the CA's state is encrypted with
    #[arg(
        long,
        value_name = "FILE",
        env = "SQUIRE_CA_PASSPHRASE_FILE",
        conflicts_with = "ca_key_command"
    )]
    ca_passphrase_file: Option<PathBuf>,
    /// Command that wraps and unwraps the key that it is encrypted with: run with `wrap` or `unwrap`, base64 in and out
    #[arg(long, value_name = "COMMAND", env = "SQUIRE_CA_KEY_COMMAND")]
    ca_key_command: Option<String>,
}

impl KeyArgs {
    /// The same for a control plane.
    pub(crate) fn config(&self) -> Option<CaKey> {
        let file = self.ca_passphrase_file.clone().map(CaKey::PassphraseFile);
        file.or_else(|| self.ca_key_command.clone().map(CaKey::Command))
    }

    /// What opens and seals it, if anything does.
    ///
    /// # Errors
    /// When the passphrase cannot be read, or is too short.
    pub(crate) fn seal(&self) -> Result<Option<Arc<Seal>>, StoreError> {
        if let Some(file) = &self.ca_passphrase_file {
            return Seal::passphrase_file(file).map(|seal| Some(Arc::new(seal)));
        }
        Ok(self
            .ca_key_command
            .as_deref()
            .map(|command| Arc::new(Seal::command(command))))
    }
}

impl Place {
    fn open(&self) -> Result<DirStore, StoreError> {
        Ok(DirStore::open(&self.dir)?.sealed_by(self.seal()?))
    }

    fn create(&self) -> Result<DirStore, StoreError> {
        Ok(DirStore::create(&self.dir)?.sealed_by(self.seal()?))
    }

    fn shared(&self) -> Result<DirStore, StoreError> {
        Ok(DirStore::shared(&self.dir)?.sealed_by(self.seal()?))
    }

    fn seal(&self) -> Result<Option<Arc<Seal>>, StoreError> {
        self.key.seal()
    }
}

impl Args {
    pub(crate) fn run(self) -> Outcome {
        match self.command {
            CaCommand::Init(args) => args.run(),
            CaCommand::Status(args) => args.run(),
            CaCommand::Bundle(args) => args.run(),
            CaCommand::Token(args) => args.run(),
            CaCommand::Issue(args) => args.run(),
            CaCommand::Log(args) => args.run(),
            CaCommand::RotateJwtKey(args) => args.run(),
            CaCommand::Revoke(args) => args.run(),
            CaCommand::Unrevoke(args) => args.run(),
            CaCommand::Revoked(args) => args.run(),
            CaCommand::Rotate(args) => args.run(),
            CaCommand::Abort(args) => args.run(),
            CaCommand::Csr(args) => args.run(),
            CaCommand::Import(args) => args.run(),
            CaCommand::Backup(args) => args.run(),
            CaCommand::Restore(args) => args.run(),
        }
    }
}

/// A length of time such as `90s`, `10m`, `1h` or `2d`.
fn lifetime(text: &str) -> Result<Duration, String> {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let number: u64 = text[..text.len() - unit.len()]
        .parse()
        .map_err(|_| "write a number and a unit, such as 90s, 10m or 1h")?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(format!("{unit:?} is no unit: use s, m, h or d")),
    };
    let seconds = number
        .checked_mul(seconds)
        .filter(|seconds| *seconds > 0 && *seconds <= 366 * 86_400);
    seconds
        .map(Duration::from_secs)
        .ok_or_else(|| "must be more than nothing and at most a year".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_have_a_number_and_a_unit() {
        for (text, seconds) in [("90s", 90), ("10m", 600), ("1h", 3600), ("2d", 172_800)] {
            assert_eq!(lifetime(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for bad in [
            "",
            "10",
            "m",
            "0s",
            "-1s",
            "1.5h",
            "10 m",
            "99999999999999999999s",
            "9999d",
            "1w",
            "é",
        ] {
            assert!(lifetime(bad).is_err(), "{bad}");
        }
    }
}
