//! Sidecars to which the kernel redirects connections, in network namespaces with a cable between: applications know
//! nothing of the mesh, and the original destination, IPv4 and IPv6, is where they arrive.

use std::{fs, process::Stdio};

use serde_json::Value;
use squire_mesh::ports::PROXY_UID;
use squire_tests::{Mesh, Process, binary, eventually, id, in_time, namespace, namespace::Namespace};
use tokio::process::Command;

/// What `nft -f` is told: everything the pod's applications do goes through the sidecar, whose own connections pass.
fn redirect() -> String {
    format!(
        "table inet squire {{\n  chain output {{\n    type nat hook output priority -100;\n    meta skuid \
         {PROXY_UID} return\n    oifname lo return\n    meta l4proto tcp redirect to :15001\n  }}\n  chain prerouting \
         {{\n    type nat hook prerouting priority -100;\n    tcp dport {{ 15012, 15014, 15020 }} return\n    meta \
         l4proto tcp redirect to :15006\n  }}\n}}\n"
    )
}

/// Answers every connection with the address it arrived at, then echoes; for both families.
const SERVER: &str = r#"
import socket, threading
s = socket.create_server(("::", 5432), family=socket.AF_INET6, dualstack_ipv6=True)
def serve(c):
    c.sendall((c.getsockname()[0].removeprefix("::ffff:") + "\n").encode())
    while data := c.recv(65536):
        c.sendall(data)
    c.close()
while True:
    threading.Thread(target=serve, args=(s.accept()[0],), daemon=True).start()
"#;

/// Connects, reads the server's line, and sends and gets back a mebibyte.
const CLIENT: &str = r#"
import socket, sys
c = socket.create_connection((sys.argv[1], 5432), timeout=20)
f = c.makefile("rwb")
line = f.readline().decode().strip()
data = bytes(range(256)) * 4096
import threading
threading.Thread(target=lambda: (c.sendall(data), c.shutdown(socket.SHUT_WR)), daemon=True).start()
assert f.read() == data, "not what was sent"
print(line)
"#;

struct Pod<'m> {
    mesh: &'m Mesh,
    namespace: &'m Namespace,
    name: &'m str,
}

