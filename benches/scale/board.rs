//! What has arrived at which simulated proxy, and when: the figures' clock. It also keeps, once for all of them, what every proxy holds of the
//! tables that are the same for all, so that a proxy that reconnects can say what it has.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use squire_mesh::wire::discovery::DeltaDiscoveryResponse;
use squire_proxy::state::Kind;
use tokio::sync::Notify;
use tokio::time::timeout_at;

/// Longer waits are a failure.
const PATIENCE: Duration = Duration::from_secs(240);

/// See the file's head.
pub(super) struct Board {
    inner: Mutex<Inner>,
    changed: Notify,
}

#[derive(Default)]
struct Inner {
    proxies: Vec<Proxy>,
    identified: usize,
    complete: usize,
    mark: Option<Mark>,
    held: HashMap<Kind, BTreeMap<String, String>>,
    /// Responses and resources received by all.
    resources: u64,
}

/// One proxy's state.
#[derive(Clone, Copy, Default)]
struct Proxy {
    /// One bit for each kind that it has been told completely, on this stream or an earlier one.
    told: u8,
    /// The present stream has come to the end of its first pass.
    current: bool,
    /// The last mark it has reached.
    reached: u64,
}

/// A change that is waited for.
struct Mark {
    number: u64,
    kind: Kind,
    since: Instant,
    arrived: Vec<Duration>,
}

impl Inner {
    fn update(&mut self, proxy: usize, change: impl FnOnce(&mut Proxy)) {
        let one = &mut self.proxies[proxy];
        let before = one.is_complete();
        change(one);
        match (before, one.is_complete()) {
            (false, true) => self.complete += 1,
            (true, false) => self.complete -= 1,
            _ => {}
        }
    }
}

impl Proxy {
    fn is_complete(self) -> bool {
        self.current && self.told == ALL_TOLD
    }
}

const ALL_TOLD: u8 = (1 << Kind::ALL.len()) - 1;

impl Board {
    /// For that many proxies.
    pub(super) fn new(proxies: usize) -> Self {
        Self {
            inner: Mutex::new(Inner {
                proxies: vec![Proxy::default(); proxies],
                ..Inner::default()
            }),
            changed: Notify::new(),
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Inner) -> T) -> T {
        // Whoever panicked with it held has failed the run.
        let mut inner = self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        act(&mut inner)
    }

    /// One more proxy has its first SVID.
    pub(super) fn identified(&self) {
        self.with(|inner| inner.identified += 1);
        self.changed.notify_waiters();
    }

    /// Waits until that many proxies have had an SVID.
    pub(super) async fn all_identified(&self, proxies: usize) -> Result<()> {
        self.wait("proxies have an SVID", proxies, |inner| inner.identified)
            .await
    }

    /// A proxy's stream has ended.
    pub(super) fn disconnected(&self, proxy: usize) {
        self.with(|inner| inner.update(proxy, |one| one.current = false));
        self.changed.notify_waiters();
    }

    /// What came of a kind that is the same for all. The first proxy writes down what there is.
    pub(super) fn took(&self, proxy: usize, kind: Kind, answer: DeltaDiscoveryResponse) {
        self.with(|inner| {
            inner.resources += answer.resources.len() as u64;
            if proxy == 0 {
                let held = inner.held.entry(kind).or_default();
                for name in &answer.removed_resources {
                    held.remove(name);
                }
                held.extend(
                    answer
                        .resources
                        .into_iter()
                        .map(|resource| (resource.name, resource.version)),
                );
            }
        });
    }

    /// What a proxy that was told a kind completely holds of it.
    pub(super) fn held(&self, proxy: usize, kind: Kind) -> BTreeMap<String, String> {
        self.with(|inner| {
            if inner.proxies[proxy].told & (1 << kind.index()) == 0 {
                return BTreeMap::new();
            }
            inner.held.get(&kind).cloned().unwrap_or_default()
        })
    }

