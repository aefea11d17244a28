//! The demo, run as a newcomer runs it: it proves what it says, and leaves nothing behind however it ends. While it stays
//! up, `squire connections` lists what is open in it.

use std::{fs, net::SocketAddr, os::unix::ffi::OsStrExt as _, path::Path, process::Output};

use serde_json::Value;
use squire_tests::{Process, Signal, binary, eventually, in_time};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    process::Command,
};

/// A demo that runs.
struct Demo {
    process: Process,
    /// Its TMPDIR, which no other process has.
    tmp: TempDir,
    _log: TempDir,
}

impl Demo {
    fn start(arguments: &[&str]) -> Self {
        let (tmp, log) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let mut command = Command::new(binary("squire"));
        command.arg("demo").args(arguments);
        command.env("TMPDIR", tmp.path()).env("NO_COLOR", "1");
        let process = Process::start("demo", &mut command, log.path());
        Self {
            process,
            tmp,
            _log: log,
        }
    }

    /// The processes that were started with its TMPDIR, itself included.
    fn processes(&self) -> usize {
        let mark = self.tmp.path().as_os_str().as_bytes();
        let started_here = |process: &Path| {
            let environment = fs::read(process.join("environ")).unwrap_or_default();
            environment.windows(mark.len()).any(|window| window == mark)
        };
        let all = fs::read_dir("/proc").unwrap();
        all.filter(|entry| entry.as_ref().is_ok_and(|entry| started_here(&entry.path())))
            .count()
    }

    fn files(&self) -> usize {
        fs::read_dir(self.tmp.path()).unwrap().count()
    }

    /// The part of a line of its output that follows `before`, up to a blank.
    async fn word_after(&self, before: &str) -> String {
        let line = self.process.said(&[before]).await;
        let rest = line.split_once(before).unwrap().1;
        rest.split_whitespace().next().unwrap().to_owned()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_observes_every_step_and_leaves_nothing_behind() {
    let mut demo = Demo::start(&[]);
    let status = demo.process.ended().await;
    let said = demo.process.log();
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(!said.contains('✗') && !said.contains('\x1b'), "{said}");
    for fact in [
        "spiffe://cluster.local/ns/shop/sa/db",
        "spiffe://cluster.local/ns/shop/sa/batch",
        "expires 20",
        "TLS 1.3, TLS_",
        "X25519MLKEM768",
        "web     ALLOW  by AuthorizationPolicy shop/db-allow-services rule 0",
        "api     ALLOW  by AuthorizationPolicy shop/db-allow-services rule 1",
        "batch   DENY   by AuthorizationPolicy shop/allow-nothing",
        "generation 1 → 2",
        "api's open connection was cut",
        "cut_policy",
        "SIGKILL",
        "the same came back",
        "Every step was observed",
    ] {
        assert!(said.contains(fact), "{fact:?} is not in:\n{said}");
    }
    assert_eq!((demo.processes(), demo.files()), (0, 0), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_demos_run_side_by_side() {
    let (mut one, mut other) = (Demo::start(&[]), Demo::start(&[]));
    let (first, second) = tokio::join!(one.process.ended(), other.process.ended());
    assert_eq!(first.code(), Some(0), "{}", one.process.log());
    assert_eq!(second.code(), Some(0), "{}", other.process.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_in_the_middle_of_the_demo_ends_everything_it_started() {
    let mut demo = Demo::start(&[]);
    demo.process.said(&["Identities, issued"]).await;
    demo.process.signal(Signal::INT);
    let status = demo.process.ended().await;
    let said = demo.process.log();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("interrupted"), "{said}");
    assert_eq!((demo.processes(), demo.files()), (0, 0), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_demo_started_dies_with_it_even_when_it_is_killed() {
    let mut demo = Demo::start(&["--keep"]);
    demo.process.said(&["Identities, issued"]).await;
    assert!(demo.processes() > 8, "{} processes", demo.processes());
    demo.process.kill().await;
    eventually("nothing is left of the demo", async || {
        (demo.processes() == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demo_without_its_sidecar_binary_says_where_it_looked() {
    let log = TempDir::new().unwrap();
    let alone = log.path().join("squire");
    fs::copy(binary("squire"), &alone).unwrap();
    let asked = Command::new(alone).arg("demo").env("PATH", log.path()).output();
    let Output { status, stderr, .. } = in_time("the demo ends", asked).await.unwrap();
    let stderr = String::from_utf8_lossy(&stderr);
    assert_eq!(status.code(), Some(69), "{stderr}");
    assert!(
        stderr.contains("squire-proxy") && stderr.contains("--proxy"),
        "{stderr}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_listed_while_they_live() {
    let mut demo = Demo::start(&["--keep"]);
    demo.process.said(&["Logs:"]).await;
    let control = demo.word_after("connections --watch --control ").await;
    let stream = demo.word_after("curl -N http://").await;

    let address: SocketAddr = stream.trim_end_matches("/stream").parse().unwrap();
    let mut tcp = TcpStream::connect(address).await.unwrap();
    tcp.write_all(b"GET /stream HTTP/1.1\r\nHost: web\r\n\r\n")
        .await
        .unwrap();
    tcp.read_u8().await.unwrap();

    let listed = eventually("web's stream is listed at both ends", async || {
        let all = listed(&control, &["-o", "json"]).await;
        let all: Vec<Value> = serde_json::from_slice(&all.stdout).unwrap();
        (all.len() == 2).then_some(all)
    })
    .await;
    let (inbound, outbound) = (&listed[0], &listed[1]);
    assert_eq!(
        (&inbound["sidecar"], &outbound["sidecar"]),
        (&"shop/db".into(), &"shop/web".into())
    );
    assert_eq!(inbound["id"], outbound["id"], "one connection, seen from both ends");
    for end in [inbound, outbound] {
        assert_eq!(end["source"], "spiffe://cluster.local/ns/shop/sa/web", "{end}");
        assert_eq!(end["destination"], "spiffe://cluster.local/ns/shop/sa/db", "{end}");
        assert_eq!(end["tls_group"], "X25519MLKEM768", "{end}");
    }
    assert_eq!(inbound["rule"], "AuthorizationPolicy shop/db-allow-services rule 0");

    let table = listed_text(&control, &["db"]).await;
    assert!(
        table.contains("cluster.local/ns/shop/sa/web") && !table.contains("shop/web  out"),
        "{table}"
    );
    let unknown = self::listed(&control, &["nobody"]).await;
    let why = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert_eq!(unknown.status.code(), Some(69), "{why}");
    assert!(why.contains("shop/db"), "{why}");

    demo.process.signal(Signal::INT);
    assert_eq!(demo.process.ended().await.code(), Some(0), "{}", demo.process.log());
    assert_eq!((demo.processes(), demo.files()), (0, 0));
    let gone = self::listed(&control, &[]).await;
    let why = String::from_utf8_lossy(&gone.stderr).into_owned();
    assert_eq!(gone.status.code(), Some(69), "{why}");
    assert!(why.contains("--control"), "{why}");
}

async fn listed(control: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(binary("squire"));
    command.args(["connections", "--control", control]).args(arguments);
    in_time("squire connections answers", command.output()).await.unwrap()
}

async fn listed_text(control: &str, arguments: &[&str]) -> String {
    String::from_utf8(listed(control, arguments).await.stdout).unwrap()
}
