//! The way out of one connection: where does this request go, and may it? Each request is routed, balanced and judged by
//! egress policy anew. Opens nothing and moves no bytes.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use super::{Edits, Flag, LocalReply, Refused, RequestView};
use crate::{
    authorize::Permit,
    connection::Connection,
    outbound,
    outcome::Outcome,
    route::{Endpoint, Target},
    shared::Shared,
};

/// Where the requests of one connection were sent by the application.
pub(crate) struct Way {
    pub(crate) shared: Arc<Shared>,
    pub(crate) connection: Arc<Connection>,
    pub(crate) target: Target,
}

/// Where one request goes.
pub(crate) struct Chosen {
    pub(crate) endpoint: Endpoint,
    pub(crate) permit: Permit,
    /// What the route wants changed in the request.
    pub(crate) edits: Edits,
    /// From the request's head to the response's last byte.
    pub(crate) timeout: Option<Duration>,
    /// The route, for metrics and logs.
    pub(crate) route: Option<Arc<str>>,
}

impl Way {
    /// The endpoint for a request; `tried` have failed for it already.
    pub(crate) fn choose(&self, _view: &RequestView<'_>, tried: &[SocketAddr]) -> Result<Chosen, Refused> {
        let endpoints = self
            .shared
            .destinations
            .endpoints(&self.shared.snapshot(), &self.target)
            .map_err(|why| no_route(&Outcome::NoRoute(why)))?;
        let endpoint = endpoints
            .into_iter()
            .find(|endpoint| !tried.contains(&endpoint.address))
            .ok_or_else(|| no_route(&Outcome::NoRoute("no endpoint is left to try")))?;
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
            edits: Edits::default(),
            timeout: None,
            route: None,
        })
    }
}

fn no_route(outcome: &Outcome) -> Refused {
    Refused {
        reply: LocalReply::text(503, &outcome.detail()),
        flag: Flag::NoRoute,
        decision: None,
    }
}
