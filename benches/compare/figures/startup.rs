//! Start-up: from the start of the client-side proxy's process until it accepts, and until a request has come back through both.

use anyhow::Result;

use super::{Bench, Figure};
use crate::measure::{Better, Metric};

pub(super) fn take(bench: &mut Bench<'_>) -> Result<()> {
    let Some(startup) = bench.pair.startup else {
        return Ok(());
    };
    let metric = |name, title| Metric::new(Figure::Startup, name, title, "ms", Better::Lower);
    bench.record(
        metric("accept", "until it accepts a connection"),
        startup.accept.as_secs_f64() * 1000.0,
    );
    bench.record(
        metric("serve", "until a request has come back"),
        startup.serve.as_secs_f64() * 1000.0,
    );
    Ok(())
}
