//! Peers that are not ours and share nothing with us but the standards: openssl, haproxy and Envoy, with SVIDs and ALPN
//! `squire-tls/1`, in both directions.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
};

use squire_tests::{Mesh, Papers, Process, apps, eventually, id, in_time, require};
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines},
    process::Command,
};

/// `openssl s_client` to a squire, with this identity or none.
fn s_client(address: SocketAddr, papers: &Papers, as_somebody: bool) -> Command {
    let mut command = Command::new(require("openssl").path());
    command.args(["s_client", "-connect", &address.to_string(), "-alpn", "squire-tls/1"]);
    command
        .args(["-verify_return_error", "-brief", "-CAfile"])
        .arg(&papers.bundle);
    if as_somebody {
        command.arg("-cert").arg(&papers.cert).arg("-key").arg(&papers.key);
        command.arg("-cert_chain").arg(&papers.cert);
    }
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.kill_on_drop(true);
    command
}

/// Reads until a line is said.
async fn hears(lines: &mut Lines<impl AsyncBufRead + Unpin>, wanted: &str) {
    while lines.next_line().await.unwrap().expect("it goes on") != wanted {}
}

#[tokio::test]
async fn openssl_with_an_issued_svid_gets_through_also_across_key_updates_and_without_one_it_is_refused() {
    let mesh = Mesh::strict();
    mesh.allow("only-web", "db", &["web"]);
    let echo = apps::echo().await;
    let db = mesh.pod("db").serves(5432, echo.address());
    mesh.start().await;
    let db = db.start().await;
    let (web, batch) = (mesh.issue("web").await, mesh.issue("batch").await);

    let mut client = s_client(db.inbound(5432), &web, true).spawn().unwrap();
    let mut input = client.stdin.take().unwrap();
    let mut output = BufReader::new(client.stdout.take().unwrap()).lines();
    let mut errors = BufReader::new(client.stderr.take().unwrap()).lines();
    // K: a key update of both directions; k: of the client's only. openssl takes a command only at the start of what it
    // reads at once, and says when it has.
    for line in ["hello", "K", "after one update", "k", "after two", "K", "after three"] {
        input.write_all(format!("{line}\n").as_bytes()).await.unwrap();
        match line {
            "K" | "k" => in_time(line, hears(&mut errors, "KEYUPDATE")).await,
            line => in_time(line, hears(&mut output, line)).await,
        }
    }
    let seen = db.connections().await;
    assert_eq!(seen[0]["source"], id("web"), "{seen:?}");
    assert_eq!(seen[0]["protocol"], "squire-tls/1");
    drop(input);
    let _ = in_time("openssl ends", client.wait()).await;

    for (papers, as_somebody, label, value) in [
        (&web, false, "outcome", "no_certificate"),
        (&batch, true, "outcome", "denied"),
    ] {
        let mut client = s_client(db.inbound(5432), papers, as_somebody).spawn().unwrap();
        let mut input = client.stdin.take().unwrap();
        let _ = input.write_all(b"let me in\n").await;
        let mut said = String::new();
        let mut out = client.stdout.take().unwrap();
        let _ = in_time("the end", out.read_to_string(&mut said)).await;
        assert!(!said.contains("let me in"), "{said}");
        db.logged(&[(label, value)]).await;
    }
}

/// A peer's directory with what it shows: `leaf.pem` has chain and key in one.
fn equip(mesh: &Mesh, papers: &Papers, name: &str, files: &[(&str, String)]) -> PathBuf {
    let dir = mesh.dir().join(name);
    fs::create_dir(&dir).unwrap();
    let read = |path: &Path| fs::read_to_string(path).unwrap();
    fs::write(dir.join("leaf.pem"), read(&papers.cert) + &read(&papers.key)).unwrap();
    fs::copy(&papers.bundle, dir.join("bundle.pem")).unwrap();
    for (file, text) in files {
        fs::write(dir.join(file), text).unwrap();
    }
    dir
}

