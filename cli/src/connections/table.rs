//! Connections as a table for people. It formats; it asks nobody.

use super::view::Connection;
use crate::output::columns;

const HEADINGS: [&str; 12] = [
    "SIDECAR",
    "DIR",
    "SOURCE",
    "DESTINATION",
    "PORT",
    "PROTOCOL",
    "IN",
    "OUT",
    "AGE",
    "TLS",
    "VERDICT",
    "RULE",
];

/// Columns under headings; IN are bytes from the side that opened the connection, OUT bytes to it.
pub(super) fn table(connections: &[Connection]) -> String {
    if connections.is_empty() {
        return "no connection is open\n".to_owned();
    }
    let rows: Vec<_> = connections.iter().map(row).collect();
    columns(HEADINGS, &rows)
}

fn row(connection: &Connection) -> [String; 12] {
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    [
        connection.sidecar.clone(),
        match connection.direction.as_str() {
            "inbound" => "in".to_owned(),
            "outbound" => "out".to_owned(),
            other => other.to_owned(),
        },
        principal(connection.source.as_deref(), &connection.client),
        principal(connection.destination.as_deref(), &connection.address),
        connection.port.to_string(),
        connection.protocol.clone(),
        size(connection.bytes_from_client),
        size(connection.bytes_to_client),
        age(connection.age),
        match (&connection.tls_group, &connection.tls_suite) {
            (Some(group), Some(suite)) => format!("{group} {suite}"),
            _ => "-".to_owned(),
        },
        or_dash(&connection.verdict),
        or_dash(&connection.rule),
    ]
}

/// As policies write it; an address in brackets where there is no verified identity.
fn principal(id: Option<&str>, address: &str) -> String {
    match id {
        Some(id) => id.strip_prefix("spiffe://").unwrap_or(id).to_owned(),
        None => format!("[{address}]"),
    }
}

/// Bytes in the largest unit that leaves a number of at least one.
#[allow(clippy::cast_precision_loss, reason = "rounded for people anyway")]
fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let (mut value, mut unit) = (bytes as f64 / 1024.0, 0);
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// Seconds in the two largest units.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "ages are small and not negative"
)]
fn age(seconds: f64) -> String {
    let seconds = seconds.max(0.0);
    let whole = seconds as u64;
    match whole {
        0..60 => format!("{seconds:.1}s"),
        60..3600 => format!("{}m{:02}s", whole / 60, whole % 60),
        3600..86_400 => format!("{}h{:02}m", whole / 3600, whole % 3600 / 60),
        _ => format!("{}d{:02}h", whole / 86_400, whole % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::view::tests::example, *};

    #[test]
    fn a_row_says_who_talks_to_whom_how_and_why_it_may() {
        let mut connection: Connection = serde_json::from_value(example()).unwrap();
        connection.sidecar = "shop/db".to_owned();
        let text = table(std::slice::from_ref(&connection));
        let rows: Vec<&str> = text.lines().collect();
        assert_eq!(rows.len(), 2);
        for part in [
            "shop/db",
            "cluster.local/ns/shop/sa/web  cluster.local/ns/shop/sa/db",
            "5432",
            "squire/1",
            "1.5 KiB",
            "12 B",
            "1m15s",
            "X25519MLKEM768 TLS_AES_128_GCM_SHA256",
            "ALLOW",
            "AuthorizationPolicy shop/db-allow rule 0",
        ] {
            assert!(rows[1].contains(part), "{part:?} is not in {:?}", rows[1]);
        }
        (connection.source, connection.tls_group) = (None, None);
        let text = table(&[connection]);
        assert!(
            text.contains("[127.10.0.11:40000]") && !text.contains("X25519"),
            "{text}"
        );
    }

    #[test]
    fn nothing_open_is_said_in_words() {
        assert_eq!(table(&[]), "no connection is open\n");
    }

    #[test]
    fn sizes_and_ages_keep_to_what_matters() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_572_864, "1.5 MiB"),
            (u64::MAX, "16777216.0 TiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
        for (seconds, text) in [
            (-1.0, "0.0s"),
            (0.04, "0.0s"),
            (59.9, "59.9s"),
            (60.0, "1m00s"),
            (3599.0, "59m59s"),
            (3661.0, "1h01m"),
            (90_000.0, "1d01h"),
        ] {
            assert_eq!(age(seconds), text);
        }
    }
}
