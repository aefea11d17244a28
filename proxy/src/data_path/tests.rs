//! Two sidecars of one mesh in one process, with real sockets, real TLS and real tables: what an application sees.

mod callouts;

use std::net::SocketAddr;

use prost_types::Any;
use squire_mesh::{
    policy::{
        Attribute, AuthorizationPolicy, Condition, Kind as PolicyKind, MtlsMode, ObjectRef, Rule, Table, TextMatch,
    },
    wire::squire as wire,
    workload::WorkloadUid,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::{
    config::{AccessLog, Authority, Host, HostPort, InboundListener, Log, LogFormat, OutboundListener},
    state::{Change, Kind, Store, Update},
    tls::fixture::Ca,
};

const DOMAIN: &str = "cluster.local";
const PORT: u16 = 5432;

/// A sidecar with its application's address.
struct Sidecar {
    store: Store,
    identity: watch::Sender<Option<Arc<Svid>>>,
    metrics: Arc<Metrics>,
    registry: Arc<Registry>,
    data_path: DataPath,
    /// Where the application reaches db.
    outbound: SocketAddr,
}

/// A mesh of `web` and `db` (and `batch`, whom nobody lets in) on loopback addresses of its own.
struct Mesh {
    ca: Ca,
    subnet: u8,
}

impl Mesh {
    fn new(subnet: u8) -> Self {
        Self { ca: Ca::new(), subnet }
    }

    fn address(&self, name: &str) -> [u8; 4] {
        let host = match name {
            "web" => 1,
            "db" => 2,
            _ => 3,
        };
        [127, 77, self.subnet, host]
    }

    fn socket(&self, name: &str, port: u16) -> SocketAddr {
        SocketAddr::from((self.address(name), port))
    }

    /// Starts the sidecar of `name`; inbound connections go to `app`.
    async fn sidecar(&self, name: &str, app: SocketAddr, table: &Table) -> Sidecar {
        let uid = WorkloadUid::pod("shop", name);
        let (mut store, state) = Store::new(uid, DOMAIN.parse().unwrap(), self.ca.bundles());
        for other in ["web", "db", "batch"] {
            store.apply(self.workload(other, other)).unwrap();
        }
        store.apply(policy(name, table)).unwrap();
        let (identity, follow) = watch::channel(Some(Arc::new(self.svid(name))));
        let metrics = Arc::new(Metrics::new(prometheus::Registry::new()).unwrap());
        let registry = Arc::new(Registry::default());
        let inputs = Inputs {
            identity: follow,
            state,
            demand: None,
            metrics: Arc::clone(&metrics),
            registry: Arc::clone(&registry),
            standing: watch::Sender::default(),
            handed: Handed::default(),
        };
        let data_path = start(&self.config(name, app), inputs).unwrap();
        let outbound = data_path.addresses()[1];
        // Until the credentials have been made of the identity.
        let mut credentials = data_path.shared.credentials.clone();
        credentials.wait_for(Option::is_some).await.unwrap();
        Sidecar {
            store,
            identity,
            metrics,
            registry,
            data_path,
            outbound,
        }
    }

    fn svid(&self, account: &str) -> Svid {
        self.ca.svid(&format!("spiffe://{DOMAIN}/ns/shop/sa/{account}"))
    }

    /// What the mesh is told of `name`: that its certificate shows `account`.
    fn workload(&self, name: &str, account: &str) -> Update {
        let workload = wire::Workload {
            uid: format!("shop/{name}"),
            namespace: "shop".into(),
            name: name.into(),
            service_account: account.into(),
            trust_domain: DOMAIN.into(),
            addresses: vec![self.address(name).to_vec().into()],
            transport: wire::Transport::Squire.into(),
            ..wire::Workload::default()
        };
        update(Kind::Workload, &workload.uid, &workload)
    }

    fn config(&self, name: &str, app: SocketAddr) -> Config {
        let id: squire_mesh::spiffe::SpiffeId = "spiffe://cluster.local/ns/squire-system/sa/squire-control"
            .parse()
            .unwrap();
        let control = Authority {
            address: "127.0.0.1:1".parse().unwrap(),
            id,
        };
        Config {
            workload: WorkloadUid::pod("shop", name),
            trust_domain: DOMAIN.parse().unwrap(),
            identity: None,
            trust_bundle: "unused".into(),
            token: "unused".into(),
            control: control.clone(),
            ca: control,
            admin: "127.0.0.1:0".parse().unwrap(),
            admin_details: crate::config::AdminDetails::Anyone,
            probes: squire_mesh::probe::Probes::default(),
            mode: Mode::Explicit {
                inbound: vec![InboundListener {
                    listen: self.socket(name, PORT),
                    app,
                    port: PORT,
                }],
                outbound: vec![OutboundListener {
                    listen: self.socket(name, 0),
                    to: HostPort {
                        host: Host::Ip(IpAddr::from(self.address("db"))),
                        port: PORT,
                    },
                }],
            },
            bind_source: None,
            limits: config::Limits {
                max_connections: 100,
                max_pending_handshakes: 100,
                handshake_timeout: Duration::from_secs(5),
                head_timeout: Duration::from_secs(5),
                stall_timeout: Duration::from_secs(300),
                connect_timeout: Duration::from_secs(5),
            },
            pool: config::Pool {
                ready: 1,
                max_idle_per_peer: 8,
                idle_timeout: Duration::from_secs(60),
            },
            subscription: crate::config::Subscription {
                mode: crate::config::SubscriptionMode::All,
                timeout: Duration::from_secs(5),
                keep: Duration::from_secs(600),
                max_selectors: 1_000,
            },
            unknown: config::Unknown::Passthrough,
            token_keys_refresh: Duration::from_secs(300),
            tls_engine: config::TlsEngine::Squire,
            http2_engine: config::Http2Engine::Squire,
            drain_grace: Duration::from_secs(10),
            svid_lifetime: Duration::from_secs(3600),
            log: Log {
                filter: "info".into(),
                format: LogFormat::Text,
            },
            access_log: AccessLog::Off,
            workload_api: None,
        }
    }
}

impl Sidecar {
    /// The value of a series as Prometheus would scrape it; 0 where there is none.
    fn metric(&self, series: &str) -> f64 {
        let text = prometheus::TextEncoder::new()
            .encode_to_string(&self.metrics.registry().gather())
            .unwrap();
        let line = text.lines().find(|line| line.starts_with(series));
        line.and_then(|line| line.rsplit_once(' '))
            .map_or(0.0, |(_, value)| value.parse().unwrap())
    }

    /// Waits until a connection has ended with this outcome.
    async fn ended(&self, outcome: &str) {
        self.counted(
            "squire_connections_closed_total",
            &format!("outcome=\"{outcome}\""),
            1.0,
        )
        .await;
    }

    /// Waits until a series of this metric with this label has reached `value`.
    async fn counted(&self, metric: &str, label: &str, value: f64) {
        let reached = async {
            loop {
                let text = prometheus::TextEncoder::new()
                    .encode_to_string(&self.metrics.registry().gather())
                    .unwrap();
                let mut lines = text
                    .lines()
                    .filter(|line| line.starts_with(metric) && line.contains(label));
                if lines.any(|line| {
                    line.rsplit_once(' ')
                        .is_some_and(|(_, now)| now.parse::<f64>().unwrap() >= value)
                }) {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        if timeout(Duration::from_secs(20), reached).await.is_err() {
            panic!(
                "{metric} {label} never reached {value}; open: {:?}",
                self.registry.snapshot()
            );
        }
    }
}

fn update<M: prost::Message>(kind: Kind, name: &str, message: &M) -> Update {
    let any = Any {
        type_url: kind.type_url().to_owned(),
        value: message.encode_to_vec(),
    };
    let change = Change {
        name: name.to_owned(),
        version: "1".to_owned(),
        resource: Some(any),
    };
    Update {
        kind,
        version: "v".to_owned(),
        changed: vec![change],
        removed: Vec::new(),
    }
}

fn policy(name: &str, table: &Table) -> Update {
    update(Kind::Policy, &format!("shop/{name}"), &wire::Policy::from(table))
}

/// STRICT, and only these accounts may enter.
fn strict(accounts: &[&str]) -> Table {
    let mut table = Table::default();
    table.mutual_tls.mode = MtlsMode::Strict;
    let rules = accounts.iter().map(|account| {
        let principal = TextMatch::parse(&format!("{DOMAIN}/ns/shop/sa/{account}"));
        let condition = Condition {
            negated: false,
            attribute: Attribute::Principal([principal].into()),
        };
        Rule::new([vec![condition].into()].into(), Box::default(), Box::default())
    });
    table.authorization.allow = [Arc::new(AuthorizationPolicy {
        object: ObjectRef::new(PolicyKind::AuthorizationPolicy, "shop", "db-allow"),
        rules: rules.collect(),
    })]
    .into();
    table
}

/// An application that sends back what it gets, and ends when its client does.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.shutdown().await;
            });
        }
    });
    address
}

