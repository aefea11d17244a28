//! The record of one request and its response, from the request's head to the response's last byte. Metrics and access
//! log read this one value; dropping it unfinished counts it as abandoned. It moves no bytes and decides nothing.

use std::{sync::Arc, time::Instant};

use squire_mesh::policy::Decision;

use super::{Flag, RequestView, Version};
use crate::{
    connection::{Connection, Recorder},
    metrics::{Method, RequestKey, Series},
};

/// What only the access log wants to know of a request.
#[derive(Debug, Clone, Default)]
pub(crate) struct Target {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) authority: String,
    pub(crate) request_id: Option<String>,
    pub(crate) traceparent: Option<String>,
}

/// One request on a connection.
pub(crate) struct Exchange {
    pub(crate) connection: Arc<Connection>,
    recorder: Arc<Recorder>,
    pub(crate) started: Instant,
    pub(crate) version: Version,
    method: Method,
    /// Status of the response; 0 until there is one.
    pub(crate) status: u16,
    /// `grpc-status`, in the head or the trailers.
    pub(crate) grpc_status: Option<u8>,
    /// The route that was chosen, by its object's name.
    pub(crate) route: Option<Arc<str>>,
    /// Where it counts; none: where its connection does.
    pub(crate) series: Option<Arc<Series>>,
    /// What policy said of this request, where it was asked.
    pub(crate) decision: Option<Decision>,
    /// How many times it was sent upstream.
    pub(crate) attempts: u8,
    /// Only where there is an access log.
    pub(crate) target: Option<Box<Target>>,
    finished: bool,
}

impl Exchange {
    /// Opens the record of a request whose head has been read.
    pub(crate) fn begin(recorder: &Arc<Recorder>, connection: &Arc<Connection>, view: &RequestView<'_>) -> Self {
        connection.count_request();
        Self {
            connection: Arc::clone(connection),
            recorder: Arc::clone(recorder),
            started: Instant::now(),
            version: view.version,
            method: Method::of(view.method),
            status: 0,
            grpc_status: None,
            route: None,
            series: None,
            decision: None,
            attempts: 0,
            target: recorder.access_log.is_on().then(|| Box::new(Target::of(view))),
            finished: false,
        }
    }

    /// Opens the record of a request that could not be understood.
    pub(crate) fn malformed(recorder: &Arc<Recorder>, connection: &Arc<Connection>, version: Version) -> Self {
        connection.count_request();
        Self {
            connection: Arc::clone(connection),
            recorder: Arc::clone(recorder),
            started: Instant::now(),
            version,
            method: Method::Other,
            status: 0,
            grpc_status: None,
            route: None,
            series: None,
            decision: None,
            attempts: 0,
            target: recorder.access_log.is_on().then(Box::default),
            finished: false,
        }
    }

    /// Ends the record.
    pub(crate) fn finish(mut self, flag: Flag) {
        self.end(flag);
    }

    fn end(&mut self, flag: Flag) {
        if std::mem::replace(&mut self.finished, true) {
            return;
        }
        let key = RequestKey {
            method: self.method,
            status: self.status,
            grpc_status: self.grpc_status,
            flag,
            route: self.route.take(),
        };
        let took = self.started.elapsed();
        let series = match self.series.as_ref().or(self.connection.series()) {
            Some(series) => Arc::clone(series),
            None => self.recorder.metrics.series_of(&self.connection),
        };
        series.request(&key, took);
        self.recorder.access_log.write_request(self, &key, took);
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.end(Flag::Abandoned);
    }
}

impl Target {
    fn of(view: &RequestView<'_>) -> Self {
        Self {
            method: view.method.to_owned(),
            path: view.path().unwrap_or("*").to_owned(),
            authority: view.authority.to_owned(),
            request_id: view.field("x-request-id"),
            traceparent: view.field("traceparent"),
        }
    }
}
