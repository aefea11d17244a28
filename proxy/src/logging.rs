//! The log: lines on standard error, for people or as JSON, from a level on. Access-log lines are not its business.

use std::io;

use tracing_subscriber::{Layer as _, filter::Targets, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::config::{Log, LogFormat};

/// Starts logging, once per process.
///
/// # Errors
/// When the filter does not parse, which a valid configuration excludes, or logging was started already.
pub fn start(log: &Log) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let filter: Targets = log.filter.parse()?;
    let layer = fmt::layer().with_writer(io::stderr).with_ansi(false);
    let layer = match log.format {
        LogFormat::Text => layer.boxed(),
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry()
        .with(layer.with_filter(filter))
        .try_init()?;
    Ok(())
}
