//! The policy of each workload, ready to be pushed: policy objects and workloads in, one encoded table per workload out.
//! Pods of one Deployment share one table, compiled once; what a change does not concern stays as it is. What clients must
//! know of a workload's policy before they dial it is noted on the workload. What a policy means is `policy`'s business.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use squire_mesh::{
    policy::Kind as PolicyKind,
    spiffe::TrustDomain,
    wire::squire as wire,
    workload::{LabelSet, PlaintextPorts, UidKind, Workload},
};

use crate::{
    manifest::{Object, Problem, Severity},
    policy::{Concern, MeshConfig, PolicySet, Subject, kind_of},
    push::{Content, Kind, Resource},
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
    /// The policy objects in the set.
    objects: HashMap<Id, Kept>,
    /// What is compiled, by what tells workloads apart for policy.
    compiled: HashMap<Key, Arc<Compiled>>,
    /// What was last made for each workload.
    served: HashMap<Arc<str>, Served>,
    /// Counts up with every update.
    round: u64,
}

/// What came of an update.
pub struct Update {
    /// The policy of each workload that can have a proxy.
    pub resources: Vec<Resource>,
    /// What is odd about the policies.
    pub problems: Vec<Problem>,
    /// How many tables had to be compiled.
    pub compiled: usize,
    /// How many workloads got a table that they did not have before. Of the others nothing was read but what tells
    /// workloads apart for policy.
    pub touched: usize,
}

type Id = (PolicyKind, String, String);

struct Kept {
    object: Arc<Object>,
    problems: Vec<Problem>,
}

/// Workloads with the same key have the same table.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    namespace: Arc<str>,
    labels: LabelSet,
    selectable: bool,
}

struct Compiled {
    content: Content,
    plaintext_ports: Option<PlaintextPorts>,
    /// A change concerns it: whoever has it needs another.
    outdated: AtomicBool,
}

