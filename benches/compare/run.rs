//! The order of a run: repetitions, within them sessions, within them all columns in turn (starting with another one each time), so that
//! drift of the machine hits everybody alike. Takes no figure itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{SignalKind, signal};

use crate::arguments::Arguments;
use crate::figures::{self, Bench, Figure, Session};
use crate::ground::{Ground, Values, fill};
use crate::load::{Protocol, pattern};
use crate::machine::Machine;
use crate::measure::Results;
use crate::peer::{self, Layer, Pair, Peer, Rules, Squire, Variant};
use crate::process::Process;
use crate::report;

/// nginx's configuration as the application of the HTTP figures.
const APP_CONF: &str = include_str!("../peers/app/nginx.conf");

/// Runs the comparison and writes the report.
pub(crate) fn compare(arguments: &Arguments) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(until_told(run(arguments)))
}

/// Does something until it has ended or a person wants no more of it.
pub(crate) async fn until_told(act: impl Future<Output = Result<()>>) -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        outcome = act => outcome,
        _ = interrupt.recv() => bail!("interrupted; everything it started has been ended"),
        _ = terminate.recv() => bail!("terminated; everything it started has been ended"),
    }
}

async fn run(arguments: &Arguments) -> Result<()> {
    let began = Instant::now();
    let peers = choose(arguments)?;
    let ground = Ground::prepare(arguments.work.as_deref())?;
    let mut results = Results::default();
    if arguments.figures.contains(&Figure::Size) {
        figures::take_sizes(&peers, &ground, &mut results)?;
    }
    for repetition in 0..arguments.effort.repetitions {
        for session in Session::ALL {
            run_session(arguments, &ground, &peers, (session, repetition, began), &mut results).await?;
        }
    }
    figures::add_differences(&mut results);
    let out = out(arguments.out.as_deref())?;
    let report = report::Report::new(Machine::look(), &arguments.effort, &peers, results, began.elapsed());
    report.write(&out)?;
    println!("{}", report.text());
    println!("report: {}", out.join("REPORT.md").display());
    Ok(())
}

async fn run_session(
    arguments: &Arguments,
    ground: &Ground,
    peers: &[Peer],
    (session, repetition, began): (Session, usize, Instant),
    results: &mut Results,
) -> Result<()> {
    let wanted: Vec<Figure> = session
        .figures()
        .iter()
        .copied()
        .filter(|figure| arguments.figures.contains(figure))
        .collect();
    let effort = &arguments.effort;
    if wanted.is_empty() || (session == Session::Idle && repetition >= effort.memory_repetitions) {
        return Ok(());
    }
    let peers: Vec<&Peer> = peers
        .iter()
        .filter(|peer| wanted.iter().any(|figure| peer.takes(*figure)))
        .collect();
    if peers.is_empty() {
        return Ok(());
    }
    let (app, mut app_process) = start_app(session, ground).await?;
    for turn in 0..peers.len() {
        let peer = peers[(turn + repetition) % peers.len()];
        let column = peer.column();
        eprintln!(
            "[{:4} s, {}/{}] {session:?}: {}",
            began.elapsed().as_secs(),
            repetition + 1,
            effort.repetitions,
            column.title()
        );
        let mut pair = peer.start(ground, app, session.protocol()).await?;
        for &figure in wanted.iter().filter(|figure| peer.takes(**figure)) {
            let mut bench = Bench {
                effort,
                ground,
                column: &column,
                pair: &mut pair,
                repetition,
                results,
            };
            let taken = bench.take(figure).await;
            taken.with_context(|| failure(&column.title(), &pair))?;
        }
        app_process.check()?;
    }
    Ok(())
}

fn failure(title: &str, pair: &Pair) -> String {
    let words: Vec<String> = pair
        .client
        .iter()
        .chain(&pair.server)
        .map(Process::last_words)
        .collect();
    format!("{title} failed; last words of its proxies:\n{}", words.join("\n--\n"))
}

