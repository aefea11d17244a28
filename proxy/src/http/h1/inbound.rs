//! Peer to application: each request passes the gate, then goes to the application beside us over a connection that
//! belongs to this client alone.

use std::{net::SocketAddr, sync::Arc};

use squire_mesh::policy::PathNormalization;
use tokio::net::TcpStream;

use super::{
    side::{Prepared, Side},
    wire::{TcpWire, Wire as _},
};
use crate::{
    ext_authz::Body as Shown,
    http::{Course, Flag, Forwarded, Gate, LocalReply, Refused, RequestView},
};

/// The inbound side of one connection.
pub(crate) struct Inbound {
    gate: Arc<Gate>,
    app: SocketAddr,
    idle: Option<TcpWire>,
    /// The idle one has carried requests.
    used: bool,
    forwarded: Forwarded,
}

impl Inbound {
    /// To the application at `app`, to which a connection may have been opened already.
    pub(crate) fn new(gate: Arc<Gate>, app: SocketAddr, open: Option<TcpStream>) -> Self {
        Self {
            forwarded: Forwarded::of(&gate),
            gate,
            app,
            idle: open.map(|tcp| TcpWire::new(tcp, &[])),
            used: false,
        }
    }
}

impl Side for Inbound {
    type Up = TcpWire;
    type Course = ();

    fn plan(&self, _view: &RequestView<'_>) -> Result<(), Refused> {
        Ok(())
    }

    fn routed(_course: &()) -> Option<&Course> {
        None
    }

    async fn prepare(
        &mut self,
        view: &RequestView<'_>,
        _course: &(),
        _tried: &[SocketAddr],
        body: Option<Shown<'_>>,
    ) -> Result<Prepared<TcpWire>, Refused> {
        let admitted = self.gate.admit(view, body).await?;
        let (up, reused) = match self.idle.take().filter_map_quiet() {
            Some(up) => (up, self.used),
            None => {
                let dialled = Box::pin(self.gate.shared.dialer.app(&admitted.permit, self.app)).await;
                let tcp = dialled.map_err(|error| {
                    tracing::debug!(%error, "the application could not be reached");
                    Refused {
                        reply: LocalReply::text(503, "the application could not be reached"),
                        flag: Flag::Unreachable,
                        decision: Some(admitted.decision.clone()),
                    }
                })?;
                (TcpWire::new(tcp, &[]), false)
            }
        };
        self.gate.connection.facts().upstream = Some(self.app);
        Ok(Prepared {
            permit: admitted.permit,
            up,
            address: self.app,
            reused,
            edits: admitted.edits,
            picked: None,
            series: None,
            decision: Some(admitted.decision),
            standing: admitted.standing,
        })
    }

    fn gate(&self) -> Option<Arc<Gate>> {
        Some(Arc::clone(&self.gate))
    }

    fn give_back(&mut self, up: TcpWire, _at: SocketAddr, usable: bool) {
        self.used = true;
        self.idle = usable.then_some(up);
    }

    fn bound(&mut self) -> Option<&mut TcpWire> {
        self.idle.as_mut()
    }

    fn refusal(_up: &TcpWire) -> Option<(LocalReply, Flag)> {
        None
    }

    fn forwarded(&self) -> &Forwarded {
        &self.forwarded
    }

    fn normalization(&self) -> PathNormalization {
        let snapshot = self.gate.shared.snapshot();
        snapshot
            .policy
            .as_ref()
            .map_or_else(PathNormalization::default, |table| table.path_normalization)
    }
}

trait Quiet {
    fn filter_map_quiet(self) -> Self;
}

impl Quiet for Option<TcpWire> {
    /// Only if it can carry another request.
    fn filter_map_quiet(self) -> Self {
        self.and_then(|mut wire| wire.is_quiet().then_some(wire))
    }
}
