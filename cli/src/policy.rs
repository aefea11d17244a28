//! `squire policy`: arguments and what is shown. What the commands mean is in the control room's `policy` and in
//! `mesh::policy`; this reads files and standard input, and prints.

mod check;
mod eval;
mod normalize;
pub(crate) mod page;
mod why;

use std::path::PathBuf;

use clap::Subcommand;
use squire_control::manifest::Manifest;

use crate::exit::{Failure, Outcome};

/// Check, question and evaluate policies
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: PolicyCommand,
}

#[derive(Debug, Subcommand)]
enum PolicyCommand {
    Check(check::Args),
    Eval(eval::Args),
    Normalize(normalize::Args),
    Why(Box<why::Args>),
}

impl Args {
    pub(crate) fn run(self) -> Outcome {
        match self.command {
            PolicyCommand::Check(args) => args.run(),
            PolicyCommand::Eval(args) => args.run(),
            PolicyCommand::Normalize(args) => args.run(),
            PolicyCommand::Why(args) => args.run(),
        }
    }
}

/// Reads files and directories; `-` is standard input.
fn manifest(paths: &[PathBuf]) -> Result<Manifest, Failure> {
    let mut manifest = Manifest::default();
    for path in paths {
        if path.as_os_str() == "-" {
            let text = std::io::read_to_string(std::io::stdin()).map_err(Failure::unavailable)?;
            manifest.add_text("-", &text);
        } else {
            let read = Manifest::from_paths(std::slice::from_ref(path));
            manifest.objects.extend(read.objects);
            manifest.problems.extend(read.problems);
        }
    }
    Ok(manifest)
}
