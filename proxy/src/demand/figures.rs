//! Figures about what is asked of the control plane on demand.

use std::time::Duration;

use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use super::Why;

pub(super) struct DemandFigures {
    selectors: IntGauge,
    questions: IntCounter,
    wait: Histogram,
    refused: IntCounterVec,
    given_up: IntCounter,
}

impl DemandFigures {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let figures = Self {
            selectors: IntGauge::new(
                "squire_subscription_selectors",
                "Addresses, services and names that the control plane was asked about, and follows for us.",
            )?,
            questions: IntCounter::new(
                "squire_subscription_questions_total",
                "Questions put to the control plane because a connection needed an answer.",
            )?,
            wait: Histogram::with_opts(
                HistogramOpts::new(
                    "squire_subscription_wait_seconds",
                    "How long connections waited for an answer, where they had to wait.",
                )
                .buckets(vec![
                    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
                ]),
            )?,
            refused: IntCounterVec::new(
                Opts::new(
                    "squire_subscription_refused_total",
                    "Connections and requests refused because there was no answer, by reason.",
                ),
                &["reason"],
            )?,
            given_up: IntCounter::new(
                "squire_subscription_given_up_total",
                "Selectors that were given up because nothing used them.",
            )?,
        };
        registry.register(Box::new(figures.selectors.clone()))?;
        registry.register(Box::new(figures.questions.clone()))?;
        registry.register(Box::new(figures.wait.clone()))?;
        registry.register(Box::new(figures.refused.clone()))?;
        registry.register(Box::new(figures.given_up.clone()))?;
        for reason in Why::LABELS {
            figures.refused.with_label_values(&[reason]);
        }
        Ok(figures)
    }

    pub(super) fn asked(&self) {
        self.questions.inc();
    }

    pub(super) fn waited(&self, time: Duration) {
        self.wait.observe(time.as_secs_f64());
    }

    pub(super) fn refused(&self, why: Why) {
        self.refused.with_label_values(&[why.label()]).inc();
    }

    pub(super) fn holds(&self, selectors: usize) {
        self.selectors.set(i64::try_from(selectors).unwrap_or(i64::MAX));
    }

    pub(super) fn given_up(&self, selectors: usize) {
        self.given_up.inc_by(selectors as u64);
    }
}
