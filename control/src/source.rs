//! Where the objects come from: a directory, or a Kubernetes API server. Each source says what there is, what is wrong with
//! it, and which last good state stands in for what has become wrong. It reads; what it writes are remarks about what it
//! read, and it draws no conclusions.

mod directory;
mod file;
pub mod kubernetes;
mod watch;

use std::time::SystemTime;

use squire_mesh::workload::Interner;

pub use directory::{Directory, FileView, Placed, Scan, Snapshot};
pub use file::{Located, Review};
pub use watch::Watch;

/// A source of objects. One task asks it, one question after the other.
pub trait Source: Send + 'static {
    /// Takes in what has changed since the last scan. May block.
    fn scan(&mut self, interner: &mut Interner) -> Scan;

    /// What it says now.
    fn snapshot(&self) -> Snapshot;

    /// Since when a last good state stands in for something; the oldest counts.
    fn stale_since(&self) -> Option<SystemTime>;

    /// Ends when it is time for another scan.
    fn due(&mut self) -> impl Future<Output = ()> + Send;
}
