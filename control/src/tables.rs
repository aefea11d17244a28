//! The policy of each workload, ready to be pushed: policy objects and workloads in, one encoded table per workload out.
//! Pods of one Deployment share one table, compiled once; what a change does not concern stays as it is. What clients must
//! know of a workload's policy before they dial it is noted on the workload. What a policy means is `policy`'s business.

mod groups;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use squire_mesh::{
    policy::Kind as PolicyKind,
    spiffe::TrustDomain,
    workload::{Workload, WorkloadUid},
};

use self::groups::{Compiled, Groups, Key, Placed};
use crate::{
    manifest::{Object, Problem, Severity},
    policy::{Concern, MeshConfig, PolicySet, kind_of},
    push::{Kind, Resource},
    routes,
    source::Review,
};

/// Whether an object says something about policy; others of its API group are not kept.
pub(crate) fn is_policy(object: &Object) -> bool {
    kind_of(object).is_some() || MeshConfig::is_settings(object)
}

/// Whether an object is kept as it is, to be compiled with the others: policies, settings, routes.
pub(crate) fn is_kept(object: &Object) -> bool {
    is_policy(object) || routes::is_route(object)
}

/// What would keep an API server from accepting an object: a file that contains such a thing is not taken in. Whether
/// something is an error does not depend on the settings of the mesh; warnings do, and come with the tables.
pub(crate) fn review() -> Review {
    Arc::new(|object: &Object| {
        let problems = if MeshConfig::is_settings(object) {
            MeshConfig::from_objects([object]).1
        } else if routes::is_route(object) {
            routes::check(object)
        } else {
            PolicySet::from_objects([object], MeshConfig::default()).1
        };
        problems
            .into_iter()
            .filter(|problem| problem.severity == Severity::Error)
            .collect()
    })
}

/// The tables in force, kept from one change to the next.
pub struct Tables {
    trust_domain: TrustDomain,
    set: PolicySet,
    /// The settings that the set was read with, and what is odd about them.
    settings: Vec<Arc<Object>>,
    odd: Vec<Problem>,
    /// The objects that were taken in last, and what is odd about the policies among them.
    objects: Vec<Arc<Object>>,
    kept: HashMap<Id, Kept>,
    groups: Groups,
}

/// What came of an update.
#[derive(Default)]
pub struct Update {
    /// The policy of each workload for which it is new or another, in the order of their names.
    pub resources: Vec<Resource>,
    /// Workloads that have no policy any more.
    pub removed: Vec<Arc<str>>,
    /// Workloads of which clients must know something else now.
    pub noted: Vec<WorkloadUid>,
    /// What is odd about the policies.
    pub problems: Vec<Problem>,
    /// How many tables had to be compiled.
    pub compiled: usize,
    /// How many workloads were looked at.
    pub looked_at: usize,
}

type Id = (PolicyKind, String, String);

struct Kept {
    object: Arc<Object>,
    problems: Vec<Problem>,
}

impl Tables {
    /// No tables yet, of a mesh with this trust domain.
    #[must_use]
    pub fn new(trust_domain: TrustDomain) -> Self {
        let mut tables = Self {
            trust_domain,
            set: PolicySet::default(),
            settings: Vec::new(),
            odd: Vec::new(),
            objects: Vec::new(),
            kept: HashMap::new(),
            groups: Groups::default(),
        };
        tables.start_over(Vec::new());
        tables
    }

