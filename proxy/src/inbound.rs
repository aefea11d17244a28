//! Peer to application, in order: accept → TLS → identify → authorize → dial the application → forward → close. Each
//! application connection on a link is authorized anew. This page knows the order; the steps live elsewhere.

mod links;

use std::{net::SocketAddr, sync::Arc, time::Instant};

use squire_mesh::{policy::MtlsMode, svid::VerifiedPeer};
use tokio::net::TcpStream;

use self::links::mutual_tls;
use crate::{
    accept::Accepted,
    authorize::{self, Question},
    begin::{self, Asked, Begun},
    connection::{Carrier, Direction, Facts, Record},
    demand::{Need, Unanswered},
    first_bytes::{self, First},
    forward::{self, Interrupted},
    http::{
        Gate,
        h1::{self, TcpWire, Wire},
        h2,
    },
    outcome::Outcome,
    shared::Shared,
    socket,
};

/// One accepted connection, from its first byte to its last.
pub(crate) async fn serve(shared: Arc<Shared>, accepted: Accepted) {
    let Accepted {
        tcp,
        client,
        destination,
        app,
        port,
        since,
        slot: _slot,
    } = accepted;
    let arrival = Arrival {
        client,
        destination,
        port,
        app,
    };
    let snapshot = shared.snapshot();
    let Some(table) = &snapshot.policy else {
        return arrival.refuse(&shared, since, &Outcome::NotReady("policy"));
    };
    if shared.destinations.is_own(&snapshot, arrival.app) {
        let outcome = Outcome::NoRoute("the destination is this sidecar itself");
        return arrival.refuse(&shared, since, &outcome);
    }
    let mode = table.mtls_mode(arrival.port);
    drop(snapshot);
    // Boxed: a connection then holds the frame of its own way, not of the longest.
    match mode {
        MtlsMode::Strict => Box::pin(mutual_tls(&shared, tcp, Vec::new(), since, arrival)).await,
        MtlsMode::Disable => Box::pin(plaintext(&shared, tcp, &[], None, since, arrival)).await,
        MtlsMode::Permissive => Box::pin(permissive(&shared, tcp, since, arrival)).await,
    }
}

/// Where a connection came from and what it is meant for.
#[derive(Debug, Clone, Copy)]
struct Arrival {
    client: SocketAddr,
    destination: SocketAddr,
    port: u16,
    app: SocketAddr,
}

impl Arrival {
    fn asked<'a>(&self, peer: Option<&'a VerifiedPeer>) -> Asked<'a> {
        let question = Question {
            peer,
            remote: self.client,
            local: self.destination,
            port: self.port,
        };
        Asked {
            question,
            app: self.app,
        }
    }

    /// Opens a record with what is known from the start.
    fn record(&self, shared: &Shared, id: u64, since: Instant, facts: Facts) -> Record {
        let local = shared
            .credentials
            .borrow()
            .as_ref()
            .map(|credentials| credentials.svid.id().clone());
        let facts = Facts {
            port: self.port,
            local,
            ..facts
        };
        shared
            .recorder
            .open(Direction::Inbound, id, since, (self.client, self.destination), facts)
    }

    /// Waits until it is known who is at the address it comes from.
    async fn source_known(&self, shared: &Shared) -> Result<(), Unanswered> {
        shared.known(Need::Source(self.client.ip())).await
    }

    /// A connection that ends before anything is known of it.
    fn refuse(&self, shared: &Shared, since: Instant, outcome: &Outcome) {
        self.record(shared, shared.next_id(), since, Facts::default())
            .close(outcome);
    }
}

