//! Certificates as others see them, and when they are made.

use super::*;

#[test]
fn a_leaf_has_every_line_of_the_profile_and_passes_the_door() {
    let ca = open(&founded());
    let issued = issue(&ca).unwrap();
    let bundles = TrustBundles::new([(*ca.bundle()).clone()]);
    let peer = identify(&issued.chain, &bundles, now(), Role::Client).unwrap();
    assert_eq!((peer.id(), peer.serial()), (&web(), &issued.serial));
    assert_eq!(peer.not_before(), now() - profile::BACKDATE);
    assert_eq!(peer.not_after(), now() + profile::DEFAULT_TTL);

    let (_, leaf) = X509Certificate::from_der(&issued.chain[0]).unwrap();
    assert_eq!(leaf.subject().iter().count(), 0);
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    assert!(names.critical, "the subject is empty");
    assert_eq!(
        names.value.general_names.len(),
        1,
        "names of the request are not taken over"
    );
    let usage = leaf.key_usage().unwrap().unwrap();
    assert!(
        usage.critical && usage.value.flags == 1,
        "digitalSignature and nothing else"
    );
    let extended = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.server_auth && extended.client_auth && !extended.any && extended.other.is_empty());
    let constraints = leaf.basic_constraints().unwrap().unwrap();
    assert!(!constraints.value.ca);
    let (_, intermediate) = X509Certificate::from_der(&issued.chain[1]).unwrap();
    assert_eq!(
        key_ids(&leaf).1,
        key_ids(&intermediate).0,
        "the authority key identifier names the intermediate"
    );
    assert!(intermediate.is_ca() && intermediate.key_usage().unwrap().unwrap().value.key_cert_sign());
    assert_eq!(issued.pem_chain().len(), 3, "leaf, intermediate, root");
}

fn key_ids(cert: &X509Certificate<'_>) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
    let (mut own, mut authority) = (None, None);
    for extension in cert.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => own = Some(id.0.to_vec()),
            ParsedExtension::AuthorityKeyIdentifier(id) => {
                authority = id.key_identifier.as_ref().map(|id| id.0.to_vec())
            }
            _ => {}
        }
    }
    (own, authority)
}

#[test]
fn a_leaf_never_outlives_its_intermediate_and_none_is_signed_outside_its_time() {
    let disk = founded();
    let ca = open(&disk);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let at = |time| runtime.block_on(ca.issue(&attested(web()), &csr(), Some(days(9)), time));
    let end = ca.intermediate_ends();
    assert_eq!(at(now()).unwrap().validity.not_after, now() + profile::MAX_TTL);
    assert_eq!(at(end - Duration::from_secs(600)).unwrap().validity.not_after, end);
    assert!(matches!(at(end), Err(IssueError::Intermediate { .. })));
    assert!(matches!(at(now() - days(1)), Err(IssueError::Intermediate { .. })));
}

#[test]
fn only_workloads_of_the_own_trust_domain_are_signed() {
    let ca = open(&founded());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for id in ["spiffe://other.example/ns/a/sa/b", "spiffe://cluster.local"] {
        let refused = runtime.block_on(ca.issue(&attested(id.parse().unwrap()), &csr(), None, now()));
        assert!(matches!(refused, Err(IssueError::NotOurs { .. })), "{id}");
    }
}

#[test]
fn the_control_plane_gets_an_svid_of_its_own() {
    let ca = open(&founded());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let svid = runtime.block_on(ca.issue_own(web(), None, now())).unwrap();
    assert_eq!((svid.id(), svid.chain().len()), (&web(), 2));
}

#[test]
fn the_intermediate_is_renewed_at_half_its_life_and_old_leaves_stay_good() {
    let disk = founded();
    let ca = open(&disk);
    let old = issue(&ca).unwrap();
    let due = ca.renewal_due();
    assert_eq!(
        due,
        now() - profile::BACKDATE + (profile::INTERMEDIATE_LIFE + profile::BACKDATE) / 2
    );
    assert!(!ca.renew_intermediate_if_due(due - Duration::from_secs(1)).unwrap());
    assert!(ca.renew_intermediate_if_due(due).unwrap());
    assert!(ca.renewal_due() > due);
    let new = issue_at(&ca, due).unwrap();
    assert_ne!(old.chain[1], new.chain[1]);
    let bundles = TrustBundles::new([(*ca.bundle()).clone()]);
    identify(&old.chain, &bundles, now(), Role::Client).unwrap();
    identify(&new.chain, &bundles, due, Role::Client).unwrap();
    drop(ca);
    let again = CertificateAuthority::open(store(&disk).unwrap(), None, due).unwrap();
    assert_eq!(
        issue_at(&again, due).unwrap().chain[1],
        new.chain[1],
        "the new intermediate was saved"
    );
}

#[test]
fn hundreds_of_issues_at_once_are_all_logged_in_order() {
    let disk = founded();
    let ca = open(&disk);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let csr = csr();
        let many: Vec<_> = (0..300)
            .map(|_| {
                let (ca, csr) = (Arc::clone(&ca), csr.clone());
                tokio::spawn(async move { ca.issue(&attested(web()), &csr, None, now()).await })
            })
            .collect();
        for task in many {
            task.await.unwrap().unwrap();
        }
    });
    let store = store(&disk).unwrap();
    let (log, head) = (BufReader::new(store.read_log(0).unwrap()), store.log_head().unwrap());
    let mut serials = std::collections::HashSet::new();
    let verified = verify(log, head.as_ref(), |entry| {
        if let Event::Issued { serial, .. } = entry.event {
            serials.insert(serial);
        }
    });
    assert_eq!(verified.unwrap().head.count, 303);
    assert_eq!(serials.len(), 300);
}
