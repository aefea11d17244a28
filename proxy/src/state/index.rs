//! The indexes of a snapshot: how workloads and services come into them and leave them again. Only the writer does that,
//! on its own copy; it knows no messages.

use std::sync::Arc;

use squire_mesh::workload::{Service, Workload};

use super::Snapshot;

impl Snapshot {
    pub(super) fn put_workload(&mut self, workload: Arc<Workload>) {
        self.remove_workload(workload.uid.as_str());
        for address in &workload.addresses {
            self.by_address.insert(address.to_canonical(), Arc::clone(&workload));
        }
        for membership in &workload.services {
            self.by_service
                .insert(membership.service.to_shared(), Arc::clone(&workload));
        }
        self.workloads.insert(workload.uid.to_shared(), workload);
    }

    pub(super) fn remove_workload(&mut self, uid: &str) {
        let Some(gone) = self.workloads.remove(uid, |_| true) else {
            return;
        };
        for address in &gone.addresses {
            self.by_address
                .remove(&address.to_canonical(), |held| Arc::ptr_eq(held, &gone));
        }
        for membership in &gone.services {
            self.by_service
                .remove(membership.service.as_str(), |held| Arc::ptr_eq(held, &gone));
        }
    }

    pub(super) fn put_service(&mut self, service: Arc<Service>) {
        self.remove_service(service.name.as_str());
        for vip in &service.vips {
            self.by_vip.insert(vip.to_canonical(), Arc::clone(&service));
        }
        for hostname in &service.hostnames {
            self.by_hostname.insert(Arc::clone(hostname), Arc::clone(&service));
        }
        self.services.insert(service.name.to_shared(), service);
    }

    pub(super) fn remove_service(&mut self, name: &str) {
        let Some(gone) = self.services.remove(name, |_| true) else {
            return;
        };
        for vip in &gone.vips {
            self.by_vip.remove(&vip.to_canonical(), |held| Arc::ptr_eq(held, &gone));
        }
        for hostname in &gone.hostnames {
            self.by_hostname.remove(&**hostname, |held| Arc::ptr_eq(held, &gone));
        }
    }
}
