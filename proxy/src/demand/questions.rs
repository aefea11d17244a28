//! The side of the task that follows the control plane: takes the questions of connections, and says what is to be given
//! up because nothing uses it any more. It sends nothing itself.

use std::{sync::Arc, time::Duration};

use squire_mesh::workload::Selector;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use super::{Desk, in_use::InUse};
use crate::{connection, state::Store};

/// Bounds of the time between two looks for what is no longer used.
const LOOK: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(15));

/// What connections have asked, for the one who can find out.
pub struct Questions {
    desk: Arc<Desk>,
    asked: mpsc::Receiver<Selector>,
    away: watch::Sender<Option<Instant>>,
    connections: Arc<connection::Registry>,
}

impl Questions {
    pub(super) fn new(
        desk: Arc<Desk>,
        asked: mpsc::Receiver<Selector>,
        away: watch::Sender<Option<Instant>>,
        connections: Arc<connection::Registry>,
    ) -> Self {
        Self {
            desk,
            asked,
            away,
            connections,
        }
    }

    /// A stream is about to be opened: it begins with everything that has been asked so far.
    pub(crate) fn opening(&mut self, store: &mut Store) {
        let waiting = std::iter::from_fn(|| self.asked.try_recv().ok()).collect();
        self.want(waiting, store);
        store.ask_again();
    }

    /// The stream is open.
    pub(crate) fn opened(&self) {
        self.away.send_replace(None);
    }

    /// There is no stream any more.
    pub(crate) fn lost(&self) {
        self.away.send_if_modified(|away| {
            let here = away.is_none();
            away.get_or_insert_with(Instant::now);
            here
        });
    }

    /// Waits for questions: all that have come. Safe to drop while waiting.
    pub(crate) async fn next(&mut self) -> Vec<Selector> {
        let mut questions: Vec<Selector> = self.asked.recv().await.into_iter().collect();
        questions.extend(std::iter::from_fn(|| self.asked.try_recv().ok()));
        questions
    }

    /// Notes questions in the store; the names to subscribe to.
    pub(crate) fn want(&self, questions: Vec<Selector>, store: &mut Store) -> Vec<String> {
        let now = self.desk.now();
        let mut fresh = Vec::new();
        for selector in questions {
            let name = selector.to_string();
            if store.want(selector, now) {
                fresh.push(name);
            }
        }
        self.desk.figures.holds(store.wants());
        fresh
    }

    /// Forgets the questions that have been answered.
    pub(crate) fn settle(&self) {
        let snapshot = self.desk.state.borrow();
        self.desk.asked().retain(|selector| !snapshot.answers(selector));
    }

    /// How long to wait before [`Self::give_up`] is worth another try.
    pub(crate) fn look_after(&self) -> Duration {
        (self.desk.settings.keep / 4).clamp(LOOK.0, LOOK.1)
    }

    /// Whether so much is asked for that some of it should be given up before its time.
    pub(crate) fn is_crowded(&self, store: &Store) -> bool {
        store.wants() > self.desk.settings.max_selectors / 8 * 7
    }

    /// Gives up what has not been used for long and no live connection stands on; where there is too much, what was used
    /// longest ago as well. The names to unsubscribe from.
    pub(crate) fn give_up(&self, store: &mut Store) -> Vec<String> {
        let (now, keep) = (self.desk.now(), self.desk.settings.keep.as_secs());
        let crowded = self.is_crowded(store);
        let old = |at: u32| u64::from(now.saturating_sub(at)) > keep;
        let unused = store.settled().filter(|(_, at)| crowded || old(*at));
        let mut unused: Vec<(u32, Selector)> = unused.map(|(selector, at)| (at, selector.clone())).collect();
        if unused.is_empty() {
            return Vec::new();
        }
        let in_use = InUse::of(&self.connections);
        let snapshot = Arc::clone(&self.desk.state.borrow());
        unused.retain(|(_, selector)| !in_use.covers(selector, &snapshot));
        unused.sort_unstable();
        let most = self.desk.settings.max_selectors / 4 * 3;
        let too_many = if crowded { store.wants().saturating_sub(most) } else { 0 };
        let count = unused.partition_point(|(at, _)| old(*at)).max(too_many);
        let given_up: Vec<Selector> = unused.into_iter().take(count).map(|(_, selector)| selector).collect();
        if !given_up.is_empty() {
            store.give_up(&given_up);
            self.desk.figures.given_up(given_up.len());
            self.desk.figures.holds(store.wants());
        }
        given_up.iter().map(ToString::to_string).collect()
    }
}
