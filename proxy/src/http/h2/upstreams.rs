//! The HTTP/2 connections to peers and to servers outside the mesh, shared by all application connections of this
//! sidecar: one line for each endpoint, identity and source address. Connections of another SVID or trust bundle get no
//! new streams; those whose peer is no longer trusted are cut.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use squire_mesh::spiffe::SpiffeId;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use super::{
    limits::Limits,
    line::{Line, Unreachable},
    upstream::{Grounds, Slot, Upstream},
    wire::Engine,
};
use crate::{
    authorize::{Permit, grounds, on_old_root},
    connection::{Carrier, Connection},
    dial::DialError,
    link::{Framing, LinkStream},
    pool::{self, Leased},
    route::{Endpoint, Via},
    shared::Shared,
    socket,
    state::Snapshot,
};

/// Whom a line leads to, and how.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    peer: Option<(SpiffeId, Framing)>,
    address: SocketAddr,
    from: Option<IpAddr>,
}

/// All lines of this sidecar.
pub(crate) struct Upstreams {
    limits: Limits,
    lines: Mutex<HashMap<Key, Arc<Line>>>,
}

impl Upstreams {
    /// With this engine at both ends of every connection; a client that takes nothing of a response is given up after
    /// `stall`.
    pub(crate) fn new(engine: Engine, stall: Duration) -> Self {
        Self {
            limits: Limits {
                engine,
                stall,
                ..Limits::default()
            },
            lines: Mutex::default(),
        }
    }

    /// The bounds of connections on either side.
    pub(super) fn limits(&self) -> Limits {
        self.limits
    }

    /// Room for one stream to `endpoint` on a connection that is there. `for_whom` is the application's connection; its
    /// record learns whom it reaches.
    pub(super) fn slot_now(
        &self,
        shared: &Arc<Shared>,
        for_whom: &Connection,
        endpoint: &Endpoint,
        _permit: &Permit,
    ) -> Option<Slot> {
        let line = self.lock().get(&Key::of(shared, endpoint)).map(Arc::clone)?;
        let slot = line.slot_now(is_current(generation(shared)))?;
        note(shared, for_whom, &slot);
        Some(slot)
    }

    /// The same on any connection, opened if need be.
    pub(super) async fn slot(
        &self,
        shared: &Arc<Shared>,
        for_whom: &Connection,
        endpoint: &Endpoint,
        _permit: &Permit,
    ) -> Result<Slot, Unreachable> {
        let key = Key::of(shared, endpoint);
        let line = self.line(&key);
        let current = is_current(generation(shared));
        let slot = line.slot(current, || self.open(shared, &line, &key)).await?;
        note(shared, for_whom, &slot);
        Ok(slot)
    }

    async fn open(&self, shared: &Arc<Shared>, line: &Line, key: &Key) -> Result<Arc<Upstream>, Unreachable> {
        let Some((peer, framing)) = &key.peer else {
            let tcp = shared.dialer.tcp(key.address, key.from).await?;
            socket::tune(&socket2::SockRef::from(&tcp));
            return Ok(Upstream::start(tcp, &self.limits, plain(), &line.signals, &shared.tasks).await?);
        };
        let (stream, grounds) = match framing {
            Framing::Squire => pooled(shared, key, peer).await?,
            Framing::Plain => dialled(shared, key, peer).await?,
        };
        Ok(Upstream::start(stream, &self.limits, grounds, &line.signals, &shared.tasks).await?)
    }

    /// Takes in a link that was leased, and OPEN sent on it, before it was known that HTTP/2 would be spoken.
    pub(crate) async fn adopt(&self, shared: &Arc<Shared>, link: pool::Key, leased: Leased) {
        let key = Key {
            peer: Some((link.peer.clone(), Framing::Squire)),
            address: link.address,
            from: link.from,
        };
        let grounds = grounds_of(&leased);
        self.take_in(shared, &key, shared.pool.stream_begun(link, leased), grounds)
            .await;
    }

    /// The same for a connection to where no mutual TLS is spoken.
    pub(crate) async fn adopt_plain(&self, shared: &Arc<Shared>, address: SocketAddr, in_mesh: bool, tcp: TcpStream) {
        let key = Key {
            peer: None,
            address,
            from: in_mesh.then(|| shared.source(&shared.snapshot())).flatten(),
        };
        self.take_in(shared, &key, tcp, plain()).await;
    }