/// A process listens.
async fn listens(address: SocketAddr) {
    eventually(&format!("somebody listens on {address}"), async || {
        tokio::net::TcpStream::connect(address).await.ok()
    })
    .await;
}

/// What both real peers have to show: they reach the squire of `db`, which sees who they are; the squire of `web` reaches
/// them, and they let nobody else in.
struct Meeting {
    mesh: Mesh,
    db: squire_tests::Sidecar,
    web: squire_tests::Sidecar,
    batch: squire_tests::Sidecar,
    papers: Papers,
    /// The application behind the peer.
    app: apps::App,
    _echo: apps::App,
}

const PORT: u16 = 5432;
/// Where the peer's own application connects to be brought to `db`.
const LOCAL: u16 = 7000;

impl Meeting {
    async fn arrange(peer: &str) -> Self {
        let mesh = Mesh::strict();
        mesh.allow("only-the-peer", "db", &[peer]);
        let echo = apps::echo().await;
        let app = apps::echo().await;
        mesh.declare(peer, "spiffe-tls");
        let target = format!("{peer}:{PORT}");
        let db = mesh.pod("db").serves(PORT, echo.address());
        let web = mesh.pod("web").reaches(&target);
        let batch = mesh.pod("batch").reaches(&target);
        mesh.start().await;
        let (db, web, batch) = tokio::join!(db.start(), web.start(), batch.start());
        let papers = mesh.issue(peer).await;
        Self {
            mesh,
            db,
            web,
            batch,
            papers,
            app,
            _echo: echo,
        }
    }

    async fn holds(&self, peer: &str) {
        let address = self.mesh.address(peer);
        listens((address, LOCAL).into()).await;
        listens((address, PORT).into()).await;

        // The peer as a client of a squire.
        let mut stream = apps::echoes((address, LOCAL).into()).await.unwrap();
        apps::round_trip(&mut stream, &vec![b'x'; 1 << 20]).await.unwrap();
        let seen = self.db.connections().await;
        let of_peer = seen.iter().find(|seen| seen["source"] == id(peer));
        let of_peer = of_peer.unwrap_or_else(|| panic!("nobody is {peer}: {seen:?}"));
        assert_eq!(
            (&of_peer["protocol"], &of_peer["verdict"]),
            (&"squire-tls/1".into(), &"ALLOW".into())
        );

        // The peer as a server of a squire.
        let target = format!("{peer}:{PORT}");
        let mut stream = apps::echoes(self.web.to(&target)).await.unwrap();
        apps::round_trip(&mut stream, &vec![b'y'; 1 << 20]).await.unwrap();
        let seen = self.web.connections().await;
        assert_eq!(
            (&seen[0]["destination"], &seen[0]["protocol"]),
            (&id(peer).into(), &"squire-tls/1".into())
        );

        // And it lets nobody in but `web`: by our SPIFFE ID, which only a correct SVID carries.
        assert!(apps::echoes(self.batch.to(&target)).await.is_err());
    }
}

#[tokio::test]
async fn haproxy_and_squires_talk_to_each_other_in_both_directions() {
    let peer = require("haproxy");
    let meeting = Meeting::arrange("haproxy").await;
    let (mesh, address) = (&meeting.mesh, meeting.mesh.address("haproxy"));
    let dir = mesh.dir().join("haproxy");
    let dir = dir.display();
    // haproxy cannot look at URI names, so this one is told the client's whole DER: the SPIFFE ID must be in it.
    let hex: String = id("web").bytes().map(|byte| format!("{byte:02X}")).collect();
    let config = format!(
        "global\n    maxconn 100\ndefaults\n    mode tcp\n    timeout connect 5s\n    timeout client 60s\n    timeout \
         server 60s\nfrontend from-squire\n    bind {address}:{PORT} ssl crt {dir}/leaf.pem ca-file {dir}/bundle.pem \
         verify required alpn squire-tls/1 ssl-min-ver TLSv1.3\n    tcp-request inspect-delay 5s\n    tcp-request \
         content reject unless {{ ssl_c_der,hex -m sub {hex} }}\n    default_backend app\nbackend app\n    server app \
         {}\nfrontend to-squire\n    bind {address}:{LOCAL}\n    default_backend db\nbackend db\n    server db {} ssl \
         crt {dir}/leaf.pem ca-file {dir}/bundle.pem verify required alpn squire-tls/1 ssl-min-ver TLSv1.3\n",
        meeting.app.address(),
        meeting.db.inbound(PORT),
    );
    equip(mesh, &meeting.papers, "haproxy", &[("haproxy.cfg", config)]);
    let mut command = Command::new(peer.path());
    command.args(["-db", "-f", &format!("{dir}/haproxy.cfg")]);
    let _haproxy = Process::start("peer-haproxy", &mut command, mesh.dir());
    meeting.holds("haproxy").await;
}

