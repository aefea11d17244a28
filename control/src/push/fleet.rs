//! Which proxies are connected, and what each has been sent and has acknowledged: what `/debug/sync` shows. Written by
//! the streams, read by people; nothing is decided from it.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use serde::Serialize;

use super::Kind;

/// All connected proxies.
#[derive(Debug, Default)]
pub struct Fleet {
    next: AtomicU64,
    streams: Mutex<BTreeMap<u64, Arc<Entry>>>,
}

/// One discovery stream.
#[derive(Debug)]
struct Entry {
    node: Arc<str>,
    spiffe_id: String,
    address: SocketAddr,
    connected: SystemTime,
    kinds: Mutex<BTreeMap<Kind, KindView>>,
}

/// How far one stream is with one kind.
#[derive(Clone, Debug, Default, Serialize)]
pub struct KindView {
    /// Names subscribed to; `null` for all.
    pub subscribed: Option<usize>,
    /// The version of the catalog up to which everything has been sent.
    pub version_sent: u64,
    /// The version up to which everything sent has been acknowledged.
    pub version_acked: u64,
    /// A response waits for its acknowledgement.
    pub pending: bool,
    /// Why the last refused response was refused, if a later one has not been accepted since.
    pub nack: Option<String>,
    /// How many responses were refused on this stream.
    pub nacks: u64,
}

/// One connected proxy.
#[derive(Clone, Debug, Serialize)]
pub struct ProxyView {
    /// The workload it stands beside.
    pub node: String,
    /// The identity it proved.
    pub spiffe_id: String,
    /// Where it connected from.
    pub address: SocketAddr,
    /// Seconds since the epoch.
    pub connected_since: u64,
    /// Per kind that it subscribed to, by the kind's label.
    pub kinds: BTreeMap<&'static str, KindView>,
}

impl Fleet {
    pub(super) fn join(self: &Arc<Self>, node: Arc<str>, spiffe_id: String, address: SocketAddr) -> Member {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let entry = Arc::new(Entry {
            node,
            spiffe_id,
            address,
            connected: SystemTime::now(),
            kinds: Mutex::default(),
        });
        lock(&self.streams).insert(id, Arc::clone(&entry));
        Member {
            id,
            entry,
            fleet: Arc::clone(self),
        }
    }

    /// How many streams are open.
    pub fn len(&self) -> usize {
        lock(&self.streams).len()
    }

    /// Whether no proxy is connected.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Every connected proxy, in the order in which they connected.
    pub fn view(&self) -> Vec<ProxyView> {
        let entries: Vec<Arc<Entry>> = lock(&self.streams).values().cloned().collect();
        let view = |entry: Arc<Entry>| ProxyView {
            node: entry.node.to_string(),
            spiffe_id: entry.spiffe_id.clone(),
            address: entry.address,
            connected_since: epoch_seconds(entry.connected),
            kinds: lock(&entry.kinds)
                .iter()
                .map(|(kind, view)| (kind.label(), view.clone()))
                .collect(),
        };
        entries.into_iter().map(view).collect()
    }
}

/// A stream's place in the fleet; it leaves when dropped.
#[derive(Debug)]
pub(super) struct Member {
    id: u64,
    entry: Arc<Entry>,
    fleet: Arc<Fleet>,
}

impl Member {
    pub(super) fn record(&self, kind: Kind, change: impl FnOnce(&mut KindView)) {
        change(lock(&self.entry.kinds).entry(kind).or_default());
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        lock(&self.fleet.streams).remove(&self.id);
    }
}

/// Seconds since the epoch; 0 for times before it.
pub(crate) fn epoch_seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Plain records: whoever panicked has left nothing half-written that matters.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
