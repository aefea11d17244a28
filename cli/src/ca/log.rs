//! `squire ca log`: the issuance log, shown and verified. It reads, also beside the process that writes.

use std::{fmt::Write as _, io::BufReader, sync::Arc, time::SystemTime};

use serde::Serialize;
use squire_ca::{
    log::{Entry, Event, LogFault, Verified, restart, verify},
    store::Store,
};

use super::{
    Place,
    output::{Format, columns, print, show},
};
use crate::exit::{Failure, Outcome};

const EXAMPLES: &str = "\
Examples:
  squire ca log --dir mesh-ca
      every certificate that was signed: when, for whom, on whose word
  squire ca log --dir mesh-ca --verify
      checks the hash chain: change, removal, reordering and truncation are found
  squire ca log --dir mesh-ca --id spiffe://cluster.local/ns/shop/sa/web --last 10 -o json

Exit codes: 0 the log holds together, 1 it does not (with --verify), 78 it does not (without).";

/// Show or verify the log of every certificate that was signed
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    place: Place,
    /// Only check the hash chain, and say what is wrong with it
    #[arg(long, conflicts_with_all = ["id", "last"])]
    verify: bool,
    /// Set a damaged log aside and start a new one, which says why; nobody may be running the CA
    #[arg(long, value_name = "REASON", conflicts_with_all = ["verify", "id", "last"])]
    restart: Option<String>,
    /// Only certificates of this SPIFFE ID
    #[arg(long, value_name = "SPIFFE-ID")]
    id: Option<String>,
    /// Only the newest N
    #[arg(long, value_name = "N")]
    last: Option<usize>,
    /// In which form
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value = "table")]
    output: Format,
}

#[derive(Serialize)]
struct Verdict {
    entries: u64,
    head: String,
    intact: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    fault: Option<String>,
}

impl Args {
    pub(super) fn run(self) -> Outcome {
        if let Some(reason) = &self.restart {
            let store: Arc<dyn Store> = Arc::new(self.place.open()?);
            restart(&store, reason, SystemTime::now())?;
            return print("the log was set aside; a new one has begun\n");
        }
        let store = self.place.shared()?;
        let head = store.log_head()?;
        let log = BufReader::new(store.read_log(0)?);
        let mut entries = Vec::new();
        let checked = verify(log, head.as_ref(), |entry| entries.push(entry));
        if self.verify {
            return self.conclude(&checked, entries.len());
        }
        checked.map_err(squire_ca::log::LogError::Fault)?;
        entries.retain(|entry| self.wants(entry));
        let skipped = self.last.map_or(0, |last| entries.len().saturating_sub(last));
        entries.drain(..skipped);
        show(self.output, &entries, |entries| table(entries))
    }

    fn wants(&self, entry: &Entry) -> bool {
        match (&self.id, &entry.event) {
            (None, _) => true,
            (Some(wanted), Event::Issued { id, .. } | Event::JwtSvid { id, .. }) => id == wanted,
            (Some(wanted), Event::Revoked { target, .. } | Event::Unrevoked { target }) => target == wanted,
            (
                Some(_),
                Event::Root { .. }
                | Event::Intermediate { .. }
                | Event::Rotation { .. }
                | Event::Restarted { .. }
                | Event::JwtKey { .. }
                | Event::Pruned { .. }
                | Event::Restored { .. },
            ) => false,
        }
    }

    fn conclude(&self, checked: &Result<Verified, LogFault>, read: usize) -> Outcome {
        let verdict = match checked {
            Ok(verified) => Verdict {
                entries: verified.head.count,
                head: verified.head.hash.to_string(),
                intact: true,
                fault: None,
            },
            Err(fault) => Verdict {
                entries: read as u64,
                head: String::new(),
                intact: false,
                fault: Some(fault.to_string()),
            },
        };
        show(self.output, &verdict, |verdict| {
            let mut text = format!("{} entries", verdict.entries);
            // Writing to a String cannot fail.
            let _ = match &verdict.fault {
                None => writeln!(text, ", the chain is intact up to {}", verdict.head),
                Some(fault) => writeln!(text, " read, then: {fault}"),
            };
            text
        })?;
        if verdict.intact {
            Ok(())
        } else {
            Err(Failure::finding())
        }
    }
}

fn table(entries: &[Entry]) -> String {
    let rows: Vec<_> = entries.iter().map(row).collect();
    columns(
        ["N", "TIME", "KIND", "FOR", "SERIAL OR KEY", "UNTIL", "ON WHOSE WORD"],
        &rows,
    )
}

fn row(entry: &Entry) -> [String; 7] {
    let (kind, whom, number, until, word) = match &entry.event {
        Event::Root { key_id, not_after, .. } => ("root", "-", key_id, not_after, "-".to_owned()),
        Event::Intermediate {
            key_id,
            issuer,
            not_after,
            ..
        } => ("intermediate", "-", key_id, not_after, format!("root {issuer}")),
        Event::JwtKey { kid, signs_from } => ("jwt-key", "-", kid, signs_from, "-".to_owned()),
        Event::JwtSvid {
            id,
            jti,
            not_after,
            attestor,
            subject,
            ..
        } => ("jwt-svid", jti.as_str(), id, not_after, format!("{attestor} {subject}")),
        Event::Revoked { target, covers, reason } => ("revoked", covers.as_str(), target, &entry.time, reason.clone()),
        Event::Unrevoked { target } => ("unrevoked", "-", target, &entry.time, "admin".to_owned()),
        Event::Restarted { reason, set_aside } => ("restarted", "-", set_aside, &entry.time, reason.clone()),
        Event::Pruned { entries, hash, .. } => {
            let number = hash.to_string();
            return [
                entry.seq.to_string(),
                entry.time.clone(),
                "pruned".into(),
                format!("entries up to {entries}"),
                number,
                entry.time.clone(),
                "all had ended".into(),
            ];
        }
        Event::Restored { made, .. } => ("restored", "-", made, &entry.time, "admin".to_owned()),
        Event::Rotation { phase, to, why, .. } => ("rotation", phase.as_str(), to, &entry.time, why.clone()),
        Event::Issued {
            id,
            serial,
            not_after,
            attestor,
            subject,
            ..
        } => ("leaf", id.as_str(), serial, not_after, format!("{attestor} {subject}")),
    };
    [
        entry.seq.to_string(),
        entry.time.clone(),
        kind.into(),
        whom.into(),
        number.clone(),
        until.clone(),
        word,
    ]
}
