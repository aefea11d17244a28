//! `squire ca revoke`, `unrevoke` and `revoked`: what must no longer be trusted although it is signed. The process that
//! runs the CA does it; when none does, the CA is opened here.

use std::time::SystemTime;

use squire_ca::{
    admin::{Command, Reply},
    revocation::{RevocationView, Target, views},
};

use super::{
    admin::Asked,
    output::{Format, columns, print, show},
};
use crate::exit::{Failure, Outcome};

const EXAMPLES: &str = "\
Examples:
  squire ca revoke spiffe://cluster.local/ns/shop/sa/web --dir mesh-ca --reason 'host was broken into'
      no peer talks to it, its connections are cut, and it is issued nothing, until it is unrevoked
  squire ca revoke spiffe://cluster.local/ns/shop/sa/web --dir mesh-ca --issued-so-far --reason 'key was copied'
      the certificates it holds are worth nothing; it may be issued new ones by token
  squire ca revoke 4f0c6a… --dir mesh-ca --reason 'laptop lost'
      one certificate, by its serial number (`squire ca log`, `openssl x509 -serial`)
  squire ca revoke spiffe://cluster.local/ns/shop/sa/web --kubernetes --reason 'host was broken into'
      in a cluster; needs the right to create, get and delete Secrets in the control plane's namespace

It is kept before it takes effect, and proxies are told at once. Without a control plane it is in force when one starts.
Revocations of certificates end when the certificates have.";

const UNREVOKE_EXAMPLES: &str = "\
Examples:
  squire ca unrevoke spiffe://cluster.local/ns/shop/sa/web --dir mesh-ca
  squire ca unrevoke 4f0c6a… --dir mesh-ca

Exit codes: 0 undone, 2 it was not revoked, 69 it could not be kept.";

const REVOKED_EXAMPLES: &str = "\
Examples:
  squire ca revoked --dir mesh-ca
  squire ca revoked --dir mesh-ca -o json";

/// Revoke an identity or one certificate
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Whom or what: a SPIFFE ID, or a serial number in hexadecimal
    #[arg(value_name = "ID|SERIAL")]
    target: Target,
    /// Why: shown to whoever is refused, and kept in the log
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Only the certificates that the identity was issued so far
    #[arg(long)]
    issued_so_far: bool,
    #[command(flatten)]
    asked: Asked,
    /// In which form
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value = "table")]
    output: Format,
}

/// Undo a revocation
#[derive(Debug, clap::Args)]
#[command(after_help = UNREVOKE_EXAMPLES)]
pub(super) struct UnrevokeArgs {
    /// Whom or what: a SPIFFE ID, or a serial number in hexadecimal
    #[arg(value_name = "ID|SERIAL")]
    target: Target,
    #[command(flatten)]
    asked: Asked,
}

/// List what is revoked
#[derive(Debug, clap::Args)]
#[command(after_help = REVOKED_EXAMPLES)]
pub(super) struct RevokedArgs {
    #[command(flatten)]
    asked: Asked,
    /// In which form
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value = "table")]
    output: Format,
}

impl Args {
    pub(super) fn run(self) -> Outcome {
        let command = Command::Revoke {
            target: self.target,
            reason: self.reason,
            issued_only: self.issued_so_far,
        };
        let revocation = revocation(self.asked.perform(command)?)?;
        show(self.output, &revocation, |revocation| {
            table(std::slice::from_ref(revocation))
        })
    }
}

impl UnrevokeArgs {
    pub(super) fn run(self) -> Outcome {
        let target = self.target;
        let undone = revocation(self.asked.perform(Command::Unrevoke { target })?)?;
        print(&format!("{}: no longer revoked ({})\n", undone.target, undone.reason))
    }
}

impl RevokedArgs {
    pub(super) fn run(self) -> Outcome {
        let all = match self.asked.read()? {
            Some(state) => views(&state, SystemTime::now()),
            None => match self.asked.ask(Command::Revoked)? {
                Reply::Revoked { revocations } => revocations,
                other => return Err(super::admin::unexpected(&other)),
            },
        };
        show(self.output, &all, |all| table(all))
    }
}

fn revocation(reply: Reply) -> Result<RevocationView, Failure> {
    match reply {
        Reply::Revocation { revocation } => Ok(revocation),
        other => Err(super::admin::unexpected(&other)),
    }
}

fn table(all: &[RevocationView]) -> String {
    if all.is_empty() {
        return "nothing is revoked\n".to_owned();
    }
    let rows: Vec<_> = all
        .iter()
        .map(|revocation| {
            [
                revocation.target.clone(),
                revocation.covers.clone(),
                revocation.since.clone(),
                revocation.until.clone().unwrap_or_else(|| "undone".to_owned()),
                revocation.reason.clone(),
            ]
        })
        .collect();
    columns(["REVOKED", "WHAT", "SINCE", "UNTIL", "REASON"], &rows)
}
