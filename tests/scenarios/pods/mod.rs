//! Pods whose connections the kernel leads through their sidecars: applications know nothing of the mesh, arrive where
//! they wanted to, over IPv4 and IPv6, and what crosses the wire is mutual TLS.

mod demand;
mod destinations;
mod protocols;
mod requests;

use std::io::Write as _;

use squire_tests::{Cluster, ClusterPod, Mesh, Process, eventually, id, namespace};

/// `port`: answers every connection with a line (its own address, whence the peer came), then echoes to the end.
const ECHO: &str = r#"
import socket, sys, threading
s = socket.create_server((sys.argv[2] if sys.argv[2:] else "::", int(sys.argv[1])), family=socket.AF_INET6 if not sys.argv[2:] else socket.AF_INET, dualstack_ipv6=not sys.argv[2:])
def serve(c):
    plain = lambda address: address[0].removeprefix("::ffff:")
    c.sendall(f"{plain(c.getsockname())} {plain(c.getpeername())}\n".encode())
    while data := c.recv(65536):
        c.sendall(data)
    c.close()
while True:
    threading.Thread(target=serve, args=(s.accept()[0],), daemon=True).start()
"#;

/// `host port text times`: reads the server's line, sends the text so often, half-closes, and wants it all back.
const TALK: &str = r#"
import socket, sys, threading
c = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=20)
f = c.makefile("rb")
line = f.readline().decode().strip()
assert line, "closed without a word"
data = sys.argv[3].encode() * int(sys.argv[4])
threading.Thread(target=lambda: (c.sendall(data), c.shutdown(socket.SHUT_WR)), daemon=True).start()
assert f.read() == data, "not what was sent"
print(line)
"#;

/// Sends one datagram: to the capture, a mark that all before it has been seen.
const MARK: &str = r#"
import socket, sys
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(sys.argv[2].encode(), (sys.argv[1], 9))
"#;

async fn echo(pod: &ClusterPod<'_>, port: u16) -> Process {
    pod.serves(port, "python3", &["-c", ECHO, &port.to_string()]).await
}

/// Talks to an echo; its line.
async fn talk(pod: &ClusterPod<'_>, host: &str, port: u16, text: &str, times: usize) -> Result<String, String> {
    let (port, times) = (port.to_string(), times.to_string());
    let said = pod.tries("python3", &["-c", TALK, host, &port, text, &times]).await?;
    Ok(said.trim().to_owned())
}

/// As [`talk`], until the mesh knows its way.
async fn talks(pod: &ClusterPod<'_>, host: &str, port: u16) -> String {
    let mut failed = String::new();
    let what = format!("{host}:{port} answers");
    let said = async || {
        talk(pod, host, port, "hello", 1)
            .await
            .map_err(|error| failed = error)
            .ok()
    };
    eventually(&what, said).await
}

