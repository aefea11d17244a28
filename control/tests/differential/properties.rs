//! Properties that must hold whatever the policies are: nothing here knows what any of them should decide.

use prost::Message as _;
use serde_json::{Value, json};
use squire_control::{
    manifest::Object,
    policy::{Reach, Subject, eval::Evaluator},
};
use squire_mesh::{
    policy::{NetworkGate, Table, egress, ingress},
    wire::squire as wire,
};

use super::{
    ask,
    connections::{self, table, with_connection},
    first_seed,
    generate::{self, Family, Random},
    number_of_pairs, set,
};

/// Runs a property on random policies, requests and settings.
fn property(family: Family, holds: impl Fn(&mut Random, &[Value], &Value, &Value)) {
    for seed in (first_seed()..).take(number_of_pairs() / 20) {
        let r = &mut Random::new(seed);
        let mesh = generate::mesh(r);
        let objects = generate::objects(r, family);
        let request = generate::request(r, family);
        holds(r, &objects, &mesh, &request);
    }
}

fn verdict(objects: &[Value], mesh: &Value, request: &Value, field: &str) -> String {
    let answer = ask(&Evaluator::with_policies(set(objects, mesh)), request);
    answer[field].as_str().unwrap().to_owned()
}

#[test]
fn the_order_of_objects_and_of_rules_does_not_matter() {
    property(Family::All, |r, objects, mesh, request| {
        let mut shuffled: Vec<Value> = objects.iter().rev().cloned().collect();
        if shuffled.len() > 2 {
            let at = r.below(shuffled.len());
            shuffled.swap(0, at);
        }
        for object in &mut shuffled {
            for rules in ["rules", "ingress", "egress"] {
                if let Some(rules) = object["spec"].get_mut(rules).and_then(Value::as_array_mut) {
                    rules.reverse();
                }
            }
        }
        let fields = |objects: &[Value]| {
            ["decision", "ingress", "egress", "mtlsMode", "authz"].map(|field| verdict(objects, mesh, request, field))
        };
        assert_eq!(fields(objects), fields(&shuffled), "{objects:#?}\n{request:#}");
    });
}

#[test]
fn another_allow_rule_never_turns_allow_into_deny() {
    property(Family::Authorization, |r, objects, mesh, request| {
        let before = verdict(objects, mesh, request, "authz");
        let donor = generate::objects(&mut Random::new(r.below(1_000_000) as u64), Family::Authorization);
        let rules: Vec<Value> = donor
            .iter()
            .flat_map(|object| object["spec"]["rules"].as_array().cloned().unwrap_or_default())
            .collect();
        let mut changed = objects.to_vec();
        for object in &mut changed {
            let allow = object["kind"] == "AuthorizationPolicy"
                && object["spec"]["action"].as_str().unwrap_or("ALLOW") == "ALLOW";
            if let Some(own) = object["spec"]
                .get_mut("rules")
                .and_then(Value::as_array_mut)
                .filter(|_| allow)
            {
                own.extend(rules.iter().cloned());
            }
        }
        let after = verdict(&changed, mesh, request, "authz");
        assert!(
            before == "DENY" || after == "ALLOW",
            "{objects:#?}\n{changed:#?}\n{request:#}"
        );
    });
}

#[test]
fn a_matching_deny_always_wins() {
    property(Family::Authorization, |_, objects, mesh, request| {
        let mut changed = objects.to_vec();
        changed.push(json!({
            "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
            "metadata": { "name": "no", "namespace": "istio-system" }, "spec": { "action": "DENY", "rules": [{}] },
        }));
        let expected = if request["destination"]["kind"] == "pod" {
            "DENY"
        } else {
            "ALLOW"
        };
        assert_eq!(verdict(&changed, mesh, request, "authz"), expected);
    });
}

#[test]
fn another_networkpolicy_rule_only_adds() {
    property(Family::Network, |r, objects, mesh, request| {
        let donor = generate::objects(&mut Random::new(r.below(1_000_000) as u64), Family::Network);
        let mut changed = objects.to_vec();
        for object in &mut changed {
            for section in ["ingress", "egress"] {
                let more: Vec<Value> = donor
                    .iter()
                    .flat_map(|donor| donor["spec"][section].as_array().cloned().unwrap_or_default())
                    .collect();
                if let Some(own) = object["spec"]
                    .get_mut(section)
                    .and_then(Value::as_array_mut)
                    .filter(|own| !own.is_empty())
                {
                    own.extend(more);
                }
            }
        }
        for gate in ["ingress", "egress"] {
            let (before, after) = (
                verdict(objects, mesh, request, gate),
                verdict(&changed, mesh, request, gate),
            );
            assert!(
                before == "DENY" || after == "ALLOW",
                "{gate}\n{objects:#?}\n{changed:#?}\n{request:#}"
            );
        }
    });
}