/// Sends `bytes`, closes the sending half, and returns everything that comes back.
async fn round_trip(to: SocketAddr, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(to).await?;
    let (mut read, mut write) = stream.split();
    let mut back = Vec::new();
    let send = async {
        write.write_all(bytes).await?;
        write.shutdown().await
    };
    let (sent, received) = tokio::join!(send, read.read_to_end(&mut back));
    sent.and(received).map(|_| back)
}

#[tokio::test]
async fn an_allowed_application_talks_through_both_sidecars_and_links_are_reused() {
    let mesh = Mesh::new(1);
    let app = echo().await;
    let db = mesh.sidecar("db", app, &strict(&["web"])).await;
    let web = mesh.sidecar("web", app, &Table::default()).await;
    let bytes: Vec<u8> = (0..500_000u32).map(|i| (i % 253) as u8).collect();
    for _ in 0..20 {
        assert!(round_trip(web.outbound, &bytes).await.unwrap() == bytes);
    }
    web.ended("complete").await;
    db.ended("complete").await;
    let handshakes = db.metric("squire_handshakes_total{");
    assert!(
        (1.0..=3.0).contains(&handshakes),
        "{handshakes} handshakes for 20 connections"
    );
    assert!(web.metric("squire_mesh_connections_total{event=\"reused\"}") >= 18.0);
    let decided =
        "squire_decisions_total{direction=\"inbound\",policy=\"AuthorizationPolicy shop/db-allow\",rule=\"0\",";
    assert_eq!(db.metric(decided), 20.0);
    let received =
        "squire_received_bytes_total{destination=\"spiffe://cluster.local/ns/shop/sa/db\",direction=\"inbound\"";
    assert_eq!(db.metric(received), 20.0 * 500_000.0);
}

