//! One live connection, as a sidecar's `/connections` shows it. What a newer sidecar adds is kept and passed on.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A live connection, and which sidecar told of it. Ages in seconds, sizes in bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Connection {
    /// The workload whose sidecar told of it; filled in by us.
    #[serde(default)]
    pub(super) sidecar: String,
    pub(super) id: String,
    pub(super) direction: String,
    pub(super) source: Option<String>,
    pub(super) destination: Option<String>,
    pub(super) client: String,
    pub(super) address: String,
    pub(super) port: u16,
    pub(super) workload: Option<String>,
    pub(super) protocol: String,
    pub(super) tls_version: Option<String>,
    pub(super) tls_suite: Option<String>,
    pub(super) tls_group: Option<String>,
    pub(super) verdict: Option<String>,
    pub(super) rule: Option<String>,
    pub(super) age: f64,
    pub(super) bytes_from_client: u64,
    pub(super) bytes_to_client: u64,
    /// Everything else.
    #[serde(flatten)]
    pub(super) more: BTreeMap<String, Value>,
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;

    /// As a sidecar writes it.
    pub(in super::super) fn example() -> Value {
        json!({
            "id": "00000000000000aa", "direction": "inbound",
            "source": "spiffe://cluster.local/ns/shop/sa/web", "destination": "spiffe://cluster.local/ns/shop/sa/db",
            "client": "127.10.0.11:40000", "address": "127.10.0.10:5432", "port": 5432, "upstream": "127.10.0.110:5432",
            "workload": "shop/web", "protocol": "squire/1", "tls_version": "TLSv1.3",
            "tls_suite": "TLS_AES_128_GCM_SHA256", "tls_group": "X25519MLKEM768", "reused": true, "verdict": "ALLOW",
            "rule": "AuthorizationPolicy shop/db-allow rule 0", "why": "an ALLOW rule matches", "opened": 1.5,
            "age": 75.2, "bytes_from_client": 1536, "bytes_to_client": 12, "peer_expires": 1_800_000_000_u64,
        })
    }

    #[test]
    fn what_we_do_not_know_is_passed_on() {
        let mut value = example();
        value["new_field"] = json!([1, 2]);
        let connection: Connection = serde_json::from_value(value.clone()).unwrap();
        let mut again = serde_json::to_value(&connection).unwrap();
        assert_eq!(again.as_object_mut().unwrap().remove("sidecar"), Some(json!("")));
        assert_eq!(again, value);
    }

    #[test]
    fn what_is_not_known_yet_is_empty() {
        let mut value = example();
        for unknown in [
            "source",
            "destination",
            "workload",
            "tls_version",
            "tls_suite",
            "tls_group",
            "verdict",
            "rule",
        ] {
            value[unknown] = Value::Null;
        }
        let connection: Connection = serde_json::from_value(value).unwrap();
        assert_eq!((connection.source, connection.rule), (None, None));
    }
}
