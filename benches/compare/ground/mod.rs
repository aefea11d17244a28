//! What all peers stand on in one run: the scratch directory, certificates, ports, and the placeholders their configurations are filled
//! with. Never starts a process.

mod certificates;
mod template;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};

use anyhow::{Context, Result, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

pub(crate) use certificates::Certificates;
pub(crate) use template::{Values, fill};

/// The ports handed out: below the kernel's usual ephemeral range, so that no outgoing connection takes one between our check and the
/// peer's bind.
const FIRST_PORT: u16 = 20_000;
const LAST_PORT: u16 = 32_000;

/// The common ground of one run.
pub(crate) struct Ground {
    dir: PathBuf,
    owned: bool,
    next_port: AtomicU16,
    next_dir: AtomicUsize,
    /// The chain every described peer uses.
    pub(crate) certificates: Certificates,
    /// How many files a process may open here, after raising the limit as far as allowed.
    pub(crate) max_descriptors: u64,
}

impl Ground {
    /// Makes a scratch directory for this run (under `dir`, or under the system's and then removed at the end) and certificates in it.
    pub(crate) fn prepare(dir: Option<&Path>) -> Result<Self> {
        let max_descriptors = raise_descriptor_limit()?;
        let owned = dir.is_none();
        static RUNS: AtomicUsize = AtomicUsize::new(0);
        let name = format!(
            "squire-compare-{}-{}",
            std::process::id(),
            RUNS.fetch_add(1, Ordering::Relaxed)
        );
        let dir = dir.map_or_else(std::env::temp_dir, Path::to_owned).join(name);
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let dir = dir.canonicalize()?;
        let certificates = Certificates::write(&dir.join("certificates"))?;
        Ok(Self {
            dir,
            owned,
            next_port: AtomicU16::new(FIRST_PORT),
            next_dir: AtomicUsize::new(0),
            certificates,
            max_descriptors,
        })
    }

    /// A fresh directory for one pair of proxies.
    pub(crate) fn room(&self, name: &str) -> Result<PathBuf> {
        let number = self.next_dir.fetch_add(1, Ordering::Relaxed);
        let room = self.dir.join(format!("{number:03}-{name}"));
        fs::create_dir_all(&room)?;
        Ok(room)
    }

    /// A loopback address whose port is free now and has not been handed out in this run.
    pub(crate) fn address(&self) -> Result<SocketAddr> {
        loop {
            let port = self.next_port.fetch_add(1, Ordering::Relaxed);
            if port > LAST_PORT {
                bail!("no free port left between {FIRST_PORT} and {LAST_PORT}");
            }
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            if TcpListener::bind(address).is_ok() {
                return Ok(address);
            }
        }
    }

    /// The most connections a proxy can hold with two descriptors for each, leaving some for itself.
    pub(crate) fn max_connections(&self) -> usize {
        let free = self.max_descriptors.saturating_sub(300) / 2;
        usize::try_from(free).unwrap_or(usize::MAX) / 100 * 100
    }

    /// The placeholders that are the same for every peer.
    pub(crate) fn values(&self) -> Values {
        let mut values = self.certificates.values();
        values.set("max_connections", self.max_connections().to_string());
        values.set("max_descriptors", self.max_descriptors.to_string());
        values
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        if self.owned {
            // Scratch data: a leftover directory harms nobody.
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

/// Raises the soft limit of open files to the hard limit; children inherit it.
fn raise_descriptor_limit() -> Result<u64> {
    let hard = getrlimit(Resource::Nofile).maximum;
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: hard,
            maximum: hard,
        },
    )?;
    Ok(hard.unwrap_or(1 << 20).min(1 << 20))
}
