//! Where the objects come from: a directory, or a Kubernetes API server. Each source says what there is, what is wrong with
//! it, and which last good state stands in for what has become wrong. It reads; what it writes are remarks about what it
//! read, and it draws no conclusions.

mod directory;
mod file;
pub mod kubernetes;
mod watch;

use std::{sync::Arc, time::SystemTime};

use squire_mesh::workload::Interner;

pub use directory::{Directory, FileView, Placed, Scan};
pub use file::{Located, Review};
pub use watch::Watch;

use crate::{
    inventory::Change,
    manifest::{Object, Problem},
};

/// What a source says at one moment.
#[derive(Debug, Default)]
pub struct News {
    /// Facts about namespaces, workloads and services that are new, others, or gone.
    pub changes: Vec<Change>,
    /// Every policy, setting and route there is.
    pub others: Vec<Arc<Object>>,
    /// What is wrong, file by file.
    pub problems: Vec<Problem>,
    /// The files, or the kinds that are watched.
    pub files: Vec<FileView>,
    /// Every file has been good (every kind has been listed) at least once: what is known is all there is to know.
    pub complete: bool,
}

/// A source of objects. One task asks it, one question after the other.
pub trait Source: Send + 'static {
    /// Takes in what has changed since the last scan. May block.
    fn scan(&mut self, interner: &mut Interner) -> Scan;

    /// What it says now; of facts, what is different since it was last asked.
    fn news(&mut self) -> News;

    /// Where an object stands, as `Kind namespace/name`; none: in no file.
    fn place(&self, object: &str) -> Option<Placed>;

    /// Since when a last good state stands in for something; the oldest counts.
    fn stale_since(&self) -> Option<SystemTime>;

    /// Ends when it is time for another scan.
    fn due(&mut self) -> impl Future<Output = ()> + Send;
}