    /// Takes in all policy objects there are now, and the workloads that are new, gone, or not what they were. An object
    /// that is the same `Arc` as before is not read again, only tables that a change concerns are compiled again, and of
    /// the workloads only those are looked at that are named or that have such a table. Notes on each of them what clients
    /// must know.
    pub fn update<'u>(
        &mut self,
        objects: &[Arc<Object>],
        workloads: &mut BTreeMap<WorkloadUid, Workload>,
        changed: impl IntoIterator<Item = &'u WorkloadUid>,
    ) -> Update {
        let mut update = Update::default();
        let mut outdated = BTreeSet::new();
        if !same(&self.objects, objects) {
            outdated = self.take_in(objects);
            self.objects = objects.to_vec();
        }
        let mut due: BTreeSet<WorkloadUid> = BTreeSet::new();
        for uid in changed {
            update.looked_at += 1;
            let workload = workloads.get(uid).filter(|workload| workload.identity.is_some());
            match self.groups.place(uid, workload.map(Key::of)) {
                Placed::Same => {}
                Placed::Moved => drop(due.insert(uid.clone())),
                Placed::New(key) => {
                    outdated.insert(key);
                    due.insert(uid.clone());
                }
                Placed::Gone => update.removed.push(uid.to_shared()),
            }
            // It may have been made anew, and knows nothing of its policy then.
            if let Some(workload) = workloads.get_mut(uid) {
                workload.plaintext_ports = self.groups.table(uid).and_then(|table| table.note(workload));
            }
        }
        for key in &outdated {
            let Some(group) = self.groups.by_key.get_mut(key) else {
                continue;
            };
            update.compiled += 1;
            let table = Compiled::new(&self.set, key);
            if group.table.as_ref() != Some(&table) {
                group.table = Some(table);
                due.extend(group.members.iter().cloned());
            }
        }
        for uid in due {
            let (Some(table), Some(workload)) = (self.groups.table(&uid), workloads.get_mut(&uid)) else {
                continue;
            };
            update.looked_at += 1;
            update
                .resources
                .push(Resource::with(Kind::Policy, uid.to_shared(), &table.content));
            let note = table.note(workload);
            if workload.plaintext_ports != note {
                workload.plaintext_ports = note;
                update.noted.push(uid);
            }
        }
        update.problems = self.problems();
        update
    }

    fn problems(&self) -> Vec<Problem> {
        let kept = self.objects.iter().filter_map(|object| self.kept.get(&id(object)?));
        let problems = self.odd.iter().chain(kept.flat_map(|kept| &kept.problems));
        problems.cloned().collect()
    }

    /// Other settings may change what every object means.
    fn start_over(&mut self, settings: Vec<Arc<Object>>) {
        let (mut config, mut odd) = MeshConfig::from_objects(settings.iter().map(|object| &**object));
        if let Some(first) = settings.first() {
            odd.extend(other_trust_domain(first, &config, &self.trust_domain));
        }
        // Certificates show the domain that the CA signs for, whatever the settings say.
        config.trust_domain = self.trust_domain.as_str().to_owned();
        self.set = PolicySet::from_objects([], config).0;
        self.kept.clear();
        (self.settings, self.odd) = (settings, odd);
    }

    /// Brings the set up to date; says which tables that makes out of date.
    fn take_in(&mut self, objects: &[Arc<Object>]) -> BTreeSet<Key> {
        let (settings, policies): (Vec<_>, Vec<_>) = objects
            .iter()
            .cloned()
            .partition(|object| MeshConfig::is_settings(object));
        let start_over = !same(&self.settings, &settings);
        if start_over {
            self.start_over(settings);
        }
        let concern = self.read(&policies);
        if start_over {
            self.groups.by_key.keys().cloned().collect()
        } else {
            self.groups.concerned(&concern)
        }
    }

    /// Reads what is new among the policies, forgets what is gone; says whom that concerns.
    fn read(&mut self, policies: &[Arc<Object>]) -> Concern {
        let mut concern = Concern::default();
        let mut present = HashSet::with_capacity(policies.len());
        for object in policies {
            let Some(id) = id(object) else { continue };
            let known = self.kept.get(&id);
            if !known.is_some_and(|kept| Arc::ptr_eq(&kept.object, object)) {
                let (concerned, problems) = self.set.apply(object);
                concern.merge(concerned);
                let object = Arc::clone(object);
                self.kept.insert(id.clone(), Kept { object, problems });
            }
            present.insert(id);
        }
        let set = &mut self.set;
        self.kept.retain(|id, _| {
            let stays = present.contains(id);
            if !stays {
                concern.merge(set.remove(id.0, &id.1, &id.2));
            }
            stays
        });
        concern
    }
}

/// Whether they are the same objects, not only alike.
fn same(before: &[Arc<Object>], now: &[Arc<Object>]) -> bool {
    before.len() == now.len() && before.iter().zip(now).all(|(one, other)| Arc::ptr_eq(one, other))
}

/// What an object is among policies; none: it is not one.
fn id(object: &Object) -> Option<Id> {
    let namespace = object.namespace_or_default().to_owned();
    Some((kind_of(object)?, namespace, object.name.clone()))
}

fn other_trust_domain(settings: &Object, config: &MeshConfig, ours: &TrustDomain) -> Option<Problem> {
    let differs = config.trust_domain != ours.as_str() && config.trust_domain != MeshConfig::default().trust_domain;
    differs.then(|| {
        let message = format!(
            "trust domain {} is not {ours}, which this control plane signs for",
            config.trust_domain
        );
        let fix = "start the control plane with --trust-domain, or name the other one as an alias";
        settings.problem(Severity::Warning, "spec.trustDomain", message, fix)
    })
}

#[cfg(test)]
mod tests;