    async fn take_in<S>(&self, shared: &Shared, key: &Key, io: S, grounds: Grounds)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let line = self.line(key);
        match Upstream::start(io, &self.limits, grounds, &line.signals, &shared.tasks).await {
            Ok(upstream) => line.adopt(upstream),
            Err(error) => tracing::debug!(%error, "the upstream was lost before its first stream"),
        }
    }

    fn line(&self, key: &Key) -> Arc<Line> {
        let mut lines = self.lock();
        Arc::clone(
            lines
                .entry(key.clone())
                .or_insert_with(|| Arc::new(Line::new(self.limits))),
        )
    }

    /// Closes what is idle or outdated, and cuts what is no longer trusted; called now and then and whenever trust
    /// changes. While this sidecar drains, nothing is kept for later.
    pub(crate) fn sweep(&self, shared: &Shared) {
        let (snapshot, now, generation) = (shared.snapshot(), SystemTime::now(), generation(shared));
        let idle = match shared.draining.is_cancelled() {
            true => Duration::ZERO,
            false => self.limits.idle,
        };
        let grounded = |of: &Grounds| {
            of.peer
                .as_ref()
                .is_none_or(|peer| grounds(&snapshot, peer, now).is_ok())
        };
        let current = |of: &Grounds| of.lasts(&snapshot, generation);
        self.lock()
            .retain(|_, line| line.sweep(idle, current, grounded) > 0 || Arc::strong_count(line) > 1);
    }

    /// Whether streams are open on a connection that stands on a root which does not sign any more.
    pub(crate) fn any_on_old_root(&self, snapshot: &Snapshot) -> bool {
        let old = |of: &Grounds| of.peer.as_ref().is_some_and(|peer| on_old_root(snapshot, peer));
        self.lock().values().any(|line| line.any_active(old))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Arc<Line>>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Key {
    fn of(shared: &Shared, endpoint: &Endpoint) -> Self {
        let in_mesh = endpoint.workload.is_some();
        Self {
            peer: match &endpoint.via {
                Via::Mesh(peer, framing) => Some((peer.clone(), *framing)),
                Via::Plaintext => None,
            },
            address: endpoint.address,
            from: in_mesh.then(|| shared.source(&shared.snapshot())).flatten(),
        }
    }
}

impl Grounds {
    /// Whether it is worth keeping: it was opened with the credentials of now, and its peer is not about to renew.
    fn lasts(&self, snapshot: &Snapshot, generation: Option<u64>) -> bool {
        let old = self.peer.as_ref().is_some_and(|peer| on_old_root(snapshot, peer));
        self.generation.is_none() || (self.generation == generation && !old)
    }
}

fn generation(shared: &Shared) -> Option<u64> {
    shared
        .credentials
        .borrow()
        .as_ref()
        .map(|credentials| credentials.generation)
}

/// Whether a connection was opened with the credentials of now, if it needed any.
fn is_current(generation: Option<u64>) -> impl Fn(&Grounds) -> bool {
    move |grounds| grounds.generation.is_none() || grounds.generation == generation
}

/// On a link from the pool, which takes it back when the HTTP/2 connection is closed.
async fn pooled(shared: &Arc<Shared>, key: &Key, peer: &SpiffeId) -> Result<(LinkStream, Grounds), DialError> {
    let link = pool::Key {
        peer: peer.clone(),
        address: key.address,
        from: key.from,
    };
    let leased = shared.pool.lease(&link).await?;
    let grounds = grounds_of(&leased);
    Ok((shared.pool.stream(link, leased, shared.next_id()), grounds))
}

fn grounds_of(leased: &Leased) -> Grounds {
    Grounds {
        peer: Some(Arc::clone(&leased.peer)),
        generation: Some(leased.generation),
        carrier: Carrier::Mesh(Framing::Squire),
        tls: Some(leased.parameters),
        handshake: leased.handshake,
    }
}

fn plain() -> Grounds {
    Grounds {
        carrier: Carrier::Plaintext,
        ..Grounds::default()
    }
}

/// `squire-tls/1`: a link of its own.
async fn dialled(shared: &Arc<Shared>, key: &Key, peer: &SpiffeId) -> Result<(LinkStream, Grounds), DialError> {
    let credentials = shared.credentials.borrow().clone().ok_or(DialError::NoIdentity)?;
    let dialled = shared
        .dialer
        .mesh(&credentials, peer, Framing::Plain, key.address, key.from)
        .await?;
    let grounds = Grounds {
        peer: Some(Arc::clone(&dialled.peer)),
        generation: Some(credentials.generation),
        carrier: Carrier::Mesh(Framing::Plain),
        tls: Some(dialled.parameters),
        handshake: Some(dialled.took),
    };
    // It is closed with the HTTP/2 connection: there is nothing to give back.
    Ok((
        LinkStream::open(dialled.link, 0, shared.next_id(), Box::new(|_, _| {})),
        grounds,
    ))
}

/// Notes in the application connection's record whom it reaches and how.
fn note(shared: &Shared, connection: &Connection, slot: &Slot) {
    let grounds = &slot.upstream.grounds;
    let mut facts = connection.facts();
    let known = match (&facts.peer, &grounds.peer) {
        (Some(known), Some(peer)) => Arc::ptr_eq(known, peer),
        (None, None) => facts.carrier == grounds.carrier,
        (None, Some(_)) | (Some(_), None) => false,
    };
    if known {
        return;
    }
    facts.peer.clone_from(&grounds.peer);
    facts.carrier = grounds.carrier;
    facts.tls = grounds.tls;
    facts.handshake = grounds.handshake.filter(|_| slot.first);
    facts.reused = !slot.first || grounds.handshake.is_none() && grounds.peer.is_some();
    drop(facts);
    connection.count_in(shared.metrics.series_of(connection));
}
