//! One workload or Service from its fact and what the index says of it. What is odd is remarked on, never guessed away.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use squire_mesh::{
    spiffe::{SpiffeId, TrustDomain},
    traffic::{ServiceRoutes, Traffic, TrafficSettings},
    workload::{
        Interner, LabelSet, Membership, PortProtocol, Service, ServiceName, ServicePort, Transport, Workload,
        WorkloadUid,
    },
};

use super::{
    NODES, Remark, Settings,
    endpoints::{self, Bare},
    index::Index,
    member::Member,
};
use crate::facts::{EntryFact, NodeFact, PodFact, ServiceFact, namespace_with};

/// What making needs.
pub(super) struct Maker<'a> {
    pub(super) settings: &'a Settings,
    pub(super) index: &'a Index,
    pub(super) services: &'a BTreeMap<ServiceName, Service>,
    pub(super) interner: &'a mut Interner,
    /// What was odd.
    pub(super) remark: Option<Remark>,
}

impl Maker<'_> {
    /// A Pod or WorkloadEntry; none: there is no such thing, or nothing that the mesh could know.
    pub(super) fn member(&mut self, uid: &WorkloadUid) -> Option<Workload> {
        let mut workload = match self.index.member(uid)? {
            Member::Pod(pod) => self.pod(uid, pod),
            Member::Entry(entry) => self.entry(uid, entry),
        }?;
        declare_protocols(&mut workload, self.services);
        Some(workload)
    }

    /// What stands at an address of a namespace by itself.
    pub(super) fn place(&mut self, namespace: &Arc<str>, address: IpAddr) -> Option<Workload> {
        let node = self.index.node_at(address).filter(|_| **namespace == *NODES);
        match node {
            Some(node) => Some(self.node(node, address)),
            None => endpoints::bare(self.index, namespace, address).map(|bare| self.bare(bare)),
        }
    }

    fn pod(&mut self, uid: &WorkloadUid, pod: &PodFact) -> Option<Workload> {
        if pod.ended {
            return None;
        }
        let object = format!("Pod {}", pod.key);
        if pod.addresses.is_empty() {
            self.odd(
                object,
                "it has no status.podIP: the mesh does not know it until it has one",
            );
            return None;
        }
        let identity = self.identity(object, None, &pod.key.namespace, &pod.service_account)?;
        Some(Workload {
            uid: uid.clone(),
            namespace: Arc::clone(&pod.key.namespace),
            name: Arc::clone(&pod.key.name),
            identity: Some(identity),
            addresses: pod.addresses.as_slice().into(),
            transport: pod.transport,
            plaintext_ports: None,
            host_network: pod.host_network,
            ready: pod.ready,
            labels: pod.labels.clone(),
            namespace_labels: self.namespace_labels(&pod.key.namespace),
            ports: pod.ports.as_slice().into(),
            services: self.memberships(uid).into(),
            node: pod.node.clone(),
            zone: pod.zone.clone(),
            owner: pod.owner.clone(),
        })
    }

    fn entry(&mut self, uid: &WorkloadUid, entry: &EntryFact) -> Option<Workload> {
        let identity = match &entry.service_account {
            Some(account) => {
                let (object, domain) = (format!("WorkloadEntry {}", entry.key), entry.trust_domain.as_ref());
                Some(self.identity(object, domain, &entry.key.namespace, account)?)
            }
            None => None,
        };
        Some(Workload {
            uid: uid.clone(),
            namespace: Arc::clone(&entry.key.namespace),
            name: Arc::clone(&entry.key.name),
            identity,
            addresses: [entry.address].into(),
            transport: entry.transport,
            plaintext_ports: None,
            host_network: false,
            ready: true,
            labels: entry.labels.clone(),
            namespace_labels: self.namespace_labels(&entry.key.namespace),
            ports: entry.ports.as_slice().into(),
            services: self.memberships(uid).into(),
            node: None,
            zone: entry.zone.clone(),
            owner: None,
        })
    }

    fn memberships(&self, uid: &WorkloadUid) -> Vec<Membership> {
        let member = self.index.member(uid);
        member.map_or_else(Vec::new, |member| endpoints::memberships(self.index, uid, member))
    }

    /// An address that no object stands for: it has no labels, so that no selector can ever match it.
    fn bare(&mut self, bare: Bare) -> Workload {
        Workload {
            uid: WorkloadUid::address(&bare.namespace, bare.address),
            name: self.interner.text(&bare.address.to_string()),
            namespace: bare.namespace,
            identity: None,
            addresses: [bare.address].into(),
            transport: Transport::Plaintext,
            plaintext_ports: None,
            host_network: false,
            ready: true,
            labels: LabelSet::default(),
            namespace_labels: LabelSet::default(),
            ports: [].into(),
            services: bare.memberships.into(),
            node: bare.node,
            zone: bare.zone,
            owner: None,
        }
    }

    /// A node at one of its addresses: so that its pods know what comes from it.
    fn node(&mut self, node: &NodeFact, address: IpAddr) -> Workload {
        let namespace = self.interner.text(NODES);
        let mut workload = self.bare(Bare {
            namespace,
            address,
            node: Some(Arc::clone(&node.name)),
            zone: None,
            memberships: Vec::new(),
        });
        workload.name = Arc::clone(&node.name);
        workload.host_network = true;
        workload
    }

    /// A Service, without the routes that are attached to it.
    pub(super) fn service(&mut self, fact: &ServiceFact) -> Service {
        let (namespace, name) = (&*fact.key.namespace, &*fact.key.name);
        let qualified = format!("{name}.{namespace}");
        let full = format!("{qualified}.svc.{}", self.settings.cluster_domain);
        let hostnames = [name.to_owned(), qualified.clone(), format!("{qualified}.svc"), full];
        let tcp = fact.ports.iter().filter(|port| port.protocol == PortProtocol::Tcp);
        Service {
            name: ServiceName::new(namespace, name),
            hostnames: hostnames.iter().map(|hostname| self.interner.text(hostname)).collect(),
            vips: fact.vips.as_slice().into(),
            ports: tcp
                .map(|port| ServicePort {
                    port: port.port,
                    name: Arc::clone(&port.name),
                    app_protocol: port.app_protocol.clone(),
                })
                .collect(),
            traffic: (fact.traffic != TrafficSettings::default()).then(|| {
                Box::new(Traffic {
                    settings: fact.traffic,
                    routes: ServiceRoutes::default(),
                })
            }),
        }
    }

    /// In our trust domain, unless the object names another.
    fn identity(
        &mut self,
        object: String,
        domain: Option<&TrustDomain>,
        namespace: &str,
        account: &str,
    ) -> Option<SpiffeId> {
        match SpiffeId::workload(domain.unwrap_or(&self.settings.trust_domain), namespace, account) {
            Ok(id) => Some(id),
            Err(error) => {
                self.odd(
                    object,
                    format!("it can have no identity, so the mesh leaves it out: {error}"),
                );
                None
            }
        }
    }

    fn namespace_labels(&mut self, namespace: &Arc<str>) -> LabelSet {
        match self.index.namespace(namespace) {
            Some(declared) => declared.labels.clone(),
            None => namespace_with(namespace, BTreeMap::new(), self.interner).labels,
        }
    }

    fn odd(&mut self, object: String, message: impl Into<String>) {
        self.remark = Some(Remark {
            object,
            message: message.into(),
        });
    }
}

/// What a Service declares about the protocol of a port counts more than what the name of the container port suggests.
fn declare_protocols(workload: &mut Workload, services: &BTreeMap<ServiceName, Service>) {
    for membership in &workload.services {
        let Some(service) = services.get(&membership.service) else {
            continue;
        };
        for pair in &membership.ports {
            let declared = service
                .port(pair.service_port)
                .and_then(|port| port.app_protocol.clone());
            let Some(declared) = declared else { continue };
            for port in workload.ports.iter_mut().filter(|port| port.port == pair.target_port) {
                port.app_protocol = Some(Arc::clone(&declared));
            }
        }
    }
}
