//! How long each figure is measured and how often: the three modes of the harness as plain numbers. Nothing here runs anything.

use std::time::Duration;

/// The lengths of one run.
#[derive(Clone, Debug)]
pub(crate) struct Effort {
    /// The mode's name, for the report.
    pub(crate) name: &'static str,
    /// How many times all figures are taken.
    pub(crate) repetitions: usize,
    /// Time before each window in which load runs but nothing is counted.
    pub(crate) warm_up: Duration,
    /// Window of each bulk transfer.
    pub(crate) bulk: Duration,
    /// How many parallel streams the bulk figure uses, one window each.
    pub(crate) bulk_streams: Vec<usize>,
    /// Window of the keep-alive request figure.
    pub(crate) requests: Duration,
    /// Window of each latency figure.
    pub(crate) latency: Duration,
    /// Window of the new-connection figure.
    pub(crate) connections: Duration,
    /// How many idle connections are held, in rising order.
    pub(crate) idle: Vec<usize>,
    /// In how many repetitions memory is measured (opening 10,000 connections is slow and the result hardly varies).
    pub(crate) memory_repetitions: usize,
    /// Whether shapes of Squire that do not ship are measured beside it where nobody is named.
    pub(crate) shapes: bool,
}

impl Effort {
    /// The default: for figures that are published, in under twenty minutes.
    pub(crate) fn full() -> Self {
        Self {
            name: "full",
            repetitions: 5,
            warm_up: Duration::from_millis(300),
            bulk: Duration::from_millis(900),
            bulk_streams: vec![1, 16],
            requests: Duration::from_millis(1400),
            latency: Duration::from_millis(2500),
            connections: Duration::from_millis(1400),
            idle: vec![1_000, 10_000],
            memory_repetitions: 1,
            shapes: true,
        }
    }

    /// For a person who changes something and looks again: under three minutes, so memory only idle, and no shapes.
    pub(crate) fn quick() -> Self {
        Self {
            name: "quick",
            repetitions: 2,
            warm_up: Duration::from_millis(150),
            bulk: Duration::from_millis(500),
            bulk_streams: vec![1],
            requests: Duration::from_millis(600),
            latency: Duration::from_millis(800),
            connections: Duration::from_millis(600),
            idle: vec![],
            memory_repetitions: 1,
            shapes: false,
        }
    }

    /// For CI: every figure once, as short as it can be and still carry traffic. The numbers mean nothing.
    pub(crate) fn smoke() -> Self {
        Self {
            name: "smoke",
            repetitions: 1,
            warm_up: Duration::from_millis(30),
            bulk: Duration::from_millis(100),
            bulk_streams: vec![2],
            requests: Duration::from_millis(100),
            latency: Duration::from_millis(150),
            connections: Duration::from_millis(100),
            idle: vec![50],
            memory_repetitions: 1,
            shapes: true,
        }
    }
}
