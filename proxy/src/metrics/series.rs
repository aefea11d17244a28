//! The series that are labelled with principals: how many there may be is capped, and idle ones are forgotten, so that
//! no set of peers, however large or hostile, can fill the memory of the sidecar or of Prometheus.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use prometheus::{IntCounter, IntCounterVec, Opts, Registry};
use squire_mesh::spiffe::SpiffeId;

use super::requests::{RequestFamilies, RequestKey, Requests};
use crate::connection::Direction;

/// Pairs of principals with series of their own; later ones are counted together.
const CAP: usize = 2000;
/// Series without a connection for so long are forgotten.
const IDLE: Duration = Duration::from_secs(15 * 60);
/// Stands for principals beyond [`CAP`].
const OTHER: &str = "other";
/// Stands for a side without a verified identity.
const UNKNOWN: &str = "unknown";

/// What a series is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct SeriesKey {
    direction: Direction,
    source: Option<SpiffeId>,
    destination: Option<SpiffeId>,
}

impl SeriesKey {
    pub(super) fn new(direction: Direction, source: Option<&SpiffeId>, destination: Option<&SpiffeId>) -> Self {
        Self {
            direction,
            source: source.cloned(),
            destination: destination.cloned(),
        }
    }
}

/// Counters for connections between two principals.
#[derive(Debug)]
pub(crate) struct Series {
    pub(crate) from_client: IntCounter,
    pub(crate) to_client: IntCounter,
    closed: IntCounterVec,
    families: RequestFamilies,
    requests: OnceLock<Requests>,
    labels: [String; 3],
}

impl Series {
    /// Counts the end of a connection.
    pub(crate) fn closed(&self, outcome: &str) {
        let [direction, source, destination] = &self.labels;
        self.closed
            .with_label_values(&[direction.as_str(), source, destination, outcome])
            .inc();
    }

    /// Counts a request that has ended.
    pub(crate) fn request(&self, key: &RequestKey, took: Duration) {
        self.requests
            .get_or_init(|| Requests::new(&self.families, &self.labels))
            .count(&self.labels, key, took);
    }
}

/// All series with principals.
pub(super) struct SeriesTable {
    received: IntCounterVec,
    sent: IntCounterVec,
    closed: IntCounterVec,
    capped: IntCounter,
    requests: RequestFamilies,
    known: Mutex<HashMap<SeriesKey, (Arc<Series>, Instant)>>,
}

impl SeriesTable {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let by = ["direction", "source", "destination"];
        let with_outcome = ["direction", "source", "destination", "outcome"];
        Ok(Self {
            received: super::declare(
                registry,
                IntCounterVec::new(
                    Opts::new(
                        "squire_received_bytes_total",
                        "Application bytes from the side that opened the connection.",
                    ),
                    &by,
                )?,
            )?,
            sent: super::declare(
                registry,
                IntCounterVec::new(
                    Opts::new(
                        "squire_sent_bytes_total",
                        "Application bytes to the side that opened the connection.",
                    ),
                    &by,
                )?,
            )?,
            closed: super::declare(
                registry,
                IntCounterVec::new(
                    Opts::new(
                        "squire_connections_closed_total",
                        "Connections that ended, by principals and outcome.",
                    ),
                    &with_outcome,
                )?,
            )?,
            capped: super::declare(
                registry,
                IntCounter::new(
                    "squire_metric_series_capped_total",
                    "Times a pair of principals was counted as \"other\" because the cap of series was reached.",
                )?,
            )?,
            requests: RequestFamilies::new(registry)?,
            known: Mutex::default(),
        })
    }

    pub(super) fn resolve(&self, key: &SeriesKey) -> Arc<Series> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((series, used)) = known.get_mut(key) {
            *used = Instant::now();
            return Arc::clone(series);
        }
        let full = known.len() >= CAP;
        let name = |id: &Option<SpiffeId>| match id {
            _ if full => OTHER.to_owned(),
            Some(id) => id.to_string(),
            None => UNKNOWN.to_owned(),
        };
        let labels = [
            key.direction.as_str().to_owned(),
            name(&key.source),
            name(&key.destination),
        ];
        let values = [labels[0].as_str(), &labels[1], &labels[2]];
        let series = Arc::new(Series {
            from_client: self.received.with_label_values(&values),
            to_client: self.sent.with_label_values(&values),
            closed: self.closed.clone(),
            families: self.requests.clone(),
            requests: OnceLock::new(),
            labels,
        });
        if full {
            self.capped.inc();
        } else {
            known.insert(key.clone(), (Arc::clone(&series), Instant::now()));
        }
        series
    }

    pub(super) fn expire_idle(&self) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, (series, used)| {
            // Open connections hold the series too.
            if Arc::strong_count(series) > 1 || used.elapsed() < IDLE {
                return true;
            }
            let [direction, source, destination] = &series.labels;
            let values = [direction.as_str(), source, destination];
            let _ = self.received.remove_label_values(&values);
            let _ = self.sent.remove_label_values(&values);
            if let Some(requests) = series.requests.get() {
                requests.forget(&series.labels);
            }
            for outcome in crate::outcome::LABELS {
                let _ = self
                    .closed
                    .remove_label_values(&[direction.as_str(), source, destination, outcome]);
            }
            false
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_the_cap_principals_are_counted_together() {
        let registry = Registry::new();
        let table = SeriesTable::new(&registry).unwrap();
        for index in 0..CAP + 5 {
            let id: SpiffeId = format!("spiffe://td/ns/x/sa/s{index}").parse().unwrap();
            table
                .resolve(&SeriesKey::new(Direction::Inbound, Some(&id), None))
                .closed("complete");
        }
        assert_eq!(table.capped.get(), 5);
        assert_eq!(
            table
                .closed
                .with_label_values(&["inbound", OTHER, OTHER, "complete"])
                .get(),
            5
        );
        assert_eq!(table.known.lock().unwrap().len(), CAP);
    }

    #[test]
    fn a_known_pair_keeps_its_counters() {
        let table = SeriesTable::new(&Registry::new()).unwrap();
        let key = SeriesKey::new(Direction::Outbound, None, None);
        table.resolve(&key).from_client.inc_by(7);
        assert_eq!(table.resolve(&key).from_client.get(), 7);
    }
}
