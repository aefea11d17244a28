//! Peers that are not ours (openssl, haproxy, Envoy), as processes.

use std::{env, path::PathBuf};

/// A program that must be there; `tests/run` sees to that.
#[derive(Debug, Clone)]
pub struct Peer(PathBuf);

impl Peer {
    /// Its path.
    #[must_use]
    pub fn path(&self) -> &PathBuf {
        &self.0
    }
}

/// Finds a program, as a shell would, also where distributions keep servers.
///
/// # Panics
/// When it is missing: a test without its peer proves nothing.
#[must_use]
pub fn require(name: &str) -> Peer {
    let path = env::var_os("PATH").unwrap_or_default();
    let places = env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    let found = places.map(|place| place.join(name)).find(|path| path.is_file());
    Peer(found.unwrap_or_else(|| panic!("{name} is not installed: use tests/run, which installs what the tests need")))
}
