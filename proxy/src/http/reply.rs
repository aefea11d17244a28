//! A reply of our own, in place of the application's.

/// What we answer ourselves. A client that speaks gRPC gets it as trailers-only with the matching `grpc-status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LocalReply {
    /// HTTP status.
    pub(crate) status: u16,
    /// Header fields, names in lower case; the length is set by whoever writes it.
    pub(crate) fields: Vec<(Box<str>, Box<[u8]>)>,
    /// The body; never names a policy (spec §3.12.43).
    pub(crate) body: Box<[u8]>,
}

impl LocalReply {
    /// A status and a line of text.
    pub(crate) fn text(status: u16, body: &str) -> Self {
        Self {
            status,
            fields: vec![("content-type".into(), (*b"text/plain").into())],
            body: body.as_bytes().into(),
        }
    }

    /// The gRPC status that goes with an HTTP status (gRPC's HTTP mapping, with 403 as PERMISSION_DENIED).
    pub(crate) fn grpc_status(&self) -> u8 {
        match self.status {
            400 => 13,
            401 => 16,
            403 => 7,
            404 => 12,
            408 | 504 => 4,
            429 | 502 | 503 => 14,
            _ => 2,
        }
    }
}
