//! The two sides a sidecar serves HTTP/2 on: inbound, where each stream is judged and goes to the application; outbound,
//! where each stream is routed and goes to a peer. This page knows what differs; everything else is the same for both.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use squire_mesh::policy::{Decision, path::PathNormalization};
use tokio::{net::TcpStream, sync::Notify};

use super::{
    limits::Limits,
    line::{Line, Unreachable},
    upstream::{Grounds, Slot, Upstream},
};
use crate::{
    authorize::Permit,
    connection::{Carrier, Connection},
    ext_authz::Body as Shown,
    http::{Course, Edits, Flag, Forwarded, Gate, LocalReply, Refused, RequestView, Standing, Way},
    outbound,
    route::Endpoint,
    shared::Shared,
    traffic::Picked,
};

/// Which side, with what it needs.
pub(super) enum Side {
    In(Box<In>),
    Out(Arc<Way>),
}

/// The application beside us.
pub(super) struct In {
    gate: Arc<Gate>,
    forwarded: Forwarded,
    app: SocketAddr,
    /// Dialled before, by whoever found out who speaks first.
    dialled: Mutex<Option<TcpStream>>,
    line: Line,
    limits: Limits,
}

/// A request that may go on.
pub(super) struct Pass {
    permit: Permit,
    pub(super) edits: Edits,
    pub(super) decision: Option<Decision>,
    standing: Standing,
    /// Outbound: where to.
    endpoint: Option<Endpoint>,
    /// Outbound: to be told how the try went.
    pub(super) picked: Option<Picked>,
}

impl Pass {
    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.endpoint.as_ref().map(|endpoint| endpoint.address)
    }
}

impl Side {
    pub(super) fn inbound(gate: Arc<Gate>, app: SocketAddr, dialled: Option<TcpStream>, limits: Limits) -> Self {
        Self::In(Box::new(In {
            forwarded: Forwarded::of(&gate),
            gate,
            app,
            dialled: Mutex::new(dialled),
            line: Line::new(limits),
            limits,
        }))
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        match self {
            Self::In(side) => &side.gate.shared,
            Self::Out(way) => &way.shared,
        }
    }

    pub(super) fn connection(&self) -> &Arc<Connection> {
        match self {
            Self::In(side) => &side.gate.connection,
            Self::Out(way) => &way.connection,
        }
    }

    /// What the application is told of the other end.
    pub(super) fn forwarded(&self) -> Option<&Forwarded> {
        match self {
            Self::In(side) => Some(&side.forwarded),
            Self::Out(_) => None,
        }
    }

    /// How paths are normalised here.
    pub(super) fn normalization(&self) -> PathNormalization {
        let snapshot = self.shared().snapshot();
        snapshot
            .policy
            .as_ref()
            .map_or_else(PathNormalization::default, |table| table.path_normalization)
    }

    /// Outbound: what becomes of a request, whichever endpoint takes it.
    pub(super) fn plan(&self, view: &RequestView<'_>) -> Result<Option<Course>, Refused> {
        match self {
            Self::In(_) => Ok(None),
            Self::Out(way) => way.plan(view).map(Some),
        }
    }

    /// How much of a request's body is to be read before it is judged, for providers to see.
    pub(super) fn body_wanted(&self, view: &RequestView<'_>) -> usize {
        match self {
            Self::In(side) => side.gate.body_wanted(view),
            Self::Out(_) => 0,
        }
    }

    /// Judges a request, of whose body `shown` has been read; outbound it is given an endpoint other than those that were `tried`.
    pub(super) async fn pass(
        &self,
        view: &RequestView<'_>,
        course: Option<&Course>,
        tried: &[SocketAddr],
        shown: Option<Shown<'_>>,
    ) -> Result<Pass, Refused> {
        match (self, course) {
            (Self::In(side), _) => side.gate.admit(view, shown).await.map(|admitted| Pass {
                permit: admitted.permit,
                edits: admitted.edits,
                decision: Some(admitted.decision),
                standing: admitted.standing,
                endpoint: None,
                picked: None,
            }),
            (Self::Out(way), Some(course)) => {
                way.known(course).await?;
                way.choose(course, tried).map(|chosen| Pass {
                    permit: chosen.permit,
                    edits: course.edits(),
                    decision: None,
                    standing: Standing::default(),
                    endpoint: Some(chosen.endpoint),
                    picked: chosen.picked,
                })
            }
            (Self::Out(_), None) => Err(Refused {
                reply: LocalReply::text(503, "no way"),
                flag: Flag::NoRoute,
                decision: None,
            }),
        }
    }

    /// Whether a request that passed would pass by the newest policy too.
    pub(super) fn still_passes(&self, view: &RequestView<'_>, pass: &Pass) -> bool {
        match (self, &pass.endpoint) {
            (Self::In(side), _) => side.gate.still_admits(view, &pass.standing),
            (Self::Out(way), Some(endpoint)) => outbound::decide(&way.shared, &way.connection, endpoint).is_ok(),
            (Self::Out(_), None) => false,
        }
    }

    /// Room for the request's stream on a connection that is there already.
    pub(super) fn slot_now(&self, pass: &Pass) -> Option<Slot> {
        match (self, &pass.endpoint) {
            (Self::Out(way), Some(endpoint)) => {
                let upstreams = &way.shared.http2;
                upstreams.slot_now(&way.shared, &way.connection, endpoint, &pass.permit)
            }
            (Self::In(side), _) => {
                let slot = side.line.slot_now(|_| true)?;
                side.gate.connection.facts().upstream = Some(side.app);
                Some(slot)
            }
            (Self::Out(_), None) => None,
        }
    }

    /// The same on any connection to where it goes.
    pub(super) async fn slot(&self, pass: &Pass) -> Result<Slot, Unreachable> {
        match (self, &pass.endpoint) {
            (Self::Out(way), Some(endpoint)) => {
                let upstreams = &way.shared.http2;
                upstreams
                    .slot(&way.shared, &way.connection, endpoint, &pass.permit)
                    .await
            }
            (Self::In(side), _) => {
                let slot = side.line.slot(|_| true, || side.open(&pass.permit)).await?;
                side.gate.connection.facts().upstream = Some(side.app);
                Ok(slot)
            }
            (Self::Out(_), None) => Err(crate::dial::DialError::NoIdentity.into()),
        }
    }

    /// Told when the application behind an inbound connection wants no more streams; its client is then told too.
    pub(super) fn going_away(&self) -> Option<Arc<Notify>> {
        match self {
            Self::In(side) => Some(side.line.going_away()),
            Self::Out(_) => None,
        }
    }
}

impl Pass {
    /// What providers want changed in the response.
    pub(super) fn response_edits(&self) -> Edits {
        self.standing.answered.response.clone()
    }
}

impl In {
    async fn open(&self, permit: &Permit) -> Result<Arc<Upstream>, Unreachable> {
        let shared = &self.gate.shared;
        let dialled = self.dialled.lock().unwrap_or_else(PoisonError::into_inner).take();
        let tcp = match dialled {
            Some(tcp) => tcp,
            None => shared.dialer.app(permit, self.app).await?,
        };
        let grounds = Grounds {
            carrier: Carrier::Plaintext,
            ..Grounds::default()
        };
        Ok(Upstream::start(tcp, &self.limits, grounds, &self.line.signals, &shared.tasks).await?)
    }
}
