//! `squire policy check`: what an API server would say of these policies.

use std::{fmt::Write as _, path::PathBuf};

use squire_control::policy::check::{Checked, check};

use super::manifest;
use crate::{
    exit::{Failure, Outcome},
    output::{Format, show},
};

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
    output: Format,
}

impl Args {
    pub(super) fn run(self) -> Outcome {
        let checked = check(&manifest(&self.files)?);
        show(self.output, &checked, lines)?;
        if checked.valid { Ok(()) } else { Err(Failure::finding()) }
    }
}

fn lines(checked: &Checked) -> String {
    let mut text = String::new();
    for problem in &checked.problems {
        text.push_str(&format!("{problem}\n"));
    }
    let verdict = if checked.valid { "valid" } else { "not valid" };
    let policies = if checked.policies == 1 { "policy" } else { "policies" };
    // Writing to a String does not fail.
    let _ = write!(text, "{} {policies}: {verdict}", checked.policies);
    if !checked.ignored.is_empty() {
        let kinds: Vec<_> = checked
            .ignored
            .iter()
            .map(|(kind, count)| format!("{count} {kind}"))
            .collect();
        let _ = write!(text, " (passed over: {})", kinds.join(", "));
    }
    text + "\n"
}
