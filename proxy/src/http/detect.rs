//! What the first bytes of a client are: HTTP/1, HTTP/2 with prior knowledge, or bytes. Looks only; whatever it says,
//! policy never allows more to bytes than to HTTP (spec §3.10.39), so there is nothing to gain by misleading it.

use super::h2::PREFACE;
use crate::connection::Application;

/// Longest first line that is waited for; a longer one is taken for HTTP/1 and refused there.
const MAX_LINE: usize = 16 * 1024;
/// Methods that are waited for where no protocol is declared.
const METHODS: [&[u8]; 22] = [
    b"GET ",
    b"HEAD ",
    b"POST ",
    b"PUT ",
    b"DELETE ",
    b"CONNECT ",
    b"OPTIONS ",
    b"TRACE ",
    b"PATCH ",
    b"PROPFIND ",
    b"PROPPATCH ",
    b"MKCOL ",
    b"COPY ",
    b"MOVE ",
    b"LOCK ",
    b"UNLOCK ",
    b"REPORT ",
    b"SEARCH ",
    b"MERGE ",
    b"CHECKOUT ",
    b"MKACTIVITY ",
    b"PURGE ",
];

/// What the admin of a port says is spoken there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Declared {
    /// Nothing, or something that means nothing to us.
    #[default]
    Nothing,
    /// HTTP of any version, gRPC, WebSocket.
    Http,
    /// Anything that is not HTTP.
    Bytes,
}

impl Declared {
    /// From the application protocol of a port, as the control plane derives it.
    pub(crate) fn of(app_protocol: Option<&str>) -> Self {
        app_protocol.map_or(Self::Nothing, Self::of_protocol)
    }

    fn of_protocol(protocol: &str) -> Self {
        match protocol.to_ascii_lowercase().as_str() {
            "http" | "http2" | "h2c" | "grpc" | "grpc-web" | "ws" => Self::Http,
            "tcp" | "tls" | "https" | "wss" | "mysql" | "postgres" | "postgresql" | "redis" | "mongo" | "mongodb"
            | "smtp" | "amqp" | "kafka" | "memcached" | "cassandra" => Self::Bytes,
            _ => Self::Nothing,
        }
    }
}

/// Judges the first bytes. [`Application::Unknown`]: more are needed.
pub(crate) fn detect(bytes: &[u8], declared: Declared) -> Application {
    if declared == Declared::Bytes {
        return Application::Bytes;
    }
    let length = bytes.len().min(PREFACE.len());
    // `PRI` is no method anybody uses: past it there is only the preface to be expected.
    if bytes[..length] == PREFACE[..length] {
        return if length == PREFACE.len() {
            Application::Http2
        } else {
            Application::Unknown
        };
    }
    if declared == Declared::Http {
        // Bytes that are no HTTP are refused by the parser, never passed on as something else.
        return Application::Http1;
    }
    let begins = |method: &&[u8]| {
        let length = bytes.len().min(method.len());
        bytes[..length] == method[..length]
    };
    if !METHODS.iter().any(begins) {
        return Application::Bytes;
    }
    match memchr::memchr(b'\n', bytes) {
        Some(end) => {
            let line = bytes[..end].strip_suffix(b"\r").unwrap_or(&bytes[..end]);
            if memchr::memmem::rfind(line, b" HTTP/").is_some() {
                Application::Http1
            } else {
                Application::Bytes
            }
        }
        None if bytes.len() > MAX_LINE => Application::Http1,
        None => Application::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_is_told_by_its_first_line_and_h2_by_its_preface() {
        let of = |bytes: &[u8]| detect(bytes, Declared::Nothing);
        assert_eq!(of(b"GET / HTTP/1.1\r\n"), Application::Http1);
        assert_eq!(of(b"GET / HTTP/1.0\n"), Application::Http1);
        assert_eq!(of(b"GET / HTTP/9\r\n"), Application::Http1);
        assert_eq!(of(PREFACE), Application::Http2);
        for end in 0..PREFACE.len() {
            assert_eq!(of(&PREFACE[..end]), Application::Unknown, "{end}");
        }
        for bytes in [
            &b"GET key\r\n"[..],
            b"HELO x\r\n",
            b"\x16\x03\x01",
            b"*1\r\n",
            b"SELECT 1",
            b"PRIX",
            b"G\0",
        ] {
            assert_eq!(of(bytes), Application::Bytes, "{bytes:?}");
        }
        assert_eq!(of(b"GET /long"), Application::Unknown);
    }

    #[test]
    fn a_declaration_is_honoured() {
        assert_eq!(detect(b"hello", Declared::Http), Application::Http1);
        assert_eq!(detect(b"GET / HTTP/1.1\r\n", Declared::Bytes), Application::Bytes);
        assert_eq!(Declared::of(Some("http2")), Declared::Http);
        assert_eq!(Declared::of(Some("HTTP")), Declared::Http);
        assert_eq!(Declared::of(Some("tcp")), Declared::Bytes);
        assert_eq!(Declared::of(None), Declared::Nothing);
        assert_eq!(Declared::of(Some("example.com/own")), Declared::Nothing);
    }
}
