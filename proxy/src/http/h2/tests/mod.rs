//! Streams between real clients and real servers of HTTP/2, with this sidecar's code in between.

mod strict;

/// Every test of this room, with our own engine.
#[path = "."]
#[allow(clippy::duplicate_mod, reason = "the same tests on purpose, once for each engine")]
mod with_squire {
    use super::{super::wire::Engine, *};

    const ENGINE: Engine = Engine::Squire;

    #[path = "hostile.rs"]
    mod hostile;
    #[path = "inbound.rs"]
    mod inbound;
    #[path = "outbound.rs"]
    mod outbound;

    fn rig(table: &Table) -> Rig {
        Rig::new(table, ENGINE)
    }

    fn rig_with(table: &Table, limits: Limits) -> Rig {
        Rig::with(table, limits, ENGINE)
    }
}

/// The same tests, with the `h2` crate: both engines do the same.
#[path = "."]
#[allow(clippy::duplicate_mod, reason = "the same tests on purpose, once for each engine")]
mod with_h2 {
    use super::{super::wire::Engine, *};

    const ENGINE: Engine = Engine::H2;

    #[path = "hostile.rs"]
    mod hostile;
    #[path = "inbound.rs"]
    mod inbound;
    #[path = "outbound.rs"]
    mod outbound;

    fn rig(table: &Table) -> Rig {
        Rig::new(table, ENGINE)
    }

    fn rig_with(table: &Table, limits: Limits) -> Rig {
        Rig::with(table, limits, ENGINE)
    }
}

use std::{
    cell::{Cell, RefCell},
    future::Future,
    time::Duration,
};

