//! `squire policy normalize`: how a path looks to policies, and to the application behind them.

use std::io::{self, Write};

use squire_mesh::policy::path::{PathNormalization, normalize};

use crate::exit::{Failure, Outcome};

const EXAMPLES: &str = "\
Examples:
  squire policy normalize BASE '/public/../admin'
  squire policy normalize DECODE_AND_MERGE_SLASHES '/a%2f%2fb'";

/// Show a request path as policies see it; 400 if it is refused
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// NONE, BASE, MERGE_SLASHES or DECODE_AND_MERGE_SLASHES
    mode: PathNormalization,
    /// The path of the request, with or without a query
    #[arg(allow_hyphen_values = true)]
    path: String,
}

impl Args {
    pub(super) fn run(self) -> Outcome {
        let mut out = io::stdout().lock();
        match normalize(self.mode, &self.path) {
            Ok(path) => writeln!(out, "{path}"),
            Err(_) => writeln!(out, "400"),
        }
        .map_err(Failure::unavailable)
    }
}
