//! Keeps the SVID current for as long as the sidecar lives: first by token, then by the SVID itself, by token again if
//! that fails. A failure is logged, counted and tried again; it never takes a good SVID away.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use squire_mesh::spiffe::SpiffeId;
use tokio::{
    sync::{Notify, watch},
    time::sleep,
};

use super::{
    Identity, IssueError, Issued, Receiver,
    issue::{Proof, issue},
    schedule::renewal_point,
};
use crate::{backoff::Backoff, config::Config, roots::Roots, state::State, vitals::Vitals};

/// Bounds of the wait after a failed attempt.
const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(8);
/// The wall clock may be set while we sleep: look at it now and then.
const CLOCK_CHECK: Duration = Duration::from_secs(30);
/// When a root leaves the bundle, every sidecar under it renews: not all in the same moment.
const SPREAD: Duration = Duration::from_secs(2);

/// When the CA has not yet begun to sign with the root that it said it would.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// The task that keeps us somebody.
pub struct Renewal {
    config: Arc<Config>,
    roots: Roots,
    state: State,
    vitals: Arc<Vitals>,
    publish: watch::Sender<Identity>,
    renew_now: Arc<Notify>,
    /// The bundle that said that another root signs, and the SVID we held then.
    told: Option<(u64, u64)>,
}

impl Renewal {
    /// Nobody yet; [`Self::run`] changes that. Waking `renew_now` renews the SVID at once.
    #[must_use]
    pub fn new(
        config: Arc<Config>,
        roots: Roots,
        state: State,
        vitals: Arc<Vitals>,
        renew_now: Arc<Notify>,
    ) -> (Self, Receiver) {
        let (publish, identity) = watch::channel(Identity::Waiting);
        let renewal = Self {
            config,
            roots,
            state,
            vitals,
            publish,
            renew_now,
            told: None,
        };
        (renewal, identity)
    }

    /// Runs until it is dropped.
    pub async fn run(mut self) {
        let expiry = watch_expiry(self.publish.clone(), Arc::clone(&self.vitals));
        tokio::select! {
            () = self.renew() => {}
            () = expiry => {}
        }
    }

    async fn renew(&mut self) {
        let mut backoff = Backoff::new(FIRST_RETRY, LAST_RETRY);
        loop {
            match self.attempt().await {
                Ok(issued) => {
                    backoff.reset();
                    self.publish(&issued);
                    self.until_due(&issued).await;
                }
                Err(error) => {
                    let wait = backoff.wait();
                    self.failed(&error, wait);
                    sleep(wait).await;
                }
            }
        }
    }

    /// By the SVID while it holds, else by token. A CA that cannot be reached is not asked twice.
    async fn attempt(&mut self) -> Result<Arc<Issued>, IssueError> {
        let held = self.publish.borrow().clone();
        let snapshot = Arc::clone(&self.state.borrow());
        let expected = self.expected(&held);
        let by = |proof| issue(&self.config, &self.roots, &snapshot, proof, expected.as_ref());
        let answer = match held.valid() {
            None => by(Proof::Token).await,
            Some(current) => match by(Proof::Svid(&current.svid)).await {
                Err(error) if worth_a_token(&error) => {
                    tracing::warn!(%error, "the SVID could not be renewed by itself, trying the token");
                    by(Proof::Token).await
                }
                answer => answer,
            },
        };
        let (svid, verified) = answer?;
        Ok(Arc::new(Issued {
            svid: Arc::new(svid),
            generation: held.last().map_or(1, |last| last.generation + 1),
            root: verified.root(),
            not_after: verified.not_after(),
            renew_at: renewal_point(SystemTime::now(), verified.not_after(), rand::random()),
        }))
    }

    /// Who we have to be: as configured, else as before.
    fn expected(&self, held: &Identity) -> Option<SpiffeId> {
        let before = held.last().map(|issued| issued.svid.id().clone());
        self.config.identity.clone().or(before)
    }

    fn publish(&self, issued: &Arc<Issued>) {
        tracing::info!(
            spiffe_id = %issued.svid.id(),
            serial = %issued.svid.serial(),
            generation = issued.generation,
            expires_in_s = seconds_to(issued.not_after),
            renewal_in_s = seconds_to(issued.renew_at),
            "SVID issued"
        );
        self.vitals.renewed(issued);
        self.publish.send_replace(Identity::Valid(Arc::clone(issued)));
    }

