//! What differs between the two directions of HTTP/1: who judges a request, and where it goes. Serving them is the same.

use std::{future::Future, net::SocketAddr, sync::Arc};

use squire_mesh::policy::{Decision, PathNormalization};

use super::wire::Wire;
use crate::{
    authorize::Permit,
    ext_authz::Body as Shown,
    http::{Course, Edits, Flag, Forwarded, Gate, LocalReply, Refused, RequestView, Standing},
    metrics::Series,
    traffic::Picked,
};

/// What differs between the two directions: who judges a request, and where it goes.
pub(crate) trait Side: Send {
    /// A connection that requests are sent over.
    type Up: Wire + Send;

    /// What becomes of one request, whoever takes it.
    type Course: Send + Sync;

    /// Decides what becomes of a request.
    fn plan(&self, view: &RequestView<'_>) -> Result<Self::Course, Refused>;

    /// Judges one try of a request and reaches for an upstream. `tried` have failed for this request; `body`: what has
    /// been read of its body to be shown.
    fn prepare(
        &mut self,
        view: &RequestView<'_>,
        course: &Self::Course,
        tried: &[SocketAddr],
        body: Option<Shown<'_>>,
    ) -> impl Future<Output = Result<Prepared<Self::Up>, Refused>> + Send;

    /// How the route of a request changes its handling; none: not at all.
    fn routed(course: &Self::Course) -> Option<&Course>;

    /// Who judges an open request again, if anybody does.
    fn gate(&self) -> Option<Arc<Gate>>;

    /// Takes an upstream back; `usable`: it can carry another request.
    fn give_back(&mut self, up: Self::Up, at: SocketAddr, usable: bool);

    /// The client has not asked for anything for a while: what is kept for it alone, others may have.
    fn rest(&mut self) {}

    /// The upstream whose end ends the client's connection too, while no request is open.
    fn bound(&mut self) -> Option<&mut Self::Up>;

    /// The upstream's refusal, if it failed by one: what the client is to be told.
    fn refusal(up: &Self::Up) -> Option<(LocalReply, Flag)>;

    /// Fields added to every request.
    fn forwarded(&self) -> &Forwarded;

    /// How paths are normalised.
    fn normalization(&self) -> PathNormalization;
}

/// A request that may go, and its upstream.
pub(crate) struct Prepared<U> {
    pub(crate) permit: Permit,
    pub(crate) up: U,
    pub(crate) address: SocketAddr,
    /// It has carried requests before: its end may have crossed ours.
    pub(crate) reused: bool,
    pub(crate) edits: Edits,
    /// To be told how the try went.
    pub(crate) picked: Option<Picked>,
    /// Where it counts; none: where its connection does.
    pub(crate) series: Option<Arc<Series>>,
    pub(crate) decision: Option<Decision>,
    pub(crate) standing: Standing,
}
