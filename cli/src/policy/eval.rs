//! `squire policy eval`: JSON lines in, JSON lines out.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, BufWriter, Write},
    path::PathBuf,
};

use anyhow::{Context as _, anyhow};
use squire_control::policy::eval::Evaluator;

use super::manifest;
use crate::exit::{Failure, Outcome};

const EXAMPLES: &str = "\
Examples:
  squire policy eval < cases.jsonl                     each line brings its own policies
  squire policy eval -f mesh/ --requests asked.jsonl   policies and mesh settings from files

A line: {\"id\":\"1\",\"mesh\":{},\"policies\":\"apiVersion: …\",\"request\":{\"source\":…,\"destination\":…,\"connection\":…,\"http\":…}}
Mesh settings in files: a document of kind MeshConfig (apiVersion squire.mesh/v1), or Istio's ConfigMap istio.
A line that cannot be read gives {\"id\":…,\"error\":…}; the run goes on and ends with exit code 2.";

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
        let evaluator = self.evaluator()?;
        let failed = match &self.requests {
            Some(path) => {
                let file = File::open(path).with_context(|| format!("cannot read {}", path.display()));
                evaluate(&evaluator, BufReader::new(file.map_err(Failure::configuration)?))
            }
            None => evaluate(&evaluator, io::stdin().lock()),
        };
        match failed {
            Ok(0) => Ok(()),
            Ok(1) => Err(Failure::usage(anyhow!("one line could not be read"))),
            Ok(failed) => Err(Failure::usage(anyhow!("{failed} lines could not be read"))),
            // Whoever read the output has had enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            Err(error) => Err(Failure::unavailable(error)),
        }
    }

    /// Policies with errors stay: they fail closed, as in a proxy. A file that cannot be read at all is a mistake.
    fn evaluator(&self) -> Result<Evaluator, Failure> {
        if self.files.is_empty() {
            return Ok(Evaluator::per_line());
        }
        let manifest = manifest(&self.files)?;
        if let Some(problem) = manifest.errors().next() {
            return Err(Failure::configuration(anyhow!("{problem}")));
        }
        let (evaluator, problems) = Evaluator::with_manifest(&manifest);
        for problem in problems {
            tracing::warn!("{problem}");
        }
        Ok(evaluator)
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
