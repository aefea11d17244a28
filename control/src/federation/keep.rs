//! Bundles of other trust domains on disk, so that a control plane that starts while an endpoint is away trusts what it
//! trusted before. Public content; it is written aside, synced and renamed.

use std::{
    fs, io,
    io::Write as _,
    path::{Path, PathBuf},
    time::SystemTime,
};

use serde::{Deserialize, Serialize};
use squire_mesh::{bundle::TrustBundle, spiffe::TrustDomain};

use crate::push::epoch_seconds;

/// What is kept of one trust domain.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    trust_domain: String,
    /// Seconds since the epoch.
    fetched: u64,
    /// The bundle that the settings gave at that time, as a document: when an admin has changed it since, that counts.
    bootstrap: Option<String>,
    document: String,
}

/// A bundle that was fetched before.
#[derive(Debug, Clone)]
pub(super) struct Fetched {
    pub(super) bundle: TrustBundle,
    pub(super) at: SystemTime,
    pub(super) bootstrap: Option<TrustBundle>,
}

/// A directory of bundles; without one nothing is kept.
#[derive(Debug, Clone)]
pub(super) struct Shelf(Option<PathBuf>);

impl Shelf {
    pub(super) fn new(dir: Option<PathBuf>) -> Self {
        Self(dir)
    }

    /// Everything that was kept and can be read. Blocks.
    pub(super) fn read(&self) -> Vec<Fetched> {
        let Some(dir) = &self.0 else { return Vec::new() };
        let entries = match fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
            Err(error) => {
                tracing::error!(dir = %dir.display(), %error, "bundles that were kept cannot be read");
                return Vec::new();
            }
        };
        let files = entries.filter_map(Result::ok).map(|entry| entry.path());
        let files = files.filter(|path| path.extension().is_some_and(|extension| extension == "json"));
        files
            .filter_map(|path| {
                read_file(&path)
                    .map_err(
                        |why| tracing::error!(file = %path.display(), why, "a bundle that was kept cannot be used"),
                    )
                    .ok()
            })
            .collect()
    }

    /// Keeps a bundle. Blocks.
    pub(super) fn keep(&self, fetched: &Fetched) -> io::Result<()> {
        let Some(dir) = &self.0 else { return Ok(()) };
        fs::create_dir_all(dir)?;
        let kept = Kept {
            trust_domain: fetched.bundle.trust_domain().to_string(),
            fetched: epoch_seconds(fetched.at),
            bootstrap: fetched.bootstrap.as_ref().map(TrustBundle::to_document),
            document: fetched.bundle.to_document(),
        };
        let path = file(dir, fetched.bundle.trust_domain());
        let aside = path.with_extension("aside");
        let mut writer = fs::File::create(&aside)?;
        writer.write_all(&serde_json::to_vec_pretty(&kept)?)?;
        writer.sync_all()?;
        fs::rename(&aside, &path)?;
        fs::File::open(dir)?.sync_all()
    }

    /// Forgets a trust domain that is not federated with any more. Blocks.
    pub(super) fn forget(&self, domain: &TrustDomain) {
        if let Some(dir) = &self.0 {
            match fs::remove_file(file(dir, domain)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(%domain, %error, "a bundle that is not needed any more could not be removed");
                }
                _ => {}
            }
        }
    }
}

/// Trust domains are letters, digits, `.`, `-` and `_`; two dots alone would be a directory, with `.json` they are not.
fn file(dir: &Path, domain: &TrustDomain) -> PathBuf {
    dir.join(format!("{domain}.json"))
}

fn read_file(path: &Path) -> Result<Fetched, String> {
    let bytes = fs::read(path).map_err(|error| error.to_string())?;
    let kept: Kept = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
    let domain: TrustDomain = kept.trust_domain.parse().map_err(|error| format!("{error}"))?;
    if path
        .file_stem()
        .is_none_or(|stem| stem.to_string_lossy() != domain.as_str())
    {
        return Err(format!(
            "it is named after another trust domain than its content, {domain}"
        ));
    }
    let bundle =
        |document: &str| TrustBundle::from_document(&domain, document.as_bytes()).map_err(|error| error.to_string());
    Ok(Fetched {
        bundle: bundle(&kept.document)?,
        at: SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(kept.fetched),
        bootstrap: kept.bootstrap.as_deref().map(bundle).transpose()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_there_after_a_restart_and_gone_when_it_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let shelf = Shelf::new(Some(dir.path().join("federation")));
        assert!(shelf.read().is_empty(), "no directory yet");
        let domain: TrustDomain = "partner.example".parse().unwrap();
        let fetched = Fetched {
            bundle: TrustBundle::new(domain.clone(), [], 9).unwrap(),
            at: SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(77),
            bootstrap: None,
        };
        shelf.keep(&fetched).unwrap();
        let back = shelf.read().remove(0);
        assert!(back.bundle == fetched.bundle && back.bundle.sequence() == 9 && back.at == fetched.at);
        // Torn files and files of another name are reported and left alone.
        fs::write(dir.path().join("federation/torn.json"), "{").unwrap();
        let kept = fs::read(dir.path().join("federation/partner.example.json")).unwrap();
        fs::write(dir.path().join("federation/other.example.json"), kept).unwrap();
        assert_eq!(shelf.read().len(), 1);
        shelf.forget(&domain);
        assert!(shelf.read().is_empty());
    }
}
