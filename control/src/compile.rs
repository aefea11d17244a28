//! From facts to what proxies are told: workloads, services, and who backs what. A change is taken in by making anew those
//! that it concerns; nobody else is looked at. What comes of it depends on what there is, never on the order in which it
//! came. What looks odd on the way is remarked on, never guessed away. Policies are compiled next door, in `policy`; what
//! clients must know of them is added in `tables`.

mod addresses;
mod concerned;
mod endpoints;
mod index;
mod make;
mod member;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use squire_mesh::{
    spiffe::TrustDomain,
    workload::{Interner, Service, ServiceName, Workload, WorkloadUid},
};

use self::{addresses::Addresses, concerned::Concerned, index::Index, make::Maker};
use crate::inventory::{Change, Inventory};

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

/// What came of a change.
#[derive(Debug, Default)]
pub struct Touched {
    /// Workloads that are new, gone, or not what they were.
    pub workloads: BTreeSet<WorkloadUid>,
    /// Whether any Service is.
    pub services: bool,
    /// How many workloads were looked at, whether or not anything was new about them.
    pub looked_at: usize,
}

/// Everything known so far, ready for the next change.
#[derive(Debug)]
pub struct Compiler {
    settings: Settings,
    index: Index,
    /// Services as their objects have them, without routes.
    services: BTreeMap<ServiceName, Service>,
    remarks: BTreeMap<WorkloadUid, Remark>,
    addresses: Addresses,
}

/// Compiles an inventory by itself.
pub fn mesh(inventory: &Inventory, settings: &Settings, interner: &mut Interner) -> Mesh {
    let mut mesh = Mesh::default();
    let mut compiler = Compiler::new(settings.clone());
    compiler.apply(inventory.changes_since(&Inventory::default()), &mut mesh, interner);
    mesh.services = compiler.services;
    mesh
}

impl Compiler {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            index: Index::default(),
            services: BTreeMap::new(),
            remarks: BTreeMap::new(),
            addresses: Addresses::default(),
        }
    }

    /// Every Service, without routes.
    #[must_use]
    pub fn services(&self) -> &BTreeMap<ServiceName, Service> {
        &self.services
    }

    /// Takes in what has changed. The workloads of `mesh`, and its remarks, are brought up to date; its services are left
    /// to whoever attaches routes to them. What clients must know of a workload's policy stays noted on it.
    pub fn apply(
        &mut self,
        changes: impl IntoIterator<Item = Change>,
        mesh: &mut Mesh,
        interner: &mut Interner,
    ) -> Touched {
        let mut concerned = Concerned::default();
        for change in changes {
            self.index.apply(change, &mut concerned);
        }
        let nodes = std::mem::take(&mut concerned.nodes);
        let namespace = interner.text(NODES);
        let places = nodes.into_iter().map(|address| (Arc::clone(&namespace), address));
        concerned.places.extend(places);
        self.index.settle(&mut concerned);

        let mut touched = Touched {
            looked_at: concerned.members.len() + concerned.places.len(),
            ..Touched::default()
        };
        // Services first: what they declare of ports is noted on the workloads behind them.
        for key in &concerned.services {
            let service = self.index.service(key).cloned();
            let service = service.map(|fact| self.maker(interner).service(&fact));
            touched.services |= self.put_service(ServiceName::new(&key.namespace, &key.name), service);
        }
        for uid in concerned.members {
            let mut maker = self.maker(interner);
            let (workload, remark) = (maker.member(&uid), maker.remark);
            match remark {
                Some(remark) => self.remarks.insert(uid.clone(), remark),
                None => self.remarks.remove(&uid),
            };
            self.put(uid, workload, mesh, &mut touched);
        }
        for (namespace, address) in concerned.places {
            let workload = self.maker(interner).place(&namespace, address);
            self.put(WorkloadUid::address(&namespace, address), workload, mesh, &mut touched);
        }
        mesh.remarks = self.remarks.values().cloned().chain(self.addresses.remarks()).collect();
        touched
    }

    fn maker<'a>(&'a self, interner: &'a mut Interner) -> Maker<'a> {
        Maker {
            settings: &self.settings,
            index: &self.index,
            services: &self.services,
            interner,
            remark: None,
        }
    }

    /// Whether it is another one.
    fn put_service(&mut self, name: ServiceName, service: Option<Service>) -> bool {
        match service {
            Some(service) => self.services.insert(name, service.clone()) != Some(service),
            None => self.services.remove(&name).is_some(),
        }
    }

    fn put(&mut self, uid: WorkloadUid, workload: Option<Workload>, mesh: &mut Mesh, touched: &mut Touched) {
        let old = mesh.workloads.remove(&uid);
        let workload = workload.map(|mut workload| {
            // Noted by `tables`, which looks at every workload that is touched.
            workload.plaintext_ports = old.as_ref().and_then(|old| old.plaintext_ports.clone());
            workload
        });
        if workload != old {
            if let Some(old) = &old {
                self.addresses.give_up(old);
            }
            if let Some(new) = &workload {
                self.addresses.take(new);
            }
            touched.workloads.insert(uid.clone());
        }
        if let Some(workload) = workload {
            mesh.workloads.insert(uid, workload);
        }
    }
}

#[cfg(test)]
mod history;
#[cfg(test)]
mod tests;
