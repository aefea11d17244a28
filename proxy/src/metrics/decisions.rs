//! Policy decisions, by verdict and the object and rule that decided. Each request is a decision, and most are the same as
//! one of the last few: their counters are remembered.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus::{IntCounter, IntCounterVec};
use squire_mesh::policy::{Decision, RuleRef};

use crate::connection::Direction;

/// Decisions whose counters are remembered, for each direction.
const REMEMBERED: usize = 8;

/// Labels of the family.
pub(super) const LABELS: [&str; 5] = ["direction", "verdict", "why", "policy", "rule"];

pub(super) struct Decisions {
    family: IntCounterVec,
    inbound: Mutex<Vec<(Decision, IntCounter)>>,
    outbound: Mutex<Vec<(Decision, IntCounter)>>,
}

impl Decisions {
    pub(super) fn new(family: IntCounterVec) -> Self {
        Self {
            family,
            inbound: Mutex::default(),
            outbound: Mutex::default(),
        }
    }

    pub(super) fn count(&self, direction: Direction, decision: &Decision) {
        let remembered = match direction {
            Direction::Inbound => &self.inbound,
            Direction::Outbound => &self.outbound,
        };
        let mut remembered = remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, counter)) = remembered.iter().find(|(known, _)| counts_as(known, decision)) {
            return counter.inc();
        }
        let counter = self.counter(direction, decision);
        counter.inc();
        if remembered.len() == REMEMBERED {
            remembered.remove(0);
        }
        remembered.push((decision.clone(), counter));
    }

    fn counter(&self, direction: Direction, decision: &Decision) -> IntCounter {
        // Objects and rules are few and written by admins; their number is bounded by what concerns one workload.
        let by = decision.by.as_ref();
        let policy = by.map(|by| by.object.to_string()).unwrap_or_default();
        let rule = by
            .and_then(|by| by.rule)
            .map(|rule| rule.to_string())
            .unwrap_or_default();
        self.family.with_label_values(&[
            direction.as_str(),
            decision.verdict.as_str(),
            decision.why.label(),
            policy.as_str(),
            rule.as_str(),
        ])
    }
}

/// Whether two decisions have the same labels. An object that is the same, but came with another table, is looked up anew.
fn counts_as(one: &Decision, other: &Decision) -> bool {
    let same_rule = |one: &RuleRef, other: &RuleRef| Arc::ptr_eq(&one.object, &other.object) && one.rule == other.rule;
    one.verdict == other.verdict
        && match (&one.by, &other.by) {
            (None, None) => true,
            (Some(one), Some(other)) => same_rule(one, other),
            (None, Some(_)) | (Some(_), None) => false,
        }
        && one.why == other.why
}

#[cfg(test)]
mod tests {
    use prometheus::Opts;
    use squire_mesh::policy::{Kind, ObjectRef, Shadow, Verdict, Why};

    use super::*;

    fn decision(verdict: Verdict, why: Why, by: &RuleRef) -> Decision {
        Decision {
            verdict,
            why,
            by: Some(by.clone()),
            audited: None,
            shadow: Shadow::default(),
        }
    }

    #[test]
    fn remembered_or_not_each_decision_counts_once_where_it_belongs() {
        let family = IntCounterVec::new(Opts::new("d", "d"), &LABELS).unwrap();
        let decisions = Decisions::new(family.clone());
        let objects: Vec<_> = (0..REMEMBERED + 3)
            .map(|index| ObjectRef::new(Kind::AuthorizationPolicy, "shop", &format!("p{index}")))
            .collect();
        for round in 0..3_u16 {
            for object in &objects {
                let by = RuleRef::rule(object, round);
                decisions.count(Direction::Inbound, &decision(Verdict::Allow, Why::AllowRule, &by));
                decisions.count(Direction::Inbound, &decision(Verdict::Allow, Why::AllowRule, &by));
                decisions.count(Direction::Inbound, &decision(Verdict::Deny, Why::DenyRule, &by));
            }
        }
        let of =
            |verdict, why, policy: &str, rule| family.with_label_values(&["inbound", verdict, why, policy, rule]).get();
        for index in 0..objects.len() {
            let policy = format!("AuthorizationPolicy shop/p{index}");
            for rule in ["0", "1", "2"] {
                assert_eq!(of("ALLOW", Why::AllowRule.label(), &policy, rule), 2);
                assert_eq!(of("DENY", Why::DenyRule.label(), &policy, rule), 1);
            }
        }
    }
}