    fn failed(&self, error: &IssueError, wait: Duration) {
        self.vitals.renewal_failed();
        let retry_in_ms = wait.as_millis();
        match &*self.publish.borrow() {
            Identity::Waiting => tracing::warn!(%error, retry_in_ms, "no SVID yet, so not ready"),
            Identity::Valid(held) => {
                let left_s = seconds_to(held.not_after);
                tracing::warn!(%error, retry_in_ms, left_s, "the SVID was not renewed, the current one stays in use");
            }
            Identity::Expired(_) => tracing::error!(%error, retry_in_ms, "the SVID has expired and was not renewed"),
        }
    }

    /// Waits for the renewal point by the wall clock, or for a reason not to wait: someone asked, our root is gone, or
    /// another root signs now.
    async fn until_due(&mut self, issued: &Issued) {
        let mut following = true;
        let mut renew_at = issued.renew_at;
        loop {
            if !self.root_is_held(issued) {
                tracing::info!(root = %issued.root, "the root of our SVID has left the trust bundle, renewing");
                return sleep(SPREAD.mul_f64(rand::random())).await;
            }
            if let Some(wait) = self.new_root_signs(issued) {
                tracing::info!(root = %issued.root, within_ms = wait.as_millis(), "another root signs now, renewing");
                renew_at = renew_at.min(SystemTime::now() + wait);
            }
            let Ok(left) = renew_at.duration_since(SystemTime::now()) else {
                return;
            };
            tokio::select! {
                () = sleep(left.min(CLOCK_CHECK)) => {}
                () = self.renew_now.notified() => return,
                changed = self.state.changed(), if following => following = changed.is_ok(),
            }
        }
    }

    /// How long to wait before an SVID is asked for under the root that signs now; told once for each bundle that says so.
    fn new_root_signs(&mut self, issued: &Issued) -> Option<Duration> {
        let snapshot = self.state.borrow_and_update();
        let bundle = snapshot.bundles.get(issued.svid.id().trust_domain())?;
        let signing = bundle.signing().filter(|signing| signing.root != issued.root)?;
        let told = (bundle.sequence(), issued.generation);
        if self.told == Some(told) {
            return None;
        }
        // The CA gave us an SVID under the old root although it had been said to sign with another: not at once again.
        let again = self.told.is_some_and(|(sequence, _)| sequence == bundle.sequence());
        self.told = Some(told);
        let least = if again { ASK_AGAIN } else { Duration::ZERO };
        Some(least + signing.renew_within.mul_f64(rand::random()))
    }

    fn root_is_held(&mut self, issued: &Issued) -> bool {
        let snapshot = self.state.borrow_and_update();
        snapshot.bundles.holds(issued.svid.id().trust_domain(), issued.root)
    }
}

/// The token may help where the SVID did not; not where nobody answers, and not against an answer we do not like.
fn worth_a_token(error: &IssueError) -> bool {
    match error {
        IssueError::Channel(error) => !error.is_unreachable() && !error.is_distrust(),
        IssueError::Refused { .. } => true,
        IssueError::TokenFile { .. }
        | IssueError::Token { .. }
        | IssueError::Key(_)
        | IssueError::Timeout { .. }
        | IssueError::Answer(_)
        | IssueError::Svid(_)
        | IssueError::Unverified(_)
        | IssueError::OtherIdentity { .. }
        | IssueError::TooShort(_) => false,
    }
}

/// Says so when the SVID ends before a newer one came.
async fn watch_expiry(publish: watch::Sender<Identity>, vitals: Arc<Vitals>) {
    let mut identity = publish.subscribe();
    loop {
        let valid = identity.borrow_and_update().valid().cloned();
        let left = valid
            .as_ref()
            .map(|issued| issued.not_after.duration_since(SystemTime::now()));
        let wait = match (&valid, left) {
            (Some(issued), Some(Err(_))) => {
                tracing::error!(spiffe_id = %issued.svid.id(), "the SVID has expired: not ready, nobody trusts us now");
                vitals.expired();
                publish.send_replace(Identity::Expired(Arc::clone(issued)));
                continue;
            }
            (_, Some(Ok(left))) => left.min(CLOCK_CHECK),
            (_, None) | (None, _) => CLOCK_CHECK,
        };
        tokio::select! {
            () = sleep(wait) => {}
            changed = identity.changed() => if changed.is_err() { return },
        }
    }
}

fn seconds_to(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::now()).unwrap_or_default().as_secs()
}
