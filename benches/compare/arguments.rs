//! The command line of `squire-compare`: text in, a valid [`Command`] out. Reads no environment and starts nothing.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use lexopt::prelude::*;

use crate::effort::Effort;
use crate::figures::Figure;
use crate::peer::Layer;
use crate::scale;

/// What `--help` prints.
pub(crate) const HELP: &str = "\
Measure Squire beside other proxies: same machine, same run, every byte checked.

Usage: benches/run [OPTIONS]
       benches/run scale [OPTIONS]

  --quick               short windows, 2 repetitions, no shapes of Squire that do not ship, memory only idle (under 3 minutes)
  --smoke               every figure once with tiny windows: does it work at all (for CI)
  --repetitions N       repetitions instead of the mode's own number (default mode: 5)
  --only FIGURE,…       bulk, requests, http2, grpc, latency, connections, memory, startup, rules, size (default: all)
  --peers NAME,…        squire, envoy, haproxy, nginx, direct, or a name of a peer file (default: all); and for one figure each
                        squire-unpooled (connections: a handshake for each), squire-plaintext (bulk: no TLS between the sidecars),
                        squire-10-rules, squire-1000-rules, squire-100000-rules (rules: of policies for other workloads)
  --layers l4,l7        only these columns (default: both)
  --peer-file FILE      more peers, described in JSON (repeatable; see benches/README.md)
  --binaries DIR        where squire and squire-proxy are (default: beside this program)
  --out DIR             write REPORT.md and report/ there (default: compare-report beside this program)
  --work DIR            keep configurations and logs there (default: the system's directory for temporary files, removed at the end)
  --help

scale: one control plane with thousands of simulated proxies, and one sidecar in a mesh of many workloads (benches/SCALE.md)
  --proxies N,…         simulated proxies (default: 1000,5000)
  --workloads N,…       workloads of the mesh (default: 100,10000,100000)
  --rounds N            changes of each kind (default: 5)
  --quick, --smoke      fewer and smaller
  --binaries, --out, --work    as above

Examples:
  benches/run --quick
  benches/run --peers squire,envoy --only bulk,requests
  benches/run --peer-file my-proxy.json --out benches
  benches/run scale --proxies 1000 --workloads 10000
";

/// What to do.
pub(crate) enum Command {
    /// Print the help text.
    Help,
    /// Be the application behind the proxies (started by this program itself).
    App(SocketAddr),
    /// Compare.
    Compare(Box<Arguments>),
    /// Measure many proxies, and many workloads.
    Scale(scale::Arguments),
}

/// A valid wish for a comparison.
pub(crate) struct Arguments {
    /// How long and how often.
    pub(crate) effort: Effort,
    /// The figures to take.
    pub(crate) figures: Vec<Figure>,
    /// Names of the peers to measure; `None`: all.
    pub(crate) peers: Option<Vec<String>>,
    /// The layers to measure.
    pub(crate) layers: Vec<Layer>,
    /// Files that describe peers.
    pub(crate) peer_files: Vec<PathBuf>,
    /// Directory of the `squire` and `squire-proxy` binaries; `None`: beside this program.
    pub(crate) binaries: Option<PathBuf>,
    /// Where the report goes; `None`: beside this program.
    pub(crate) out: Option<PathBuf>,
    /// Where configurations and logs are kept; `None`: nowhere.
    pub(crate) work: Option<PathBuf>,
}

/// Parses the process's own arguments.
pub(crate) fn parse() -> Result<Command> {
    parse_from(lexopt::Parser::from_env())
}

fn parse_from(mut parser: lexopt::Parser) -> Result<Command> {
    let mut arguments = Arguments {
        effort: Effort::full(),
        figures: Figure::ALL.to_vec(),
        peers: None,
        layers: vec![Layer::L4, Layer::L7],
        peer_files: Vec::new(),
        binaries: None,
        out: None,
        work: None,
    };
    let mut repetitions = None;
    while let Some(argument) = parser.next()? {
        match argument {
            Short('h') | Long("help") => return Ok(Command::Help),
            Value(word) if word == "app" => return Ok(Command::App(parser.value()?.parse()?)),
            Value(word) if word == "scale" => return scale::Arguments::parse(parser).map(Command::Scale),
            Long("quick") => arguments.effort = Effort::quick(),
            Long("smoke") => arguments.effort = Effort::smoke(),
            Long("repetitions") => repetitions = Some(parser.value()?.parse::<usize>()?),
            Long("only") => arguments.figures = figures(&parser.value()?.string()?)?,
            Long("peers") => arguments.peers = Some(words(&parser.value()?.string()?)),
            Long("layers") => arguments.layers = layers(&parser.value()?.string()?)?,
            Long("peer-file") => arguments.peer_files.push(parser.value()?.into()),
            Long("binaries") => arguments.binaries = Some(parser.value()?.into()),
            Long("out") => arguments.out = Some(parser.value()?.into()),
            Long("work") => arguments.work = Some(parser.value()?.into()),
            other => return Err(other.unexpected().into()),
        }
    }
    if let Some(repetitions) = repetitions {
        if repetitions == 0 {
            bail!("--repetitions must be at least 1");
        }
        arguments.effort.repetitions = repetitions;
    }
    Ok(Command::Compare(Box::new(arguments)))
}

/// The words of a list with commas.
pub(crate) fn words(list: &str) -> Vec<String> {
    list.split(',')
        .map(str::trim)
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

fn figures(list: &str) -> Result<Vec<Figure>> {
    words(list)
        .iter()
        .map(|word| {
            Figure::from_name(word).with_context(|| format!("--only: {word:?} is not one of {}", Figure::names()))
        })
        .collect()
}

fn layers(list: &str) -> Result<Vec<Layer>> {
    words(list)
        .iter()
        .map(|word| match word.as_str() {
            "l4" => Ok(Layer::L4),
            "l7" => Ok(Layer::L7),
            other => bail!("--layers: {other:?} is not l4 or l7"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compare(line: &str) -> Result<Box<Arguments>> {
        match parse_from(lexopt::Parser::from_args(line.split_whitespace()))? {
            Command::Compare(arguments) => Ok(arguments),
            Command::Help | Command::App(_) | Command::Scale(_) => bail!("not a comparison"),
        }
    }

    #[test]
    fn repetitions_override_the_mode_whatever_the_order() {
        for line in ["--repetitions 3 --quick", "--quick --repetitions 3"] {
            assert_eq!(compare(line).unwrap().effort.repetitions, 3, "{line}");
        }
    }

    #[test]
    fn only_names_figures() {
        assert_eq!(
            compare("--only bulk,memory").unwrap().figures,
            [Figure::Bulk, Figure::Memory]
        );
        let error = compare("--only bulk,speed").err().unwrap();
        assert!(error.to_string().contains("\"speed\""), "{error}");
    }

    #[test]
    fn nonsense_is_refused() {
        for line in ["--fast", "--layers l5", "--repetitions 0", "--only", "stray"] {
            assert!(compare(line).is_err(), "{line}");
        }
    }
}
