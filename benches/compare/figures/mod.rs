//! The figures: what each measures is in its own file; here are their names, the sessions that share a running pair, and the window in
//! which work and CPU time are counted together.

mod bulk;
mod connections;
mod http2;
mod latency;
mod memory;
mod requests;
mod size;
mod startup;

use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;
use tokio::time::sleep;

use crate::effort::Effort;
use crate::ground::Ground;
use crate::load::{Load, Protocol};
use crate::measure::{Metric, Results};
use crate::peer::{Column, Pair};
pub(crate) use latency::add_differences;
pub(crate) use size::take as take_sizes;

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Figure {
    /// Large transfers.
    Bulk,
    /// HTTP/1.1 keep-alive requests as fast as they go.
    Requests,
    /// HTTP/2 requests as fast as they go.
    Http2,
    /// Unary gRPC calls as fast as they go.
    Grpc,
    /// Latency at a fixed rate.
    Latency,
    /// New connections with one request each.
    Connections,
    /// Memory, idle and with idle connections.
    Memory,
    /// From process start to the first accepted connection.
    Startup,
    /// Requests while policies of others have few, many and very many rules.
    Rules,
    /// Size of the executable.
    Size,
}

impl Figure {
    /// Every figure, in the order of the report.
    pub(crate) const ALL: [Self; 10] = [
        Self::Bulk,
        Self::Requests,
        Self::Http2,
        Self::Grpc,
        Self::Latency,
        Self::Connections,
        Self::Memory,
        Self::Startup,
        Self::Rules,
        Self::Size,
    ];

    /// Its name on the command line and in keys.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bulk => "bulk",
            Self::Requests => "requests",
            Self::Http2 => "http2",
            Self::Grpc => "grpc",
            Self::Latency => "latency",
            Self::Connections => "connections",
            Self::Memory => "memory",
            Self::Startup => "startup",
            Self::Rules => "rules",
            Self::Size => "size",
        }
    }

    /// The figure of that name.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|figure| figure.name() == name)
    }

    /// All names, for messages.
    pub(crate) fn names() -> String {
        Self::ALL.map(Self::name).join(", ")
    }
}

/// Figures that are taken on one running pair, in front of the application they need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Session {
    /// Our own application: bulk.
    Transfer,
    /// nginx: start-up, requests, latency, connections.
    Http,
    /// Our own application over HTTP/2: requests and calls on streams.
    Streams,
    /// Our own application, a fresh pair: memory.
    Idle,
    /// nginx: requests beside the rules of others.
    Rules,
}

impl Session {
    /// Every session.
    pub(crate) const ALL: [Self; 5] = [Self::Transfer, Self::Http, Self::Streams, Self::Idle, Self::Rules];

    /// The figures that are taken in it.
    pub(crate) fn figures(self) -> &'static [Figure] {
        match self {
            Self::Transfer => &[Figure::Bulk],
            Self::Http => &[Figure::Startup, Figure::Requests, Figure::Latency, Figure::Connections],
            Self::Streams => &[Figure::Http2, Figure::Grpc],
            Self::Idle => &[Figure::Memory],
            Self::Rules => &[Figure::Rules],
        }
    }

    /// What its figures speak.
    pub(crate) fn protocol(self) -> Protocol {
        match self {
            Self::Transfer | Self::Http | Self::Idle | Self::Rules => Protocol::Http1,
            Self::Streams => Protocol::Http2,
        }
    }
}

/// One pair under measurement in one repetition.
pub(crate) struct Bench<'a> {
    /// How long.
    pub(crate) effort: &'a Effort,
    /// What all peers stand on.
    pub(crate) ground: &'a Ground,
    /// Whose pair.
    pub(crate) column: &'a Column,
    /// The pair.
    pub(crate) pair: &'a mut Pair,
    /// Which repetition, from 0.
    pub(crate) repetition: usize,
    /// Where values go.
    pub(crate) results: &'a mut Results,
}

impl Bench<'_> {
    /// Takes one figure.
    pub(crate) async fn take(&mut self, figure: Figure) -> Result<()> {
        match figure {
            Figure::Bulk => bulk::take(self).await,
            Figure::Requests | Figure::Rules => requests::take(self, figure).await,
            Figure::Http2 => http2::take_requests(self).await,
            Figure::Grpc => http2::take_calls(self).await,
            Figure::Latency => latency::take(self),
            Figure::Connections => connections::take(self).await,
            Figure::Memory => memory::take(self).await,
            Figure::Startup => startup::take(self),
            Figure::Size => Ok(()),
        }
    }

    fn record(&mut self, metric: Metric, value: f64) {
        self.results.record(metric, self.column, self.repetition, value);
    }

    /// Lets `load` run for the warm-up, then counts for `length`, then lets it finish.
    async fn window(&mut self, mut load: Load, length: Duration) -> Result<Window> {
        sleep(self.effort.warm_up).await;
        load.warm().await?;
        load.check()?;
        let (begin, work, cpu) = (Instant::now(), load.done(), self.pair.cpu()?);
        sleep(length).await;
        let window = Window {
            elapsed: begin.elapsed(),
            work: load.done() - work,
            cpu: self
                .pair
                .cpu()?
                .zip(cpu)
                .map(|(after, before)| (after - before).total()),
        };
        load.check()?;
        load.finish().await?;
        self.pair.check()?;
        Ok(window)
    }
}

/// What happened in a window.
struct Window {
    elapsed: Duration,
    work: u64,
    cpu: Option<Duration>,
}

impl Window {
    #[allow(clippy::cast_precision_loss, reason = "work is far below 2^52")]
    fn work(&self) -> f64 {
        self.work as f64
    }

    /// Work per second.
    fn rate(&self) -> f64 {
        self.work() / self.elapsed.as_secs_f64()
    }

    /// CPU-seconds of both proxies for each `unit` of work; `None` for the baseline and where no work was done.
    fn cpu_per(&self, unit: f64) -> Option<f64> {
        let cpu = self.cpu.filter(|_| self.work > 0)?;
        Some(cpu.as_secs_f64() / self.work() * unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_figure_but_size_has_exactly_one_session() {
        for figure in Figure::ALL {
            let sessions = Session::ALL
                .iter()
                .filter(|session| session.figures().contains(&figure))
                .count();
            assert_eq!(sessions, usize::from(figure != Figure::Size), "{figure:?}");
            assert_eq!(Figure::from_name(figure.name()), Some(figure));
        }
    }

    #[test]
    fn cost_is_cpu_per_unit_of_work() {
        let mut window = Window {
            elapsed: Duration::from_secs(2),
            work: 50_000,
            cpu: Some(Duration::from_secs(3)),
        };
        assert_eq!(window.rate(), 25_000.0);
        assert_eq!(window.cpu_per(100_000.0), Some(6.0));
        window.work = 0;
        assert_eq!(window.cpu_per(1.0), None);
    }
}