impl Pod<'_> {
    fn declare(&self, last: u8) {
        let name = self.name;
        self.mesh.write(
            &format!("{name}.yaml"),
            &format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {{app: {name}}}, \
                 annotations: {{squire.mesh/transport: squire}}}}\nspec: {{serviceAccountName: {name}, containers: \
                 [{{name: app}}]}}\nstatus: {{podIP: 10.77.0.{last}, podIPs: [{{ip: 10.77.0.{last}}}, {{ip: \
                 'fd77::{last}'}}]}}\n"
            ),
        );
    }

    async fn start(&self) -> Process {
        let dir = self.mesh.dir().join(self.name);
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("token"), self.mesh.token(self.name).await).unwrap();
        fs::write(dir.join("bundle.pem"), self.mesh.bundle().await).unwrap();
        let rules = dir.join("redirect.nft");
        fs::write(&rules, redirect()).unwrap();
        self.namespace.run(&["nft", "-f", rules.to_str().unwrap()]);
        let path = dir.display();
        let mut command = self.namespace.command_as(PROXY_UID, binary("squire-proxy"));
        command.arg("run");
        for setting in [
            format!("workload=shop/{}", self.name),
            "trustDomain=cluster.local".to_owned(),
            format!("trustBundle={path}/bundle.pem"),
            format!("token={path}/token"),
            "control=10.77.0.1:15012".to_owned(),
            "mode=transparent".to_owned(),
        ] {
            command.args(["--set", &setting]);
        }
        let process = Process::start(&format!("proxy-{}", self.name), &mut command, self.mesh.dir());
        eventually("the sidecar is ready", async || {
            (self.page("/ready").await?.0 == 200).then_some(())
        })
        .await;
        process
    }

    async fn page(&self, path: &str) -> Option<(u16, String)> {
        let mut curl = self.namespace.command("curl");
        curl.args(["-s", "-w", "\n%{http_code}", &format!("http://127.0.0.1:15020{path}")]);
        let output = curl.output().await.ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        let (body, status) = text.rsplit_once('\n')?;
        Some((status.parse().ok()?, body.to_owned()))
    }

    async fn reaches(&self, address: &str) -> Result<String, String> {
        let mut client: Command = self.namespace.command("python3");
        client.args(["-c", CLIENT, address]).stdin(Stdio::null());
        let output = in_time("the client ends", client.output()).await.unwrap();
        if output.status.success() {
            Ok(String::from_utf8(output.stdout).unwrap().trim().to_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }
}

/// The line of an access log on standard output, by its outcome and destination.
fn line(process: &Process, direction: &str, address: &str) -> Option<Value> {
    let lines: Vec<Value> = process
        .log()
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    lines
        .into_iter()
        .find(|line| line["direction"] == direction && line["address"] == address)
}

#[tokio::test]
async fn redirected_connections_reach_their_original_destination_over_ipv4_and_ipv6() {
    if !namespace::possible() {
        return;
    }
    let mesh = Mesh::strict();
    mesh.allow("only-web", "db", &["web"]);
    let (one, two) = Namespace::pair();
    let web = Pod {
        mesh: &mesh,
        namespace: &one,
        name: "web",
    };
    let db = Pod {
        mesh: &mesh,
        namespace: &two,
        name: "db",
    };
    web.declare(1);
    db.declare(2);
    let mut command = one.command_as(PROXY_UID, binary("squire"));
    command
        .arg("control")
        .arg("--dir")
        .arg(mesh.objects())
        .arg("--ca-dir")
        .arg(mesh.ca_dir());
    command.args(["--grpc", "10.77.0.1:15012", "--admin", "10.77.0.1:15014"]);
    let control = Process::start("control", &mut command, mesh.dir());
    control.said(&["the control plane has started"]).await;
    let _server = Process::start("server", two.command("python3").args(["-c", SERVER]), mesh.dir());
    let (web_process, db_process) = tokio::join!(web.start(), db.start());

    for address in ["10.77.0.2", "fd77::2"] {
        let what = format!("the client reaches {address}");
        let arrived = eventually(&what, async || web.reaches(address).await.ok()).await;
        assert_eq!(arrived, address, "the original destination");
        let written = if address.contains(':') {
            format!("[{address}]:5432")
        } else {
            format!("{address}:5432")
        };
        for (process, direction) in [(&web_process, "outbound"), (&db_process, "inbound")] {
            let line = eventually("the access log has it", async || line(process, direction, &written)).await;
            assert_eq!(line["source"], id("web"), "{line}");
            assert_eq!(line["destination"], id("db"), "{line}");
            assert_eq!(
                (&line["protocol"], &line["verdict"]),
                (&"squire/1".into(), &"ALLOW".into())
            );
            assert_eq!(
                (&line["bytes_from_client"], &line["outcome"]),
                (&(1 << 20).into(), &"complete".into())
            );
        }
    }

    // Not redirected on this side, so not by mutual TLS: refused on the other.
    let mut bare = one.command_as(PROXY_UID, "python3");
    let bare = bare.args(["-c", CLIENT, "10.77.0.2"]).output();
    assert!(!in_time("the bare client ends", bare).await.unwrap().status.success());

    // A connection that nobody redirected has no original destination: closed, never sent anywhere.
    let mut lost = two.command("curl");
    let lost = lost.args(["-s", "http://127.0.0.1:15006/"]).output();
    assert!(!in_time("curl ends", lost).await.unwrap().status.success());
    let counted = "squire_accept_errors_total{cause=\"original_destination\"} 1";
    eventually("it is counted", async || {
        db.page("/metrics").await?.1.contains(counted).then_some(())
    })
    .await;
}
