//! The inbound gate of one connection: may this request reach the application? Asks policy with the full attributes of
//! the request, and again while the request is open whenever policy changes. Every version of HTTP comes through here.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use serde_json::{Map, Value};
use squire_mesh::{
    policy::{Decision, Why},
    svid::VerifiedPeer,
    workload::Workload,
};

use super::{Edits, Flag, LocalReply, RequestView};
use crate::{
    authorize::{self, Answer, OnConnection, Permit, Question},
    connection::{Connection, Direction},
    shared::Shared,
    state::Snapshot,
};

/// Who asks and for what, the same for every request of a connection.
pub(crate) struct Gate {
    pub(crate) shared: Arc<Shared>,
    pub(crate) connection: Arc<Connection>,
    /// The verified identity at the other end; none: plaintext.
    pub(crate) peer: Option<Arc<VerifiedPeer>>,
    pub(crate) client: SocketAddr,
    pub(crate) destination: SocketAddr,
    pub(crate) port: u16,
    standing: Mutex<Option<Arc<Ground>>>,
}

/// What one snapshot says of the connection.
struct Ground {
    snapshot: Arc<Snapshot>,
    source: Option<Arc<Workload>>,
    /// The decision that holds for every request; none: each is decided.
    settled: Option<Decision>,
}

/// What a request's admission stands on, kept to judge it again.
#[derive(Default)]
pub(crate) struct Standing {
    /// Claims of its validated token.
    pub(crate) claims: Option<Map<String, Value>>,
}

/// A request that may be forwarded.
pub(crate) struct Admitted {
    pub(crate) permit: Permit,
    pub(crate) decision: Decision,
    /// What tokens and providers want changed.
    pub(crate) edits: Edits,
    pub(crate) standing: Standing,
}

/// A request that may not.
pub(crate) struct Refused {
    pub(crate) reply: LocalReply,
    pub(crate) flag: Flag,
    pub(crate) decision: Option<Decision>,
}

impl Gate {
    /// The gate of one connection.
    pub(crate) fn new(
        shared: Arc<Shared>,
        connection: Arc<Connection>,
        peer: Option<Arc<VerifiedPeer>>,
        destination: SocketAddr,
        port: u16,
    ) -> Self {
        Self {
            client: connection.client,
            shared,
            connection,
            peer,
            destination,
            port,
            standing: Mutex::default(),
        }
    }

    /// Judges a request whose head has been read, before anything of it is forwarded.
    pub(crate) async fn admit(&self, view: &RequestView<'_>) -> Result<Admitted, Refused> {
        let ground = self.ground();
        let standing = Standing::default();
        match self.decide(&ground, view, &standing) {
            Answer::Permitted(permit, decision) => Ok(Admitted {
                permit,
                decision,
                edits: Edits::default(),
                standing,
            }),
            Answer::Denied(decision) => Err(Refused {
                reply: LocalReply::text(403, "RBAC: access denied"),
                flag: flag_of(&decision),
                decision: Some(decision),
            }),
            Answer::NotReady(_) => Err(Refused {
                reply: LocalReply::text(503, "not ready"),
                flag: Flag::NotReady,
                decision: None,
            }),
        }
    }

    /// Whether a request that was admitted would be admitted by the newest policy too.
    pub(crate) fn still_admits(&self, view: &RequestView<'_>, standing: &Standing) -> bool {
        matches!(self.decide(&self.ground(), view, standing), Answer::Permitted(..))
    }

    fn decide(&self, ground: &Ground, view: &RequestView<'_>, standing: &Standing) -> Answer {
        let answer = match &ground.settled {
            Some(decision) => Answer::of(decision.clone()),
            None => {
                let http = match &standing.claims {
                    Some(claims) => view.as_policy().with_claims(claims),
                    None => view.as_policy(),
                };
                authorize::inbound_request(&ground.snapshot, self.question(), ground.source.as_deref(), http)
            }
        };
        if let Answer::Permitted(_, decision) | Answer::Denied(decision) = &answer {
            self.shared.metrics.decided(Direction::Inbound, decision);
            self.connection.facts().decision = Some(decision.clone());
        }
        answer
    }

    fn question(&self) -> Question<'_> {
        Question {
            peer: self.peer.as_deref(),
            remote: self.client,
            local: self.destination,
            port: self.port,
        }
    }

    /// What the newest snapshot says of the connection; worked out once for each snapshot.
    fn ground(&self) -> Arc<Ground> {
        let snapshot = self.shared.snapshot();
        let mut standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ground) = standing
            .as_ref()
            .filter(|ground| Arc::ptr_eq(&ground.snapshot, &snapshot))
        {
            return Arc::clone(ground);
        }
        let settled = match authorize::connection(&snapshot, self.question()) {
            OnConnection::Decided(decision) => Some(decision),
            OnConnection::PerRequest => None,
        };
        let ground = Arc::new(Ground {
            source: authorize::workload_at(&snapshot, self.client, self.peer.as_deref()),
            settled,
            snapshot,
        });
        *standing = Some(Arc::clone(&ground));
        ground
    }
}

fn flag_of(decision: &Decision) -> Flag {
    match decision.why {
        Why::ProviderDenied | Why::ProviderFailed => Flag::ProviderDenied,
        _ => Flag::Denied,
    }
}
