//! Application to peer: each request is sent where its route leads, over an upstream connection that was kept or is
//! opened for it.

use std::{
    future::poll_fn,
    io::{self, IoSlice},
    net::SocketAddr,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use squire_mesh::policy::PathNormalization;
use tokio::time::timeout;

use super::{
    idle::{IdleUp, UpKey},
    side::{Prepared, Side},
    wire::{LinkWire, TcpWire, Wire},
};
use crate::{
    connection::Carrier,
    dial::DialError,
    ext_authz::Body as Shown,
    http::{Chosen, Course, Flag, Forwarded, Gate, LocalReply, Refused, RequestView, Standing, Way},
    link::{Framing, LinkStream, frame::ResetReason},
    outbound,
    pool::Key,
    route::Via,
    traffic::TryResult,
};

/// How long an upstream that we close may take to close its half.
const GOODBYE: Duration = Duration::from_secs(1);
/// Endpoints tried before a request is given up.
const TRIES: usize = 3;

/// A connection to an upstream, in or outside the mesh.
pub(crate) enum UpWire {
    Link(Box<LinkWire>),
    Tcp(Box<TcpWire>),
}

/// The outbound side of one connection.
pub(crate) struct Outbound {
    way: Way,
    /// The upstream of the request before: most clients stay with one.
    last: Option<(UpKey, IdleUp)>,
    /// Of the upstream in use.
    current: Option<(UpKey, IdleParts)>,
    forwarded: Forwarded,
}

/// What an [`IdleUp`] is made of beside its connection.
struct IdleParts {
    peer: Option<Arc<squire_mesh::svid::VerifiedPeer>>,
    generation: u64,
    series: Arc<crate::metrics::Series>,
}

impl Outbound {
    /// Along `way`; `open`: an upstream that was reached before the client's first bytes were there.
    pub(crate) fn new(way: Way, open: Option<(UpKey, IdleUp)>) -> Self {
        Self {
            way,
            last: open,
            current: None,
            forwarded: Forwarded::none(),
        }
    }

    /// The upstream of the request before, if it leads to `key` and is still good; else one that was kept.
    fn kept(&mut self, key: &UpKey) -> Option<IdleUp> {
        let shared = &self.way.shared;
        let snapshot = shared.snapshot();
        let generation = shared.generation();
        if let Some((last, mut up)) = self.last.take() {
            if last != *key {
                shared.upstreams.put(last, up);
            } else if up.is_good(&snapshot, generation) {
                return Some(up);
            } else {
                up.wire.retire();
            }
        }
        shared.upstreams.take(key, &snapshot, generation)
    }
}

impl Side for Outbound {
    type Up = UpWire;
    type Course = Course;

    fn plan(&self, view: &RequestView<'_>) -> Result<Course, Refused> {
        self.way.plan(view)
    }

    fn routed(course: &Course) -> Option<&Course> {
        Some(course)
    }

    async fn prepare(
        &mut self,
        _view: &RequestView<'_>,
        course: &Course,
        tried: &[SocketAddr],
        _body: Option<Shown<'_>>,
    ) -> Result<Prepared<UpWire>, Refused> {
        self.way.known(course).await?;
        let mut tried = tried.to_vec();
        loop {
            let mut chosen = self.way.choose(course, &tried)?;
            let key = UpKey {
                address: chosen.endpoint.address,
                peer: match &chosen.endpoint.via {
                    Via::Plaintext => None,
                    Via::Mesh(peer, _) => Some(peer.clone()),
                },
            };
            let (up, reused) = match self.kept(&key) {
                Some(up) => (up, true),
                None => match Box::pin(reach(&self.way, course, &mut chosen)).await {
                    Ok(up) => (up, false),
                    Err(error) if tried.len() + 1 < TRIES && chosen.picked.is_some() => {
                        tracing::debug!(address = %key.address, %error, "endpoint not reached");
                        tried.push(key.address);
                        continue;
                    }
                    Err(error) => return Err(unreachable_endpoint(&error)),
                },
            };
            if let Some(picked) = &mut chosen.picked {
                picked.connected();
            }
            let IdleUp {
                wire,
                peer,
                generation,
                series,
                ..
            } = up;
            let parts = IdleParts {
                peer,
                generation,
                series: Arc::clone(&series),
            };
            self.current = Some((key, parts));
            return Ok(Prepared {
                permit: chosen.permit,
                up: wire,
                address: chosen.endpoint.address,
                reused,
                edits: course.edits(),
                picked: chosen.picked,
                series: Some(series),
                decision: None,
                standing: Standing::default(),
            });
        }
    }

    fn gate(&self) -> Option<Arc<Gate>> {
        None
    }

    fn give_back(&mut self, up: UpWire, _at: SocketAddr, usable: bool) {
        match self.current.take() {
            Some((key, parts)) if usable => {
                let up = IdleUp::new(up, parts.peer, parts.generation, parts.series);
                self.last = Some((key, up));
            }
            _ => up.retire(),
        }
    }

    fn rest(&mut self) {
        if let Some((key, up)) = self.last.take() {
            self.way.shared.upstreams.put(key, up);
        }
    }

    fn bound(&mut self) -> Option<&mut UpWire> {
        None
    }

    fn refusal(up: &UpWire) -> Option<(LocalReply, Flag)> {
        let UpWire::Link(wire) = up else { return None };
        Some(match wire.reset_reason()? {
            ResetReason::Denied => (LocalReply::text(403, "RBAC: access denied"), Flag::Denied),
            ResetReason::Unreachable => (
                LocalReply::text(503, "the application could not be reached"),
                Flag::Unreachable,
            ),
            ResetReason::Draining => (LocalReply::text(503, "the peer is shutting down"), Flag::UpstreamReset),
            ResetReason::Aborted | ResetReason::Other(_) => return None,
        })
    }

    fn forwarded(&self) -> &Forwarded {
        &self.forwarded
    }

    fn normalization(&self) -> PathNormalization {
        let snapshot = self.way.shared.snapshot();
        snapshot
            .policy
            .as_ref()
            .map_or_else(PathNormalization::default, |table| table.path_normalization)
    }
}

impl Drop for Outbound {
    fn drop(&mut self) {
        self.rest();
    }
}

/// Opens an upstream connection in the time there is for it, and says whether the endpoint is to blame if it fails.
async fn reach(way: &Way, course: &Course, chosen: &mut Chosen) -> Result<IdleUp, DialError> {
    let begun = Instant::now();
    let opening = open(way, chosen);
    let opened = match course.connect_timeout() {
        None => opening.await,
        Some(limit) => {
            let address = chosen.endpoint.address;
            timeout(limit, opening)
                .await
                .unwrap_or(Err(DialError::Timeout { address, limit }))
        }
    };
    if let (Err(error), Some(picked)) = (&opened, &mut chosen.picked)
        && !matches!(error, DialError::NoIdentity)
    {
        picked.responded(TryResult::Failure, begun.elapsed(), Instant::now());
    }
    opened
}

/// Opens an upstream connection to the endpoint that was chosen.
async fn open(way: &Way, chosen: &Chosen) -> Result<IdleUp, DialError> {
    let shared = &way.shared;
    let record = &way.connection;
    let address = chosen.endpoint.address;
    let from = shared.source(&shared.snapshot());
    let (wire, peer, generation) = match &chosen.endpoint.via {
        Via::Plaintext => {
            let from = chosen.endpoint.workload.as_ref().and(from);
            let tcp = Box::pin(shared.dialer.tcp(address, from)).await?;
            crate::socket::tune(&socket2::SockRef::from(&tcp));
            record.facts().carrier = Carrier::Plaintext;
            (UpWire::Tcp(Box::new(TcpWire::new(tcp, &[]))), None, 0)
        }
        Via::Mesh(peer, Framing::Squire) => {
            let key = Key {
                peer: peer.clone(),
                address,
                from,
            };
            let leased = Box::pin(shared.pool.lease(&key)).await?;
            outbound::note(
                record,
                &leased.peer,
                Framing::Squire,
                leased.parameters,
                leased.handshake,
            );
            let (peer, generation) = (Arc::clone(&leased.peer), leased.generation);
            let stream = shared.pool.stream(key, leased, stream_id(way));
            (UpWire::Link(Box::new(LinkWire::new(stream))), Some(peer), generation)
        }
        Via::Mesh(peer, Framing::Plain) => {
            let credentials = shared.credentials.borrow().clone().ok_or(DialError::NoIdentity)?;
            let dialled = Box::pin(shared.dialer.mesh(&credentials, peer, Framing::Plain, address, from)).await?;
            outbound::note(
                record,
                &dialled.peer,
                Framing::Plain,
                dialled.parameters,
                Some(dialled.took),
            );
            let stream = LinkStream::accepted(dialled.link, 0, Box::new(|_, _| {}));
            (
                UpWire::Link(Box::new(LinkWire::new(stream))),
                Some(dialled.peer),
                credentials.generation,
            )
        }
    };
    let series = shared.metrics.series_of(record);
    record.count_in(Arc::clone(&series));
    Ok(IdleUp::new(wire, peer, generation, series))
}

/// The connection's own id for its first upstream, so that both ends log the same; others for those after it.
fn stream_id(way: &Way) -> u64 {
    if way.connection.requests() <= 1 {
        way.connection.id
    } else {
        way.shared.next_id()
    }
}

fn unreachable_endpoint(error: &DialError) -> Refused {
    Refused {
        reply: LocalReply::text(503, "no endpoint could be reached"),
        flag: match error {
            DialError::NoIdentity => Flag::NotReady,
            _ => Flag::Unreachable,
        },
        decision: None,
    }
}

impl UpWire {
    /// Ends it in order, in the background.
    pub(crate) fn retire(mut self) {
        let ending = async move {
            let _ = timeout(GOODBYE, poll_fn(|cx| poll_goodbye(&mut self, cx))).await;
        };
        // Without a runtime (a test that has ended) it is just dropped.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(ending);
        }
    }
}