    /// A proxy has acknowledged something of a kind; `whole`: more of it is not to come.
    pub(super) fn acknowledged(&self, proxy: usize, kind: Kind, whole: bool) {
        let now = Instant::now();
        self.with(|inner| {
            inner.update(proxy, |one| {
                one.told |= u8::from(whole) << kind.index();
                // The largest table, which every stream is told anew as far as it differs.
                one.current |= whole && kind == Kind::Workload;
            });
            let one = &mut inner.proxies[proxy];
            if let Some(mark) = &mut inner.mark
                && mark.kind == kind
                && one.reached < mark.number
            {
                one.reached = mark.number;
                mark.arrived.push(now - mark.since);
            }
        });
        self.changed.notify_waiters();
    }

    /// From now on, acknowledgements of this kind are what is waited for.
    pub(super) fn mark(&self, kind: Kind) {
        self.with(|inner| {
            let number = inner.mark.as_ref().map_or(0, |mark| mark.number) + 1;
            inner.mark = Some(Mark {
                number,
                kind,
                since: Instant::now(),
                arrived: Vec::new(),
            });
        });
    }

    /// Waits until that many proxies have acknowledged what was marked; how long after the mark each did, in order.
    pub(super) async fn arrivals(&self, proxies: usize) -> Result<Vec<Duration>> {
        let arrived = |inner: &mut Inner| inner.mark.as_ref().map_or(0, |mark| mark.arrived.len());
        self.wait("proxies have acknowledged the change", proxies, arrived)
            .await?;
        Ok(self.with(|inner| {
            inner
                .mark
                .as_mut()
                .map(|mark| std::mem::take(&mut mark.arrived))
                .unwrap_or_default()
        }))
    }

    /// Waits until that many proxies are connected and have been told everything.
    pub(super) async fn complete(&self, proxies: usize) -> Result<()> {
        self.wait("proxies know everything", proxies, |inner| inner.complete)
            .await
    }

    /// Waits until that many proxies have noticed that their stream has ended.
    pub(super) async fn lost(&self, proxies: usize) -> Result<()> {
        self.wait("proxies have lost their stream", proxies, |inner| {
            inner.proxies.iter().filter(|one| !one.current).count()
        })
        .await
    }

    async fn wait(&self, what: &str, wanted: usize, count: impl Fn(&mut Inner) -> usize) -> Result<()> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let changed = self.changed.notified();
            let counted = self.with(&count);
            if counted >= wanted {
                return Ok(());
            }
            if timeout_at(deadline, changed).await.is_err() {
                bail!("{counted} of {wanted} {what} after {PATIENCE:?}");
            }
        }
    }

    /// Resources received so far of the kinds that are the same for all.
    pub(super) fn resources(&self) -> u64 {
        self.with(|inner| inner.resources)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_proxy_counts_once_for_a_mark_and_only_with_the_marked_kind() {
        let board = Board::new(2);
        board.mark(Kind::Policy);
        board.acknowledged(0, Kind::Workload, true);
        board.acknowledged(0, Kind::Policy, true);
        board.acknowledged(0, Kind::Policy, true);
        assert_eq!(board.with(|inner| inner.mark.as_ref().unwrap().arrived.len()), 1);
        board.acknowledged(1, Kind::Policy, true);
        assert_eq!(board.arrivals(2).await.unwrap().len(), 2);
        board.mark(Kind::Policy);
        board.acknowledged(1, Kind::Policy, true);
        assert_eq!(board.arrivals(1).await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn complete_means_told_everything_once_and_current_now() {
        let board = Board::new(1);
        let complete = || board.with(|inner| inner.complete);
        board.acknowledged(0, Kind::Workload, false);
        for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::Workload) {
            board.acknowledged(0, kind, true);
        }
        assert_eq!(complete(), 0);
        board.acknowledged(0, Kind::Workload, true);
        board.complete(1).await.unwrap();
        board.disconnected(0);
        assert_eq!(complete(), 0);
        board.acknowledged(0, Kind::Policy, true);
        assert_eq!(complete(), 0, "not current before the end of the first pass");
        board.acknowledged(0, Kind::Workload, true);
        assert_eq!(complete(), 1);
    }
}
