//! The inbound gate of one connection: may this request reach the application? Asks policy with the full attributes of
//! the request, and again while the request is open whenever policy changes. Every version of HTTP comes through here.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use serde_json::{Map, Value};
use squire_mesh::{
    policy::{self, Decision, Why},
    svid::VerifiedPeer,
    workload::Workload,
};

use super::{Edits, Flag, LocalReply, RequestView, Version};
use crate::{
    authorize::{self, Answer, OnConnection, Permit, Question},
    connection::{Connection, Direction},
    ext_authz::{Answered, Body, Context},
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
    /// What external providers said.
    pub(crate) answered: Answered,
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

    /// How many bytes of a request's body are to be read before it is judged, for providers to see.
    pub(crate) fn body_wanted(&self, view: &RequestView<'_>) -> usize {
        let ground = self.ground();
        let Some(table) = &ground.snapshot.policy else {
            return 0;
        };
        if table.authorization.custom.is_empty() || ground.settled.is_some() || !may_have_body(view) {
            return 0;
        }
        let source = ground.source.as_deref();
        let request = authorize::request(&ground.snapshot, self.question(), source, view.as_policy());
        self.shared.callouts.body_wanted(table, &request)
    }

    /// Judges a request whose head has been read, before anything of it is forwarded. `body`: what has been read of it;
    /// none: nothing, whether there is one or not.
    pub(crate) async fn admit(&self, view: &RequestView<'_>, body: Option<Body<'_>>) -> Result<Admitted, Refused> {
        let ground = self.ground();
        let mut standing = Standing::default();
        let edits = match asks_nobody(&ground) {
            true => Edits::default(),
            // Rarely needed and large: it would be a part of every request's future.
            false => Box::pin(self.call_out(&ground, view, body, &mut standing)).await?,
        };
        match self.decide(&ground, view, &standing) {
            Answer::Permitted(permit, decision) => Ok(Admitted {
                permit,
                decision,
                edits,
                standing,
            }),
            Answer::Denied(decision) => Err(Refused {
                reply: reply_to(&decision, standing.answered.reply.take()),
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

    /// Verifies the request's token and asks the providers it matches; what they want changed in its head.
    async fn call_out(
        &self,
        ground: &Ground,
        view: &RequestView<'_>,
        body: Option<Body<'_>>,
        standing: &mut Standing,
    ) -> Result<Edits, Refused> {
        let Some(table) = &ground.snapshot.policy else {
            return Ok(Edits::default());
        };
        let callouts = &self.shared.callouts;
        let verified = callouts.verify_token(table, view).await.map_err(|reply| Refused {
            reply,
            flag: Flag::Unauthenticated,
            decision: None,
        })?;
        standing.claims = verified.claims;
        if table.authorization.custom.is_empty() || ground.settled.is_some() {
            return Ok(verified.edits);
        }
        let asking = {
            let source = ground.source.as_deref();
            let http = with_claims(view, standing);
            let request = authorize::request(&ground.snapshot, self.question(), source, http);
            let me = self.shared.credentials.borrow().clone();
            let context = Context {
                source_port: self.client.port(),
                local: me.as_ref().map(|credentials| credentials.svid.id()),
                request_id: &view.field("x-request-id").unwrap_or_default(),
                edits: &verified.edits,
            };
            // Of a body that has not been read, a provider that wants to see it sees that it is not there.
            let body = body.unwrap_or(Body {
                bytes: &[],
                complete: !may_have_body(view),
            });
            callouts.ask(table, &request, Some(view), body, &context)
        };
        standing.answered = asking.await;
        Ok(verified.edits.then(std::mem::take(&mut standing.answered.edits)))
    }

    /// Whether a request that was admitted would be admitted by the newest policy too.
    pub(crate) fn still_admits(&self, view: &RequestView<'_>, standing: &Standing) -> bool {
        matches!(self.decide(&self.ground(), view, standing), Answer::Permitted(..))
    }

    fn decide(&self, ground: &Ground, view: &RequestView<'_>, standing: &Standing) -> Answer {
        let answer = match &ground.settled {
            Some(decision) => Answer::of(decision.clone()),
            None => {
                let (source, http) = (ground.source.as_deref(), with_claims(view, standing));
                authorize::inbound_request(&ground.snapshot, self.question(), source, http, &standing.answered)
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

/// Whether a request can be judged without a token to verify or a provider to ask.
fn asks_nobody(ground: &Ground) -> bool {
    let Some(table) = &ground.snapshot.policy else {
        return true;
    };
    match &ground.settled {
        // Nobody is asked about what is denied whatever they say.
        Some(decision) if !decision.is_allowed() => true,
        Some(_) => table.issuers.is_empty(),
        None => table.issuers.is_empty() && table.authorization.custom.is_empty(),
    }
}

fn with_claims<'a>(view: &RequestView<'a>, standing: &'a Standing) -> policy::Http<'a> {
    match &standing.claims {
        Some(claims) => view.as_policy().with_claims(claims),
        None => view.as_policy(),
    }
}

/// Whether a body may follow the head (RFC 9112 §6.3, RFC 9113 §8.1).
fn may_have_body(view: &RequestView<'_>) -> bool {
    let bodiless = matches!(view.method, "GET" | "HEAD");
    let length = view.field("content-length");
    match length.as_deref() {
        Some("0") => false,
        Some(_) => true,
        None => view.field("transfer-encoding").is_some() || (view.version == Version::Http2 && !bodiless),
    }
}

/// A provider's own words where it denied, ours otherwise.
fn reply_to(decision: &Decision, provider: Option<LocalReply>) -> LocalReply {
    let by_provider = matches!(decision.why, Why::ProviderDenied | Why::ProviderFailed);
    let reply = provider.filter(|_| by_provider);
    reply.unwrap_or_else(|| LocalReply::text(403, "RBAC: access denied"))
}

fn flag_of(decision: &Decision) -> Flag {
    match decision.why {
        Why::ProviderDenied | Why::ProviderFailed => Flag::ProviderDenied,
        _ => Flag::Denied,
    }
}
