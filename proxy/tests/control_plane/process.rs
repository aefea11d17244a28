//! The process itself: start, readiness, drain, and how it ends when it cannot start.

use std::{
    net::{SocketAddr, TcpListener},
    process::{ExitStatus, Output, Stdio},
};

use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStderr, Command},
    time::timeout,
};

use crate::{
    fake::{Ca, Event, Fake},
    sidecar::{PATIENCE, everything},
};

/// The process, and what it says on standard error.
pub(crate) struct Process {
    child: Child,
    log: Lines<BufReader<ChildStderr>>,
    _files: tempfile::TempDir,
}

impl Process {
    fn start(ca: &Ca, control: &str, settings: &[&str]) -> Self {
        let anywhere = "127.0.0.1:0".parse().unwrap();
        Self::start_with(ca, control, (anywhere, "127.0.0.1:9".parse().unwrap()), settings)
    }

    /// Starts it with an inbound listener for this application.
    pub(crate) fn start_with(
        ca: &Ca,
        control: &str,
        (listen, app): (SocketAddr, SocketAddr),
        settings: &[&str],
    ) -> Self {
        let files = tempfile::tempdir().unwrap();
        let path = |name: &str| files.path().join(name);
        std::fs::write(path("root.pem"), ca.pem()).unwrap();
        std::fs::write(path("token"), "a-token").unwrap();
        let config = format!(
            "workload: shop/web-0\ntrustDomain: cluster.local\ntrustBundle: {}\ntoken: {}\ncontrol: {control}\nadmin: \
             127.0.0.1:0\nlog: {{format: json}}\naccessLog: off\ninbound:\n- {{listen: '{listen}', app: \
             '{app}', port: 80}}\n",
            path("root.pem").display(),
            path("token").display()
        );
        std::fs::write(path("proxy.yaml"), config).unwrap();
        let mut command = command(&["run", "--config"]);
        command.arg(path("proxy.yaml"));
        for setting in settings {
            command.args(["--set", setting]);
        }
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap()).lines();
        Self {
            child,
            log,
            _files: files,
        }
    }

    /// The log line with this message.
    pub(crate) async fn said(&mut self, message: &str) -> serde_json::Value {
        let mut all = Vec::new();
        let found = async {
            while let Some(line) = self.log.next_line().await.unwrap() {
                let line: serde_json::Value = serde_json::from_str(&line).expect("the log is JSON");
                if line["message"] == message {
                    return Some(line);
                }
                all.push(line.to_string());
            }
            None
        };
        let found = timeout(PATIENCE, found).await.ok().flatten();
        found.unwrap_or_else(|| panic!("never said {message:?}, but:\n{}", all.join("\n")))
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().expect("it runs").to_string();
        assert!(
            std::process::Command::new("kill")
                .args(["-s", name, &pid])
                .status()
                .unwrap()
                .success()
        );
    }

    async fn ended(&mut self) -> ExitStatus {
        timeout(PATIENCE, self.child.wait()).await.expect("in time").unwrap()
    }
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_squire-proxy"));
    command.args(arguments).kill_on_drop(true);
    command
}

async fn output(arguments: &[&str]) -> Output {
    command(arguments).output().await.unwrap()
}

#[tokio::test]
async fn it_becomes_ready_renews_when_told_and_drains_on_sigterm() {
    let ca = Ca::new("root");
    let mut control = Fake::start(&ca, None).await;
    let mut process = Process::start(&ca, &control.address.to_string(), &[]);
    let stream = control.stream().await;
    for response in everything(&ca) {
        stream.send(Ok(response)).await.unwrap();
    }
    process.said("ready").await;
    let report = control.report(|report| !report.svid_serial.is_empty()).await;
    assert!(report.admin_address.starts_with("127.0.0.1:") && !report.admin_address.ends_with(":0"));

    process.signal("USR1");
    control
        .expect("a renewal", |event| match event {
            Event::Issue { client: Some(_), .. } => Some(()),
            _ => None,
        })
        .await;
    process.signal("TERM");
    process.said("drained").await;
    assert_eq!(process.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_wrong_configuration_ends_with_78_and_says_everything() {
    let answer = output(&["run", "--set", "workload=web", "--set", "colour=blue"]).await;
    let text = String::from_utf8(answer.stderr).unwrap();
    assert_eq!(answer.status.code(), Some(78), "{text}");
    for part in [
        "--set workload: workload: \"web\"",
        "--set colour=blue",
        "trustBundle: is missing",
    ] {
        assert!(text.contains(part), "{part} not in:\n{text}");
    }

    let mut process = Process::start(&Ca::new("root"), "127.0.0.1:1", &["trustBundle=/nonexistent.pem"]);
    let line = process.said("the sidecar cannot run").await;
    assert!(
        line["error"]
            .as_str()
            .unwrap()
            .contains("trust bundle /nonexistent.pem"),
        "{line}"
    );
    assert_eq!(process.ended().await.code(), Some(78));
}

#[tokio::test]
async fn a_taken_port_ends_with_69_and_says_which() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut process = Process::start(&Ca::new("root"), "127.0.0.1:1", &[&format!("admin={address}")]);
    let line = process.said("the sidecar cannot run").await;
    assert!(line["error"].as_str().unwrap().contains(&address), "{line}");
    assert_eq!(process.ended().await.code(), Some(69));
}

#[tokio::test]
async fn the_command_line_explains_itself() {
    let help = output(&["run", "--help"]).await;
    let text = String::from_utf8(help.stdout).unwrap();
    assert_eq!(help.status.code(), Some(0));
    for part in [
        "Examples:",
        "limits.maxConnections",
        "SQUIRE_PROXY_TRUST_DOMAIN",
        "Exit codes:",
    ] {
        assert!(text.contains(part), "{part}");
    }
    assert!(
        String::from_utf8(output(&["version"]).await.stdout)
            .unwrap()
            .starts_with("squire-proxy 0.")
    );
    for wrong in [&["walk"][..], &[], &["run", "--colour"], &["run", "--config"]] {
        assert_eq!(output(wrong).await.status.code(), Some(2), "{wrong:?}");
    }
}
