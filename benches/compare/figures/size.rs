//! The size of each proxy's executable, without symbols (shared libraries are not counted).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::Figure;
use crate::ground::Ground;
use crate::measure::{Better, Metric, Results};
use crate::peer::Peer;

/// Records the size of each peer's executable once, in the first of its columns.
pub(crate) fn take(peers: &[Peer], ground: &Ground, results: &mut Results) -> Result<()> {
    let mut seen: Vec<PathBuf> = Vec::new();
    for peer in peers {
        let Some(binary) = peer.binary().filter(|binary| !seen.contains(binary)) else {
            continue;
        };
        let bytes = stripped_size(&binary, ground)?;
        #[allow(clippy::cast_precision_loss, reason = "bytes far below 2^52")]
        let mib = bytes as f64 / 1024.0 / 1024.0;
        let metric = Metric::new(Figure::Size, "binary", "executable, stripped", "MiB", Better::Lower);
        results.record(metric, &peer.column(), 0, mib);
        seen.push(binary);
    }
    Ok(())
}

/// Strips a copy; without binutils the file counts as it is.
fn stripped_size(binary: &Path, ground: &Ground) -> Result<u64> {
    let copy = ground.room("size")?.join("stripped");
    let stripped = Command::new("strip")
        .arg("--strip-all")
        .arg("-o")
        .arg(&copy)
        .arg(binary)
        .output();
    let done = stripped.is_ok_and(|output| output.status.success());
    let measured = if done { copy.as_path() } else { binary };
    Ok(fs::metadata(measured)
        .with_context(|| format!("cannot look at {}", measured.display()))?
        .len())
}
