//! Who this sidecar is: it obtains an SVID from the CA, renews it long before it ends, and publishes it. Private keys are
//! made here, are new for every SVID and never leave memory; only one that was made for the application is handed on. It
//! decides nothing about peers.

mod issue;
mod renew;
mod request;
mod schedule;

use std::{sync::Arc, time::SystemTime};

use rustls::pki_types::PrivateKeyDer;
use squire_mesh::{bundle::RootDigest, tls::Svid};
use tokio::sync::watch;

use crate::{config::Config, roots::Roots, state::Snapshot};

pub use issue::IssueError;
pub use renew::Renewal;
pub(crate) use schedule::handover_point;

/// Follows who we are: `borrow_and_update()` before use, `changed()` after it.
pub type Receiver = watch::Receiver<Identity>;

/// Who we are at this moment.
#[derive(Debug, Clone, Default)]
pub enum Identity {
    /// Nobody yet.
    #[default]
    Waiting,
    /// The SVID may be used.
    Valid(Arc<Issued>),
    /// The SVID has ended before it could be renewed: we are nobody.
    Expired(Arc<Issued>),
}

/// An SVID that the CA issued to us and that verifies under our own roots.
#[derive(Debug)]
pub struct Issued {
    /// Chain and key.
    pub svid: Arc<Svid>,
    /// Grows with every SVID; what was built on an older one is out of date.
    pub generation: u64,
    /// The root it stands on.
    pub root: RootDigest,
    /// The earliest end in its chain.
    pub not_after: SystemTime,
    /// When it is going to be renewed.
    pub renew_at: SystemTime,
}

/// An SVID of our identity with the key that was made for it, for somebody who asked for both.
pub(crate) struct KeyedSvid {
    pub(crate) svid: Svid,
    /// PKCS#8.
    pub(crate) key: PrivateKeyDer<'static>,
    /// The root it stands on.
    pub(crate) root: RootDigest,
    /// The earliest end in its chain.
    pub(crate) not_after: SystemTime,
    /// When it is to be replaced.
    pub(crate) renew_at: SystemTime,
}

/// Asks the CA for another SVID of the same identity.
///
/// # Errors
/// When the CA is not reached, refuses, or its answer is unusable.
pub(crate) async fn another(
    config: &Config,
    roots: &Roots,
    snapshot: &Snapshot,
    own: &Issued,
) -> Result<KeyedSvid, IssueError> {
    let (svid, key, verified) = issue::issue_another(config, roots, snapshot, &own.svid).await?;
    Ok(KeyedSvid {
        svid,
        key,
        root: verified.root(),
        not_after: verified.not_after(),
        renew_at: schedule::renewal_point(SystemTime::now(), verified.not_after(), rand::random()),
    })
}

impl Identity {
    /// The SVID, if it may be used.
    #[must_use]
    pub fn valid(&self) -> Option<&Arc<Issued>> {
        match self {
            Self::Valid(issued) => Some(issued),
            Self::Waiting | Self::Expired(_) => None,
        }
    }

    /// The last SVID, even if it has ended.
    #[must_use]
    pub fn last(&self) -> Option<&Arc<Issued>> {
        match self {
            Self::Valid(issued) | Self::Expired(issued) => Some(issued),
            Self::Waiting => None,
        }
    }
}

/// The same, for who only needs an SVID that may be used: `None` while there is none. Ends with what it follows.
#[must_use]
pub fn svids(mut identity: Receiver) -> watch::Receiver<Option<Arc<Svid>>> {
    let current = |identity: &Identity| identity.valid().map(|issued| Arc::clone(&issued.svid));
    let (publish, svids) = watch::channel(current(&identity.borrow_and_update()));
    tokio::spawn(async move {
        while identity.changed().await.is_ok() {
            publish.send_replace(current(&identity.borrow_and_update()));
        }
    });
    svids
}
