//! One request as everything that judges it sees it. The same for HTTP/1.1 and HTTP/2; borrowed, normalised already.

use squire_mesh::policy;

/// The header fields of a request: looked up by name, and all of them in order.
pub(crate) trait Fields: policy::Headers + Sync {
    /// Calls `visit` with the name (lower case) and the value of each field, in order. Pseudo-header fields are not among
    /// them.
    fn each(&self, visit: &mut dyn FnMut(&str, &[u8]));
}

/// The version the client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    Http10,
    Http11,
    Http2,
}

impl Version {
    /// As `HTTP/…` is written in logs and in CheckRequests.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
        }
    }
}

/// One request.
#[derive(Clone, Copy)]
pub(crate) struct RequestView<'a> {
    /// Exact bytes of the method.
    pub(crate) method: &'a str,
    /// The normalised path with its query, exactly as it will be forwarded; none: CONNECT or `OPTIONS *`.
    pub(crate) target: Option<&'a str>,
    /// `:authority` or Host, port included.
    pub(crate) authority: &'a str,
    /// How it arrived.
    pub(crate) version: Version,
    /// Its header fields.
    pub(crate) fields: &'a dyn Fields,
}

impl<'a> RequestView<'a> {
    /// The normalised path without its query.
    pub(crate) fn path(&self) -> Option<&'a str> {
        self.target
            .map(|target| target.split_once('?').map_or(target, |(path, _)| path))
    }

    /// What the policy table is asked about.
    pub(crate) fn as_policy(&self) -> policy::Http<'a> {
        policy::Http::new(self.method, self.target, self.authority, self.fields_as_headers())
    }

    /// The first value of a field, if it is text.
    pub(crate) fn field(&self, name: &str) -> Option<String> {
        let mut found = None;
        self.fields.visit(name, &mut |value| {
            found = std::str::from_utf8(value).ok().map(str::to_owned);
            false
        });
        found
    }

    /// Whether it is a gRPC call (`content-type: application/grpc…`).
    pub(crate) fn is_grpc(&self) -> bool {
        let mut grpc = false;
        self.fields.visit("content-type", &mut |value| {
            grpc = value.starts_with(b"application/grpc") && matches!(value.get(16), None | Some(b'+' | b';' | b' '));
            false
        });
        grpc
    }

    fn fields_as_headers(&self) -> &'a dyn policy::Headers {
        self.fields
    }
}
