//! Counters of requests between two principals: by method, status, flag and route. Resolved once per combination and
//! kept; how many combinations there may be for one pair is capped.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry};

use crate::http::Flag;

/// Combinations with a series of their own for one pair of principals.
const CAP: usize = 256;

/// HTTP methods with a label of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Method {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Connect,
    Options,
    Trace,
    Patch,
    Other,
}

impl Method {
    pub(crate) fn of(method: &str) -> Self {
        match method {
            "GET" => Self::Get,
            "HEAD" => Self::Head,
            "POST" => Self::Post,
            "PUT" => Self::Put,
            "DELETE" => Self::Delete,
            "CONNECT" => Self::Connect,
            "OPTIONS" => Self::Options,
            "TRACE" => Self::Trace,
            "PATCH" => Self::Patch,
            _ => Self::Other,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
            Self::Options => "OPTIONS",
            Self::Trace => "TRACE",
            Self::Patch => "PATCH",
            Self::Other => "other",
        }
    }
}

/// What a request counts as.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct RequestKey {
    pub(crate) method: Method,
    /// 0: there was no response.
    pub(crate) status: u16,
    pub(crate) grpc_status: Option<u8>,
    pub(crate) flag: Flag,
    pub(crate) route: Option<Arc<str>>,
}

/// The families all pairs share.
#[derive(Debug, Clone)]
pub(super) struct RequestFamilies {
    total: IntCounterVec,
    duration: HistogramVec,
}

const LABELS: [&str; 8] = [
    "direction",
    "source",
    "destination",
    "method",
    "status",
    "grpc_status",
    "flag",
    "route",
];

impl RequestFamilies {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let buckets = [
            0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
        ];
        Ok(Self {
            total: super::declare(
                registry,
                IntCounterVec::new(
                    Opts::new("squire_requests_total", "HTTP requests that have ended."),
                    &LABELS,
                )?,
            )?,
            duration: super::declare(
                registry,
                HistogramVec::new(
                    HistogramOpts::new(
                        "squire_request_duration_seconds",
                        "From the head of a request to the last byte of its response.",
                    )
                    .buckets(buckets.to_vec()),
                    &LABELS[..3],
                )?,
            )?,
        })
    }
}

/// The request counters of one pair of principals; made with its first request.
#[derive(Debug)]
pub(super) struct Requests {
    families: RequestFamilies,
    duration: Histogram,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    counters: HashMap<RequestKey, IntCounter>,
    /// Most requests count as the one before.
    last: Option<(RequestKey, IntCounter)>,
}

impl Requests {
    pub(super) fn new(families: &RequestFamilies, pair: &[String; 3]) -> Self {
        let [direction, source, destination] = pair;
        Self {
            duration: families
                .duration
                .with_label_values(&[direction.as_str(), source, destination]),
            families: families.clone(),
            known: Mutex::default(),
        }
    }

    pub(super) fn count(&self, pair: &[String; 3], key: &RequestKey, took: Duration) {
        self.duration.observe(took.as_secs_f64());
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((last, counter)) = &known.last
            && last == key
        {
            return counter.inc();
        }
        let counter = match known.counters.get(key) {
            Some(counter) => counter.clone(),
            None => {
                let full = known.counters.len() >= CAP;
                let counter = self
                    .families
                    .total
                    .with_label_values(&labels(pair, key, full).each_ref().map(|label| &**label));
                if !full {
                    known.counters.insert(key.clone(), counter.clone());
                }
                counter
            }
        };
        counter.inc();
        known.last = Some((key.clone(), counter));
    }

    /// Removes every series of the pair.
    pub(super) fn forget(&self, pair: &[String; 3]) {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        for key in known.counters.keys() {
            let _ = self
                .families
                .total
                .remove_label_values(&labels(pair, key, false).each_ref().map(|label| &**label));
        }
        let [direction, source, destination] = pair;
        let _ = self
            .families
            .duration
            .remove_label_values(&[direction.as_str(), source, destination]);
    }
}

fn labels(pair: &[String; 3], key: &RequestKey, full: bool) -> [String; 8] {
    let [direction, source, destination] = pair.clone();
    let status = match key.status {
        _ if full => "other".to_owned(),
        0 => "none".to_owned(),
        status => status.to_string(),
    };
    [
        direction,
        source,
        destination,
        key.method.as_str().to_owned(),
        status,
        key.grpc_status.map(|status| status.to_string()).unwrap_or_default(),
        key.flag.as_str().to_owned(),
        key.route.as_deref().unwrap_or_default().to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(status: u16) -> RequestKey {
        RequestKey {
            method: Method::Get,
            status,
            grpc_status: None,
            flag: Flag::Ok,
            route: None,
        }
    }

    fn pair() -> [String; 3] {
        ["inbound".into(), "a".into(), "b".into()]
    }

    #[test]
    fn combinations_beyond_the_cap_are_counted_together_and_all_are_forgotten() {
        let registry = Registry::new();
        let requests = Requests::new(&RequestFamilies::new(&registry).unwrap(), &pair());
        for status in 0..400 {
            requests.count(&pair(), &key(status), Duration::from_millis(1));
        }
        let family = |name: &str| registry.gather().into_iter().find(|family| family.name() == name);
        let total = family("squire_requests_total").unwrap();
        assert_eq!(total.get_metric().len(), CAP + 1);
        let sum: f64 = total
            .get_metric()
            .iter()
            .map(|metric| metric.get_counter().get_value())
            .sum();
        assert_eq!(sum, 400.0);
        requests.forget(&pair());
        assert!(family("squire_request_duration_seconds").is_none_or(|family| family.get_metric().is_empty()));
    }
}
