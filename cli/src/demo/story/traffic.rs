//! Steps about ordinary traffic: what was negotiated, who may reach `db`, and by which rule.

use std::io;

use anyhow::{bail, ensure};
use http::StatusCode;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::{Story, field};
use crate::demo::{
    observe::{self, AccessLog, SOON},
    workload::Workload,
};

/// How sidecars write it.
const TLS_1_3: &str = "TLSv1.3";

impl Story<'_> {
    /// One request of `web`, seen at both ends.
    pub(super) async fn mutual_tls(&mut self) -> anyhow::Result<()> {
        self.screen
            .step("web asks db: plain HTTP for the applications, mutual TLS between the sidecars");
        let near = AccessLog::from_now(self.files.access_log(Workload::Web));
        let far = self.asks(Workload::Web).await?;
        let id = field(&far, "id").to_owned();
        let near = near
            .line("web's end of the connection", |line| field(line, "id") == id)
            .await?;
        for end in [&near, &far] {
            ensure!(
                field(end, "source") == Workload::Web.id() && field(end, "destination") == Workload::Db.id(),
                "an end does not know both identities: {end}"
            );
        }
        ensure!(field(&far, "tls_version") == TLS_1_3, "no TLS 1.3: {far}");
        self.screen.seen(&format!(
            "TLS 1.3, {}, key exchange {}, protocol {}",
            field(&far, "tls_suite"),
            field(&far, "tls_group"),
            field(&far, "protocol")
        ));
        self.screen.seen(&format!(
            "both ends verified each other: {} → {} (connection {id} in both access logs)",
            field(&far, "source"),
            field(&near, "destination")
        ));
        Ok(())
    }

    /// Every client tries; so does somebody without an identity.
    pub(super) async fn who_may(&mut self) -> anyhow::Result<()> {
        self.screen.step("Who may reach db: nobody, but for web and api");
        for workload in [Workload::Web, Workload::Api] {
            let line = self.asks(workload).await?;
            self.show(workload, &line);
        }
        let line = self.is_denied(Workload::Batch).await?;
        self.show(Workload::Batch, &line);
        self.plaintext_is_refused().await
    }

    /// A request that must succeed. What `db`'s sidecar wrote of it.
    pub(super) async fn asks(&self, workload: Workload) -> anyhow::Result<Value> {
        let log = self.db_log();
        let page = observe::page(self.place.app(workload), "/").await?;
        ensure!(
            page.status == StatusCode::OK && page.text().contains("hello from db"),
            "{workload} got no answer from db: {} {}",
            page.status,
            page.text().trim()
        );
        let what = format!("db's sidecar lets {workload} in");
        log.line(&what, |line| from(line, workload) && field(line, "verdict") == "ALLOW")
            .await
    }

    /// A request that must fail. What `db`'s sidecar wrote of it.
    pub(super) async fn is_denied(&self, workload: Workload) -> anyhow::Result<Value> {
        let log = self.db_log();
        let page = observe::page(self.place.app(workload), "/").await?;
        ensure!(
            page.status == StatusCode::BAD_GATEWAY,
            "{workload} must not reach db, but: {} {}",
            page.status,
            page.text().trim()
        );
        let what = format!("db's sidecar denies {workload}");
        log.line(&what, |line| from(line, workload) && field(line, "verdict") == "DENY")
            .await
    }

    /// Straight to the pod, past the mesh.
    async fn plaintext_is_refused(&mut self) -> anyhow::Result<()> {
        let log = self.db_log();
        let mut answer = Vec::new();
        let talk = async {
            let mut tcp = TcpStream::connect(self.place.pod(Workload::Db)).await?;
            tcp.write_all(b"GET / HTTP/1.1\r\nHost: db\r\nConnection: close\r\n\r\n")
                .await?;
            tcp.read_to_end(&mut answer).await
        };
        match timeout(SOON, talk).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => {}
            Ok(Err(error)) => bail!("db's pod cannot be reached at all: {error}"),
            Err(_) => bail!("db's sidecar keeps a plaintext connection open"),
        }
        ensure!(
            !answer.windows(5).any(|window| window == b"hello"),
            "db answered somebody without an identity"
        );
        let line = log
            .line("db's sidecar refuses plaintext", |line| {
                field(line, "outcome") == "plaintext_refused" && line["source"].is_null()
            })
            .await?;
        self.screen
            .seen("nobody  DENY   a client without an identity, straight to db's pod");
        self.screen.note(field(&line, "detail"));
        Ok(())
    }

    /// A verdict, and where it came from.
    pub(super) fn show(&self, workload: Workload, line: &Value) {
        let rule = line["rule"].as_str().unwrap_or("no rule");
        self.screen
            .seen(&format!("{workload:<6}  {:<5}  by {rule}", field(line, "verdict")));
        self.screen.note(field(line, "why"));
    }
}

/// The source is this workload, and proved it.
pub(super) fn from(line: &Value, workload: Workload) -> bool {
    field(line, "direction") == "inbound" && field(line, "source") == workload.id()
}