fn endpoint(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

#[tokio::test]
async fn redirected_connections_reach_their_original_destination_and_only_mutual_tls_crosses_the_wire() {
    if !namespace::possible() {
        return;
    }
    let mesh = Mesh::strict();
    mesh.allow("only-web", "db", &["web"]);
    let cluster = Cluster::new(mesh);
    let (web, db) = (cluster.pod("web", "squire"), cluster.pod("db", "squire"));
    cluster.start().await;
    let _server = echo(&db, 5432).await;
    let capture = cluster.capture().await;
    let (of_web, of_db) = tokio::join!(web.sidecar(&[]), db.sidecar(&[]));
    for pod in [&web, &db] {
        let checked = pod.redirect(&["--check"]).await;
        assert!(checked.status.success(), "{checked:?}");
    }

    const SECRET: &str = "nobody on the wire may read this. ";
    let mut sent = 0;
    for (address, source) in db.addresses().iter().zip(&web.addresses()) {
        talks(&web, address, 5432).await;
        let line = talk(&web, address, 5432, SECRET, 30_000).await.unwrap();
        sent += SECRET.len() * 30_000;
        // The application sees the connection on its pod address, from within the pod.
        assert_eq!(line, format!("{address} {address}"));
        for (sidecar, direction) in [(&of_web, "outbound"), (&of_db, "inbound")] {
            let written = endpoint(address, 5432);
            let line = sidecar.logged(&[("direction", direction), ("address", &written)]).await;
            assert_eq!(
                (&line["source"], &line["destination"]),
                (&id("web").into(), &id("db").into()),
                "{line}"
            );
            assert_eq!(
                (&line["protocol"], &line["verdict"]),
                (&"squire/1".into(), &"ALLOW".into()),
                "{line}"
            );
        }
        let lines = of_db.access_log();
        assert!(
            lines
                .iter()
                .any(|line| line["client"].as_str().is_some_and(|c| c.contains(source.as_str())))
        );
    }
    let received = of_db
        .figures()
        .await
        .sum("squire_received_bytes_total", &[("source", &id("web"))]);
    assert!(received >= sent as f64, "{received} of {sent}");
    web.tries("python3", &["-c", MARK, &db.v4(), "all has crossed"])
        .await
        .unwrap();
    capture.sees(b"all has crossed").await;
    assert!(!capture.saw(SECRET.trim().as_bytes()), "plaintext crossed the wire");

    // Not redirected on this side, so not by mutual TLS: refused on the other.
    let mut bare = web.namespace().command_as(squire_mesh::ports::PROXY_UID, "python3");
    let bare = bare
        .args(["-c", TALK, &db.v4(), "5432", SECRET, "1"])
        .output()
        .await
        .unwrap();
    assert!(!bare.status.success());
    of_db.logged(&[("outcome", "handshake_timeout")]).await;
}

#[tokio::test]
async fn a_sidecar_dials_neither_itself_nor_what_was_not_redirected() {
    if !namespace::possible() {
        return;
    }
    let cluster = Cluster::new(Mesh::new());
    let db = cluster.pod("db", "squire");
    let other = cluster.stranger("other");
    cluster.service("db", &["10.96.0.1"], 80, 15_001);
    cluster.start().await;
    let of_db = db.sidecar(&[]).await;

    // Its outbound port, from outside: redirected inbound, whose application would be its own outbound listener.
    for address in db.addresses() {
        assert!(talk(&other, &address, 15_001, "loop", 1).await.is_err());
        of_db
            .logged(&[("outcome", "no_route"), ("address", &endpoint(&address, 15_001))])
            .await;
    }
    // Its own Service, whose port leads to its outbound listener.
    eventually("the loop is refused", async || {
        assert!(talk(&db, "10.96.0.1", 80, "loop", 1).await.is_err());
        let refused = |line: &serde_json::Value| {
            line["direction"] == "outbound" && line["detail"].as_str().is_some_and(|why| why.contains("itself"))
        };
        of_db.access_log().iter().any(refused).then_some(())
    })
    .await;
    // Connections that nobody redirected have no original destination: closed, never sent anywhere.
    let unredirected = async || {
        let figures = of_db.figures().await;
        figures.sum("squire_accept_errors_total", &[("cause", "original_destination")])
    };
    let before = unredirected().await;
    for (host, port) in [("127.0.0.1", 15_006), ("::1", 15_001)] {
        assert!(talk(&db, host, port, "loop", 1).await.is_err());
    }
    assert!(talk(&other, &db.v4(), 15_006, "loop", 1).await.is_err());
    eventually("they are counted", async || {
        (unredirected().await >= before + 3.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn half_closed_connections_stay_open_the_other_way_through_pods() {
    if !namespace::possible() {
        return;
    }
    // Counts to the end of what it is sent, and only then answers.
    const COUNT: &str = r#"
import socket
s = socket.create_server(("::", 7000), family=socket.AF_INET6, dualstack_ipv6=True)
while True:
    c, _ = s.accept()
    total = 0
    while data := c.recv(65536):
        total += len(data)
    c.sendall(b"%d" % total)
    c.close()
"#;
    const SEND: &str = r#"
import socket, sys
c = socket.create_connection((sys.argv[1], 7000), timeout=20)
c.sendall(b"x" * 1000000)
c.shutdown(socket.SHUT_WR)
print(c.makefile().read())
"#;
    let cluster = Cluster::new(Mesh::strict());
    let (web, db) = (cluster.pod("web", "squire"), cluster.pod("db", "squire"));
    cluster.start().await;
    let _server = db.serves(7000, "python3", &["-c", COUNT]).await;
    let (_of_web, of_db) = tokio::join!(web.sidecar(&[]), db.sidecar(&[]));
    for address in db.addresses() {
        let counted = eventually("the server answers", async || {
            web.tries("python3", &["-c", SEND, &address]).await.ok()
        });
        assert_eq!(counted.await.trim(), "1000000");
        of_db
            .logged(&[("address", &endpoint(&address, 7000)), ("outcome", "complete")])
            .await;
    }
}

#[tokio::test]
async fn rules_that_are_repaired_under_a_running_sidecar_disturb_no_connection() {
    if !namespace::possible() {
        return;
    }
    // One connection; a word each time it is told to go on by the file's growth.
    const STAY: &str = r#"
import socket, sys
c = socket.create_connection((sys.argv[1], 5432), timeout=20)
f = c.makefile("rb")
f.readline()
print("open", flush=True)
for line in open(sys.argv[2]):
    c.sendall(line.encode())
    print("back " + f.readline().decode().strip(), flush=True)
"#;
    let cluster = Cluster::new(Mesh::strict());
    let (web, db) = (cluster.pod("web", "squire"), cluster.pod("db", "squire"));
    cluster.start().await;
    let _server = echo(&db, 5432).await;
    let (_of_web, _of_db) = tokio::join!(web.sidecar(&[]), db.sidecar(&[]));
    talks(&web, &db.v4(), 5432).await;
    let orders = web.dir().join("orders");
    web.namespace().run(&["mkfifo", "-m", "666", orders.to_str().unwrap()]);
    let mut command = web.app("python3");
    let stay = Process::start(
        "stay",
        command.args(["-c", STAY, &db.v4()]).arg(&orders),
        cluster.mesh.dir(),
    );
    stay.said(&["open"]).await;
    let mut tell = std::fs::File::options().write(true).open(&orders).unwrap();
    for word in ["before", "after"] {
        writeln!(tell, "{word}").unwrap();
        stay.said(&[&format!("back {word}")]).await;
        for pod in [&web, &db] {
            // Not a flush: where no rule needs connection tracking any more, the kernel stops it for the whole namespace, and
            // with it the connections that were redirected, whatever is written afterwards.
            for chain in ["outbound", "inbound"] {
                let passes = format!("insert rule inet squire {chain} tcp dport 5432 accept");
                pod.namespace().run(&["nft", &passes]);
            }
            let repaired = pod.redirect(&[]).await;
            assert!(
                String::from_utf8_lossy(&repaired.stdout).contains("anew"),
                "{repaired:?}"
            );
            let checked = pod.redirect(&["--check"]).await;
            assert!(checked.status.success(), "beside a sidecar that runs: {checked:?}");
        }
    }
    for pod in [&web, &db] {
        pod.namespace().run(&["nft", "flush table inet squire"]);
        assert!(pod.redirect(&[]).await.status.success());
    }
    talk(&web, &db.v6(), 5432, "and new ones are redirected", 1)
        .await
        .unwrap();
}
