//! From facts to what proxies are told: workloads, services, and who backs what. A pure function of the inventory; what
//! looks odd on the way is remarked on, never guessed away. Policies are compiled next door, in `policy`; what clients must
//! know of them is added in `tables`.

mod endpoints;

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

use squire_mesh::{
    spiffe::{SpiffeId, TrustDomain},
    traffic::{ServiceRoutes, Traffic, TrafficSettings},
    workload::{
        Interner, LabelSet, Membership, Service, ServiceName, ServicePort, Transport, UidKind, Workload, WorkloadUid,
    },
};

use crate::{
    facts::{EntryFact, NodeFact, PodFact, ServiceFact, namespace_with},
    inventory::Inventory,
};

/// The namespace that nodes are named in; Kubernetes keeps their Leases there.
const NODES: &str = "kube-node-lease";

/// What holds for the whole mesh.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The trust domain of every identity.
    pub trust_domain: TrustDomain,
    /// The DNS suffix of Services.
    pub cluster_domain: String,
}

/// Something a person should look at, although everything else goes on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Remark {
    /// The object, as kind and name.
    pub object: String,
    /// What is odd, and what follows from it.
    pub message: String,
}

/// Workloads and services, ready to be pushed.
#[derive(Clone, Debug, Default)]
pub struct Mesh {
    /// Every workload by its uid.
    pub workloads: BTreeMap<WorkloadUid, Workload>,
    /// Every service by its name.
    pub services: BTreeMap<ServiceName, Service>,
    /// What looked odd.
    pub remarks: Vec<Remark>,
}

/// Compiles an inventory.
pub fn mesh(inventory: &Inventory, settings: &Settings, interner: &mut Interner) -> Mesh {
    let mut compiler = Compiler {
        settings,
        interner,
        namespaces: HashMap::new(),
        remarks: Vec::new(),
    };
    let mut memberships = endpoints::memberships(inventory);
    let mut workloads = BTreeMap::new();
    for pod in inventory.pods.values() {
        if let Some(workload) = compiler.pod(inventory, pod, &mut memberships.of_workloads) {
            workloads.insert(workload.uid.clone(), workload);
        }
    }
    for entry in inventory.entries.values() {
        if let Some(workload) = compiler.entry(inventory, entry, &mut memberships.of_workloads) {
            workloads.insert(workload.uid.clone(), workload);
        }
    }
    for bare in memberships.bare {
        let workload = compiler.bare(bare);
        workloads.insert(workload.uid.clone(), workload);
    }
    for node in inventory.nodes.values() {
        for address in &node.addresses {
            let workload = compiler.node(node, *address);
            workloads.insert(workload.uid.clone(), workload);
        }
    }
    for (uid, _) in memberships.of_workloads {
        compiler.remark(
            format!("workload {uid}"),
            "an EndpointSlice names it, but it has ended or has no address",
        );
    }
    let services = inventory.services.values().map(|fact| compiler.service(fact));
    let services: BTreeMap<_, _> = services.map(|service| (service.name.clone(), service)).collect();
    declare_protocols(&mut workloads, &services);
    compiler.remark_shared_addresses(&workloads);
    Mesh {
        workloads,
        services,
        remarks: compiler.remarks,
    }
}

struct Compiler<'a> {
    settings: &'a Settings,
    interner: &'a mut Interner,
    namespaces: HashMap<Arc<str>, LabelSet>,
    remarks: Vec<Remark>,
}

type MembershipsOf = HashMap<WorkloadUid, Vec<Membership>>;

