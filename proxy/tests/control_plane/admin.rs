//! What the admin endpoint says, over real HTTP.

use std::{net::SocketAddr, sync::Arc};

use serde_json::{Value, json};
use squire_proxy::{
    admin::{Admin, Asker, Pages},
    probes::Prober,
    readiness::Readiness,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_util::sync::CancellationToken;

use crate::{
    fake::{Ca, Fake, WEB},
    sidecar::{Sidecar, everything},
};

/// Status and body of a request on a connection of its own.
pub(crate) async fn ask(admin: SocketAddr, request: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(admin).await.unwrap();
    let head = format!("{request} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
}

async fn ready(admin: SocketAddr) -> (u16, Vec<String>) {
    let (status, body) = ask(admin, "GET /ready").await;
    let body: Value = serde_json::from_str(&body).unwrap();
    let what = |missing: &Value| missing["what"].as_str().unwrap().to_owned();
    (status, body["missing"].as_array().unwrap().iter().map(what).collect())
}

async fn serve(sidecar: &Sidecar) -> (SocketAddr, Arc<Readiness>, CancellationToken) {
    let (pages, readiness, draining) = pages(sidecar);
    let admin = Admin::listen(sidecar.config.admin).await.unwrap();
    let address = admin.address();
    tokio::spawn(admin.serve(Arc::new(pages)));
    (address, readiness, draining)
}

fn pages(sidecar: &Sidecar) -> (Pages, Arc<Readiness>, CancellationToken) {
    let draining = CancellationToken::new();
    let readiness = Readiness::new(
        &sidecar.config,
        sidecar.identity.clone(),
        sidecar.state.clone(),
        draining.clone(),
    );
    let readiness = Arc::new(readiness);
    let pages = Pages {
        registry: sidecar.registry.clone(),
        vitals: Arc::clone(&sidecar.vitals),
        readiness: Arc::clone(&readiness),
        connections: Box::new(|| json!([{ "id": "1" }])),
        config: Arc::clone(&sidecar.config),
        identity: sidecar.identity.clone(),
        state: sidecar.state.clone(),
        prober: Prober::new(sidecar.config.probes.clone()),
    };
    (pages, readiness, draining)
}

#[tokio::test]
async fn who_talks_to_whom_is_shown_over_loopback_only_when_so_configured() {
    let ca = Ca::new("root");
    let control = Fake::start(&ca, None).await;
    for (setting, status) in [("adminDetails=anyone", 200), ("adminDetails=loopback", 403)] {
        let sidecar = Sidecar::start(&ca, control.address, &[setting]);
        let (pages, ..) = pages(&sidecar);
        let from = |peer: &str| Asker {
            local: "10.0.0.7".parse().unwrap(),
            peer: peer.parse().unwrap(),
        };
        for path in ["/connections", "/config"] {
            let get = http::Request::get(path).body(()).unwrap();
            assert_eq!(
                pages.answer(&get, from("10.0.0.9")).await.status(),
                status,
                "{setting} {path}"
            );
            assert_eq!(
                pages.answer(&get, from("127.0.0.1")).await.status(),
                200,
                "{setting} {path}"
            );
        }
        for path in ["/metrics", "/live"] {
            let get = http::Request::get(path).body(()).unwrap();
            assert_eq!(
                pages.answer(&get, from("10.0.0.9")).await.status(),
                200,
                "{setting} {path}"
            );
        }
    }
}

#[tokio::test]
async fn configured_probes_are_put_to_the_application_and_others_are_unknown() {
    let ca = Ca::new("root");
    let control = Fake::start(&ca, None).await;
    let app = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = app.local_addr().unwrap().port();
    let probes = format!("probes={{\"/probe/web/liveness\":{{\"tcp\":{{\"port\":{port}}}}}}}");
    let sidecar = Sidecar::start(&ca, control.address, &[&probes]);
    let (admin, ..) = serve(&sidecar).await;
    assert_eq!(ask(admin, "GET /probe/web/liveness").await.0, 200);
    assert_eq!(ask(admin, "GET /probe/web/readiness").await.0, 404);
    drop(app);
    assert_eq!(ask(admin, "GET /probe/web/liveness").await.0, 503);
}

#[tokio::test]
async fn ready_says_what_is_missing_until_nothing_is_and_again_when_draining() {
    let ca = Ca::new("root");
    let mut control = Fake::start(&ca, None).await;
    control.set(|b| b.refuse_token = true);
    let sidecar = Sidecar::start(&ca, control.address, &[]);
    let (admin, readiness, draining) = serve(&sidecar).await;
    let all = [
        "identity",
        "policy",
        "bundle",
        "revocations",
        "workloads",
        "services",
        "listening",
    ];
    assert_eq!(ready(admin).await, (503, all.map(str::to_owned).to_vec()));
    assert_eq!(ask(admin, "GET /live").await.0, 200, "alive all the same");

    control.set(|b| b.refuse_token = false);
    let stream = control.stream().await;
    for response in everything(&ca) {
        stream.send(Ok(response)).await.unwrap();
    }
    sidecar.until(|state| state.tables.complete()).await;
    assert_eq!(ready(admin).await, (503, vec!["listening".to_owned()]));
    readiness.listening();
    assert_eq!(ready(admin).await, (200, vec![]));
    draining.cancel();
    assert_eq!(ready(admin).await, (503, vec!["draining".to_owned()]));
}

#[tokio::test]
async fn the_pages_show_figures_connections_and_configuration_and_no_secret() {
    let ca = Ca::new("root");
    let mut control = Fake::start(&ca, None).await;
    let sidecar = Sidecar::start(&ca, control.address, &[]);
    let (admin, ..) = serve(&sidecar).await;
    let stream = control.stream().await;
    for response in everything(&ca) {
        stream.send(Ok(response)).await.unwrap();
    }
    sidecar.until(|state| state.tables.complete()).await;

    let (status, metrics) = ask(admin, "GET /metrics").await;
    assert_eq!(status, 200);
    for line in [
        "squire_svid_renewals_total{result=\"success\"} 1",
        "squire_svid_generation 1",
        "squire_control_connected 1",
        "squire_state_workloads 1",
        "squire_state_age_seconds{kind=\"policy\"} 0",
        "squire_state_updates_total{kind=\"workload\",result=\"applied\"} 1",
    ] {
        assert!(metrics.lines().any(|l| l == line), "{line} not in:\n{metrics}");
    }
    assert_eq!(
        ask(admin, "GET /connections").await,
        (200, "[{\"id\":\"1\"}]\n".to_owned())
    );

    let (status, body) = ask(admin, "GET /config").await;
    let config: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(status, 200);
    assert_eq!(config["identity"]["svid"]["id"], WEB);
    assert_eq!(config["config"]["drain"]["grace"], "30s");
    assert_eq!(config["bundles"]["digest"], sidecar.state.borrow().bundles.digest());
    assert_eq!(config["tables"]["policy"]["version"], "v-p1");
    assert_eq!(config["policy"]["ingress"], "open");
    assert!(!body.contains("first-token"), "the token is a secret");

    assert_eq!(ask(admin, "GET /nothing").await.0, 404);
    assert_eq!(ask(admin, "POST /ready").await.0, 405);
}