fn poll_goodbye(up: &mut UpWire, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
    std::task::ready!(up.poll_finish(cx))?;
    while !up.ended() {
        let waiting = up.input().len();
        up.consume(waiting);
        std::task::ready!(up.poll_fill(cx))?;
    }
    Poll::Ready(Ok(()))
}

impl Wire for UpWire {
    fn input(&self) -> &[u8] {
        match self {
            Self::Link(wire) => wire.input(),
            Self::Tcp(wire) => wire.input(),
        }
    }

    fn consume(&mut self, count: usize) {
        match self {
            Self::Link(wire) => wire.consume(count),
            Self::Tcp(wire) => wire.consume(count),
        }
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match self {
            Self::Link(wire) => wire.poll_fill(cx),
            Self::Tcp(wire) => wire.poll_fill(cx),
        }
    }

    fn ended(&self) -> bool {
        match self {
            Self::Link(wire) => wire.ended(),
            Self::Tcp(wire) => wire.ended(),
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self {
            Self::Link(wire) => wire.poll_send(cx, bufs),
            Self::Tcp(wire) => wire.poll_send(cx, bufs),
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Link(wire) => wire.poll_flush(cx),
            Self::Tcp(wire) => wire.poll_flush(cx),
        }
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Link(wire) => wire.poll_finish(cx),
            Self::Tcp(wire) => wire.poll_finish(cx),
        }
    }

    fn abort(&mut self) {
        match self {
            Self::Link(wire) => wire.abort(),
            Self::Tcp(wire) => wire.abort(),
        }
    }
}
