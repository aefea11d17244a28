//! Subscription on demand: a sidecar that asks the control plane about what its connections need, when they need it, and
//! holds nothing else. A connection waits here until what it needs is known; what is known already costs it neither a wait
//! nor an allocation. Without an answer there is no connection: an address that nobody has spoken about may be a workload
//! that is only ever reached by mutual TLS. Whom something selects, and what follows from it, is decided elsewhere.

mod figures;
mod in_use;
mod need;
mod questions;

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use prometheus::Registry;
use squire_mesh::workload::Selector;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

use self::figures::DemandFigures;
pub(crate) use self::need::Need;
pub use self::questions::Questions;
use crate::{config::Subscription, connection, state::State};

/// Questions under way at once. More than that are no application's ordinary life.
const MAX_ASKED: usize = 1_024;

/// For how long after the stream was lost an answer is hoped for: a stream that is opened anew is there within it.
const PATIENCE: Duration = Duration::from_secs(1);

/// Where connections say what they need. Cheap to clone.
#[derive(Clone)]
pub struct Demand(Arc<Desk>);

/// What both sides share: connections, and the task that follows the control plane.
struct Desk {
    settings: Subscription,
    state: State,
    /// What has been asked for and not been answered.
    asked: Mutex<HashSet<Selector>>,
    questions: mpsc::Sender<Selector>,
    /// Since when there is no stream; `None` while there is one.
    away: watch::Receiver<Option<Instant>>,
    begun: Instant,
    /// When a refusal was last logged.
    logged: AtomicU32,
    figures: DemandFigures,
}

/// What a connection needed was not made known, so that there is no connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("what there is at {what} is not known here (subscription.mode is on-demand), and {why}")]
pub(crate) struct Unanswered {
    what: Selector,
    why: Why,
}

/// Why there was no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum Why {
    #[error("the control plane did not say it within {0:?} (subscription.timeout); see its log and load")]
    Timeout(Duration),
    #[error("the control plane is away; known peers are reached, new ones when it is back")]
    Away,
    #[error("too much is asked for already (subscription.maxSelectors is {0})")]
    Limit(usize),
}

impl Why {
    const LABELS: [&'static str; 3] = ["timeout", "away", "limit"];

    fn label(self) -> &'static str {
        match self {
            Self::Timeout(_) => "timeout",
            Self::Away => "away",
            Self::Limit(_) => "limit",
        }
    }
}

impl Demand {
    /// Both sides. `connections`: what they stand on is not given up.
    ///
    /// # Errors
    /// When a metric is declared twice.
    pub fn new(
        settings: Subscription,
        state: State,
        connections: Arc<connection::Registry>,
        registry: &Registry,
    ) -> Result<(Self, Questions), prometheus::Error> {
        Self::begun(Instant::now(), settings, state, connections, registry)
    }

    fn begun(
        begun: Instant,
        settings: Subscription,
        state: State,
        connections: Arc<connection::Registry>,
        registry: &Registry,
    ) -> Result<(Self, Questions), prometheus::Error> {
        let (questions, receiver) = mpsc::channel(MAX_ASKED);
        let (away, is_away) = watch::channel(Some(begun));
        let desk = Arc::new(Desk {
            settings,
            state,
            asked: Mutex::default(),
            questions,
            away: is_away,
            begun,
            logged: AtomicU32::new(0),
            figures: DemandFigures::register(registry)?,
        });
        let questions = Questions::new(Arc::clone(&desk), receiver, away, connections);
        Ok((Self(desk), questions))
    }

    /// Waits until what a connection needs is known: not at all where it is.
    pub(crate) async fn known(&self, need: Need<'_>) -> Result<(), Unanswered> {
        let missing = self.0.missing(&need);
        match missing {
            None => Ok(()),
            Some(what) => Box::pin(self.0.wait(&need, what)).await,
        }
    }
}

impl Desk {
    /// Seconds since the start: the clock by which uses are marked.
    fn now(&self) -> u32 {
        u32::try_from(self.begun.elapsed().as_secs()).unwrap_or(u32::MAX)
    }

    fn missing(&self, need: &Need<'_>) -> Option<Selector> {
        need.missing(&self.state.borrow(), self.now())
    }

    async fn wait(&self, need: &Need<'_>, mut what: Selector) -> Result<(), Unanswered> {
        let begun = Instant::now();
        let result = loop {
            if let Err(why) = self.answered(&what, begun + self.settings.timeout).await {
                break Err(Unanswered { what, why });
            }
            match self.missing(need) {
                None => break Ok(()),
                Some(next) => what = next,
            }
        };
        self.figures.waited(begun.elapsed());
        if let Err(unanswered) = &result {
            self.figures.refused(unanswered.why);
            self.log(unanswered);
        }
        result
    }

    async fn answered(&self, what: &Selector, deadline: Instant) -> Result<(), Why> {
        self.ask(what)?;
        let mut state = self.state.clone();
        let answer = async { state.wait_for(|snapshot| snapshot.answers(what)).await.map(drop) };
        tokio::select! {
            biased;
            answer = answer => answer.map_err(|_| Why::Away),
            () = self.gone() => Err(Why::Away),
            () = sleep_until(deadline) => Err(Why::Timeout(self.settings.timeout)),
        }
    }

    /// Sees to it that the question is put: once, however many connections wait for its answer.
    fn ask(&self, what: &Selector) -> Result<(), Why> {
        if self.away.borrow().is_some_and(|since| since.elapsed() > PATIENCE) {
            return Err(Why::Away);
        }
        let answered = self.state.borrow().selectors().unwrap_or_default();
        let mut asked = self.asked();
        if asked.contains(what) {
            return Ok(());
        }
        let most = self.settings.max_selectors;
        if asked.len() >= MAX_ASKED || answered + asked.len() >= most {
            return Err(Why::Limit(most));
        }
        // The other side lives as long as the sidecar follows the control plane, and takes all that waits at once.
        self.questions.try_send(what.clone()).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Why::Limit(most),
            mpsc::error::TrySendError::Closed(_) => Why::Away,
        })?;
        asked.insert(what.clone());
        self.figures.asked();
        Ok(())
    }

    /// Ends when there has been no stream for longer than one that is opened anew takes.
    async fn gone(&self) {
        let mut away = self.away.clone();
        loop {
            let since = *away.borrow_and_update();
            let changed = match since {
                None => away.changed().await,
                Some(since) => tokio::select! {
                    () = sleep_until(since + PATIENCE) => return,
                    changed = away.changed() => changed,
                },
            };
            if changed.is_err() {
                return;
            }
        }
    }

    /// One line a second at most: the access log has one for each connection.
    fn log(&self, unanswered: &Unanswered) {
        let now = self.now().max(1);
        if self.logged.swap(now, Relaxed) != now {
            tracing::warn!(%unanswered, "a connection was refused");
        }
    }

    fn asked(&self) -> MutexGuard<'_, HashSet<Selector>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
