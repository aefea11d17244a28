//! The root is rotated under load: with the control plane killed in every phase and sidecars restarted, no connection fails
//! for a reason of trust. A gate holds for as long as one sidecar is silent and names it; going back works from there.
//!
//! `SQUIRE_ROTATION_CONNECTIONS=100000` runs the same with as many connections (default 2,000).

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use serde_json::Value;
use squire_tests::{Mesh, Pod, Sidecar, Signal, apps, backend::Backend, eventually, http, id};
use tokio::task::JoinSet;

/// Outcomes that say that somebody did not trust somebody. (A sidecar that has just been started refuses with `not_ready`,
/// as it has no policy yet: that is no matter of trust.)
const DISTRUST: [&str; 8] = [
    "peer_identity",
    "peer_refused_us",
    "no_certificate",
    "handshake_failed",
    "tls_broken",
    "cut_untrusted",
    "cut_expired",
    "cut_revoked",
];
/// A rotation has to wait for whoever is restarting.
const PATIENCE: Duration = Duration::from_secs(120);

async fn succeeds(mesh: &Mesh, arguments: &[&str]) -> String {
    let output = mesh.squire(arguments).await;
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

async fn rotate(mesh: &Mesh) {
    succeeds(mesh, &["ca", "rotate", "--dir", "ca"]).await;
}

/// What `squire ca status` shows, with the progress of a rotation if there is one.
async fn status(mesh: &Mesh) -> Option<Value> {
    let output = mesh.squire(&["ca", "status", "--dir", "ca", "-o", "json"]).await;
    serde_json::from_slice(&output.stdout).ok()
}

/// Waits until the rotation has come to this phase.
async fn reaches(mesh: &Mesh, phase: &str) -> Value {
    let begun = Instant::now();
    loop {
        let status = status(mesh).await;
        match status {
            Some(status) if status["phase"]["name"] == phase => return status,
            _ => assert!(begun.elapsed() < PATIENCE, "not in phase {phase}: {status:?}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn root(status: &Value) -> String {
    let roots = status["roots"].as_array().unwrap();
    let active = roots.iter().find(|root| root["active"] == true).unwrap();
    active["key_id"].as_str().unwrap().to_owned()
}

/// What went through, and how often something could not be reached.
#[derive(Default)]
struct Load {
    done: AtomicU64,
    failed: AtomicU64,
    over: AtomicBool,
}

impl Load {
    fn count<T>(&self, result: &std::io::Result<T>) {
        match result {
            Ok(_) => self.done.fetch_add(1, SeqCst),
            Err(_) => self.failed.fetch_add(1, SeqCst),
        };
    }

    /// Waits until so many connections have been served.
    async fn reaches(&self, wanted: u64) {
        let begun = Instant::now();
        let mut last = (0, Instant::now());
        while self.done.load(SeqCst) < wanted {
            let now = self.done.load(SeqCst);
            if now != last.0 {
                last = (now, Instant::now());
            }
            assert!(
                last.1.elapsed() < PATIENCE,
                "{now} connections after {:?}, and no more",
                begun.elapsed()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Short ones of bytes, short ones of HTTP, and some that stay open for seconds.
fn begin(load: &Arc<Load>, bytes: std::net::SocketAddr, web: std::net::SocketAddr) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for _ in 0..4 {
        let load = Arc::clone(load);
        tasks.spawn(async move {
            while !load.over.load(SeqCst) {
                let result = apps::echoes(bytes).await;
                load.count(&result);
                if result.is_err() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        });
    }
    for _ in 0..2 {
        let load = Arc::clone(load);
        tasks.spawn(async move {
            while !load.over.load(SeqCst) {
                let result = match http::get(web, "/").await {
                    Ok((status, _)) if status != 200 => Err(std::io::Error::other(status.to_string())),
                    answer => answer,
                };
                load.count(&result);
                if result.is_err() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        });
    }
    for nth in 0..4_u64 {
        let load = Arc::clone(load);
        tasks.spawn(async move {
            while !load.over.load(SeqCst) {
                let Ok(mut stream) = apps::echoes(bytes).await else {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                };
                let until = Instant::now() + Duration::from_secs(1 + nth);
                let mut result = Ok(());
                while result.is_ok() && Instant::now() < until && !load.over.load(SeqCst) {
                    result = apps::round_trip(&mut stream, b"still here").await;
                    tokio::time::sleep(Duration::from_millis(25)).await;
                }
                load.count(&result);
            }
        });
    }
    tasks
}

/// How often connections of a sidecar ended because of trust.
fn distrust(sidecar: &Sidecar) -> Vec<Value> {
    let lines = sidecar.access_log().into_iter();
    lines
        .filter(|line| DISTRUST.iter().any(|outcome| line["outcome"] == *outcome))
        .collect()
}

/// Waits until one of these has cut a connection of web's for this reason: whoever hears of it first does.
async fn cut(sidecars: &[&Sidecar], outcome: &str) {
    let fits = |line: &Value| line["outcome"] == outcome && line["source"] == id("web");
    eventually(&format!("a connection ends with {outcome}"), async || {
        sidecars
            .iter()
            .any(|one| one.access_log().iter().any(fits))
            .then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_rotations_under_load_with_the_control_plane_killed_in_every_phase_cost_no_connection_its_trust() {
    let wanted: u64 = std::env::var("SQUIRE_ROTATION_CONNECTIONS").map_or(2_000, |text| text.parse().unwrap());
    let mesh = Mesh::strict();
    let echo = apps::echo().await;
    let pages = Backend::start("api").await;
    fn db<'m>(mesh: &'m Mesh, app: std::net::SocketAddr) -> Pod<'m> {
        mesh.pod("db").serves(5432, app).set("svid.lifetime=5m")
    }
    fn api<'m>(mesh: &'m Mesh, app: std::net::SocketAddr) -> Pod<'m> {
        mesh.pod("api").serves(80, app).set("svid.lifetime=5m")
    }
    let web = mesh
        .pod("web")
        .reaches("db:5432")
        .reaches("api:80")
        .set("svid.lifetime=5m");
    let (db_pod, api_pod) = (db(&mesh, echo.address()), api(&mesh, pages.address()));
    mesh.start().await;
    let (mut db_now, mut api_now, web) = tokio::join!(db_pod.start(), api_pod.start(), web.start());
    let load = Arc::new(Load::default());
    let tasks = begin(&load, web.to("db:5432"), web.to("api:80"));
    let mut roots = vec![root(&status(&mesh).await.unwrap())];

    for round in 0..3_u64 {
        rotate(&mesh).await;
        for (step, phase) in [(1, "distribute"), (2, "switch"), (3, "retire")] {
            reaches(&mesh, phase).await;
            mesh.kill_control().await;
            // One sidecar is restarted meanwhile, another one each time, without a word or in order.
            match (round + step) % 3 {
                0 => db_now.process.signal(Signal::TERM),
                1 => db_now.process.kill().await,
                _ => api_now.process.kill().await,
            }
            if (round + step) % 3 == 0 {
                db_now.process.ended().await;
            }
            mesh.start().await;
            match (round + step) % 3 {
                2 => api_now = api(&mesh, pages.address()).start().await,
                _ => db_now = db(&mesh, echo.address()).start().await,
            }
            load.reaches(wanted * (round * 3 + step) / 9).await;
        }
        let stable = reaches(&mesh, "stable").await;
        assert_eq!(stable["roots"].as_array().unwrap().len(), 1, "{stable}");
        roots.push(root(&stable));
    }
    load.over.store(true, SeqCst);
    tasks.join_all().await;
    roots.sort();
    roots.dedup();
    assert_eq!(roots.len(), 4, "each time another root");
    let (done, failed) = (load.done.load(SeqCst), load.failed.load(SeqCst));
    eprintln!("{done} connections went through, {failed} met a sidecar that was restarting");
    assert!(done >= wanted);
    for sidecar in [&web, &db_now, &api_now] {
        let distrusted = distrust(sidecar);
        assert!(distrusted.is_empty(), "{} of {done}: {distrusted:#?}", distrusted.len());
    }
    succeeds(&mesh, &["ca", "log", "--dir", "ca", "--verify"]).await;
}

#[tokio::test]
async fn the_gate_holds_for_a_silent_sidecar_and_names_it_and_going_back_works() {
    let mesh = Mesh::strict();
    let echo = apps::echo().await;
    let db = mesh.pod("db").serves(5432, echo.address());
    let web = mesh.pod("web").reaches("db:5432");
    mesh.start().await;
    let (db, web) = tokio::join!(db.start(), web.start());
    apps::echoes(web.to("db:5432")).await.unwrap();
    let first = root(&status(&mesh).await.unwrap());

    db.process.signal(Signal::STOP);
    rotate(&mesh).await;
    let waiting = eventually("everybody but db has shown it", async || {
        let status = status(&mesh).await?;
        let rotation = &status["rotation"];
        let missing = rotation["missing"].as_array()?;
        (missing.len() == 1 && rotation["shown"].as_u64()? + 1 == rotation["holders"].as_u64()?).then(|| status.clone())
    })
    .await;
    let missing = &waiting["rotation"]["missing"][0];
    assert_eq!(
        (&waiting["phase"]["name"], &missing["workload"]),
        (&"distribute".into(), &"shop/db".into())
    );
    assert!(missing["since"].is_string() && missing["ends"].is_string(), "{missing}");
    assert_eq!(root(&waiting), first, "the old root goes on signing");
    let table = succeeds(&mesh, &["ca", "status", "--dir", "ca"]).await;
    assert!(table.contains("waits for") && table.contains("shop/db"), "{table}");
    // The control plane is killed, and knows nobody when it is back: still the gate holds.
    mesh.kill_control().await;
    mesh.start().await;
    let again = eventually("web has reported again", async || {
        let status = status(&mesh).await?;
        let missing = status["rotation"]["missing"].as_array()?;
        (missing.len() == 1 && missing[0]["workload"] == "shop/db").then(|| status.clone())
    })
    .await;
    assert_eq!(again["phase"]["name"], "distribute");
    let why = again["rotation"]["missing"][0]["why"].as_str().unwrap().to_owned();
    assert!(why.contains("has not reported"), "{why}");
    // Whoever forces it is told whom that breaks, and is asked.
    let asked = mesh.squire(&["ca", "rotate", "--force", "--dir", "ca"]).await;
    assert_eq!(asked.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&asked.stdout).contains("shop/db"), "{asked:?}");

    succeeds(&mesh, &["ca", "abort", "--dir", "ca"]).await;
    let back = reaches(&mesh, "stable").await;
    assert_eq!(root(&back), first);
    db.process.signal(Signal::CONT);
    eventually("db is reached as before", async || {
        apps::echoes(web.to("db:5432")).await.ok()
    })
    .await;
    // And from where nobody is missing, it goes all the way.
    succeeds(&mesh, &["ca", "rotate", "--watch", "--dir", "ca"]).await;
    assert_ne!(root(&status(&mesh).await.unwrap()), first);
    apps::echoes(web.to("db:5432")).await.unwrap();
    assert!(distrust(&web).is_empty() && distrust(&db).is_empty());
}

#[tokio::test]
async fn a_connection_is_cut_when_its_root_is_forced_out_of_the_bundle_and_when_its_workload_is_gone() {
    let mesh = Mesh::strict();
    let echo = apps::echo().await;
    let db = mesh.pod("db").serves(5432, echo.address());
    let web = mesh.pod("web").reaches("db:5432");
    mesh.start().await;
    let (db, web) = tokio::join!(db.start(), web.start());
    let mut old = apps::echoes(web.to("db:5432")).await.unwrap();
    rotate(&mesh).await;
    reaches(&mesh, "switch").await;
    // Both hold an SVID under the new root soon; the connection still stands on the old one, and keeps it.
    eventually("only connections are missing", async || {
        let status = status(&mesh).await?;
        let missing = status["rotation"]["missing"].as_array()?.clone();
        let connections = |one: &Value| one["why"].as_str().is_some_and(|why| why.contains("has connections"));
        (!missing.is_empty() && missing.iter().all(connections)).then_some(())
    })
    .await;
    apps::round_trip(&mut old, b"kept").await.unwrap();
    succeeds(&mesh, &["ca", "rotate", "--force", "--yes", "--dir", "ca"]).await;
    eventually("the connection is cut", async || {
        apps::round_trip(&mut old, b"cut").await.err()
    })
    .await;
    cut(&[&web, &db], "cut_untrusted").await;
    reaches(&mesh, "stable").await;

    let _open = eventually("a new connection stands on the new root", async || {
        apps::echoes(web.to("db:5432")).await.ok()
    })
    .await;
    // Its own sidecar would end the connection too, as it has no policy any more: it is for db to notice.
    web.process.signal(Signal::STOP);
    mesh.remove("workload-web.yaml");
    cut(&[&db], "cut_gone").await;
}

#[tokio::test]
async fn a_root_of_the_admins_own_founds_a_ca_is_rotated_to_and_so_is_one_whose_key_stays_elsewhere() {
    let mesh = Mesh::strict();
    let openssl = async |arguments: &[&str]| {
        let mut command = tokio::process::Command::new("openssl");
        let output = command.args(arguments).current_dir(mesh.dir()).output().await.unwrap();
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    };
    for name in ["one", "two", "offline"] {
        let (key, cert, subject) = (
            format!("{name}.key"),
            format!("{name}.pem"),
            format!("/CN=Example {name}"),
        );
        openssl(&[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-384",
            "-nodes",
            "-keyout",
            &key,
            "-out",
            &cert,
            "-days",
            "3650",
            "-subj",
            &subject,
            "-addext",
            "basicConstraints=critical,CA:TRUE",
            "-addext",
            "keyUsage=critical,keyCertSign,cRLSign",
        ])
        .await;
    }
    let wrong = mesh
        .squire(&[
            "ca",
            "init",
            "--dir",
            "ca",
            "--root-cert",
            "one.pem",
            "--root-key",
            "two.key",
        ])
        .await;
    assert_eq!(wrong.status.code(), Some(2));
    assert!(
        String::from_utf8_lossy(&wrong.stderr).contains("belongs to another certificate"),
        "{wrong:?}"
    );
    succeeds(
        &mesh,
        &[
            "ca",
            "init",
            "--dir",
            "ca",
            "--root-cert",
            "one.pem",
            "--root-key",
            "one.key",
        ],
    )
    .await;
    let echo = apps::echo().await;
    let db = mesh.pod("db").serves(5432, echo.address());
    let web = mesh.pod("web").reaches("db:5432");
    let published = mesh.dir().join("roots.pem");
    mesh.start_with(&["--trust-bundle-file", published.to_str().unwrap()])
        .await;
    let (_db, web) = tokio::join!(db.start(), web.start());
    apps::echoes(web.to("db:5432")).await.unwrap();
    let file = |name: &str| std::fs::read_to_string(mesh.dir().join(name)).unwrap();
    let same = |a: &str, b: &str| a.split_whitespace().eq(b.split_whitespace());
    assert!(same(&file("roots.pem"), &file("one.pem")));

    let to_two = [
        "ca",
        "rotate",
        "--watch",
        "--dir",
        "ca",
        "--root-cert",
        "two.pem",
        "--root-key",
        "two.key",
    ];
    succeeds(&mesh, &to_two).await;
    eventually("the file holds the new root", async || {
        same(&file("roots.pem"), &file("two.pem")).then_some(())
    })
    .await;
    apps::echoes(web.to("db:5432")).await.unwrap();

    std::fs::write(
        mesh.dir().join("csr.pem"),
        succeeds(&mesh, &["ca", "csr", "--dir", "ca"]).await,
    )
    .unwrap();
    openssl(&[
        "x509",
        "-req",
        "-in",
        "csr.pem",
        "-CA",
        "offline.pem",
        "-CAkey",
        "offline.key",
        "-CAcreateserial",
        "-copy_extensions",
        "copyall",
        "-days",
        "365",
        "-out",
        "signed.pem",
    ])
    .await;
    std::fs::write(mesh.dir().join("both.pem"), file("signed.pem") + &file("offline.pem")).unwrap();
    succeeds(&mesh, &["ca", "import", "both.pem", "--dir", "ca"]).await;
    let stable = reaches(&mesh, "stable").await;
    assert_eq!(stable["roots"][0]["key_present"], false, "{stable}");
    assert!(same(&file("roots.pem"), &file("offline.pem")));
    apps::echoes(web.to("db:5432")).await.unwrap();
}
