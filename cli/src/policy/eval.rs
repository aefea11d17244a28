//! `squire policy eval`: JSON lines in, JSON lines out.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, BufWriter, Write},
    path::PathBuf,
};

use anyhow::{Context as _, anyhow};
use squire_control::{
    manifest::{Problem, Severity},
    policy::eval::Evaluator,
};

use super::manifest;
use crate::exit::{Failure, Outcome};

const EXAMPLES: &str = "\
Examples:
  squire policy eval < cases.jsonl                     each line brings its own policies
  squire policy eval -f mesh/ --requests asked.jsonl   policies and mesh settings from files

A line: {\"id\":\"1\",\"mesh\":{},\"policies\":\"apiVersion: …\",\"request\":{\"source\":…,\"destination\":…,\"connection\":…,\"http\":…}}
Both ends may name a node: an external source on the node of its destination passes its NetworkPolicies, as kubelet does.
Mesh settings in files: a document of kind MeshConfig (apiVersion squire.mesh/v1), or Istio's ConfigMap istio.
A line that cannot be read gives {\"id\":…,\"error\":…}; the run goes on and ends with exit code 2.
What is wrong with the policies of -f is said on standard error. A policy with an error fails closed for the workloads it
selects, as in a proxy, and the run ends with exit code 1. A file that cannot be read as YAML or JSON ends it at once (78).";

/// Decide requests, as JSON lines, with the proxies' own decision function
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Files or directories of policies; without it each line carries its own
    #[arg(short = 'f', long = "file", value_name = "PATH", num_args = 1..)]
    files: Vec<PathBuf>,
    /// The requests, one JSON object a line [default: standard input]
    #[arg(long, value_name = "FILE")]
    requests: Option<PathBuf>,
}

impl Args {
    pub(super) fn run(self) -> Outcome {
        let (evaluator, problems) = self.evaluator()?;
        tell(&problems);
        let refused = problems.iter().any(|problem| problem.severity == Severity::Error);
        let failed = match &self.requests {
            Some(path) => {
                let file = File::open(path).with_context(|| format!("cannot read {}", path.display()));
                evaluate(&evaluator, BufReader::new(file.map_err(Failure::configuration)?))
            }
            None => evaluate(&evaluator, io::stdin().lock()),
        };
        match failed {
            Ok(0) if refused => Err(Failure::finding()),
            Ok(0) => Ok(()),
            Ok(1) => Err(Failure::usage(anyhow!("one line could not be read"))),
            Ok(failed) => Err(Failure::usage(anyhow!("{failed} lines could not be read"))),
            // Whoever read the output has had enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            Err(error) => Err(Failure::unavailable(error)),
        }
    }

    /// Policies with errors stay: they fail closed, as in a proxy. A file that cannot be read at all is a mistake.
    fn evaluator(&self) -> Result<(Evaluator, Vec<Problem>), Failure> {
        if self.files.is_empty() {
            return Ok((Evaluator::per_line(), Vec::new()));
        }
        let manifest = manifest(&self.files)?;
        if manifest.errors().next().is_some() {
            tell(&manifest.problems);
            return Err(Failure::configuration(anyhow!("policies cannot be read")));
        }
        Ok(Evaluator::with_manifest(&manifest))
    }
}

/// Each problem on a line of standard error: standard output is for the answers.
#[allow(clippy::print_stderr, reason = "standard output is for the answers")]
fn tell(problems: &[Problem]) {
    for problem in problems {
        eprintln!("squire: document {} of {problem}", problem.document);
    }
}

/// Answers every line; says how many could not be read.
fn evaluate(evaluator: &Evaluator, mut requests: impl BufRead) -> io::Result<usize> {
    let mut out = BufWriter::new(io::stdout().lock());
    let mut failed = 0;
    let mut line = Vec::new();
    loop {
        line.clear();
        if requests.read_until(b'\n', &mut line)? == 0 {
            out.flush()?;
            return Ok(failed);
        }
        let text = String::from_utf8_lossy(&line);
        if text.trim().is_empty() {
            continue;
        }
        let answer = evaluator.line(text.trim());
        failed += usize::from(answer.is_error());
        serde_json::to_writer(&mut out, &answer)?;
        out.write_all(b"\n")?;
        // Answer at once where somebody waits for it: when nothing more has been read ahead.
        if !requests.fill_buf().is_ok_and(|ahead| !ahead.is_empty()) {
            out.flush()?;
        }
    }
}
