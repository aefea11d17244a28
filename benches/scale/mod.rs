//! `squire-compare scale`: what size costs. One control plane with thousands of simulated proxies (real gRPC streams, SVIDs and reports, no data
//! path), and one real sidecar in meshes of many workloads. Nobody else is measured here: the figures are seconds, MiB and KiB of this machine.

mod board;
mod control;
mod fleet;
mod issuer;
mod mesh;
mod proxy;
mod report;
mod table;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use lexopt::prelude::*;
use serde::Serialize;

use crate::arguments::words;
use crate::ground::Ground;
use crate::machine::Machine;
use crate::run;

/// A valid wish.
pub(crate) struct Arguments {
    proxies: Vec<usize>,
    workloads: Vec<usize>,
    rounds: usize,
    mode: &'static str,
    binaries: Option<PathBuf>,
    out: Option<PathBuf>,
    work: Option<PathBuf>,
}

/// What a run has found; `report/scale.json`.
#[derive(Serialize)]
struct Scale {
    machine: Machine,
    mode: &'static str,
    took_seconds: u64,
    fleets: Vec<fleet::Figures>,
    tables: Vec<table::Figures>,
}

impl Arguments {
    /// Parses what follows `scale`.
    pub(crate) fn parse(mut parser: lexopt::Parser) -> Result<Self> {
        let mut arguments = Self {
            proxies: vec![1_000, 5_000],
            workloads: vec![100, 10_000, 100_000],
            rounds: 5,
            mode: "full",
            binaries: None,
            out: None,
            work: None,
        };
        while let Some(argument) = parser.next()? {
            match argument {
                Long("quick") => arguments.set("quick", &[500], &[100, 10_000], 3),
                Long("smoke") => arguments.set("smoke", &[20], &[50], 1),
                Long("proxies") => arguments.proxies = numbers("--proxies", &parser.value()?.string()?)?,
                Long("workloads") => arguments.workloads = numbers("--workloads", &parser.value()?.string()?)?,
                Long("rounds") => arguments.rounds = parser.value()?.parse::<usize>()?.max(1),
                Long("binaries") => arguments.binaries = Some(parser.value()?.into()),
                Long("out") => arguments.out = Some(parser.value()?.into()),
                Long("work") => arguments.work = Some(parser.value()?.into()),
                other => return Err(other.unexpected().into()),
            }
        }
        Ok(arguments)
    }

    fn set(&mut self, mode: &'static str, proxies: &[usize], workloads: &[usize], rounds: usize) {
        self.mode = mode;
        self.proxies = proxies.to_vec();
        self.workloads = workloads.to_vec();
        self.rounds = rounds;
    }
}

fn numbers(flag: &str, list: &str) -> Result<Vec<usize>> {
    let numbers = words(list).into_iter().map(|word| {
        let number = word.parse().ok().filter(|number| *number > 0);
        number.with_context(|| format!("{flag}: {word:?} is not a positive number"))
    });
    numbers.collect()
}

/// Measures and writes the report.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(run::until_told(measure(arguments)))
}

async fn measure(arguments: &Arguments) -> Result<()> {
    let began = Instant::now();
    let binaries = run::binaries(arguments.binaries.as_deref())?;
    for name in ["squire", "squire-proxy"] {
        if !binaries.join(name).is_file() {
            bail!(
                "there is no {name} in {}: give its directory with --binaries",
                binaries.display()
            );
        }
    }
    let ground = Ground::prepare(arguments.work.as_deref())?;
    let (mut fleets, mut tables) = (Vec::new(), Vec::new());
    for &proxies in &arguments.proxies {
        eprintln!("{proxies} proxies");
        let plan = fleet::Plan {
            squire: binaries.join("squire"),
            ground: &ground,
            proxies,
            rounds: arguments.rounds,
            rotate: true,
        };
        fleets.push(fleet::take(&plan).await.with_context(|| format!("{proxies} proxies"))?);
    }
    for &workloads in &arguments.workloads {
        for subscribes in [table::Subscribes::All, table::Subscribes::OnDemand] {
            eprintln!("{workloads} workloads, subscribes to {}", subscribes.name());
            let taken = table::take(&binaries, &ground, workloads, subscribes, arguments.rounds).await;
            tables.push(taken.with_context(|| format!("{workloads} workloads, {}", subscribes.name()))?);
        }
    }
    let scale = Scale {
        machine: Machine::look(),
        mode: arguments.mode,
        took_seconds: began.elapsed().as_secs(),
        fleets,
        tables,
    };
    let out = run::out(arguments.out.as_deref())?;
    report::write(&scale, &out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments> {
        Arguments::parse(lexopt::Parser::from_args(line.split_whitespace()))
    }

    #[test]
    fn sizes_are_lists_of_positive_numbers() {
        assert_eq!(parse("--proxies 10,20").unwrap().proxies, [10, 20]);
        for line in ["--proxies 0", "--workloads ten", "--fast"] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
