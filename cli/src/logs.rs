//! Logs of the long-running commands, on standard error. Short commands do not log.

use std::io::{IsTerminal, stderr};

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Where and how much to log; flattened into the arguments of a long-running command.
#[derive(Debug, clap::Args)]
pub(crate) struct LogArgs {
    /// What to log: a level, or targets with levels (`info,squire_control::push=debug`)
    #[arg(
        long,
        value_name = "FILTER",
        env = "SQUIRE_LOG",
        default_value = "info",
        help_heading = "Logs"
    )]
    log: String,
    /// How log lines look
    #[arg(
        long,
        value_enum,
        value_name = "FORMAT",
        env = "SQUIRE_LOG_FORMAT",
        default_value = "text",
        help_heading = "Logs"
    )]
    log_format: Format,
}

impl LogArgs {
    /// Starts logging. A second call does nothing.
    pub(crate) fn init(&self) -> Result<(), crate::exit::Failure> {
        let filter = EnvFilter::try_new(&self.log)
            .map_err(|error| crate::exit::Failure::usage(anyhow::anyhow!("--log {:?}: {error}", self.log)))?;
        let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr);
        let started = match self.log_format {
            Format::Text => lines.with_ansi(colours()).try_init(),
            Format::Json => lines.json().flatten_event(true).try_init(),
        };
        drop(started);
        Ok(())
    }
}

fn colours() -> bool {
    stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
