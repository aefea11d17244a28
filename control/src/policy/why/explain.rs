//! From the tables of both ends to an answer: every gate, the rule that decided, and for a denial the rules that came
//! nearest. The decision is `mesh::policy`'s.

use std::collections::BTreeSet;

use squire_mesh::policy::{
    Decision, Nearest, Request, Table, Why, gates, nearest_allow, nearest_egress, nearest_ingress,
};

use super::{Explanation, GateLine, NearestLine};

/// What policy says at both ends; none: not a workload.
pub(super) struct Tables {
    pub(super) source: Option<Table>,
    pub(super) destination: Option<Table>,
}

impl Tables {
    /// The answer to a request.
    pub(super) fn explain(&self, request: &Request<'_>) -> Explanation {
        self.answer(request, None)
    }

    /// The answer to a request that no AuthorizationPolicy gets to see.
    pub(super) fn explain_denial(&self, request: &Request<'_>, denial: Decision) -> Explanation {
        self.answer(request, Some(denial))
    }

    /// Which external providers have a say.
    pub(super) fn note_providers(&self, request: &Request<'_>, notes: &mut Vec<String>) {
        let Some(destination) = &self.destination else { return };
        let names: BTreeSet<_> = destination
            .providers_to_ask(request)
            .map(|provider| &*provider.name)
            .collect();
        for name in names {
            notes.push(format!(
                "a CUSTOM policy asks the external provider {name}, which was not asked now: this is the answer if it allows"
            ));
        }
    }

    fn answer(&self, request: &Request<'_>, authorization: Option<Decision>) -> Explanation {
        let mut gates = gates(self.source.as_ref(), self.destination.as_ref(), request);
        gates.authorization = authorization.unwrap_or(gates.authorization);
        let lines = [
            ("NetworkPolicy egress", &gates.egress),
            ("NetworkPolicy ingress", &gates.ingress),
            ("PeerAuthentication", &gates.peer_authentication),
            ("AuthorizationPolicy", &gates.authorization),
        ];
        let lines = lines.map(|(gate, decision)| GateLine {
            gate,
            verdict: decision.verdict.as_str(),
            by: decision.by.as_ref().map(ToString::to_string),
            why: decision.why.to_string(),
        });
        let denials = [&gates.egress, &gates.ingress, &gates.authorization];
        let nearest = denials
            .into_iter()
            .filter_map(|decision| self.nearest(decision, request));
        let nearest = nearest.map(NearestLine::from).collect();
        let decision = gates.into_decision();
        Explanation {
            verdict: decision.verdict.as_str(),
            from: String::new(),
            to: String::new(),
            nearest,
            by: decision.by.map(|by| by.to_string()),
            why: decision.why.to_string(),
            gates: lines.into(),
            notes: Vec::new(),
        }
    }

    fn nearest(&self, decision: &Decision, request: &Request<'_>) -> Option<Nearest> {
        match decision.why {
            Why::EgressNotAllowed => nearest_egress(self.source.as_ref()?, request),
            Why::IngressNotAllowed => nearest_ingress(self.destination.as_ref()?, request),
            Why::NoAllowRule => nearest_allow(self.destination.as_ref()?, request),
            _ => None,
        }
    }
}

impl From<Nearest> for NearestLine {
    fn from(nearest: Nearest) -> Self {
        Self {
            rule: nearest.rule.to_string(),
            failed: nearest.failed.iter().map(ToString::to_string).collect(),
        }
    }
}
