//! The JWKS file, read again when it changes. A new content that is no JWKS is reported and the last good one stays. It
//! never holds private or symmetric keys: those are dropped when read.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use jsonwebtoken::jwk::{AlgorithmParameters, Jwk, JwkSet};

pub(super) struct Keys {
    path: PathBuf,
    loaded: Mutex<Loaded>,
}

struct Loaded {
    keys: Arc<JwkSet>,
    stamp: Stamp,
}

/// What changes when a file does, also when a symbolic link is swapped as Kubernetes does.
#[derive(PartialEq, Eq, Clone, Copy)]
struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    inode: u64,
}

impl Keys {
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        let stamp = stamp(path)?;
        let loaded = Loaded {
            keys: Arc::new(read(path)?),
            stamp,
        };
        Ok(Self {
            path: path.to_owned(),
            loaded: Mutex::new(loaded),
        })
    }

    /// The keys in force now.
    pub(super) fn current(&self) -> Result<Arc<JwkSet>, String> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let Ok(stamp) = stamp(&self.path) else {
            return Ok(Arc::clone(&loaded.keys));
        };
        if stamp != loaded.stamp {
            loaded.stamp = stamp;
            match read(&self.path) {
                Ok(keys) => loaded.keys = Arc::new(keys),
                Err(reason) => {
                    tracing::warn!(path = %self.path.display(), reason, "the new JWKS is not used, the last good one stays");
                }
            }
        }
        Ok(Arc::clone(&loaded.keys))
    }
}

fn stamp(path: &Path) -> Result<Stamp, String> {
    let meta = fs::metadata(path).map_err(|error| error.to_string())?;
    Ok(Stamp {
        modified: meta.modified().ok(),
        length: meta.len(),
        inode: meta.ino(),
    })
}

fn read(path: &Path) -> Result<JwkSet, String> {
    let bytes = fs::read(path).map_err(|error| error.to_string())?;
    let document: serde_json::Value = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
    let all = document
        .get("keys")
        .and_then(|keys| keys.as_array())
        .ok_or("there is no list `keys`")?;
    // Keys of types unknown here are skipped (RFC 7517, 5), symmetric ones are never used.
    let keys: Vec<Jwk> = all
        .iter()
        .filter_map(|key| serde_json::from_value(key.clone()).ok())
        .filter(asymmetric)
        .collect();
    if keys.is_empty() {
        return Err("it holds no RSA, EC or Ed25519 public key".into());
    }
    Ok(JwkSet { keys })
}

fn asymmetric(key: &Jwk) -> bool {
    !matches!(key.algorithm, AlgorithmParameters::OctetKey(_))
}
