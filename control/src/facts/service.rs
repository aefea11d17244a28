//! What the mesh knows of a Service: its addresses, ports and selector.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use k8s_openapi::{api::core::v1::Service, apimachinery::pkg::util::intstr::IntOrString};
use squire_mesh::{
    traffic::TrafficSettings,
    workload::{Interner, LabelSet, PortProtocol},
};

use super::{FactError, Key, key, names};

/// Where a Service port leads on a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A number.
    Number(u16),
    /// The name of a container port.
    Name(Arc<str>),
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePortFact {
    /// Its number.
    pub port: u16,
    /// Its name, empty where there is only one.
    pub name: Arc<str>,
    /// Its transport protocol.
    pub protocol: PortProtocol,
    /// Where it leads.
    pub target: Target,
    /// The declared application protocol.
    pub app_protocol: Option<Arc<str>>,
}

/// A Service, reduced to what the mesh needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceFact {
    /// Namespace and name.
    pub key: Key,
    /// What it selects; `None` where its endpoints are made by somebody else.
    pub selector: Option<LabelSet>,
    /// Its virtual addresses; empty for headless and external-name Services.
    pub vips: Vec<IpAddr>,
    /// Its ports.
    pub ports: Vec<ServicePortFact>,
    /// What its annotations say about traffic.
    pub traffic: TrafficSettings,
}

impl ServiceFact {
    /// From the typed object.
    pub fn read(service: Service, interner: &mut Interner) -> Result<Self, FactError> {
        let key = key(&service.metadata, interner)?;
        let spec = service.spec.unwrap_or_default();
        let mut vips = Vec::new();
        let listed = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
        for address in listed.filter(|text| !text.is_empty() && *text != "None") {
            let address = names::address("spec.clusterIPs", address)?;
            if !vips.contains(&address) {
                vips.push(address);
            }
        }
        let mut ports = Vec::new();
        for (at, port) in spec.ports.iter().flatten().enumerate() {
            let path = |field: &str| format!("spec.ports[{at}].{field}");
            let number = names::port(&path("port"), port.port.into())?;
            let name = port.name.as_deref().unwrap_or_default();
            let app_protocol = names::app_protocol(port.app_protocol.as_deref(), name);
            ports.push(ServicePortFact {
                port: number,
                protocol: names::protocol(&path("protocol"), port.protocol.as_deref())?,
                target: target(&path("targetPort"), port.target_port.as_ref(), number, interner)?,
                app_protocol: app_protocol.map(|text| interner.text(text)),
                name: interner.text(name),
            });
        }
        let external = spec.type_.as_deref() == Some("ExternalName");
        let selector = spec
            .selector
            .filter(|pairs: &BTreeMap<_, _>| !pairs.is_empty() && !external);
        let annotations = service.metadata.annotations.iter().flatten();
        let traffic = TrafficSettings::from_annotations(annotations.map(|(key, value)| (&**key, &**value)))
            .map_err(|bad| FactError::field(format!("metadata.annotations[{}]", bad.name), bad.to_string()))?;
        Ok(Self {
            key,
            selector: selector.map(|pairs| interner.labels(pairs)),
            vips,
            ports,
            traffic,
        })
    }
}

fn target(path: &str, target: Option<&IntOrString>, port: u16, interner: &mut Interner) -> Result<Target, FactError> {
    match target {
        None | Some(IntOrString::Int(0)) => Ok(Target::Number(port)),
        Some(IntOrString::Int(number)) => names::port(path, (*number).into()).map(Target::Number),
        Some(IntOrString::String(name)) if name.is_empty() => Ok(Target::Number(port)),
        Some(IntOrString::String(name)) => Ok(Target::Name(interner.text(name))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn service(spec: Value) -> Result<ServiceFact, FactError> {
        let value = json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": spec});
        ServiceFact::read(serde_json::from_value(value).unwrap(), &mut Interner::default())
    }

    #[test]
    fn target_ports_are_numbers_names_or_the_port_itself() {
        let fact = service(json!({"ports": [
            {"name": "a", "port": 80}, {"name": "b", "port": 81, "targetPort": 8081},
            {"name": "c", "port": 82, "targetPort": "web"},
        ]}))
        .unwrap();
        let targets: Vec<_> = fact.ports.iter().map(|port| port.target.clone()).collect();
        assert_eq!(
            targets,
            [Target::Number(80), Target::Number(8081), Target::Name("web".into())]
        );
    }

    #[test]
    fn headless_and_external_name_services_have_no_address() {
        assert!(
            service(json!({"clusterIP": "None", "clusterIPs": ["None"]}))
                .unwrap()
                .vips
                .is_empty()
        );
        let dual = service(json!({"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00::1"]})).unwrap();
        assert_eq!(dual.vips.len(), 2);
        let external = json!({"type": "ExternalName", "externalName": "example.org", "selector": {"app": "x"}});
        assert_eq!(service(external).unwrap().selector, None);
        assert_eq!(
            service(json!({"selector": {}})).unwrap().selector,
            None,
            "an empty selector selects nothing"
        );
    }

    #[test]
    fn wrong_ports_are_named() {
        let error = service(json!({"ports": [{"port": 80}, {"port": 70000}]})).unwrap_err();
        assert_eq!(error.path(), Some("spec.ports[1].port"));
    }
}
