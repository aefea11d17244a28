//! What the mesh knows of an Istio WorkloadEntry: a machine or process that is not a Pod.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use squire_mesh::{
    ports,
    spiffe::{SpiffeIdError, TrustDomain},
    workload::{Interner, LabelSet, NamedPort, PortProtocol, Transport},
};

use super::{FactError, Key, key, names, pod::transport};

/// The wire shape of the object: the fields the mesh uses; the others may be there.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct WorkloadEntry {
    metadata: ObjectMeta,
    spec: Spec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    address: String,
    ports: BTreeMap<String, i64>,
    labels: BTreeMap<String, String>,
    locality: String,
    service_account: String,
}

/// A WorkloadEntry, reduced to what the mesh needs.
#[derive(Clone, Debug, PartialEq)]
pub struct EntryFact {
    /// Namespace and name.
    pub key: Key,
    /// Its service account, from which its identity follows.
    pub service_account: Option<Arc<str>>,
    /// The trust domain of its identity, if it is not ours.
    pub trust_domain: Option<TrustDomain>,
    /// Its address.
    pub address: IpAddr,
    /// How it is reached.
    pub transport: Transport,
    /// `metadata.labels` with `spec.labels` on top.
    pub labels: LabelSet,
    /// Its named ports.
    pub ports: Vec<NamedPort>,
    /// The failure zone: the second part of `spec.locality`.
    pub zone: Option<Arc<str>>,
}

impl EntryFact {
    /// From the typed object.
    pub(super) fn read(entry: WorkloadEntry, interner: &mut Interner) -> Result<Self, FactError> {
        let key = key(&entry.metadata, interner)?;
        let spec = entry.spec;
        let address = spec.address.parse().map_err(|_| {
            let why = format!(
                "{:?} is not an IP address; host names and Unix sockets are not supported",
                spec.address
            );
            FactError::field("spec.address", why)
        })?;
        let service_account = interner.optional(&spec.service_account);
        if let Some(account) = &service_account {
            names::required("spec.serviceAccount", Some(account))?;
        }
        let transport = transport(&entry.metadata, false)?;
        if transport.is_mtls() && service_account.is_none() {
            let why = format!("transport {transport} needs a service account: its certificate would have no name");
            return Err(FactError::field("spec.serviceAccount", why));
        }
        let trust_domain = foreign(&entry.metadata)?;
        let mut ports = Vec::with_capacity(spec.ports.len());
        for (name, number) in &spec.ports {
            ports.push(NamedPort {
                name: interner.text(name),
                port: names::port(&format!("spec.ports[{name:?}]"), *number)?,
                protocol: PortProtocol::Tcp,
                app_protocol: names::app_protocol(None, name).map(|text| interner.text(text)),
            });
        }
        let labels = entry.metadata.labels.unwrap_or_default().into_iter().chain(spec.labels);
        Ok(Self {
            key,
            service_account,
            trust_domain,
            address,
            transport,
            labels: interner.labels(labels),
            ports,
            zone: spec.locality.split('/').nth(1).and_then(|zone| interner.optional(zone)),
        })
    }
}

/// The trust domain that the annotation names.
fn foreign(metadata: &ObjectMeta) -> Result<Option<TrustDomain>, FactError> {
    let named = metadata
        .annotations
        .as_ref()
        .and_then(|all| all.get(ports::TRUST_DOMAIN));
    let wrong = |error: SpiffeIdError| {
        FactError::field(
            format!("metadata.annotations[{:?}]", ports::TRUST_DOMAIN),
            format!("{error}"),
        )
    };
    named.map(|name| name.parse()).transpose().map_err(wrong)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn entry(value: Value) -> Result<EntryFact, FactError> {
        EntryFact::read(serde_json::from_value(value).unwrap(), &mut Interner::default())
    }

    #[test]
    fn an_entry_is_read() {
        let fact = entry(json!({
            "metadata": {"name": "vm1", "namespace": "shop", "labels": {"app": "old", "tier": "db"},
                         "annotations": {"squire.mesh/transport": "squire"}},
            "spec": {"address": "10.9.0.1", "ports": {"pg": 5432}, "labels": {"app": "pg"},
                     "locality": "eu/eu-1/rack4", "serviceAccount": "pg", "weight": 3},
        }))
        .unwrap();
        assert_eq!(
            (fact.labels.get("app"), fact.labels.get("tier")),
            (Some("pg"), Some("db"))
        );
        assert_eq!(
            (fact.zone.as_deref(), fact.service_account.as_deref()),
            (Some("eu-1"), Some("pg"))
        );
        assert_eq!((fact.transport, fact.ports[0].port), (Transport::Squire, 5432));
    }

    #[test]
    fn an_entry_may_belong_to_another_trust_domain() {
        let of = |domain: &str| {
            entry(json!({
                "metadata": {"name": "db", "namespace": "shop",
                             "annotations": {"squire.mesh/transport": "squire", "squire.mesh/trust-domain": domain}},
                "spec": {"address": "10.9.0.1", "serviceAccount": "db"},
            }))
        };
        assert_eq!(
            of("partner.example").unwrap().trust_domain.unwrap().as_str(),
            "partner.example"
        );
        let path = of("spiffe://partner.example").unwrap_err().path().map(str::to_owned);
        assert_eq!(
            path.as_deref(),
            Some("metadata.annotations[\"squire.mesh/trust-domain\"]")
        );
    }

    #[test]
    fn what_cannot_be_reached_safely_is_refused() {
        let labels = json!({"squire.mesh/transport": "squire"});
        for (value, path) in [
            (
                json!({"metadata": {"name": "vm"}, "spec": {"address": "vm.example.org"}}),
                "spec.address",
            ),
            (
                json!({"metadata": {"name": "vm", "labels": labels}, "spec": {"address": "::1"}}),
                "spec.serviceAccount",
            ),
            (
                json!({"metadata": {"name": "vm"}, "spec": {"address": "::1", "ports": {"x": 0}}}),
                "spec.ports[\"x\"]",
            ),
        ] {
            assert_eq!(entry(value.clone()).unwrap_err().path(), Some(path), "{value}");
        }
    }
}
