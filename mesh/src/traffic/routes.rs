//! The routes of one Service in the order in which they are asked, and the one question: which rule is a request's? The
//! order is computed once, when the routes arrive.
//!
//! Precedence, as the Gateway API documents it: an exact path, then the longest pattern (where the standard leaves the place
//! open), then the longest prefix; then a match that names the method, the most header fields, the most query parameters;
//! then the oldest route, then the first by `namespace/name`, then the first rule. For GRPCRoute: the most characters of
//! service, then of method, the most header fields, then the same.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

use super::{Head, Match, PathMatch, Route, RouteKind, Rule};

/// The routes of one Service.
#[derive(Clone, Debug, Default)]
pub struct ServiceRoutes {
    routes: Box<[Route]>,
    /// Those for everyone, and those of one namespace of clients each.
    scopes: BTreeMap<Option<Arc<str>>, Box<[Entry]>>,
}

/// One match of one rule.
#[derive(Clone, Debug)]
struct Entry {
    kind: RouteKind,
    port: Option<u16>,
    rule: Arc<Rule>,
    /// Index into the rule's matches.
    at: usize,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug)]
pub enum Selected<'r> {
    /// No route is attached: the Service's own endpoints.
    Unrouted,
    /// This rule says.
    Rule(&'r Arc<Rule>),
    /// Routes are attached, and none matches: 404 (GEP-1294, route presence).
    Nothing,
}

impl PartialEq for ServiceRoutes {
    fn eq(&self, other: &Self) -> bool {
        self.routes == other.routes
    }
}

impl ServiceRoutes {
    /// The routes of a Service in this namespace.
    #[must_use]
    pub fn new(namespace: &str, routes: Vec<Route>) -> Self {
        let mut scopes: BTreeMap<Option<Arc<str>>, Vec<(Place<'_>, Entry)>> = BTreeMap::new();
        for route in &routes {
            let scope = (*route.namespace != *namespace).then(|| Arc::clone(&route.namespace));
            let entries = scopes.entry(scope).or_default();
            for (index, rule) in route.rules.iter().enumerate() {
                entries.extend(rule.matches.iter().enumerate().map(|(at, each)| {
                    let entry = Entry {
                        kind: route.kind,
                        port: route.port,
                        rule: Arc::clone(rule),
                        at,
                    };
                    (Place::of(route, index, at, each), entry)
                }));
            }
        }
        let scopes = scopes.into_iter().map(|(scope, mut entries)| {
            entries.sort_by(|(a, _), (b, _)| a.cmp(b));
            (scope, entries.into_iter().map(|(_, entry)| entry).collect())
        });
        Self {
            scopes: scopes.collect(),
            routes: routes.into(),
        }
    }

    /// The rule for a request that a client in this namespace sends to this port. Routes of the client's own namespace
    /// take the place of the Service's (GEP-1294, consumer routes).
    #[must_use]
    pub fn select(&self, client: Option<&str>, port: u16, head: &Head<'_>) -> Selected<'_> {
        if self.scopes.is_empty() {
            return Selected::Unrouted;
        }
        let own = self
            .scopes
            .iter()
            .filter(|(scope, _)| client.is_some() && scope.as_deref() == client);
        let all = self.scopes.iter().filter(|(scope, _)| scope.is_none());
        for (_, entries) in own.chain(all) {
            match select(entries, port, head) {
                Selected::Unrouted => {}
                selected => return selected,
            }
        }
        Selected::Unrouted
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    /// The routes, as they came.
    #[must_use]
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }
}

fn select<'r>(entries: &'r [Entry], port: u16, head: &Head<'_>) -> Selected<'r> {
    let mut here = entries
        .iter()
        .filter(|entry| entry.port.is_none_or(|of| of == port))
        .peekable();
    // GRPCRoutes come first, and where there is one, they alone count.
    let Some(kind) = here.peek().map(|entry| entry.kind) else {
        return Selected::Unrouted;
    };
    here.take_while(|entry| entry.kind == kind)
        .find(|entry| entry.rule.matches[entry.at].is_match(head))
        .map_or(Selected::Nothing, |entry| Selected::Rule(&entry.rule))
}

/// Where a match stands in the order.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place<'r> {
    kind: Reverse<RouteKind>,
    path: Reverse<(u8, usize, usize)>,
    method: Reverse<bool>,
    headers: Reverse<usize>,
    query: Reverse<usize>,
    unknown_age: bool,
    created: Option<i64>,
    name: (&'r str, &'r str),
    index: (usize, usize),
}

impl<'r> Place<'r> {
    fn of(route: &'r Route, rule: usize, at: usize, each: &Match) -> Self {
        Self {
            kind: Reverse(route.kind),
            path: Reverse(specificity(&each.path)),
            method: Reverse(each.method.is_some()),
            headers: Reverse(each.headers.len()),
            query: Reverse(each.query.len()),
            unknown_age: route.created.is_none(),
            created: route.created,
            name: (&route.namespace, &route.name),
            index: (rule, at),
        }
    }
}

fn specificity(path: &PathMatch) -> (u8, usize, usize) {
    match path {
        PathMatch::Exact(exact) => (2, exact.chars().count(), 0),
        PathMatch::Pattern(pattern) => (1, pattern.as_str().chars().count(), 0),
        PathMatch::Prefix(prefix) => (0, prefix.chars().count(), 0),
        PathMatch::Grpc { service, method } => {
            let characters = |rule: &Option<super::TextRule>| rule.as_ref().map_or(0, super::TextRule::characters);
            (0, characters(service), characters(method))
        }
    }
}

#[cfg(test)]
mod tests;
