//! What the control plane has told this sidecar, as one immutable snapshot that every reader shares: workloads, services,
//! the policy of our own workload, trust bundles, revocations. It is replaced whole, never changed in place; it opens no
//! sockets, and decides nothing.

mod index;
mod selected;
mod shards;
mod store;

use std::{net::IpAddr, sync::Arc, time::SystemTime};

use squire_mesh::{
    bundle::TrustBundles,
    policy::Table,
    svid::Revocations,
    workload::{Service, Workload, WorkloadUid},
};
use tokio::sync::watch;

pub use squire_mesh::resource::Kind;
pub use store::{Change, Refused, Store, Update};

use self::{selected::Answered, shards::Shards};

/// Follows the state: `borrow_and_update()` before a decision, `changed()` after it.
pub type State = watch::Receiver<Arc<Snapshot>>;

/// Everything the control plane has told us, at one moment.
#[derive(Clone)]
pub struct Snapshot {
    /// The workload we stand beside; `None` until the control plane knows it.
    pub me: Option<Arc<Workload>>,
    /// What our workload lets in and out; `None`: nothing is known, so nothing is allowed.
    pub policy: Option<Arc<Table>>,
    /// Whom we trust; the bootstrap file until the control plane pushes.
    pub bundles: Arc<TrustBundles>,
    /// Whom we no longer trust.
    pub revocations: Arc<Revocations>,
    /// How current each table is.
    pub tables: Tables,
    workloads: Shards<Arc<str>, Arc<Workload>>,
    by_address: Shards<IpAddr, Arc<Workload>>,
    by_service: Shards<Arc<str>, Arc<Workload>>,
    services: Shards<Arc<str>, Arc<Service>>,
    by_vip: Shards<IpAddr, Arc<Service>>,
    by_hostname: Shards<Arc<str>, Arc<Service>>,
    /// Which part of the workloads is held; `None`: all of them.
    answered: Option<Answered>,
}

/// How current each table is.
#[derive(Clone, Default, Debug)]
pub struct Tables([TableStatus; Kind::ALL.len()]);

/// How current one table is.
#[derive(Clone, Default, Debug)]
pub struct TableStatus {
    /// The control plane's name for the state of this table; empty until it has told us.
    pub version: Arc<str>,
    /// When it was last changed; `None`: the control plane has not told us yet.
    pub applied: Option<SystemTime>,
    /// The update that could not be applied after that, if any: the table is older than it should be.
    pub refused: Option<Arc<Refused>>,
}