#[test]
fn a_table_decides_the_same_after_the_wire() {
    property(Family::All, |_, objects, mesh, request| {
        let set = set(objects, mesh);
        for end in ["source", "destination"] {
            let Some(namespace) = request[end]["namespace"].as_str() else {
                continue;
            };
            let labels = request[end]["labels"].as_object().unwrap();
            let labels = labels
                .iter()
                .map(|(key, value)| (key.as_str(), value.as_str().unwrap()))
                .collect();
            let table = set.compile(&Subject {
                namespace,
                labels,
                selectable: true,
            });
            let bytes = wire::Policy::from(&table).encode_to_vec();
            let decoded = Table::try_from(wire::Policy::decode(&*bytes).unwrap()).unwrap();
            // Equal tables decide equally: a decision has no other input.
            assert_eq!(decoded, table);
        }
    });
}

#[test]
fn what_is_said_of_a_connection_holds_for_every_request_on_it() {
    let seen = std::cell::RefCell::new(connections::Seen::default());
    property(Family::Authorization, |r, objects, mesh, request| {
        seen.borrow_mut().look(&set(objects, mesh), request, r);
    });
    property(Family::All, |r, objects, mesh, request| {
        seen.borrow_mut().look(&set(objects, mesh), request, r);
    });
    let seen = seen.into_inner();
    for (case, times) in [
        ("decided on the connection", seen.decided),
        ("left to the requests", seen.per_request),
        ("no request has to be looked at", seen.blind),
        ("requests on one connection differ", seen.varied),
        ("a provider is asked", seen.asked),
    ] {
        assert!(times > 100, "{case}: only {times} times, of {seen:?}");
    }
}

/// Whether somebody who looks only there finds the workload.
fn reaches(reach: Reach<'_>, subject: &Subject<'_>) -> bool {
    match reach {
        Reach::Nothing => false,
        Reach::Label { namespace, key, value } => {
            namespace.is_none_or(|namespace| namespace == subject.namespace) && subject.labels.contains(&(key, value))
        }
        Reach::Namespace(namespace) => namespace == subject.namespace,
        Reach::Mesh => true,
    }
}

#[test]
fn a_change_concerns_every_workload_whose_table_it_changes() {
    property(Family::All, |r, objects, mesh, request| {
        let Some(namespace) = request["destination"]["namespace"].as_str() else {
            return;
        };
        let labels = request["destination"]["labels"].as_object().unwrap();
        let labels = labels
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str().unwrap()))
            .collect();
        let subject = Subject {
            namespace,
            labels,
            selectable: true,
        };
        let mut set = set(objects, mesh);
        let before = set.compile(&subject);
        let mut concern = squire_control::policy::Concern::default();
        let mut changed = objects.to_vec();
        for value in generate::objects(&mut Random::new(r.below(1_000_000) as u64), Family::All) {
            let object = Object::from_value("test", value.clone()).unwrap();
            concern.merge(set.apply(&object).0);
            changed.retain(|old| {
                old["kind"] != value["kind"]
                    || old["metadata"]["name"] != value["metadata"]["name"]
                    || old["metadata"]["namespace"] != value["metadata"]["namespace"]
            });
            changed.push(value);
        }
        let after = set.compile(&subject);
        assert!(
            before == after
                || concern
                    .objects()
                    .any(|object| object.concerns(&subject) && reaches(object.reach(), &subject)),
            "{objects:#?}\n{changed:#?}"
        );
        assert_eq!(
            after,
            super::set(&changed, mesh).compile(&subject),
            "incremental and full compile agree"
        );
    });
}

#[test]
fn together_network_policies_allow_what_one_of_them_allows_and_nothing_else() {
    let seen = std::cell::Cell::new([0; 2]);
    property(Family::Network, |r, objects, mesh, request| {
        let mut others = generate::objects(r, Family::Network);
        for other in &mut others {
            other["metadata"]["name"] = json!(format!("other-{}", other["metadata"]["name"].as_str().unwrap()));
        }
        let together: Vec<Value> = objects.iter().chain(&others).cloned().collect();
        let sets = [objects, &others, &together].map(|objects| set(objects, mesh));
        type Gate = fn(&Table) -> &NetworkGate;
        let directions: [(&str, Gate, bool); 2] = [
            ("source", |table| &table.egress, false),
            ("destination", |table| &table.ingress, true),
        ];
        for (end, gate, inbound) in directions {
            let Some(tables) = sets
                .iter()
                .map(|set| table(set, &request[end]))
                .collect::<Option<Vec<Table>>>()
            else {
                continue;
            };
            if !tables
                .iter()
                .all(|table| matches!(gate(table), NetworkGate::Isolated(_)))
            {
                continue;
            }
            let allows: Vec<bool> = with_connection(request, |request| {
                let decide = if inbound { ingress } else { egress };
                tables.iter().map(|table| decide(table, request).is_allowed()).collect()
            });
            assert_eq!(allows[2], allows[0] || allows[1], "{end}\n{together:#?}\n{request:#}");
            let mut counts = seen.get();
            counts[usize::from(allows[0] != allows[1])] += 1;
            seen.set(counts);
        }
    });
    let [same, different] = seen.get();
    assert!(
        same > 5 && different > 5,
        "the property must meet its cases: {same} and {different}"
    );
}
