//! The bootstrap trust bundle: the PEM file that says whom to trust before the control plane can. It is read anew when it
//! is needed, and counts for nothing once the control plane has pushed roots, unless an admin changed it since.

use std::{fs, io, path::PathBuf, sync::Arc};

use squire_mesh::{
    bundle::{BundleError, TrustBundles},
    spiffe::TrustDomain,
};

use crate::{
    channel::{Channel, ChannelError},
    config::{Authority, Config},
    state::{Kind, Snapshot},
};

/// The file, and what it held when the sidecar started.
#[derive(Debug, Clone)]
pub struct Roots {
    path: PathBuf,
    trust_domain: TrustDomain,
    at_start: Arc<TrustBundles>,
}

/// Why the file gives no roots.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    /// It cannot be read.
    #[error("trust bundle {}: {source}; write the trust domain's root(s) there, `squire ca status` shows where they are", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It holds something else.
    #[error("trust bundle {}: {source}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: BundleError,
    },
}

impl Roots {
    /// Reads the file for the first time.
    ///
    /// # Errors
    /// When it cannot be read or holds no roots.
    pub fn open(config: &Config) -> Result<Self, RootsError> {
        let (path, trust_domain) = (config.trust_bundle.clone(), config.trust_domain.clone());
        let at_start = read(&path, &trust_domain)?;
        Ok(Self {
            path,
            trust_domain,
            at_start,
        })
    }

    /// What the file held at the start.
    #[must_use]
    pub fn at_start(&self) -> &Arc<TrustBundles> {
        &self.at_start
    }

    /// What the file holds now; what it held at the start if it cannot be used any more.
    #[must_use]
    pub fn now(&self) -> Arc<TrustBundles> {
        read(&self.path, &self.trust_domain).unwrap_or_else(|error| {
            tracing::warn!(%error, "the trust bundle file cannot be used, going on with what it held at the start");
            Arc::clone(&self.at_start)
        })
    }

    /// Connects as `connect` does, with the roots that were pushed; before any were, and after an admin changed the file
    /// and the pushed ones no longer do, with those of the file. Says which roots did.
    ///
    /// # Errors
    /// The last attempt's.
    pub async fn connect(
        &self,
        authority: &Authority,
        svid: Option<&squire_mesh::tls::Svid>,
        snapshot: &Snapshot,
    ) -> Result<(Channel, Arc<TrustBundles>), ChannelError> {
        let pushed = snapshot.tables.of(Kind::TrustBundle).applied.is_some();
        let first = if pushed {
            Arc::clone(&snapshot.bundles)
        } else {
            self.now()
        };
        match Channel::connect(authority, svid, Arc::clone(&first)).await {
            Err(error) if pushed && error.is_distrust() => {
                let file = self.now();
                if file.digest() == self.at_start.digest() || file.digest() == first.digest() {
                    return Err(error);
                }
                tracing::warn!(%error, "trying the roots that the trust bundle file was given since the start");
                Channel::connect(authority, svid, Arc::clone(&file))
                    .await
                    .map(|channel| (channel, file))
            }
            connected => connected.map(|channel| (channel, first)),
        }
    }
}

fn read(path: &PathBuf, trust_domain: &TrustDomain) -> Result<Arc<TrustBundles>, RootsError> {
    let pem = fs::read(path).map_err(|source| RootsError::Read {
        path: path.clone(),
        source,
    })?;
    let bundles = TrustBundles::from_pem(trust_domain, &pem);
    bundles.map(Arc::new).map_err(|source| RootsError::Content {
        path: path.clone(),
        source,
    })
}