/// What a name leads to.
#[derive(Debug, Clone, Copy)]
pub enum Named<'a> {
    /// A service: any of its endpoints.
    Service(&'a Arc<Service>),
    /// One workload.
    Workload(&'a Arc<Workload>),
}

impl Snapshot {
    /// What is known at the start: the roots from the bootstrap file.
    #[must_use]
    pub fn bootstrap(bundles: Arc<TrustBundles>) -> Self {
        Self {
            me: None,
            policy: None,
            bundles,
            revocations: Arc::default(),
            tables: Tables::default(),
            workloads: Shards::default(),
            by_address: Shards::default(),
            by_service: Shards::default(),
            services: Shards::default(),
            by_vip: Shards::default(),
            by_hostname: Shards::default(),
            answered: None,
        }
    }

    /// The workload with this uid.
    #[must_use]
    pub fn workload(&self, uid: &str) -> Option<&Arc<Workload>> {
        self.workloads.first(uid)
    }

    /// The workloads at an address: none, one, or all that share their node's.
    pub fn workloads_at(&self, address: IpAddr) -> impl ExactSizeIterator<Item = &Arc<Workload>> {
        self.by_address.all(&address.to_canonical())
    }

    /// The service `namespace/name`.
    #[must_use]
    pub fn service(&self, name: &str) -> Option<&Arc<Service>> {
        self.services.first(name)
    }

    /// The service with a virtual address.
    #[must_use]
    pub fn service_at(&self, vip: IpAddr) -> Option<&Arc<Service>> {
        self.by_vip.first(&vip.to_canonical())
    }

    /// The workloads behind the service `namespace/name`, ready or not.
    pub fn endpoints<'s>(&'s self, service: &str) -> impl ExactSizeIterator<Item = &'s Arc<Workload>> + use<'s> {
        self.by_service.all(service)
    }

    /// Where a connection to a port of the service `namespace/name` may go: ready workloads, and their port for it.
    pub fn ready_endpoints<'s>(
        &'s self,
        service: &'s str,
        port: u16,
    ) -> impl Iterator<Item = (&'s Arc<Workload>, u16)> {
        self.endpoints(service)
            .filter(|workload| workload.ready)
            .filter_map(move |workload| {
                let pairs = &workload.membership(service)?.ports;
                let pair = pairs.iter().find(|pair| pair.service_port == port)?;
                Some((workload, pair.target_port))
            })
    }

    /// What a host name leads to: a bare name to a service of the own namespace; others to a hostname of a service, else
    /// `service.namespace`, else `workload.namespace`, else a pod of a service (`pod.service.namespace`).
    #[must_use]
    pub fn named(&self, host: &str) -> Option<Named<'_>> {
        if !host.contains('.') {
            // As with a pod's search path: a bare name is a service of the own namespace, never of another.
            let namespace = &self.me.as_ref()?.namespace;
            return self.service(&format!("{namespace}/{host}")).map(Named::Service);
        }
        if let Some(service) = self.by_hostname.first(host) {
            return Some(Named::Service(service));
        }
        let (name, namespace) = host.split_once('.')?;
        if let Some(service) = self.service(&format!("{namespace}/{name}")) {
            return Some(Named::Service(service));
        }
        let pod = self.workload(&format!("{namespace}/{name}"));
        pod.or_else(|| self.workload(&format!("{namespace}/entry/{name}")))
            .or_else(|| self.pod_of_service(host))
            .map(Named::Workload)
    }

    /// The uids of workloads that [`Self::named`] may find, in its order.
    pub(crate) fn uids_named(&self, host: &str) -> Vec<WorkloadUid> {
        let mut uids = Vec::new();
        if let Some((name, namespace)) = host.split_once('.').filter(|(_, namespace)| !namespace.contains('.')) {
            uids.extend([WorkloadUid::pod(namespace, name), WorkloadUid::entry(namespace, name)]);
        }
        if let Some((pod, service)) = host.split_once('.')
            && let Some(service) = self.by_hostname.first(service)
        {
            uids.push(WorkloadUid::pod(service.name.namespace(), pod));
        }
        // What is no name of Kubernetes is nobody's.
        uids.retain(|uid| uid.as_str().parse::<WorkloadUid>().is_ok());
        uids
    }

    /// `pod.service.namespace…`, as the pods of a StatefulSet are called: a pod only where it backs the service.
    fn pod_of_service(&self, host: &str) -> Option<&Arc<Workload>> {
        let (pod, service) = host.split_once('.')?;
        let service = self.by_hostname.first(service)?;
        let namespace = service.name.as_str().split_once('/')?.0;
        let pod = self.workload(&format!("{namespace}/{pod}"))?;
        pod.membership(service.name.as_str()).map(|_| pod)
    }

    /// Workloads and services known.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        (self.workloads.len(), self.services.len())
    }

    /// All workloads, in no particular order.
    pub fn workloads(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.workloads.iter()
    }

    /// All services, in no particular order.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.iter()
    }
}

impl Tables {
    /// How current the table of this kind is.
    #[must_use]
    pub fn of(&self, kind: Kind) -> &TableStatus {
        &self.0[kind.index()]
    }

    /// Every table was told at least once.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.0.iter().all(|table| table.applied.is_some())
    }

    fn of_mut(&mut self, kind: Kind) -> &mut TableStatus {
        &mut self.0[kind.index()]
    }
}

#[cfg(test)]
mod tests;
