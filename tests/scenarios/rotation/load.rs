//! Three rotations in a row, and one that is given up, while connections of every kind come and go.
//!
//! `SQUIRE_ROTATION_CONNECTIONS=100000` runs the first with as many connections (default 2,000).

use std::net::SocketAddr;

use squire_tests::{
    Listens as _, Mesh, Pod, Sidecar, Signal,
    apps::{self, App},
    backend::Backend,
    eventually,
    grpc::GrpcApp,
    http2::Http2App,
    load::{Load, Targets},
    relay::Relay,
};

use super::*;

/// The applications, which go on while sidecars come and go.
struct Apps {
    echo: App,
    pages: Backend,
    streams: Http2App,
    calls: GrpcApp,
}

impl Apps {
    async fn start() -> Self {
        Self {
            echo: apps::echo().await,
            pages: Backend::start("api").await,
            streams: Http2App::start("api").await,
            calls: GrpcApp::start().await,
        }
    }

    fn pod<'m>(&self, mesh: &'m Mesh, name: &str) -> Pod<'m> {
        let pod = match name {
            "db" => mesh.pod("db").serves(5432, self.echo.address()),
            "api" => mesh
                .pod("api")
                .serves(80, self.pages.address())
                .serves(8080, self.streams.address())
                .serves(9090, self.calls.listens_at()),
            _ => mesh
                .pod("web")
                .reaches("db:5432")
                .reaches("api:80")
                .reaches("api:8080")
                .reaches("api:9090"),
        };
        pod.set("svid.lifetime=5m")
    }
}

fn targets(web: &Sidecar) -> Targets {
    Targets {
        bytes: web.to("db:5432"),
        http1: web.to("api:80"),
        http2: web.to("api:8080"),
        grpc: web.to("api:9090"),
    }
}

/// Numbers without a pattern, the same in each run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: u64) -> u64 {
        // Knuth's multiplier; the upper bits are the good ones.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) % sides
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_rotations_under_load_with_the_control_plane_killed_in_every_phase_cost_no_connection_its_trust() {
    let wanted: u64 = std::env::var("SQUIRE_ROTATION_CONNECTIONS").map_or(2_000, |text| text.parse().unwrap());
    let mesh = Mesh::strict();
    let apps = Apps::start().await;
    let names = ["db", "api", "web"];
    let pods = names.map(|name| apps.pod(&mesh, name));
    mesh.start().await;
    let [db, api, web] = pods;
    let (db, api, web) = tokio::join!(db.start(), api.start(), web.start());
    let load = Load::begin(targets(&web));
    let mut sidecars = [db, api, web];
    let mut roots = vec![root(&status(&mesh).await.unwrap())];
    let mut dice = Dice(wanted);
    let begun = Instant::now();

    for round in 0..3_u64 {
        rotate(&mesh).await;
        for phase in ["distribute", "switch", "retire"] {
            reaches(&mesh, phase).await;
            mesh.kill_control().await;
            // One of the sidecars is restarted meanwhile, without a word or in order.
            let which = usize::try_from(dice.below(3)).unwrap();
            if dice.below(2) == 0 {
                sidecars[which].process.kill().await;
            } else {
                sidecars[which].process.signal(Signal::TERM);
                sidecars[which].process.ended().await;
            }
            mesh.start().await;
            sidecars[which] = apps.pod(&mesh, names[which]).start().await;
        }
        let stable = reaches(&mesh, "stable").await;
        assert_eq!(stable["roots"].as_array().unwrap().len(), 1, "{stable}");
        roots.push(root(&stable));
        load.reaches(wanted * (round + 1) / 3).await;
    }
    let done = load.done();
    let counts = load.end().await;
    roots.sort();
    roots.dedup();
    assert_eq!(roots.len(), 4, "each time another root");
    eprintln!(
        "{done} connections in {:.0?} (kind, through, met a sidecar that was restarting): {counts:?}",
        begun.elapsed()
    );
    assert!(done >= wanted);
    assert!(counts.iter().all(|(_, done, _)| *done > 0), "{counts:?}");
    for sidecar in &sidecars {
        let distrusted = distrust(sidecar);
        assert!(distrusted.is_empty(), "{} of {done}: {distrusted:#?}", distrusted.len());
        assert_eq!(refused_handshakes(sidecar).await, 0.0);
    }
    succeeds(&mesh, &["ca", "log", "--dir", "ca", "--verify"]).await;
}

/// How many handshakes of this process failed because one side did not trust the other.
async fn refused_handshakes(sidecar: &Sidecar) -> f64 {
    let figures = sidecar.figures().await;
    let reasons = [
        "unknown_issuer",
        "expired",
        "not_yet_valid",
        "bad_signature",
        "unknown_trust_domain",
        "bad_path",
    ];
    let each = reasons.map(|reason| figures.sum("squire_handshake_failures_total", &[("reason", reason)]));
    each.iter().sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_cut_off_from_the_control_plane_holds_the_gate_and_serves_on_and_going_back_costs_no_connection() {
    let mesh = Mesh::strict();
    let apps = Apps::start().await;
    let way = Relay::to(SocketAddr::new(mesh.grpc().ip(), mesh.grpc().port())).await;
    let db = apps.pod(&mesh, "db").control(way.address());
    let (api, web) = (apps.pod(&mesh, "api"), apps.pod(&mesh, "web"));
    mesh.start().await;
    let (db, api, web) = tokio::join!(db.start(), api.start(), web.start());
    let first = root(&status(&mesh).await.unwrap());
    let load = Load::begin(targets(&web));
    load.reaches(50).await;

    way.cut();
    rotate(&mesh).await;
    let waiting = eventually("everybody but db has shown it", async || {
        let status = status(&mesh).await?;
        let missing = status["rotation"]["missing"].as_array()?;
        (missing.len() == 1).then(|| status.clone())
    })
    .await;
    assert_eq!(waiting["rotation"]["missing"][0]["workload"], "shop/db", "{waiting}");
    assert_eq!(
        (&waiting["phase"]["name"], root(&waiting)),
        (&"distribute".into(), first.clone())
    );
    load.reaches(load.done() + 200).await;
    succeeds(&mesh, &["ca", "abort", "--dir", "ca"]).await;
    assert_eq!(root(&reaches(&mesh, "stable").await), first);
    load.reaches(load.done() + 200).await;

    // It is back, and the next one goes all the way.
    way.mend();
    succeeds(&mesh, &["ca", "rotate", "--watch", "--dir", "ca"]).await;
    assert_ne!(root(&status(&mesh).await.unwrap()), first);
    load.reaches(load.done() + 50).await;
    let counts = load.end().await;
    for sidecar in [&db, &api, &web] {
        assert!(distrust(sidecar).is_empty(), "{:#?}", distrust(sidecar));
        assert_eq!(refused_handshakes(sidecar).await, 0.0);
    }
    assert!(
        counts.iter().all(|(_, _, failed)| *failed == 0),
        "nothing was restarted: {counts:?}"
    );
}
