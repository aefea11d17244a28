//! The policy of each workload, ready to be pushed: policy objects and workloads in, one encoded table per workload out.
//! Pods of one Deployment share one table, compiled once. What a policy means is `policy`'s business.

use std::{collections::HashMap, sync::Arc};

use squire_mesh::{
    spiffe::TrustDomain,
    wire::squire as wire,
    workload::{LabelSet, Workload},
};

use crate::{
    manifest::{Object, Problem, Severity},
    policy::{MeshConfig, PolicySet, Subject, kind_of},
    push::{Content, Kind, Resource},
    source::Review,
};

/// Whether an object says something about policy; others of its API group are not kept.
pub(crate) fn is_policy(object: &Object) -> bool {
    kind_of(object).is_some() || MeshConfig::is_settings(object)
}

/// What would keep an API server from accepting an object: a file that contains such a thing is not taken in. Whether
/// something is an error does not depend on the settings of the mesh; warnings do, and come with the tables.
pub(crate) fn review() -> Review {
    Arc::new(|object: &Object| {
        let problems = if MeshConfig::is_settings(object) {
            MeshConfig::from_objects([object]).1
        } else {
            PolicySet::from_objects([object], MeshConfig::default()).1
        };
        problems
            .into_iter()
            .filter(|problem| problem.severity == Severity::Error)
            .collect()
    })
}

/// The table of each workload that can have a proxy, and what is odd about the policies.
pub(crate) fn tables<'w>(
    objects: &[Arc<Object>],
    trust_domain: &TrustDomain,
    workloads: impl Iterator<Item = &'w Workload>,
) -> (Vec<Resource>, Vec<Problem>) {
    let objects = || objects.iter().map(|object| &**object);
    let (mut config, mut problems) = MeshConfig::from_objects(objects());
    if let Some(settings) = objects().find(|object| MeshConfig::is_settings(object)) {
        problems.extend(other_trust_domain(settings, &config, trust_domain));
    }
    // Certificates show the domain that the CA signs for, whatever the settings say.
    config.trust_domain = trust_domain.as_str().to_owned();
    let (set, found) = PolicySet::from_objects(objects(), config);
    problems.extend(found);
    let mut compiled: HashMap<(Arc<str>, LabelSet, bool), Content> = HashMap::new();
    let resource = |workload: &Workload| {
        let subject = Subject::from(workload);
        let key = (
            Arc::clone(&workload.namespace),
            workload.labels.clone(),
            subject.selectable,
        );
        let content = compiled
            .entry(key)
            .or_insert_with(|| Content::of(&wire::Policy::from(&set.compile(&subject))));
        Resource::with(Kind::Policy, workload.uid.to_shared(), content)
    };
    (
        workloads
            .filter(|workload| workload.identity.is_some())
            .map(resource)
            .collect(),
        problems,
    )
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
mod tests {
    use prost::Message;
    use squire_mesh::{policy::Table, wire::discovery, workload::Interner};

    use super::*;
    use crate::{
        compile::{Settings, mesh},
        facts,
        inventory::Inventory,
        manifest::Manifest,
    };

    const POLICY: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only-web, namespace: shop}
spec:
  selector: {matchLabels: {app: db}}
  action: ALLOW
  rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/web]}}]}]
";

    fn resources(policies: &str) -> (Vec<Resource>, Vec<Problem>) {
        let pods: String = [("db-1", "db"), ("db-2", "db"), ("web-1", "web")]
            .into_iter()
            .map(|(name, app)| {
                format!(
                    "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {{app: {app}}}}}\n\
                     status: {{podIP: 127.10.0.1}}\n---\n"
                )
            })
            .collect();
        let mut interner = Interner::default();
        let mut inventory = Inventory::default();
        for object in Manifest::parse("pods.yaml", &pods).objects {
            let fact = facts::read(&object.api_version, &object.kind, object.value, &mut interner)
                .unwrap()
                .unwrap();
            inventory.add(fact.into());
        }
        let trust_domain: TrustDomain = "cluster.local".parse().unwrap();
        let settings = Settings {
            trust_domain: trust_domain.clone(),
            cluster_domain: String::new(),
        };
        let mesh = mesh(&inventory, &settings, &mut interner);
        let objects: Vec<_> = Manifest::parse("policy.yaml", policies)
            .objects
            .into_iter()
            .map(Arc::new)
            .collect();
        tables(&objects, &trust_domain, mesh.workloads.values())
    }

    fn table(resource: &Resource) -> Table {
        let envelope = discovery::Resource::decode(resource.encoded.clone()).unwrap();
        wire::Policy::decode(&*envelope.resource.unwrap().value)
            .unwrap()
            .try_into()
            .unwrap()
    }

    #[test]
    fn every_workload_has_a_table_and_only_the_selected_ones_have_the_policy() {
        let (resources, problems) = resources(POLICY);
        assert_eq!(problems, []);
        let names: Vec<_> = resources.iter().map(|resource| &*resource.name).collect();
        assert_eq!(names, ["shop/db-1", "shop/db-2", "shop/web-1"]);
        assert_eq!(
            resources[0].version, resources[1].version,
            "pods with the same labels share a table"
        );
        assert_eq!(table(&resources[0]).authorization.allow.len(), 1);
        assert_eq!(table(&resources[2]).authorization.allow.len(), 0);
    }

    #[test]
    fn a_policy_that_cannot_be_understood_is_an_error_of_its_file() {
        let bad = POLICY.replace("ALLOW", "PERMIT");
        let object = Manifest::parse("policy.yaml", &bad).objects.remove(0);
        let problems = review()(&object);
        assert!(
            problems[0].to_string().starts_with("policy.yaml:7: error: "),
            "{problems:?}"
        );
        assert_eq!(review()(&Manifest::parse("policy.yaml", POLICY).objects[0]), []);
    }

    #[test]
    fn settings_for_another_trust_domain_are_remarked_on() {
        let settings = "apiVersion: squire.mesh/v1\nkind: MeshConfig\nmetadata: {name: mesh}\n\
                        spec: {trustDomain: other.example}\n";
        let (_, problems) = resources(settings);
        assert!(problems[0].message.contains("other.example"), "{problems:?}");
    }
}
