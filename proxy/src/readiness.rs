//! Whether this sidecar may be sent work, and if not, why: identity held, state complete, listening, not draining. It
//! changes nothing.

use std::{
    fmt,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::{
    config::Config,
    identity::{self, Identity},
    state::{Kind, Snapshot, State},
};

/// What readiness depends on.
pub struct Readiness {
    identity: identity::Receiver,
    state: State,
    listening: AtomicBool,
    draining: CancellationToken,
    workload: String,
    control: String,
}

/// One thing that is missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// What: a closed set.
    pub what: &'static str,
    /// Why, and what to do.
    pub why: String,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.why)
    }
}

impl Readiness {
    /// Follows identity and state; `draining` ends it for good.
    #[must_use]
    pub fn new(config: &Config, identity: identity::Receiver, state: State, draining: CancellationToken) -> Self {
        Self {
            identity,
            state,
            listening: AtomicBool::new(false),
            draining,
            workload: config.workload.to_string(),
            control: config.control.address.to_string(),
        }
    }

    /// The listeners are open.
    pub fn listening(&self) {
        self.listening.store(true, Relaxed);
    }

    /// Everything that is missing; nothing: ready.
    #[must_use]
    pub fn missing(&self) -> Vec<Missing> {
        let mut missing = Vec::new();
        let mut add = |what, why: Option<String>| missing.extend(why.map(|why| Missing { what, why }));
        let snapshot = self.state.borrow();
        add("identity", self.identity_missing());
        add(
            "policy",
            snapshot.policy.is_none().then(|| self.policy_missing(&snapshot)),
        );
        for (what, kind) in [
            ("bundle", Kind::TrustBundle),
            ("revocations", Kind::Revocation),
            ("workloads", Kind::Workload),
            ("services", Kind::Service),
        ] {
            let told = snapshot.tables.of(kind).applied.is_some();
            add(
                what,
                (!told).then(|| format!("not yet told by the control plane at {}", self.control)),
            );
        }
        let listening = self.listening.load(Relaxed);
        add(
            "listening",
            (!listening).then(|| "the listeners are not open yet".to_owned()),
        );
        let draining = self.draining.is_cancelled();
        add(
            "draining",
            draining.then(|| "shutting down: no new connections".to_owned()),
        );
        missing
    }

    fn identity_missing(&self) -> Option<String> {
        match &*self.identity.borrow() {
            Identity::Valid(_) => None,
            Identity::Waiting => Some("no SVID yet; the log says what the CA answered".to_owned()),
            Identity::Expired(last) => Some(format!(
                "the SVID of {} has expired; the log says what the CA answered",
                last.svid.id()
            )),
        }
    }

    fn policy_missing(&self, snapshot: &Snapshot) -> String {
        match (&snapshot.tables.of(Kind::Policy).applied, &snapshot.me) {
            (None, _) => format!("not yet told by the control plane at {}", self.control),
            (Some(_), None) => format!("the control plane knows no workload {}; check the name", self.workload),
            (Some(_), Some(_)) => format!("the control plane has no policy for {}; see its log", self.workload),
        }
    }
}
