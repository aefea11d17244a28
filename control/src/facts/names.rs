//! Kubernetes names and small values, checked at the door.

use std::net::IpAddr;

use squire_mesh::workload::PortProtocol;

use super::FactError;

/// A name that must be there.
pub(super) fn required<'a>(path: &str, name: Option<&'a str>) -> Result<&'a str, FactError> {
    let name = name.unwrap_or_default();
    let edge = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let valid = name.len() <= 253
        && name.bytes().all(|byte| edge(byte) || byte == b'-' || byte == b'.')
        && name.bytes().next().is_some_and(edge)
        && name.bytes().next_back().is_some_and(edge);
    if valid {
        Ok(name)
    } else {
        Err(wrong_name(path, name, "and `.`, at most 253"))
    }
}

/// A DNS label, as namespaces are.
pub(super) fn label(path: &str, name: &str) -> Result<(), FactError> {
    required(path, Some(name))?;
    if name.len() <= 63 && !name.contains('.') {
        Ok(())
    } else {
        Err(wrong_name(path, name, "at most 63"))
    }
}

fn wrong_name(path: &str, name: &str, more: &str) -> FactError {
    let name: String = name.chars().take(80).collect();
    FactError::field(
        path,
        format!("{name:?} is not a Kubernetes name: use lower-case letters, digits and `-` inside, {more} characters"),
    )
}

/// An IP address.
pub(super) fn address(path: &str, text: &str) -> Result<IpAddr, FactError> {
    text.parse()
        .map_err(|_| FactError::field(path, format!("{text:?} is not an IP address")))
}

/// A port number.
pub(super) fn port(path: &str, number: i64) -> Result<u16, FactError> {
    let port = u16::try_from(number).ok().filter(|port| *port != 0);
    port.ok_or_else(|| FactError::field(path, format!("{number} is not a port: use 1 to 65535")))
}

/// A transport protocol; TCP where it is not given.
pub(super) fn protocol(path: &str, text: Option<&str>) -> Result<PortProtocol, FactError> {
    match text {
        None | Some("TCP") => Ok(PortProtocol::Tcp),
        Some("UDP") => Ok(PortProtocol::Udp),
        Some("SCTP") => Ok(PortProtocol::Sctp),
        Some(other) => Err(FactError::field(
            path,
            format!("{other:?} is not a protocol: use TCP, UDP or SCTP"),
        )),
    }
}

/// The application protocol that a Service port declares: `appProtocol`, else the first part of its name
/// (`http`, `grpc-web`, `tcp-admin`), as users of other meshes write it.
pub(super) fn app_protocol<'a>(declared: Option<&'a str>, name: &'a str) -> Option<&'a str> {
    const BY_NAME: [&str; 10] = [
        "http2", "https", "http", "grpc", "tcp", "tls", "mongo", "mysql", "redis", "postgres",
    ];
    match declared {
        Some("kubernetes.io/h2c") => Some("http2"),
        Some("kubernetes.io/ws") => Some("http"),
        Some("kubernetes.io/wss") => Some("https"),
        Some(other) => Some(other),
        None => {
            let first = name.split('-').next().unwrap_or_default();
            BY_NAME.into_iter().find(|known| *known == first)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_are_declared_by_field_or_by_name() {
        for (declared, name, expected) in [
            (None, "http", Some("http")),
            (None, "http-web", Some("http")),
            (None, "httpx", None),
            (None, "", None),
            (None, "grpc-api", Some("grpc")),
            (Some("kubernetes.io/h2c"), "http", Some("http2")),
            (Some("tcp"), "http", Some("tcp")),
        ] {
            assert_eq!(app_protocol(declared, name), expected, "{declared:?} {name}");
        }
    }
}