use h2::{RecvStream, client::SendRequest, server::SendResponse};
use http::{HeaderMap, Request, Response};
use prost_types::Any;
use squire_mesh::{
    policy::{Attribute, AuthorizationPolicy, Condition, Kind as PolicyKind, ObjectRef, PathMatch, Rule, Table},
    wire::squire,
    workload::WorkloadUid,
};
use tokio::{
    io::DuplexStream,
    net::TcpListener,
    sync::{Semaphore, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{server, wire, *};
use crate::{
    access_log::AccessLog,
    callouts::{self, Callouts},
    config::Unknown,
    connection::{Connection, Direction, Facts, Recorder, Registry},
    destinations::Destinations,
    dial::{Dialer, Timeouts},
    metrics::Metrics,
    pool::{self, Pool},
    route::Target,
    shared::{Ids, Shared},
    state::{Change, Kind, Store, Update},
    tls::fixture::Ca,
    traffic::Traffic,
    workload_api::Handed,
};

/// What a server does with a request.
type Answer = fn(Request<RecvStream>, SendResponse<Bytes>) -> Answering;
type Answering = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

/// A sidecar without listeners: what streams need of it.
struct Rig {
    store: Store,
    shared: Arc<Shared>,
    draining: CancellationToken,
    limits: Limits,
}

impl Rig {
    fn new(table: &Table, engine: wire::Engine) -> Self {
        Self::with(table, Limits::default(), engine)
    }

    fn with(table: &Table, limits: Limits, engine: wire::Engine) -> Self {
        let limits = Limits { engine, ..limits };
        let (store, state) = Store::new(
            WorkloadUid::pod("shop", "db"),
            "cluster.local".parse().unwrap(),
            Ca::new().bundles(),
        );
        let metrics = Arc::new(Metrics::new(prometheus::Registry::new()).unwrap());
        let (_, credentials) = watch::channel(None);
        let timeouts = Timeouts {
            connect: Duration::from_secs(5),
            handshake: Duration::from_secs(5),
        };
        let dialer = Arc::new(Dialer {
            timeouts,
            metrics: Arc::clone(&metrics),
        });
        let kept = pool::Limits {
            ready: 0,
            max_idle_per_peer: 8,
            idle_timeout: Duration::from_secs(60),
        };
        let (tasks, draining) = (TaskTracker::new(), CancellationToken::new());
        let pool = Pool::new(
            kept,
            Arc::clone(&dialer),
            credentials.clone(),
            state.clone(),
            Arc::clone(&metrics),
            tasks.clone(),
        );
        let traffic = Traffic::new(metrics.registry()).unwrap();
        let recorder = Arc::new(Recorder {
            access_log: AccessLog::off(Arc::clone(&metrics)),
            registry: Arc::new(Registry::default()),
            metrics,
        });
        let destinations = Destinations {
            own: Vec::new(),
            transparent: false,
            unknown: Unknown::Passthrough,
        };
        let mesh = callouts::mesh::Mesh {
            demand: None,
            state: state.clone(),
            credentials: credentials.clone(),
            dialer: Arc::clone(&dialer),
            pool: Arc::clone(&pool),
            bind_source: None,
            explicit: false,
        };
        let callouts = Callouts::new(
            Arc::new(mesh),
            None,
            Duration::from_secs(300),
            recorder.metrics.registry(),
        )
        .unwrap();
        let shared = Arc::new(Shared {
            demand: None,
            state,
            credentials,
            metrics: Arc::clone(&recorder.metrics),
            recorder,
            dialer,
            pool,
            callouts,
            traffic,
            http2: Upstreams::new(limits.engine, limits.stall),
            upstreams: Arc::new(crate::http::h1::IdleUpstreams::new(8, Duration::from_secs(60))),
            head_timeout: Duration::from_secs(5),
            stall_timeout: limits.stall,
            handshakes: Arc::new(Semaphore::new(10)),
            bind_source: None,
            explicit: false,
            destinations,
            trust_domain: "cluster.local".parse().unwrap(),
            standing: watch::Sender::default(),
            handed: Handed::default(),
            tasks,
            draining: draining.clone(),
            ids: Ids::default(),
        });
        let mut rig = Self {
            store,
            shared,
            draining,
            limits,
        };
        rig.policy(table);
        rig
    }

    fn policy(&mut self, table: &Table) {
        let any = Any {
            type_url: Kind::Policy.type_url().to_owned(),
            value: prost::Message::encode_to_vec(&squire::Policy::from(table)),
        };
        let change = Change {
            name: "shop/db".to_owned(),
            version: "1".to_owned(),
            resource: Some(any),
        };
        self.store
            .apply(Update {
                kind: Kind::Policy,
                version: "v".to_owned(),
                changed: vec![change],
                removed: Vec::new(),
            })
            .unwrap();
    }

    fn open(&self, direction: Direction) -> crate::connection::Record {
        let ends = ("10.0.0.7:4000".parse().unwrap(), "10.0.0.2:80".parse().unwrap());
        let facts = Facts {
            port: 80,
            ..Facts::default()
        };
        self.shared
            .recorder
            .open(direction, 1, std::time::Instant::now(), ends, facts)
    }

    /// Serves a client inbound: its end of the connection, the connection's record, and how serving ends.
    fn inbound(&self, app: SocketAddr) -> (DuplexStream, Arc<Connection>, JoinHandle<Outcome>) {
        let record = self.open(Direction::Inbound);
        let connection = Arc::clone(&record);
        let gate = Gate::new(
            Arc::clone(&self.shared),
            Arc::clone(&record),
            None,
            record.destination,
            80,
        );
        let (near, far) = tokio::io::duplex(256 * 1024);
        let limits = self.limits;
        let serving = tokio::spawn(async move {
            let side = Arc::new(Side::inbound(Arc::new(gate), app, None, limits));
            let outcome = server::serve(side, far, Bytes::new(), limits).await;
            let end = outcome.label();
            record.close(&outcome);
            tracing::debug!(end);
            outcome
        });
        (near, connection, serving)
    }

    /// Serves an application outbound, whose connection was meant for `to`.
    fn outbound(&self, to: SocketAddr) -> DuplexStream {
        let record = self.open(Direction::Outbound);
        let target = Target::Address(to);
        let way = Way {
            shared: Arc::clone(&self.shared),
            connection: Arc::clone(&record),
            route: crate::route::route(&self.shared.snapshot(), &target).unwrap(),
            target,
        };
        let (near, far) = tokio::io::duplex(256 * 1024);
        tokio::spawn(async move {
            let outcome = serve_outbound(Arc::new(way), far, Bytes::new()).await;
            record.close(&outcome);
        });
        near
    }

    /// The sum of a metric's series that carry all of these labels.
    fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let text = prometheus::TextEncoder::new()
            .encode_to_string(&self.shared.metrics.registry().gather())
            .unwrap();
        text.lines()
            .filter(|line| line.starts_with(name) && labels.iter().all(|label| line.contains(label)))
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
            .sum()
    }

    async fn counted(&self, name: &str, labels: &[&str], value: f64) {
        eventually(&format!("{name} {labels:?} reaches {value}"), || {
            self.metric(name, labels) >= value
        })
        .await;
    }
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let reached = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    assert!(timeout(Duration::from_secs(20), reached).await.is_ok(), "never: {what}");
}

/// Waits for what must happen.
async fn soon<F: Future>(what: F) -> F::Output {
    timeout(Duration::from_secs(20), what).await.expect("it takes too long")
}

/// Nobody but these paths is let in.
fn only(paths: &[&str]) -> Table {
    let mut table = Table::default();
    let condition = Condition {
        negated: false,
        attribute: Attribute::Path(
            paths
                .iter()
                .map(|path| PathMatch::Text(squire_mesh::policy::TextMatch::parse(path)))
                .collect(),
        ),
    };
    table.authorization.allow = [Arc::new(AuthorizationPolicy {
        object: ObjectRef::new(PolicyKind::AuthorizationPolicy, "shop", "secret-policy"),
        rules: [Rule::new(
            Box::default(),
            [vec![condition].into()].into(),
            Box::default(),
        )]
        .into(),
    })]
    .into();
    table
}

/// A server: its address, and how many connections it has had.
async fn server_with(builder: h2::server::Builder, answer: Answer) -> (SocketAddr, watch::Receiver<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (count, counted) = watch::channel(0);
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            count.send_modify(|count| *count += 1);
            let builder = builder.clone();
            tokio::spawn(async move {
                let mut connection = builder.handshake(tcp).await.unwrap();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    // Asked to go away, it does so as soon as everything is served.
                    if request.uri().path() == "/goaway" {
                        respond.send_response(Response::new(()), true).unwrap();
                        connection.graceful_shutdown();
                        continue;
                    }
                    tokio::spawn(answer(request, respond));
                }
            });
        }
    });
    (address, counted)
}