/// The application that the session's figures need.
async fn start_app(session: Session, ground: &Ground) -> Result<(std::net::SocketAddr, Process)> {
    let app = ground.address()?;
    let dir = ground.room("app")?;
    let argv = match session {
        Session::Transfer | Session::Idle | Session::Streams => {
            vec![
                std::env::current_exe()?.display().to_string(),
                "app".to_owned(),
                app.to_string(),
            ]
        }
        Session::Http | Session::Rules => nginx_app(app, &dir, ground.values())?,
    };
    let mut process = Process::spawn("app", &argv, &dir)?;
    peer::serving(app, Protocol::Http1, &mut [&mut process])
        .await
        .context("the application does not start")?;
    Ok((app, process))
}

fn nginx_app(app: std::net::SocketAddr, dir: &Path, mut values: Values) -> Result<Vec<String>> {
    let bodies = dir.join("www").join("bytes");
    fs::create_dir_all(&bodies)?;
    for length in [1, 1024] {
        fs::write(bodies.join(length.to_string()), pattern::at(0, length))?;
    }
    values.set("dir", dir.display().to_string());
    values.set_address("app", app);
    fs::write(dir.join("app.conf"), fill(APP_CONF, &values)?)?;
    let dir = dir.display().to_string();
    Ok(["nginx", "-e", "stderr", "-p", &dir, "-c", "app.conf"]
        .map(str::to_owned)
        .to_vec())
}

/// The peers that are wanted and there.
fn choose(arguments: &Arguments) -> Result<Vec<Peer>> {
    let binaries = binaries(arguments.binaries.as_deref())?;
    let mut peers = vec![Peer::Direct];
    for variant in [Variant::Standard, Variant::Unpooled, Variant::Plaintext] {
        peers.push(Peer::Squire(Squire::new(binaries.clone(), variant, Layer::L4)));
    }
    peers.push(Peer::Squire(Squire::new(
        binaries.clone(),
        Variant::Standard,
        Layer::L7,
    )));
    for rules in Rules::ALL {
        peers.push(Peer::Squire(Squire::new(
            binaries.clone(),
            Variant::Rules(rules),
            Layer::L7,
        )));
    }
    for file in &arguments.peer_files {
        peers.extend(peer::load_file(file)?.into_iter().map(Peer::Described));
    }
    if let Some(names) = &arguments.peers {
        for name in names {
            if !peers.iter().any(|peer| peer.column().name == *name) {
                bail!("--peers: nobody is called {name:?}; give its --peer-file");
            }
        }
        peers.retain(|peer| names.contains(&peer.column().name));
    } else {
        peers.retain(|peer| peer.ships() || arguments.effort.shapes);
        peers.retain(|peer| {
            let installed = peer.installed();
            if !installed {
                eprintln!(
                    "squire-compare: {} is not installed: going on without it",
                    peer.column().title()
                );
            }
            installed
        });
    }
    peers.retain(|peer| {
        peer.column()
            .layer
            .is_none_or(|layer| arguments.layers.contains(&layer))
    });
    if peers.is_empty() {
        bail!("no peer is left to measure");
    }
    Ok(peers)
}

/// Where `squire` and `squire-proxy` are.
pub(crate) fn binaries(wanted: Option<&Path>) -> Result<PathBuf> {
    match wanted {
        Some(dir) => dir
            .canonicalize()
            .with_context(|| format!("--binaries {}", dir.display())),
        None => beside_this_program(""),
    }
}

/// Where the report goes.
pub(crate) fn out(wanted: Option<&Path>) -> Result<PathBuf> {
    wanted.map_or_else(|| beside_this_program("compare-report"), |out| Ok(out.to_owned()))
}

fn beside_this_program(name: &str) -> Result<PathBuf> {
    Ok(std::env::current_exe()?.with_file_name(name))
}