/// PERMISSIVE: mesh TLS if the client starts it; anything else passes as it is, without an identity.
async fn permissive(shared: &Arc<Shared>, tcp: TcpStream, since: Instant, arrival: Arrival) {
    if let Err(unanswered) = arrival.source_known(shared).await {
        return arrival.refuse(shared, since, &Outcome::Unanswered(unanswered));
    }
    let snapshot = shared.snapshot();
    let may_enter = authorize::prospect(&snapshot, arrival.asked(None).question);
    let address = arrival.client.ip();
    let peer = snapshot
        .workloads_at(address)
        .any(|workload| workload.transport.is_mtls());
    drop(snapshot);
    let limit = shared.dialer.timeouts.handshake;
    let first = Box::pin(first_bytes::wait(
        shared,
        &tcp,
        arrival.app,
        may_enter.as_ref(),
        peer,
        limit,
    ))
    .await;
    match first {
        Ok(First::Mesh(received)) => Box::pin(mutual_tls(shared, tcp, received, since, arrival)).await,
        Ok(First::Opaque { received, app }) => Box::pin(plaintext(shared, tcp, &received, app, since, arrival)).await,
        Ok(First::Silent) => arrival.refuse(shared, since, &Outcome::HandshakeTimeout),
        Err(error) => arrival.refuse(shared, since, &Outcome::Interrupted(Interrupted::Far(error))),
    }
}

/// Without mutual TLS: authorized as an unauthenticated source.
async fn plaintext(
    shared: &Arc<Shared>,
    tcp: TcpStream,
    received: &[u8],
    app: Option<TcpStream>,
    since: Instant,
    arrival: Arrival,
) {
    let facts = Facts {
        carrier: Carrier::Plaintext,
        ..Facts::default()
    };
    let record = arrival.record(shared, shared.next_id(), since, facts);
    let mut wire = TcpWire::new(tcp, received);
    let begun = match arrival.source_known(shared).await {
        Ok(()) => Box::pin(begin::begin(shared, &record, &arrival.asked(None), &mut wire, app)).await,
        Err(unanswered) => Begun::Refused(Outcome::Unanswered(unanswered)),
    };
    let outcome = match begun {
        Begun::Http1 { app } => Box::pin(requests(shared, &record, &arrival, None, &mut wire, app)).await,
        Begun::Http2 { app } => {
            let (tcp, received) = wire.into_parts();
            let gate = gate(shared, &record, &arrival, None);
            Box::pin(h2::serve_inbound(gate, tcp, received.into(), arrival.app, app)).await
        }
        Begun::Bytes { permit, app } => {
            let (tcp, received) = wire.into_parts();
            let forwarded = forward::plain(&permit, &tcp, &app, &received, &record).await;
            if forwarded.is_err() {
                socket::abort_on_close(&tcp);
                socket::abort_on_close(&app);
            }
            forwarded.map_or_else(Outcome::Interrupted, |()| Outcome::Complete)
        }
        Begun::Refused(outcome) => outcome,
    };
    record.close(&outcome);
}

/// HTTP/1: each request passes the gate.
async fn requests<D: Wire + Send>(
    shared: &Arc<Shared>,
    record: &Record,
    arrival: &Arrival,
    peer: Option<&Arc<VerifiedPeer>>,
    wire: &mut D,
    app: Option<TcpStream>,
) -> Outcome {
    let gate = gate(shared, record, arrival, peer);
    let mut side = h1::Inbound::new(gate, arrival.app, app);
    h1::serve(shared, record, wire, &mut side).await
}

/// The gate that the requests of a connection pass.
fn gate(shared: &Arc<Shared>, record: &Record, arrival: &Arrival, peer: Option<&Arc<VerifiedPeer>>) -> Arc<Gate> {
    let workload = authorize::workload_at(&shared.snapshot(), arrival.client, peer.map(|peer| &**peer));
    record.facts().peer_workload = workload.map(|workload| workload.uid.clone());
    record.count_in(shared.metrics.series_of(record));
    Arc::new(Gate::new(
        Arc::clone(shared),
        Arc::clone(record),
        peer.map(Arc::clone),
        arrival.destination,
        arrival.port,
    ))
}
