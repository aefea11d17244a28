//! Hands each route to the Services it is attached to, and says where that is not possible or leads to nothing.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use squire_mesh::{
    traffic::{Route, Rule, ServiceRoutes, Traffic},
    workload::{Service, ServiceName},
};

use super::{
    Parent, Parsed,
    grant::{self, Grant},
    parse,
    verdict::{NO_BACKEND, NO_PARENT, NOT_PERMITTED, Verdict, Why},
};
use crate::manifest::{Object, Problem, Severity};

/// The routes and grants in force, kept from one change to the next.
#[derive(Default)]
pub(crate) struct Routes {
    kept: Vec<Kept>,
    verdicts: Arc<[Verdict]>,
}

/// One object, read once.
struct Kept {
    object: Arc<Object>,
    read: Read,
    problems: Vec<Problem>,
}

enum Read {
    Route(Parsed),
    Grant(Option<Grant>),
}

impl Routes {
    /// Attaches every route there is now; objects of other kinds are passed over. An object that is the same `Arc` as before
    /// is not read again. Says what is wrong or odd.
    pub(crate) fn attach(
        &mut self,
        objects: &[Arc<Object>],
        services: &mut BTreeMap<ServiceName, Service>,
    ) -> Vec<Problem> {
        self.read(objects);
        let grants = || self.kept.iter().filter_map(Kept::grant);
        let mut problems: Vec<Problem> = self.kept.iter().flat_map(|kept| &kept.problems).cloned().collect();
        let mut attached: BTreeMap<ServiceName, Vec<Route>> = BTreeMap::new();
        let mut verdicts = Vec::new();
        for kept in &self.kept {
            let Read::Route(parsed) = &kept.read else { continue };
            let (rules, mut remarks, resolved) = with_backends(parsed, grants, services);
            let mut parents = Vec::new();
            for parent in &parsed.parents {
                let name = ServiceName::new(&parent.namespace, &parent.name);
                let found = services.get(&name).ok_or_else(|| format!("there is no Service {name}"));
                match found.and_then(|service| port(parent, service)) {
                    Ok(port) => {
                        attached.entry(name).or_default().push(route(parsed, port, &rules));
                        parents.push(Ok(()));
                    }
                    Err(why) => {
                        parents.push(Err(Why::new(NO_PARENT, why.clone())));
                        remarks.push((parent.path.clone(), why));
                    }
                }
            }
            let parents = parents.into_iter();
            verdicts.push(Verdict::new(&kept.object, parsed, &kept.problems, parents, &resolved));
            problems.extend(remarks.into_iter().map(|(path, message)| {
                let fix = "mend the reference, or add what it names";
                kept.object.problem(Severity::Warning, &path, message, fix)
            }));
        }
        for (name, routes) in attached {
            if let Some(service) = services.get_mut(&name) {
                let traffic = service.traffic.get_or_insert_with(|| Box::new(Traffic::default()));
                traffic.routes = ServiceRoutes::new(name.namespace(), routes);
            }
        }
        if *self.verdicts != *verdicts {
            self.verdicts = verdicts.into();
        }
        problems
    }

    /// What came of each route the last time; the same `Arc` while that is the same.
    pub(crate) fn verdicts(&self) -> Arc<[Verdict]> {
        Arc::clone(&self.verdicts)
    }

    fn read(&mut self, objects: &[Arc<Object>]) {
        let before = std::mem::take(&mut self.kept).into_iter();
        let mut before: HashMap<_, _> = before.map(|kept| (Arc::as_ptr(&kept.object), kept)).collect();
        let read = |object: &Arc<Object>| before.remove(&Arc::as_ptr(object)).or_else(|| Kept::new(object));
        self.kept = objects.iter().filter_map(read).collect();
    }
}

impl Kept {
    fn new(object: &Arc<Object>) -> Option<Self> {
        let (read, problems) = if grant::is_grant(object) {
            let (grant, problems) = grant::parse(object);
            (Read::Grant(grant), problems)
        } else {
            let (parsed, problems) = parse(object)?;
            (Read::Route(parsed), problems)
        };
        Some(Self {
            object: Arc::clone(object),
            read,
            problems,
        })
    }

    fn grant(&self) -> Option<&Grant> {
        match &self.read {
            Read::Grant(grant) => grant.as_ref(),
            Read::Route(_) => None,
        }
    }
}

fn route(parsed: &Parsed, port: Option<u16>, rules: &[Arc<Rule>]) -> Route {
    Route {
        kind: parsed.kind,
        namespace: parsed.namespace.as_str().into(),
        name: parsed.name.as_str().into(),
        created: parsed.created,
        port,
        rules: rules.into(),
    }
}

/// The port of the Service that a parent means; none: every port.
fn port(parent: &Parent, service: &Service) -> Result<Option<u16>, String> {
    if parent.port.is_none() && parent.section.is_none() {
        return Ok(None);
    }
    let mut found = service.ports.iter().filter(|port| {
        parent.port.is_none_or(|number| port.port == number)
            && parent.section.as_deref().is_none_or(|section| section == &*port.name)
    });
    found.next().map(|port| Some(port.port)).ok_or_else(|| {
        let named = parent.section.as_deref().map(|name| format!(" {name:?}"));
        let number = parent.port.map(|number| format!(" {number}"));
        let (number, named) = (number.unwrap_or_default(), named.unwrap_or_default());
        format!("the Service {} has no port{number}{named}", service.name)
    })
}

type Rules = Box<[Arc<Rule>]>;
/// Where in the object, and what.
type Odd = (String, String);

/// The rules, with backends refused that nobody granted, and remarks on those and on backends that do not exist. The
/// sidecar answers 500 for both.
fn with_backends<'g, G: Iterator<Item = &'g Grant>>(
    parsed: &Parsed,
    grants: impl Fn() -> G,
    services: &BTreeMap<ServiceName, Service>,
) -> (Rules, Vec<Odd>, Result<(), Why>) {
    let mut remarks = Vec::new();
    let mut resolved = Ok(());
    let (kind, from) = (parsed.kind, &*parsed.namespace);
    let mut rules = parsed.rules.clone();
    for backend in rules.iter_mut().flat_map(|rule| rule.backends.iter_mut()) {
        let to = &backend.service;
        let granted = || grants().any(|grant| grant.allows(kind, from, to.namespace(), to.name()));
        if backend.refused.is_some() {
            continue;
        }
        let (reason, why) = if to.namespace() != from && !granted() {
            let why = format!(
                "no ReferenceGrant in {} lets a {kind} of {from} lead to {to}",
                to.namespace()
            );
            backend.refused = Some(why.as_str().into());
            (NOT_PERMITTED, why)
        } else {
            match services.get(to).map(|service| service.port(backend.port)) {
                Some(Some(_)) => continue,
                Some(None) => (NO_BACKEND, format!("the Service {to} has no port {}", backend.port)),
                None => (NO_BACKEND, format!("there is no Service {to}")),
            }
        };
        // The first one tells.
        resolved = resolved.and_then(|()| Err(Why::new(reason, why.clone())));
        remarks.push((String::new(), format!("{why}: its share is answered with 500")));
    }
    (rules.into_iter().map(Arc::new).collect(), remarks, resolved)
}