/// What was last made for a workload.
struct Served {
    key: Key,
    table: Arc<Compiled>,
    resource: Resource,
    /// The update that saw the workload last.
    round: u64,
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
            objects: HashMap::new(),
            compiled: HashMap::new(),
            served: HashMap::new(),
            round: 0,
        };
        tables.start_over(Vec::new());
        tables
    }

    /// Takes in all policy objects and workloads there are now. An object that is the same `Arc` as before is not read
    /// again, and only tables that a change concerns are compiled again. Notes on each workload what clients must know.
    pub fn update<'w>(&mut self, objects: &[Arc<Object>], workloads: impl Iterator<Item = &'w mut Workload>) -> Update {
        let (settings, policies): (Vec<_>, Vec<_>) = objects.iter().partition(|object| MeshConfig::is_settings(object));
        let same = |(one, other): (&Arc<Object>, &&Arc<Object>)| Arc::ptr_eq(one, other);
        if settings.len() != self.settings.len() || !self.settings.iter().zip(&settings).all(same) {
            self.start_over(settings.into_iter().map(Arc::clone).collect());
        }
        let concern = self.take_in(&policies);
        if !concern.is_empty() {
            self.compiled.retain(|key, table| {
                let stays = !concern.concerns(&key.subject());
                table.outdated.fetch_or(!stays, Ordering::Relaxed);
                stays
            });
        }
        let (resources, compiled, touched) = self.serve(workloads);
        // What no workload needs any more is held by nobody else.
        self.compiled.retain(|_, table| Arc::strong_count(table) > 1);
        let kept = policies.iter().filter_map(|object| self.objects.get(&id(object)?));
        let problems = self.odd.iter().chain(kept.flat_map(|kept| &kept.problems));
        Update {
            resources,
            problems: problems.cloned().collect(),
            compiled,
            touched,
        }
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
        self.objects.clear();
        self.compiled.clear();
        self.served.clear();
        (self.settings, self.odd) = (settings, odd);
    }

    /// Brings the set up to date; says whom that concerns.
    fn take_in(&mut self, policies: &[&Arc<Object>]) -> Concern {
        let mut concern = Concern::default();
        let mut present = HashSet::with_capacity(policies.len());
        for object in policies {
            let Some(id) = id(object) else { continue };
            let known = self.objects.get(&id);
            if !known.is_some_and(|kept| Arc::ptr_eq(&kept.object, object)) {
                let (concerned, problems) = self.set.apply(object);
                concern.merge(concerned);
                let object = Arc::clone(object);
                self.objects.insert(id.clone(), Kept { object, problems });
            }
            present.insert(id);
        }
        let set = &mut self.set;
        self.objects.retain(|id, _| {
            let stays = present.contains(id);
            if !stays {
                concern.merge(set.remove(id.0, &id.1, &id.2));
            }
            stays
        });
        concern
    }

    /// The resource of each workload; how many tables had to be compiled, and how many workloads were touched.
    fn serve<'w>(&mut self, workloads: impl Iterator<Item = &'w mut Workload>) -> (Vec<Resource>, usize, usize) {
        let (mut resources, mut compiled, mut touched) = (Vec::with_capacity(self.served.len()), 0, 0);
        self.round += 1;
        for workload in workloads.filter(|workload| workload.identity.is_some()) {
            let name = workload.uid.to_shared();
            let kept = self.served.get_mut(&name).filter(|served| served.fits(workload));
            let served = if let Some(served) = kept {
                served.round = self.round;
                &*served
            } else {
                touched += 1;
                let served = self.make(Key::of(workload), &name, &mut compiled);
                self.served.entry(name).insert_entry(served).into_mut()
            };
            workload.plaintext_ports = served
                .table
                .plaintext_ports
                .as_ref()
                .filter(|_| workload.transport.is_mtls())
                .map(|ports| Box::new(ports.clone()));
            resources.push(served.resource.clone());
        }
        if self.served.len() > resources.len() {
            self.served.retain(|_, served| served.round == self.round);
        }
        (resources, compiled, touched)
    }

    /// The table of a workload that has none yet, or another one; shared with those that policy cannot tell from it.
    fn make(&mut self, key: Key, name: &Arc<str>, compiled: &mut usize) -> Served {
        let table = match self.compiled.get(&key) {
            Some(table) => Arc::clone(table),
            None => {
                *compiled += 1;
                let table = Arc::new(Compiled::new(&self.set, &key));
                self.compiled.insert(key.clone(), Arc::clone(&table));
                table
            }
        };
        Served {
            resource: Resource::with(Kind::Policy, Arc::clone(name), &table.content),
            round: self.round,
            key,
            table,
        }
    }
}

impl Served {
    /// Whether it is still what the workload needs.
    fn fits(&self, workload: &Workload) -> bool {
        let selectable = is_selectable(workload);
        // Namespaces and labels are shared: mostly this compares pointers.
        let same = self.key.namespace == workload.namespace && self.key.labels == workload.labels;
        same && self.key.selectable == selectable && !self.table.outdated.load(Ordering::Relaxed)
    }
}

/// Whether NetworkPolicies can select it.
fn is_selectable(workload: &Workload) -> bool {
    !workload.host_network && workload.uid.kind() != UidKind::Address
}

impl Key {
    fn of(workload: &Workload) -> Self {
        Self {
            namespace: Arc::clone(&workload.namespace),
            labels: workload.labels.clone(),
            selectable: is_selectable(workload),
        }
    }

    fn subject(&self) -> Subject<'_> {
        Subject {
            namespace: &self.namespace,
            labels: self.labels.iter().collect(),
            selectable: self.selectable,
        }
    }
}

impl Compiled {
    fn new(set: &PolicySet, key: &Key) -> Self {
        let table = set.compile(&key.subject());
        Self {
            plaintext_ports: table.mutual_tls.plaintext_ports(),
            content: Content::of(&wire::Policy::from(&table)),
            outdated: AtomicBool::new(false),
        }
    }
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