#[tokio::test]
async fn envoy_and_squires_talk_to_each_other_in_both_directions() {
    let peer = require("envoy");
    let meeting = Meeting::arrange("envoy").await;
    let (mesh, address) = (&meeting.mesh, meeting.mesh.address("envoy"));
    let dir = mesh.dir().join("envoy");
    let dir = dir.display().to_string();
    let context = |who: &str| {
        format!(
            "common_tls_context:\n  alpn_protocols: [squire-tls/1]\n  tls_params: {{tls_minimum_protocol_version: \
             TLSv1_3, tls_maximum_protocol_version: TLSv1_3}}\n  tls_certificates: [{{certificate_chain: {{filename: \
             {dir}/leaf.pem}}, private_key: {{filename: {dir}/leaf.pem}}}}]\n  validation_context:\n    trusted_ca: \
             {{filename: {dir}/bundle.pem}}\n    match_typed_subject_alt_names: [{{san_type: URI, matcher: {{exact: \
             '{}'}}}}]\n",
            id(who)
        )
    };
    let indent = |text: String, by: usize| {
        let pad = " ".repeat(by);
        text.lines().map(|line| format!("{pad}{line}\n")).collect::<String>()
    };
    let proxy = |cluster: &str| {
        format!(
            "{{name: tcp, typed_config: {{'@type': \
             type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: {cluster}, \
             cluster: {cluster}}}}}"
        )
    };
    let socket = |address: SocketAddr| {
        format!(
            "{{socket_address: {{address: {}, port_value: {}}}}}",
            address.ip(),
            address.port()
        )
    };
    let endpoint = |name: &str, address: SocketAddr| {
        format!(
            "    load_assignment: {{cluster_name: {name}, endpoints: [{{lb_endpoints: [{{endpoint: {{address: \
             {}}}}}]}}]}}\n",
            socket(address)
        )
    };
    let config = format!(
        "static_resources:\n  listeners:\n  - name: from-squire\n    address: {}\n    filter_chains:\n    - filters: \
         [{}]\n      transport_socket:\n        name: tls\n        typed_config:\n          '@type': \
         type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext\n          \
         require_client_certificate: true\n{}  - name: to-squire\n    address: {}\n    filter_chains: [{{filters: \
         [{}]}}]\n  clusters:\n  - name: app\n{}  - name: db\n{}    transport_socket:\n      name: tls\n      \
         typed_config:\n        '@type': \
         type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext\n{}",
        socket((address, PORT).into()),
        proxy("app"),
        indent(context("web"), 10),
        socket((address, LOCAL).into()),
        proxy("db"),
        endpoint("app", meeting.app.address()),
        endpoint("db", meeting.db.inbound(PORT)),
        indent(context("db"), 8),
    );
    equip(mesh, &meeting.papers, "envoy", &[("envoy.yaml", config)]);
    let mut command = Command::new(peer.path());
    command.args([
        "-c",
        &format!("{dir}/envoy.yaml"),
        "--concurrency",
        "1",
        "-l",
        "warning",
    ]);
    command.args(["--disable-hot-restart"]);
    let _envoy = Process::start("peer-envoy", &mut command, mesh.dir());
    meeting.holds("envoy").await;
}
