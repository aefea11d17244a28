//! Says when to look at the directory again: soon after the kernel reports a change, once it is quiet, and every few
//! seconds whatever it reports. Where the kernel cannot watch, looking often has to do.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use notify::{RecursiveMode, Watcher};
use tokio::{
    sync::Notify,
    time::{Instant, timeout, timeout_at},
};

/// No event for this long: whoever writes has finished.
const QUIET: Duration = Duration::from_millis(40);
/// Look at the latest this long after the first event.
const LATEST: Duration = Duration::from_millis(200);
/// Look in any case, although the kernel watches: links may lead to where it does not.
const WATCHED: Duration = Duration::from_secs(2);
/// Look in any case, because the kernel does not watch.
const UNWATCHED: Duration = Duration::from_millis(500);

/// Says when to look again.
pub struct Watch {
    root: PathBuf,
    events: Arc<Notify>,
    watcher: Option<notify::RecommendedWatcher>,
    identity: Option<(u64, u64)>,
}

impl Watch {
    /// Starts to watch a directory.
    pub fn new(root: &Path) -> Self {
        let mut watch = Self {
            root: root.to_owned(),
            events: Arc::new(Notify::new()),
            watcher: None,
            identity: None,
        };
        watch.attach();
        watch
    }

    /// Waits until it is time to look again.
    pub async fn due(&mut self) {
        self.attach();
        let patience = if self.watcher.is_some() { WATCHED } else { UNWATCHED };
        if timeout(patience, self.events.notified()).await.is_err() {
            return;
        }
        let latest = Instant::now() + LATEST;
        loop {
            let quiet = latest.min(Instant::now() + QUIET);
            if timeout_at(quiet, self.events.notified()).await.is_err() {
                return;
            }
        }
    }

    /// Attaches to the directory that has the name now: it may have been replaced as a whole.
    fn attach(&mut self) {
        let identity = identity(&self.root);
        if self.watcher.is_some() && identity == self.identity {
            return;
        }
        let events = Arc::clone(&self.events);
        let on_event = move |event: notify::Result<notify::Event>| {
            // Our own reading is not news.
            if !event.is_ok_and(|event| event.kind.is_access()) {
                events.notify_one();
            }
        };
        let watcher = notify::recommended_watcher(on_event).and_then(|mut watcher| {
            watcher.watch(&self.root, RecursiveMode::Recursive)?;
            Ok(watcher)
        });
        if let (Err(error), Some(_)) = (&watcher, identity) {
            tracing::warn!(dir = %self.root.display(), %error, "the kernel does not watch the directory: looking every {UNWATCHED:?}");
        }
        (self.watcher, self.identity) = (watcher.ok(), identity);
    }
}

fn identity(root: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(root)
        .ok()
        .map(|metadata| (metadata.dev(), metadata.ino()))
}
