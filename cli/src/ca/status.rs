//! `squire ca status` and `squire ca bundle`: what a CA holds. They read, also beside the process that runs it.

mod shared;

use std::{
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::Context as _;
use clap::ValueEnum;
use serde::Serialize;
use squire_ca::{
    hierarchy::Hierarchy,
    roster::Progress,
    state::Phase,
    status::Status,
    store::{DirStore, Store as _, StoreError},
};

use super::{
    Place,
    admin::Asked,
    output::{Format, pairs, print, show},
    rotate::{progress_in, progress_table},
};
use crate::exit::{Failure, Outcome};

const EXAMPLES: &str = "\
Examples:
  squire ca status --dir mesh-ca
  squire ca status --dir mesh-ca -o json
  squire ca status --kubernetes
      the CA of a cluster, asked through its API server

Exit codes: 0 it can sign, 1 it cannot (its intermediate is not valid now), 78 it is damaged.";

const BUNDLE_EXAMPLES: &str = "\
Examples:
  squire ca bundle --dir mesh-ca > bundle.pem
      what proxies, openssl -CAfile and others must trust
  squire ca bundle --dir mesh-ca --out /etc/squire/bundle.pem
  squire ca bundle --dir mesh-ca --format spiffe
      what another mesh puts into its `federation` settings to begin with";

/// Show roots, intermediate, phase and log of a CA
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    asked: Asked,
    /// In which form
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value = "table")]
    output: Format,
}

/// Print the trust bundle: the root certificate(s) as PEM, or all of it as a SPIFFE bundle document
#[derive(Debug, clap::Args)]
#[command(after_help = BUNDLE_EXAMPLES)]
pub(super) struct BundleArgs {
    #[command(flatten)]
    place: Place,
    /// In which form: PEM roots, or the JSON document that other meshes federate with (it holds the keys for JWT-SVIDs too)
    #[arg(long, value_enum, value_name = "FORM", default_value = "pem")]
    format: BundleFormat,
    /// Write it to a file instead
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// The forms of a trust bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum BundleFormat {
    /// Root certificates as PEM.
    Pem,
    /// SPIFFE bundle format.
    Spiffe,
}

impl Args {
    pub(super) fn run(self) -> Outcome {
        if let Some(page) = self.asked.page("/ca/status")? {
            return shared::run(&page, self.output);
        }
        let place = self.asked.place();
        let status = Status::read(&place.shared()?)?;
        let shown = Shown {
            rotation: rotation(&place.dir, &status)?,
            status: status.clone(),
        };
        show(self.output, &shown, |shown| {
            let progress = shown.rotation.as_ref().map(progress_table).unwrap_or_default();
            table(&shown.status) + &progress
        })?;
        if status.can_sign(SystemTime::now()) {
            Ok(())
        } else {
            Err(Failure::finding())
        }
    }
}

impl BundleArgs {
    pub(super) fn run(self) -> Outcome {
        let store = self.place.shared()?;
        let state = store
            .load()?
            .ok_or_else(|| StoreError::NotInitialised(self.place.dir.clone()))?;
        let hierarchy = Hierarchy::load(&state).map_err(Failure::configuration)?;
        let bundle = match self.format {
            BundleFormat::Pem => hierarchy.bundle().to_pem(),
            BundleFormat::Spiffe => hierarchy.bundle().to_document() + "\n",
        };
        match self.out {
            None => print(&bundle),
            Some(path) => fs::write(&path, bundle)
                .with_context(|| format!("{}: cannot be written", path.display()))
                .map_err(Failure::unavailable),
        }
    }
}

/// The status, and how far a rotation is where a process knows.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    status: Status,
    #[serde(skip_serializing_if = "Option::is_none")]
    rotation: Option<Progress>,
}

/// Asks the process that runs the CA, if one does and there is something to ask.
fn rotation(dir: &Path, status: &Status) -> Result<Option<Progress>, Failure> {
    if status.phase == Phase::Stable || DirStore::owner(dir).is_none() {
        return Ok(None);
    }
    progress_in(dir).map(Some)
}

/// The status for people.
pub(super) fn table(status: &Status) -> String {
    let mut rows = vec![
        ("trust domain", status.trust_domain.clone()),
        ("phase", status.phase.label().to_owned()),
    ];
    for root in &status.roots {
        let active = if root.active { "signs" } else { "trusted" };
        let key = if root.key_present {
            ""
        } else {
            ", its key is kept elsewhere"
        };
        rows.push((
            "root",
            format!("{}  {active} until {}{key}", root.key_id, root.not_after),
        ));
    }
    let intermediate = &status.intermediate;
    let until = format!(
        "{}  until {}, renewed at {}",
        intermediate.key_id, intermediate.not_after, intermediate.renewal
    );
    rows.push(("intermediate", until));
    if !status.can_sign(SystemTime::now()) {
        rows.push((
            "",
            "NOT VALID NOW: no certificate can be signed; check this machine's clock".into(),
        ));
    }
    for key in &status.jwt_keys {
        let end = key.retired.as_ref().map(|at| format!(", leaves the bundle at {at}"));
        rows.push((
            "JWT key",
            format!("{}  signs from {}{}", key.kid, key.signs_from, end.unwrap_or_default()),
        ));
    }
    rows.push(("bundle digest", status.bundle_digest.clone()));
    rows.push(("log entries", status.log_entries.to_string()));
    pairs(&rows)
}
