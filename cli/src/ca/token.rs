//! `squire ca token`: makes a one-time join token. A token is a file of its own in the CA's directory, put in place by one
//! rename, so this works while a control plane runs the CA, and the token is good at once.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use serde::Serialize;
use squire_ca::{
    log::rfc3339,
    store::{Store as _, StoreError},
    token::{self, JoinToken},
};
use squire_mesh::spiffe::SpiffeId;

use super::{
    Place, lifetime,
    output::{Format, show},
};
use crate::exit::{Failure, Outcome};

const EXAMPLES: &str = "\
Examples:
  squire ca token --dir mesh-ca --id spiffe://cluster.local/ns/shop/sa/web
      prints a token; whoever shows it to the CA within 10 minutes becomes that workload, once
  squire ca token --dir mesh-ca --id spiffe://cluster.local/ns/shop/sa/web --ttl 1h --out web.token
      writes it to a file (0600) for squire-proxy's token file

Works while a control plane runs the CA. Only the token's hash is kept: it cannot be shown again.";

/// Make a one-time join token for one workload
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    place: Place,
    /// Who its bearer becomes: spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT
    #[arg(long, value_name = "SPIFFE-ID")]
    id: SpiffeId,
    /// How long it can be used, at most 24h
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = lifetime)]
    ttl: Duration,
    /// Write it to a file (0600) instead of printing it
    #[arg(long, value_name = "FILE", conflicts_with = "output")]
    out: Option<PathBuf>,
    /// In which form
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value = "table")]
    output: Format,
}

#[derive(Serialize)]
struct Made {
    token: String,
    id: String,
    expires: String,
}

impl Args {
    pub(super) fn run(self) -> Outcome {
        if self.ttl > token::MAX_TTL {
            return Err(Failure::usage(anyhow::anyhow!(
                "--ttl: at most 24h: make the token when it is needed"
            )));
        }
        let store = self.place.shared()?;
        let state = store
            .load()?
            .ok_or_else(|| StoreError::NotInitialised(self.place.dir.clone()))?;
        let now = SystemTime::now();
        let token = JoinToken::create(&store, &state.trust_domain, &self.id, self.ttl, now)?;
        if let Some(path) = &self.out {
            return write_private(path, token.expose().as_bytes());
        }
        let expires = rfc3339(now + self.ttl);
        let made = Made {
            token: token.expose().to_string(),
            id: self.id.to_string(),
            expires,
        };
        show(self.output, &made, |made| format!("{}\n", made.token))
    }
}

/// Writes a file that only its owner can read, replacing what was there as a whole.
pub(super) fn write_private(path: &Path, bytes: &[u8]) -> Outcome {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".new");
    let write = || -> std::io::Result<()> {
        // What an interrupted run left aside may have another mode.
        match fs::remove_file(&aside) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&aside)?;
        file.write_all(bytes)?;
        fs::rename(&aside, path)
    };
    write()
        .with_context(|| format!("{}: cannot be written", path.display()))
        .map_err(Failure::unavailable)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn a_private_file_is_replaced_whole_and_is_for_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        fs::write(&path, "old and readable").unwrap();
        write_private(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left aside");
    }
}
