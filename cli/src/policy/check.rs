//! `squire policy check`: what an API server would say of these policies.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use squire_control::policy::check::{Checked, check};

use super::{Output, manifest};
use crate::exit::{Failure, Outcome};

const EXAMPLES: &str = "\
Examples:
  squire policy check -f mesh/                     every policy below mesh/
  squire policy check -f db.yaml -o json           one document for a CI job
  kubectl get networkpolicy,authorizationpolicy -A -o yaml | squire policy check -f -

Exit code 0 if there are no errors (warnings are allowed), 1 otherwise.";

/// Check policies as an API server would: unknown fields, selectors, ports, path templates, attributes
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Files or directories of YAML or JSON; - for standard input
    #[arg(short = 'f', long = "file", value_name = "PATH", required = true, num_args = 1..)]
    files: Vec<PathBuf>,
    /// How to show the result
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

impl Args {
    pub(super) fn run(self) -> Outcome {
        let checked = check(&manifest(&self.files)?);
        print(&checked, self.output).map_err(Failure::unavailable)?;
        if checked.valid { Ok(()) } else { Err(Failure::finding()) }
    }
}

fn print(checked: &Checked, output: Output) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if output != Output::Table {
        serde_json::to_writer_pretty(&mut out, checked)?;
        return writeln!(out);
    }
    for problem in &checked.problems {
        writeln!(out, "{problem}")?;
    }
    let verdict = if checked.valid { "valid" } else { "not valid" };
    let policies = if checked.policies == 1 { "policy" } else { "policies" };
    write!(out, "{} {policies}: {verdict}", checked.policies)?;
    if !checked.ignored.is_empty() {
        let kinds: Vec<_> = checked
            .ignored
            .iter()
            .map(|(kind, count)| format!("{count} {kind}"))
            .collect();
        write!(out, " (passed over: {})", kinds.join(", "))?;
    }
    writeln!(out)
}
