//! What crosses a wire: every frame of a namespace's interfaces, to be searched for what must not be there.

use std::{fs, path::PathBuf};

use tokio::process::Command;

use crate::{Process, namespace::Namespace, wait::eventually};

/// A capture that is running.
#[derive(Debug)]
pub struct Capture {
    path: PathBuf,
    _tcpdump: Process,
}

impl Capture {
    /// Starts one on all interfaces of a namespace, and waits until nothing can be missed. Its file is in `dir`.
    pub async fn start(namespace: &Namespace, dir: &std::path::Path) -> Self {
        let path = dir.join("wire.pcap");
        let mut command: Command = namespace.command("tcpdump");
        command.args(["-i", "any", "-U", "--immediate-mode", "-B", "65536", "-Z", "root", "-w"]);
        let process = Process::start("tcpdump", command.arg(&path), dir);
        process.said(&["listening on"]).await;
        Self {
            path,
            _tcpdump: process,
        }
    }

    /// Whether these bytes have crossed the wire in one piece.
    #[must_use]
    pub fn saw(&self, bytes: &[u8]) -> bool {
        let captured = fs::read(&self.path).unwrap();
        captured.windows(bytes.len()).any(|window| window == bytes)
    }

    /// Waits until these bytes have been seen. Frames are written in their order, so what crossed before is there too.
    pub async fn sees(&self, bytes: &[u8]) {
        let what = format!("{:?} crosses the wire", String::from_utf8_lossy(bytes));
        eventually(&what, async || self.saw(bytes).then_some(())).await;
    }
}