#[tokio::test]
async fn a_denied_application_reaches_nothing_and_both_sides_say_so() {
    let mesh = Mesh::new(2);
    let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = app.local_addr().unwrap();
    let db = mesh.sidecar("db", address, &strict(&["web"])).await;
    let batch = mesh.sidecar("batch", address, &Table::default()).await;
    let refused = round_trip(batch.outbound, b"hello").await;
    assert!(refused.map_or(true, |back| back.is_empty()));
    db.ended("denied").await;
    batch.ended("peer_denied").await;
    // The link survives a denial: the next attempt needs no handshake and is judged again.
    let _ = round_trip(batch.outbound, b"again").await;
    db.counted("squire_decisions_total", "why=\"no_allow_rule\"", 2.0).await;
    tokio::select! {
        biased;
        _ = app.accept() => panic!("the application was reached"),
        () = tokio::task::yield_now() => {}
    }
}

#[tokio::test]
async fn an_open_connection_is_cut_when_policy_no_longer_allows_it() {
    let mesh = Mesh::new(3);
    let app = echo().await;
    let mut db = mesh.sidecar("db", app, &strict(&["web"])).await;
    let web = mesh.sidecar("web", app, &Table::default()).await;
    let mut stream = TcpStream::connect(web.outbound).await.unwrap();
    stream.write_all(b"ping").await.unwrap();
    stream.read_exact(&mut [0; 4]).await.unwrap();
    let view = &db.registry.snapshot()[0];
    assert_eq!(view.rule.as_deref(), Some("AuthorizationPolicy shop/db-allow rule 0"));
    assert_eq!(
        (view.tls_version, view.tls_group),
        (Some("TLSv1.3"), Some("X25519MLKEM768"))
    );
    assert_eq!(
        view.id,
        web.registry.snapshot()[0].id,
        "both ends show the same connection id"
    );
    db.store.apply(policy("db", &strict(&["api"]))).unwrap();
    let end = stream.read(&mut [0; 1]).await;
    assert!(end.as_ref().map_or(true, |&n| n == 0), "{end:?}");
    db.ended("cut_policy").await;
    web.ended("peer_denied").await;
}

