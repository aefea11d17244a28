//! The way out of one connection: what becomes of this request, where does it go, and may it? Each request is routed,
//! balanced and judged by egress policy anew. Opens nothing and moves no bytes.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Edits, Flag, LocalReply, Refused, RequestView};
use crate::{
    authorize::Permit,
    connection::Connection,
    demand::Need,
    outbound,
    outcome::Outcome,
    route::{Endpoint, Route, Target},
    shared::Shared,
    traffic::{Attempt, Forward, PickError, Picked, Plan},
};

/// Where the requests of one connection were sent by the application.
pub(crate) struct Way {
    pub(crate) shared: Arc<Shared>,
    pub(crate) connection: Arc<Connection>,
    pub(crate) route: Route,
    pub(crate) target: Target,
}

/// What becomes of one request, whichever endpoint takes it.
pub(crate) struct Course {
    shared: Arc<Shared>,
    to: To,
}

enum To {
    /// By the routes of a Service.
    Service(Box<Forward>),
    /// To the one endpoint there is.
    Endpoint(Box<Endpoint>),
}

/// The endpoint for one try of a request.
pub(crate) struct Chosen {
    pub(crate) endpoint: Endpoint,
    pub(crate) permit: Permit,
    /// To be told how the try went; none: there was no choice.
    pub(crate) picked: Option<Picked>,
}

impl Way {
    /// What becomes of a request.
    pub(crate) fn plan(&self, view: &RequestView<'_>) -> Result<Course, Refused> {
        let shared = Arc::clone(&self.shared);
        let to = match &self.route {
            Route::Endpoint(endpoint) => To::Endpoint(endpoint.clone()),
            Route::Service(service, port) => {
                let snapshot = shared.snapshot();
                // The newest state of the service counts, not the one the connection began with.
                let service = snapshot.service(service.name.as_str()).unwrap_or(service);
                match shared.traffic.plan(&snapshot, service, *port, view) {
                    Plan::Forward(forward) => To::Service(Box::new(forward)),
                    Plan::Reply { reply, why, route } => {
                        tracing::debug!(why, ?route, "a route answered");
                        return Err(Refused {
                            reply,
                            flag: Flag::RouteReply,
                            decision: None,
                        });
                    }
                }
            }
        };
        Ok(Course { shared, to })
    }

    /// Waits until the endpoints that may take a request are known.
    pub(crate) async fn known(&self, course: &Course) -> Result<(), Refused> {
        let To::Service(forward) = &course.to else {
            return Ok(());
        };
        let known = self.shared.known(Need::Service(&forward.service)).await;
        known.map_err(|unanswered| {
            tracing::debug!(%unanswered, "a request was refused");
            Refused {
                reply: LocalReply::text(503, "the mesh does not know yet where this goes"),
                flag: Flag::Unanswered,
                decision: None,
            }
        })
    }

    /// The endpoint for a try; `tried` have failed for this request already.
    pub(crate) fn choose(&self, course: &Course, tried: &[SocketAddr]) -> Result<Chosen, Refused> {
        let (mut endpoint, picked) = match &course.to {
            To::Endpoint(endpoint) => (Endpoint::clone(endpoint), None),
            To::Service(forward) => {
                let snapshot = self.shared.snapshot();
                let service = forward.service.as_str();
                let picked = self
                    .shared
                    .traffic
                    .pick(&snapshot, service, forward.port, tried, Instant::now())
                    .map_err(|error| unpicked(&error))?;
                (picked.endpoint().clone(), Some(picked))
            }
        };
        self.shared
            .destinations
            .settle(&self.shared.snapshot(), &self.target, &mut endpoint)
            .map_err(no_route)?;
        let permit = outbound::decide(&self.shared, &self.connection, &endpoint).map_err(|outcome| match outcome {
            Outcome::Denied => Refused {
                reply: LocalReply::text(403, "RBAC: access denied"),
                flag: Flag::Denied,
                decision: self.connection.facts().decision.clone(),
            },
            _ => Refused {
                reply: LocalReply::text(503, "not ready"),
                flag: Flag::NotReady,
                decision: None,
            },
        })?;
        Ok(Chosen {
            endpoint,
            permit,
            picked,
        })
    }
}

impl Course {
    fn forward(&self) -> Option<&Forward> {
        match &self.to {
            To::Service(forward) => Some(forward),
            To::Endpoint(_) => None,
        }
    }

    /// What the route wants changed in the request.
    pub(crate) fn edits(&self) -> Edits {
        self.forward().map(|forward| forward.edits.clone()).unwrap_or_default()
    }

    /// What the route wants changed in the response.
    pub(crate) fn response_edits(&self) -> Edits {
        self.forward()
            .map(|forward| forward.response_edits.clone())
            .unwrap_or_default()
    }

    /// From the request's head to the response's last byte.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        self.forward()?.request_timeout
    }

    /// The same for one try.
    pub(crate) fn try_timeout(&self) -> Option<Duration> {
        self.forward()?.try_timeout
    }

    /// For connecting; none: the dialer's own.
    pub(crate) fn connect_timeout(&self) -> Option<Duration> {
        self.forward()?.connect_timeout
    }

    /// The route, for metrics and logs.
    pub(crate) fn route(&self) -> Option<Arc<str>> {
        self.forward()?.route.clone()
    }

    /// Whether a response with this status may be worth another try.
    pub(crate) fn wants(&self, status: u16) -> bool {
        self.forward().is_some_and(|forward| forward.retry.wants(status))
    }

    /// After what wait a failed try may be made again, if it may. A yes counts against the retry budget.
    pub(crate) fn retry(&self, attempt: &Attempt<'_>) -> Option<Duration> {
        let forward = self.forward()?;
        let snapshot = self.shared.snapshot();
        self.shared
            .traffic
            .retry(&snapshot, forward, attempt, Instant::now())
            .ok()
    }
}

fn unpicked(error: &PickError) -> Refused {
    Refused {
        reply: error.reply(),
        flag: match error {
            PickError::NoEndpoint(_) => Flag::NoRoute,
            PickError::TooManyRequests | PickError::TooManyPending | PickError::EndpointsFull => Flag::Overflow,
        },
        decision: None,
    }
}

fn no_route(why: &str) -> Refused {
    Refused {
        reply: LocalReply::text(503, why),
        flag: Flag::NoRoute,
        decision: None,
    }
}
