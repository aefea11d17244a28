//! A directory of Kubernetes objects as the source of truth: what is in it, what is wrong in it, and the last good state
//! of every file that has become wrong. It reads; it never writes, and it draws no conclusions from what it reads.

mod directory;
mod file;
mod watch;

pub use directory::{Directory, FileView, Placed, Scan, Snapshot};
pub use file::{Located, Review};
pub use watch::Watch;