#[tokio::test]
async fn trust_that_is_withdrawn_cuts_what_stands_on_it() {
    let mesh = Mesh::new(4);
    let app = echo().await;
    let mut db = mesh.sidecar("db", app, &strict(&["web"])).await;
    let web = mesh.sidecar("web", app, &Table::default()).await;
    let mut stream = TcpStream::connect(web.outbound).await.unwrap();
    stream.write_all(b"ping").await.unwrap();
    stream.read_exact(&mut [0; 4]).await.unwrap();
    let other = Ca::new().bundles();
    let root = other.iter().next().unwrap().roots()[0].der().to_vec();
    let bundle = wire::TrustBundle {
        trust_domain: DOMAIN.into(),
        roots: vec![root.into()],
        sequence: 2,
        ..Default::default()
    };
    db.store.apply(update(Kind::TrustBundle, DOMAIN, &bundle)).unwrap();
    let end = stream.read(&mut [0; 1]).await;
    assert!(end.as_ref().map_or(true, |&n| n == 0), "{end:?}");
    db.ended("cut_untrusted").await;
}

#[tokio::test]
async fn a_peer_with_another_identity_than_expected_never_gets_a_byte() {
    let mesh = Mesh::new(5);
    let app = echo().await;
    let db = mesh.sidecar("db", app, &Table::default()).await;
    db.identity.send_replace(Some(Arc::new(mesh.svid("batch"))));
    let mut credentials = db.data_path.shared.credentials.clone();
    credentials
        .wait_for(|c| c.as_ref().is_some_and(|c| c.generation > 1))
        .await
        .unwrap();
    let web = mesh.sidecar("web", app, &Table::default()).await;
    assert!(
        round_trip(web.outbound, b"secret")
            .await
            .map_or(true, |back| back.is_empty())
    );
    web.ended("peer_identity").await;
}

#[tokio::test]
async fn an_address_that_belongs_to_another_identity_is_denied() {
    let mesh = Mesh::new(6);
    let app = echo().await;
    let mut db = mesh.sidecar("db", app, &strict(&["web"])).await;
    let web = mesh.sidecar("web", app, &Table::default()).await;
    db.store.apply(mesh.workload("web", "somebody-else")).unwrap();
    assert!(
        round_trip(web.outbound, b"x")
            .await
            .map_or(true, |back| back.is_empty())
    );
    db.ended("denied").await;
    db.counted("squire_decisions_total", "why=\"address_identity_mismatch\"", 1.0)
        .await;
}

