//! Follows the control plane: one incremental xDS stream over mutual TLS, opened again whenever it ends, resumed with
//! what is already held. The last good state stays for as long as there is no better one. It never reads what resources
//! mean: that is the state's business.

mod stream;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use squire_mesh::workload::Selector;
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};

use self::stream::{End, Stream, StreamError};
use crate::{
    backoff::Backoff,
    channel::Channel,
    config::Config,
    demand::Questions,
    identity::{self, Issued, handover_point},
    roots::Roots,
    state::{State, Store},
    vitals::Vitals,
};

/// Bounds of the wait after a stream has ended.
const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(8);

/// About how long after a refused update a new stream asks for what was in it: other resources of the same message may
/// have been good, and the bad one may have been mended in a way that is no change to the control plane.
const ASK_AGAIN: Duration = Duration::from_secs(30);

/// How soon room is made where too much is asked for.
const CROWDED: Duration = Duration::from_millis(100);

/// The task that follows the control plane.
pub struct Client {
    config: Arc<Config>,
    roots: Roots,
    identity: identity::Receiver,
    store: Store,
    /// What connections ask for; none: everything is told anyway.
    questions: Option<Questions>,
    state: State,
    vitals: Arc<Vitals>,
    channel: watch::Sender<Option<Channel>>,
}

impl Client {
    /// The receiver holds the connection while the stream on it is open, for other calls to the control plane.
    #[must_use]
    pub fn new(
        config: Arc<Config>,
        roots: Roots,
        identity: identity::Receiver,
        store: Store,
        vitals: Arc<Vitals>,
    ) -> (Self, watch::Receiver<Option<Channel>>) {
        let (channel, receiver) = watch::channel(None);
        let state = store.follow();
        let client = Self {
            config,
            roots,
            identity,
            store,
            questions: None,
            state,
            vitals,
            channel,
        };
        (client, receiver)
    }

    /// Asks the control plane what connections ask; for a store that is on demand.
    #[must_use]
    pub fn answering(mut self, questions: Option<Questions>) -> Self {
        self.questions = questions;
        self
    }

    /// Runs until it is dropped.
    pub async fn run(mut self) {
        let mut backoff = Backoff::new(FIRST_RETRY, LAST_RETRY);
        loop {
            let Ok(issued) = self.valid_identity().await else {
                return;
            };
            let ended = self.session(&issued, &mut backoff).await;
            self.channel.send_replace(None);
            if let Some(questions) = &self.questions {
                questions.lost();
            }
            match ended {
                Ok(End::Handover) => tracing::debug!("opening the next stream under the newer SVID"),
                Ok(End::Again) => tracing::info!("asking again for what was refused"),
                Err(error) => {
                    self.vitals.disconnected(error.failed_to_open());
                    let wait = backoff.wait();
                    let held = if self.state.borrow().tables.complete() {
                        "the last good state stays"
                    } else {
                        "not ready"
                    };
                    tracing::warn!(%error, retry_in_ms = wait.as_millis(), "no stream from the control plane: {held}");
                    sleep(wait).await;
                }
            }
        }
    }

    /// Waits for an SVID that may be used; an error when nobody will ever bring one.
    async fn valid_identity(&mut self) -> Result<Arc<Issued>, watch::error::RecvError> {
        loop {
            if let Some(issued) = self.identity.borrow_and_update().valid() {
                return Ok(Arc::clone(issued));
            }
            self.identity.changed().await?;
        }
    }

    /// Opens a stream and follows it to its end.
    async fn session(&mut self, issued: &Issued, backoff: &mut Backoff) -> Result<End, StreamError> {
        let snapshot = Arc::clone(&self.state.borrow());
        let (channel, bundles) = self
            .roots
            .connect(&self.config.control, Some(&issued.svid), &snapshot)
            .await?;
        self.store.bootstrap(bundles);
        if let Some(questions) = &mut self.questions {
            questions.opening(&mut self.store);
        }
        let mut stream = Stream::open(channel.clone(), &self.store, &self.config).await?;
        tracing::info!(control = %self.config.control.address, "following the control plane");
        self.vitals.connected();
        if let Some(questions) = &self.questions {
            questions.opened();
        }
        self.channel.send_replace(Some(channel));
        let handover = handover(self.identity.clone(), issued.generation, issued.not_after);
        tokio::pin!(handover);
        let mut again = None;
        let mut look = Instant::now() + look_after(self.questions.as_ref());
        loop {
            tokio::select! {
                update = stream.next() => {
                    let applied = stream.answer(update?, &mut self.store, &self.vitals).await?;
                    backoff.reset();
                    if let Some(questions) = &self.questions {
                        questions.settle();
                    }
                    if !applied {
                        again.get_or_insert_with(|| Instant::now() + ASK_AGAIN.mul_f64(rand::random_range(0.5..1.5)));
                    }
                }
                Some(asked) = next(&mut self.questions) => if let Some(questions) = &self.questions {
                    let names = questions.want(asked, &mut self.store);
                    stream.subscribe(names).await?;
                    if questions.is_crowded(&self.store) {
                        look = look.min(Instant::now() + CROWDED);
                    }
                },
                () = sleep_until(look), if self.questions.is_some() => if let Some(questions) = &self.questions {
                    let names = questions.give_up(&mut self.store);
                    stream.unsubscribe(names).await?;
                    look = Instant::now() + questions.look_after();
                },
                () = &mut handover => return Ok(End::Handover),
                () = sleep_until(again.unwrap_or_else(Instant::now)), if again.is_some() => return Ok(End::Again),
            }
        }
    }
}

/// The next questions of connections, if there ever are any.
async fn next(questions: &mut Option<Questions>) -> Option<Vec<Selector>> {
    Some(questions.as_mut()?.next().await)
}

/// When to look for what is no longer used.
fn look_after(questions: Option<&Questions>) -> Duration {
    /// Nobody looks then.
    const NEVER: Duration = Duration::from_secs(24 * 3600);
    questions.map_or(NEVER, Questions::look_after)
}

/// Ends when the stream should be opened again: late in the life of its SVID, as soon as there is a newer one.
async fn handover(mut identity: identity::Receiver, generation: u64, end: SystemTime) {
    let point = handover_point(SystemTime::now(), end, rand::random());
    sleep(point.duration_since(SystemTime::now()).unwrap_or_default()).await;
    let newer = |identity: &identity::Identity| identity.valid().is_some_and(|issued| issued.generation > generation);
    if identity.wait_for(newer).await.is_err() {
        // Nobody renews any more: the process is ending.
        std::future::pending::<()>().await;
    }
}
