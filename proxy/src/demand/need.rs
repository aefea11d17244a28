//! What a connection needs to be known before it is decided where it goes or who it is. Only looks; asks nobody.

use std::net::IpAddr;

use squire_mesh::workload::{Selector, ServiceName};

use crate::{
    config::{Host, HostPort},
    route::Target,
    state::{Named, Snapshot},
};

/// What a connection is about to need.
#[derive(Clone, Copy)]
pub(crate) enum Need<'a> {
    /// Where the application wants to go: a workload, or the endpoints of a service.
    Target(&'a Target),
    /// Who is at the address that a connection comes from.
    Source(IpAddr),
    /// The endpoints of the service `namespace/name`.
    Service(&'a ServiceName),
}

impl Need<'_> {
    /// The first of what it takes that is not held. What is held counts as used now.
    pub(super) fn missing(&self, snapshot: &Snapshot, now: u32) -> Option<Selector> {
        match self {
            Self::Source(ip) => address(snapshot, *ip, now),
            Self::Service(name) => service(snapshot, name, now),
            Self::Target(Target::Address(to)) => destination(snapshot, to.ip(), now),
            Self::Target(Target::Name(HostPort { host, .. })) => match host {
                Host::Ip(ip) => destination(snapshot, *ip, now),
                Host::Name(name) => named(snapshot, name, now),
            },
        }
    }
}

/// Services are all known: an address that is none of theirs is a workload's, or nobody's.
fn destination(snapshot: &Snapshot, ip: IpAddr, now: u32) -> Option<Selector> {
    match snapshot.service_at(ip) {
        Some(to) => service(snapshot, &to.name, now),
        None => address(snapshot, ip, now),
    }
}

fn named(snapshot: &Snapshot, host: &str, now: u32) -> Option<Selector> {
    if let Some(Named::Service(to)) = snapshot.named(host) {
        return service(snapshot, &to.name, now);
    }
    for uid in snapshot.uids_named(host) {
        if snapshot.workload(uid.as_str()).is_some() {
            return None;
        }
        if !snapshot.holds_workload(uid.as_str(), now) {
            return Some(Selector::Workload(uid));
        }
    }
    None
}

fn address(snapshot: &Snapshot, ip: IpAddr, now: u32) -> Option<Selector> {
    (!snapshot.holds_address(ip, now)).then(|| Selector::address(ip))
}

fn service(snapshot: &Snapshot, name: &ServiceName, now: u32) -> Option<Selector> {
    (!snapshot.holds_service(name.as_str(), now)).then(|| Selector::Service(name.clone()))
}