/// An application whose paths say what it does.
async fn app() -> (SocketAddr, watch::Receiver<usize>) {
    server_with(h2::server::Builder::new(), |request, respond| {
        Box::pin(app_answer(request, respond))
    })
    .await
}

async fn app_answer(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let (parts, mut body) = request.into_parts();
    match parts.uri.path() {
        // Sends back what it gets while it gets it, then the trailers.
        "/echo" => {
            let response = Response::builder().header("content-type", "application/grpc");
            let mut stream = respond.send_response(response.body(()).unwrap(), false).unwrap();
            while let Some(Ok(bytes)) = body.data().await {
                body.flow_control().release_capacity(bytes.len()).unwrap();
                send(&mut stream, bytes).await;
            }
            let mut trailers = body.trailers().await.unwrap().unwrap_or_default();
            trailers.insert("grpc-status", "0".parse().unwrap());
            let _ = stream.send_trailers(trailers);
        }
        // Says what it was told.
        "/told" => {
            let mut response = Response::builder().header("x-path", parts.uri.path_and_query().unwrap().as_str());
            for (name, value) in &parts.headers {
                response = response.header(format!("told-{name}"), value);
            }
            response = response.header("told-authority", parts.uri.authority().unwrap().as_str());
            respond.send_response(response.body(()).unwrap(), true).unwrap();
        }
        "/hint" => {
            let hint = Response::builder().status(103).header("link", "</style.css>");
            respond.send_informational(hint.body(()).unwrap()).unwrap();
            respond.send_response(Response::new(()), true).unwrap();
        }
        "/reset" => respond.send_reset(h2::Reason::HTTP_1_1_REQUIRED),
        "/reset-midway" => {
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            send(&mut stream, Bytes::from_static(b"some")).await;
            let _ = body.data().await;
            stream.send_reset(h2::Reason::ENHANCE_YOUR_CALM);
        }
        // As much as anybody takes.
        "/endless" | "/endless-counted" => {
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            while send(&mut stream, Bytes::from_static(&[7; 16 * 1024])).await {
                if parts.uri.path() == "/endless-counted" {
                    SENT.set(SENT.get() + 16 * 1024);
                }
            }
        }
        // Answers only once its client has gone.
        "/never" => {
            WAITING.with_borrow_mut(|waiting| waiting.extend(parts.uri.query().map(str::to_owned)));
            let reason = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
            if let Ok(reason) = reason {
                CANCELLED.with_borrow_mut(|cancelled| cancelled.push(reason));
            }
        }
        _ => {
            respond.send_response(Response::new(()), true).unwrap();
        }
    }
}

// Each test has a thread of its own, and all its tasks run there.
thread_local! {
    /// Bytes that `/endless-counted` has been able to send.
    static SENT: Cell<usize> = const { Cell::new(0) };
    /// The queries of streams of `/never`.
    static WAITING: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    /// How streams of `/never` ended.
    static CANCELLED: RefCell<Vec<h2::Reason>> = const { RefCell::new(Vec::new()) };
}

/// Sends with respect for the window; false: nobody listens any more.
async fn send(stream: &mut h2::SendStream<Bytes>, mut bytes: Bytes) -> bool {
    while !bytes.is_empty() {
        stream.reserve_capacity(bytes.len());
        match std::future::poll_fn(|cx| stream.poll_capacity(cx)).await {
            Some(Ok(room)) => {
                let piece = bytes.split_to(room.min(bytes.len()));
                if stream.send_data(piece, false).is_err() {
                    return false;
                }
            }
            Some(Err(_)) | None => return false,
        }
    }
    true
}

/// A client, and what its connection ends with.
async fn client(io: DuplexStream) -> (SendRequest<Bytes>, JoinHandle<Result<(), h2::Error>>) {
    let (send, connection) = h2::client::handshake(io).await.unwrap();
    (send, tokio::spawn(connection))
}

fn request(path: &str, fields: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::builder().uri(format!("http://db{path}"));
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap()
}

/// A request without a body: the response.
async fn get(
    client: &mut SendRequest<Bytes>,
    path: &str,
    fields: &[(&str, &str)],
) -> Result<Response<RecvStream>, h2::Error> {
    let mut ready = soon(client.clone().ready()).await?;
    let (response, _) = ready.send_request(request(path, fields), true)?;
    soon(response).await
}

/// A frame (RFC 9113 §4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A body to its end, with its trailers.
async fn whole(mut body: RecvStream) -> Result<(Vec<u8>, Option<HeaderMap>), h2::Error> {
    let mut bytes = Vec::new();
    while let Some(piece) = soon(body.data()).await {
        let piece = piece?;
        body.flow_control().release_capacity(piece.len())?;
        bytes.extend_from_slice(&piece);
    }
    Ok((bytes, body.trailers().await?))
}
