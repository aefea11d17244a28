//! `squire ca rotate-jwt-key`: another key for JWT-SVIDs by an admin's hand. They follow one another by themselves; this is for
//! the day on which one was lost.

use squire_ca::{
    admin::{Command, Reply},
    jwt::LEAD,
};

use super::{
    admin::{Asked, unexpected},
    output::print,
};
use crate::exit::Outcome;

const EXAMPLES: &str = "\
Examples:
  squire ca rotate-jwt-key --dir mesh-ca
      publishes a new key now, which signs in an hour; what was signed before stays good until it expires
  squire ca rotate-jwt-key --dir mesh-ca --at-once
      signs with it now: whoever fetches our bundle by its refresh hint may refuse tokens until then
  squire ca rotate-jwt-key --dir mesh-ca --at-once --drop-old
      the old key was lost: what it signed is refused from now on

Keys follow one another by themselves every two days. `squire ca status` shows them.";

/// Make a new key for JWT-SVIDs before its time
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct RotateArgs {
    #[command(flatten)]
    asked: Asked,
    /// Sign with it at once, instead of an hour after it was published
    #[arg(long)]
    at_once: bool,
    /// Take the old keys out of the bundle now: tokens that they signed are refused
    #[arg(long, requires = "at_once")]
    drop_old: bool,
}

impl RotateArgs {
    pub(super) fn run(self) -> Outcome {
        let command = Command::RotateJwtKey {
            lead_seconds: if self.at_once { 0 } else { LEAD.as_secs() },
            drop_old: self.drop_old,
        };
        match self.asked.perform(command)? {
            Reply::JwtKey { kid } => print(&format!("{kid}\n")),
            other => Err(unexpected(&other)),
        }
    }
}