#[tokio::test]
async fn strict_refuses_plaintext_and_permissive_lets_it_in_without_an_identity() {
    let mesh = Mesh::new(7);
    let app = echo().await;
    let mut db = mesh.sidecar("db", app, &strict(&["web"])).await;
    let refused = round_trip(mesh.socket("db", PORT), b"GET / HTTP/1.1\r\n\r\n").await;
    assert!(
        refused.as_ref().map_or(true, |back| !back.starts_with(b"GET")),
        "{refused:?}"
    );
    db.ended("plaintext_refused").await;
    db.store.apply(policy("db", &Table::default())).unwrap();
    assert_eq!(round_trip(mesh.socket("db", PORT), b"hello").await.unwrap(), b"hello");
    let web = mesh.sidecar("web", app, &Table::default()).await;
    assert_eq!(
        round_trip(web.outbound, b"mesh").await.unwrap(),
        b"mesh",
        "mesh TLS is recognised beside plaintext"
    );
    assert!(db.metric("squire_handshakes_total{") >= 1.0);
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard_on_a_permissive_port() {
    let mesh = Mesh::new(8);
    let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = app.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = app.accept().await {
            stream.write_all(b"220 ready\r\n").await.unwrap();
            let mut line = [0; 4];
            stream.read_exact(&mut line).await.unwrap();
            stream.write_all(&line).await.unwrap();
        }
    });
    let _db = mesh.sidecar("db", address, &Table::default()).await;
    let mut stream = TcpStream::connect(mesh.socket("db", PORT)).await.unwrap();
    let mut greeting = [0; 11];
    stream.read_exact(&mut greeting).await.unwrap();
    assert_eq!(&greeting, b"220 ready\r\n");
    stream.write_all(b"QUIT").await.unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"QUIT");
}

#[tokio::test]
async fn an_application_that_aborts_is_seen_as_an_abort_and_the_link_lives_on() {
    let mesh = Mesh::new(9);
    let app = echo().await;
    let db = mesh.sidecar("db", app, &strict(&["web"])).await;
    let web = mesh.sidecar("web", app, &Table::default()).await;
    let mut stream = TcpStream::connect(web.outbound).await.unwrap();
    stream.write_all(b"ping").await.unwrap();
    stream.read_exact(&mut [0; 4]).await.unwrap();
    crate::socket::abort_on_close(&stream);
    drop(stream);
    web.ended("app_reset").await;
    db.ended("peer_reset").await;
    for _ in 0..5 {
        assert_eq!(round_trip(web.outbound, b"again").await.unwrap(), b"again");
    }
    assert!(
        db.metric("squire_handshakes_total{") <= 2.0,
        "one link, and one kept ready"
    );
}

#[tokio::test]
async fn a_drain_lets_open_connections_finish_and_tells_peers_to_go_elsewhere() {
    let mesh = Mesh::new(10);
    let app = echo().await;
    let db = mesh.sidecar("db", app, &strict(&["web"])).await;
    let web = mesh.sidecar("web", app, &Table::default()).await;
    let mut stream = TcpStream::connect(web.outbound).await.unwrap();
    stream.write_all(b"ping").await.unwrap();
    stream.read_exact(&mut [0; 4]).await.unwrap();
    let registry = Arc::clone(&db.registry);
    let drained = tokio::spawn(db.data_path.drain(CancellationToken::new()));
    stream.write_all(b"pong").await.unwrap();
    stream.read_exact(&mut [0; 4]).await.unwrap();
    assert_eq!(registry.len(), 1);
    stream.shutdown().await.unwrap();
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
    drop(stream);
    assert_eq!(drained.await.unwrap(), 0, "nothing had to be cut");
    assert!(registry.is_empty());
}

#[test]
fn what_an_idle_connection_holds_is_bounded() {
    // The tasks stay for the whole life of a connection: their size is paid 10,000 times.
    assert!(
        size_of_future(inbound::serve) <= 512,
        "inbound: {} bytes",
        size_of_future(inbound::serve)
    );
    let outbound = size_of_future2(outbound::serve);
    assert!(outbound <= 1024, "outbound: {outbound} bytes");
    assert!(
        size_of::<crate::connection::Connection>() <= 640,
        "{} bytes",
        size_of::<crate::connection::Connection>()
    );
}

fn size_of_future<A, B, F>(_: impl FnOnce(A, B) -> F) -> usize {
    size_of::<F>()
}

fn size_of_future2<A, B, C, F>(_: impl FnOnce(A, B, C) -> F) -> usize {
    size_of::<F>()
}