impl Compiler<'_> {
    fn pod(&mut self, inventory: &Inventory, pod: &PodFact, memberships: &mut MembershipsOf) -> Option<Workload> {
        let uid = WorkloadUid::pod(&pod.key.namespace, &pod.key.name);
        if pod.ended {
            return None;
        }
        if pod.addresses.is_empty() {
            self.remark(
                format!("Pod {}", pod.key),
                "it has no status.podIP: the mesh does not know it until it has one",
            );
            return None;
        }
        let object = format!("Pod {}", pod.key);
        let identity = self.identity(object, None, &pod.key.namespace, &pod.service_account)?;
        Some(Workload {
            namespace: Arc::clone(&pod.key.namespace),
            name: Arc::clone(&pod.key.name),
            identity: Some(identity),
            addresses: pod.addresses.as_slice().into(),
            transport: pod.transport,
            plaintext_ports: None,
            host_network: pod.host_network,
            ready: pod.ready,
            labels: pod.labels.clone(),
            namespace_labels: self.namespace_labels(inventory, &pod.key.namespace),
            ports: pod.ports.as_slice().into(),
            services: memberships.remove(&uid).unwrap_or_default().into(),
            node: pod.node.clone(),
            zone: pod.zone.clone(),
            owner: pod.owner.clone(),
            uid,
        })
    }

    fn entry(&mut self, inventory: &Inventory, entry: &EntryFact, memberships: &mut MembershipsOf) -> Option<Workload> {
        let uid = WorkloadUid::entry(&entry.key.namespace, &entry.key.name);
        let identity = match &entry.service_account {
            Some(account) => {
                let (object, domain) = (format!("WorkloadEntry {}", entry.key), entry.trust_domain.as_ref());
                Some(self.identity(object, domain, &entry.key.namespace, account)?)
            }
            None => None,
        };
        Some(Workload {
            namespace: Arc::clone(&entry.key.namespace),
            name: Arc::clone(&entry.key.name),
            identity,
            addresses: [entry.address].into(),
            transport: entry.transport,
            plaintext_ports: None,
            host_network: false,
            ready: true,
            labels: entry.labels.clone(),
            namespace_labels: self.namespace_labels(inventory, &entry.key.namespace),
            ports: entry.ports.as_slice().into(),
            services: memberships.remove(&uid).unwrap_or_default().into(),
            node: None,
            zone: entry.zone.clone(),
            owner: None,
            uid,
        })
    }

    /// An address that no object stands for: it has no labels, so that no selector can ever match it.
    fn bare(&mut self, bare: endpoints::Bare) -> Workload {
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
        let mut workload = self.bare(endpoints::Bare {
            namespace: Arc::clone(&namespace),
            address,
            node: Some(Arc::clone(&node.name)),
            zone: None,
            memberships: Vec::new(),
        });
        workload.name = Arc::clone(&node.name);
        workload.host_network = true;
        workload
    }

    fn service(&mut self, fact: &ServiceFact) -> Service {
        let (namespace, name) = (&*fact.key.namespace, &*fact.key.name);
        let qualified = format!("{name}.{namespace}");
        let full = format!("{qualified}.svc.{}", self.settings.cluster_domain);
        let hostnames = [name.to_owned(), qualified.clone(), format!("{qualified}.svc"), full];
        let tcp = fact
            .ports
            .iter()
            .filter(|port| port.protocol == squire_mesh::workload::PortProtocol::Tcp);
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
                self.remark(
                    object,
                    format!("it can have no identity, so the mesh leaves it out: {error}"),
                );
                None
            }
        }
    }

    fn namespace_labels(&mut self, inventory: &Inventory, namespace: &Arc<str>) -> LabelSet {
        if let Some(declared) = inventory.namespaces.get(namespace) {
            return declared.labels.clone();
        }
        let interner = &mut *self.interner;
        let labels = || namespace_with(namespace, BTreeMap::new(), interner).labels;
        self.namespaces
            .entry(Arc::clone(namespace))
            .or_insert_with(labels)
            .clone()
    }

    /// One address, two workloads: a connection from it could be either, so people have to know.
    fn remark_shared_addresses(&mut self, workloads: &BTreeMap<WorkloadUid, Workload>) {
        let mut holders: HashMap<IpAddr, &WorkloadUid> = HashMap::with_capacity(workloads.len());
        let own = workloads.values().filter(|workload| !workload.host_network);
        for (address, workload) in own.flat_map(|workload| workload.addresses.iter().map(move |each| (*each, workload)))
        {
            if let Some(other) = holders
                .insert(address, &workload.uid)
                .filter(|other| *other != &workload.uid)
            {
                let message = format!("it has the address {address} of {other} too: which is meant is undefined");
                self.remark(object_of(&workload.uid), message);
            }
        }
    }

    fn remark(&mut self, object: impl Into<String>, message: impl Into<String>) {
        self.remarks.push(Remark {
            object: object.into(),
            message: message.into(),
        });
    }
}

/// The object behind a workload, as people know it.
fn object_of(uid: &WorkloadUid) -> String {
    let name = uid.as_str().rsplit('/').next().unwrap_or_default();
    let kind = match uid.kind() {
        UidKind::Pod => "Pod",
        UidKind::Entry => "WorkloadEntry",
        UidKind::Address => "address",
    };
    format!("{kind} {}/{name}", uid.namespace())
}

/// What a Service declares about the protocol of a port counts more than what the name of the container port suggests.
fn declare_protocols(workloads: &mut BTreeMap<WorkloadUid, Workload>, services: &BTreeMap<ServiceName, Service>) {
    for workload in workloads.values_mut() {
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
}

#[cfg(test)]
mod tests;
