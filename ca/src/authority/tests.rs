//! Certificates as others see them, and the CA with a fault at every step of everything it writes.

use std::{
    io::BufReader,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rcgen::{CertificateParams, KeyPair};
use squire_mesh::{
    bundle::TrustBundles,
    svid::{Role, identify},
};
use x509_parser::prelude::{FromDer as _, ParsedExtension, X509Certificate};

use super::*;
use crate::{
    log::{LogFault, verify},
    profile,
    revocation::Target,
    store::{
        DirStore, TokenStatus,
        faults::{EVERY_SURVIVAL, Fault, MemoryDisk, Survives},
    },
    token::JoinToken,
};

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn days(n: u64) -> Duration {
    Duration::from_secs(n * 86_400)
}

fn domain() -> TrustDomain {
    "cluster.local".parse().unwrap()
}

fn web() -> SpiffeId {
    "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap()
}

fn store(disk: &MemoryDisk) -> Result<Arc<dyn Store>, StoreError> {
    Ok(Arc::new(DirStore::on(disk.clone())?))
}

fn founded() -> MemoryDisk {
    let disk = MemoryDisk::default();
    CertificateAuthority::init(&store(&disk).unwrap(), &domain(), now()).unwrap();
    disk
}

fn open(disk: &MemoryDisk) -> Arc<CertificateAuthority> {
    CertificateAuthority::open(store(disk).unwrap(), None, now()).unwrap()
}

fn csr() -> Csr {
    let params = CertificateParams::new(vec!["spiffe://cluster.local/ns/evil/sa/evil".to_owned()]).unwrap();
    Csr::parse(params.serialize_request(&KeyPair::generate().unwrap()).unwrap().der()).unwrap()
}

fn attested(id: SpiffeId) -> Attested {
    Attested {
        id,
        attestor: "test",
        subject: "t".into(),
        workload: None,
    }
}

/// Issues outside of any runtime, as the fault tests do.
fn issue(ca: &CertificateAuthority) -> Result<Issued, IssueError> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(ca.issue(&attested(web()), &csr(), None, now()))
}

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

fn issue_at(ca: &CertificateAuthority, time: SystemTime) -> Result<Issued, IssueError> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(ca.issue(&attested(web()), &csr(), None, time))
}

#[test]
fn a_ca_is_not_founded_twice_nor_opened_for_another_trust_domain() {
    let disk = founded();
    let twice = CertificateAuthority::init(&store(&disk).unwrap(), &domain(), now());
    assert!(matches!(
        twice,
        Err(CaError::Store(StoreError::AlreadyInitialised { .. }))
    ));
    let other: TrustDomain = "other.example".parse().unwrap();
    let error = CertificateAuthority::open(store(&disk).unwrap(), Some(&other), now()).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("for trust domain cluster.local, not other.example"),
        "{error}"
    );
    let none = CertificateAuthority::open(store(&MemoryDisk::default()).unwrap(), None, now());
    assert!(matches!(none, Err(CaError::Store(StoreError::NotInitialised(_)))));
}

#[test]
fn damaged_files_are_named_with_the_reason() {
    let state = Path::new("/ca/state.json");
    type Change<'a> = &'a dyn Fn(&mut Vec<u8>);
    let changes: [(Change<'_>, &str); 4] = [
        (&|bytes| bytes.truncate(bytes.len() / 2), "EOF"),
        (&|bytes| bytes.clear(), "EOF"),
        (&|bytes| replace(bytes, "\"version\": 2", "\"version\": 9"), "version 9"),
        (
            &|bytes| replace(bytes, "cluster.local", "a b"),
            "trust domain is not valid",
        ),
    ];
    for (change, reason) in changes {
        let disk = founded();
        disk.tamper(state, change);
        let error = CertificateAuthority::open(store(&disk).unwrap(), None, now())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("/ca/state.json: damaged") && error.contains(reason),
            "{error}"
        );
        assert!(error.contains("backup") && !error.contains("PRIVATE"), "{error}");
    }
}

fn replace(bytes: &mut Vec<u8>, from: &str, to: &str) {
    *bytes = String::from_utf8(bytes.clone()).unwrap().replace(from, to).into_bytes();
}

#[test]
fn another_cas_key_or_intermediate_is_noticed() {
    let (ours, theirs) = (founded(), founded());
    let read = |disk: &MemoryDisk| store(disk).unwrap().load().unwrap().unwrap();
    let mut state = read(&ours);
    state.intermediate.key = read(&theirs).intermediate.key;
    assert!(matches!(
        Hierarchy::load(&state),
        Err(HierarchyError::Key {
            what: "intermediate",
            ..
        })
    ));
    let mut state = read(&ours);
    state.intermediate = read(&theirs).intermediate;
    state.intermediate.root.clone_from(&state.active_root);
    assert!(matches!(Hierarchy::load(&state), Err(HierarchyError::NotSigned(_))));
    let mut state = read(&ours);
    state.roots[0].key = None;
    let hierarchy = Hierarchy::load(&state).unwrap();
    assert!(matches!(
        hierarchy.renew_intermediate(&state, now()),
        Err(HierarchyError::RootOffline(_))
    ));
}

#[test]
fn a_log_cut_or_changed_at_its_end_keeps_the_ca_from_opening_and_one_changed_further_up_is_found() {
    let log = Path::new("/ca/log.jsonl");
    let disk = founded();
    issue(&open(&disk)).unwrap();
    let changes: [fn(&mut Vec<u8>); 3] = [
        |bytes| bytes.truncate(10),
        Vec::clear,
        |bytes| *bytes.iter_mut().nth_back(20).unwrap() ^= 1,
    ];
    for change in changes {
        let disk = disk.copy();
        disk.tamper(log, change);
        let error = CertificateAuthority::open(store(&disk).unwrap(), None, now()).unwrap_err();
        assert!(matches!(error, CaError::Log(LogError::Fault(_))), "{error}");
    }
    assert_eq!(open(&disk).verify_log(now()).unwrap().head.count, 4);
    disk.tamper(log, |bytes| bytes[20] ^= 1);
    assert!(matches!(open(&disk).verify_log(now()), Err(LogError::Fault(_))));
}

#[test]
fn a_damaged_log_is_set_aside_on_purpose_only_and_the_new_one_tells_of_it() {
    let disk = founded();
    issue(&open(&disk)).unwrap();
    disk.tamper(Path::new("/ca/log.jsonl"), |bytes| bytes.truncate(100));
    let keep = store(&disk).unwrap();
    log::restart(&keep, "disk was replaced", now()).unwrap();
    assert_eq!(issue(&open(&disk)).unwrap().entry, 2);
    let mut first = None;
    let log = BufReader::new(keep.read_log(0).unwrap());
    verify(log, keep.log_head().unwrap().as_ref(), |entry| {
        first = first.take().or(Some(entry.event))
    })
    .unwrap();
    let Some(Event::Restarted { reason, set_aside }) = first else {
        panic!("{first:?}")
    };
    assert_eq!(reason, "disk was replaced");
    let aside = crate::store::disk::Disk::read(&disk, &Path::new("/ca").join(set_aside)).unwrap();
    assert_eq!(aside.len(), 100, "the damaged log is kept");
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

// ---- a fault at every step -------------------------------------------------------------------------------------------

/// Runs `action` on copies of `disk` with every fault at each of its write operations, and has `check` look at what is found
/// afterwards: by the same process where it goes on, by a new one where power was lost.
fn at_every_step<T>(
    disk: &MemoryDisk,
    action: impl Fn(&MemoryDisk) -> Result<T, String>,
    check: impl Fn(&MemoryDisk, bool, &str),
) {
    let dry = disk.copy();
    assert!(action(&dry).is_ok(), "the action works without faults");
    let steps = dry.operations();
    assert!(steps >= 2, "the action writes");
    for step in 0..steps {
        for fault in [Fault::Refused, Fault::Half, Fault::PowerLost] {
            for survives in EVERY_SURVIVAL {
                let disk = disk.copy();
                disk.arm(step, fault);
                let done = action(&disk).is_ok();
                check(
                    &disk.restart(survives),
                    done,
                    &format!("step {step} {fault:?} {survives:?}"),
                );
            }
        }
    }
}

fn opens(disk: &MemoryDisk, context: &str) -> Arc<CertificateAuthority> {
    match store(disk)
        .map_err(CaError::from)
        .and_then(|store| CertificateAuthority::open(store, None, now()))
    {
        Ok(ca) => ca,
        Err(error) => panic!("{context}: {error}"),
    }
}

#[test]
fn founding_with_a_fault_at_every_step_leaves_a_ca_or_none() {
    let found = |disk: &MemoryDisk| {
        let store = store(disk).map_err(|e| e.to_string())?;
        CertificateAuthority::init(&store, &domain(), now()).map_err(|e| e.to_string())
    };
    at_every_step(&MemoryDisk::default(), found, |disk, done, context| {
        let there = store(disk)
            .unwrap()
            .load()
            .unwrap_or_else(|error| panic!("{context}: {error}"))
            .is_some();
        assert!(there || !done, "{context}: what was reported as done is there");
        if !there {
            found(disk).unwrap_or_else(|error| panic!("{context}: founding again: {error}"));
        }
        issue(&opens(disk, context)).unwrap_or_else(|error| panic!("{context}: {error}"));
    });
}

#[test]
fn renewing_the_intermediate_with_a_fault_at_every_step_leaves_the_old_or_the_new_one() {
    let disk = founded();
    let intermediate = |disk: &MemoryDisk| store(disk).unwrap().load().unwrap().unwrap().intermediate.certificate;
    let (old, due) = (intermediate(&disk), open(&disk).renewal_due());
    let renew = |disk: &MemoryDisk| {
        let store = store(disk).map_err(|e| e.to_string())?;
        let ca = CertificateAuthority::open(store, None, now()).map_err(|e| e.to_string())?;
        ca.renew_intermediate_if_due(ca.renewal_due())
            .map_err(|e| e.to_string())
    };
    at_every_step(&disk, renew, |disk, done, context| {
        let ca = opens(disk, context);
        assert!(
            !done || intermediate(disk) != old,
            "{context}: what was reported as done is there"
        );
        let issued = issue_at(&ca, due).unwrap_or_else(|error| panic!("{context}: {error}"));
        let bundles = TrustBundles::new([(*ca.bundle()).clone()]);
        identify(&issued.chain, &bundles, due, Role::Client).unwrap();
    });
}

#[test]
fn making_a_token_with_a_fault_at_every_step_leaves_it_whole_or_not_at_all() {
    let make = |disk: &MemoryDisk| {
        let store = store(disk).map_err(|e| e.to_string())?;
        let token = JoinToken::create(&*store, "cluster.local", &web(), Duration::from_secs(60), now());
        token.map(|token| token.digest()).map_err(|e| e.to_string())
    };
    at_every_step(&founded(), make, |disk, done, context| {
        opens(disk, context);
        let names = crate::store::disk::Disk::list(disk, Path::new("/ca/tokens")).unwrap();
        assert!(
            names.len() == 1 || !done,
            "{context}: what was reported as done is there"
        );
        for name in names {
            let digest = name
                .strip_suffix(".json")
                .unwrap_or_else(|| panic!("{context}: {name}"))
                .parse()
                .unwrap();
            let status = store(disk).unwrap().token(&digest);
            assert!(matches!(status, Ok(TokenStatus::Fresh(_))), "{context}: {status:?}");
        }
    });
}

#[test]
fn using_a_token_with_a_fault_at_every_step_never_gives_it_back_once_it_was_accepted() {
    let disk = founded();
    let keep = store(&disk).unwrap();
    let token = JoinToken::create(&*keep, "cluster.local", &web(), Duration::from_secs(60), now())
        .unwrap()
        .digest();
    let redeem = |disk: &MemoryDisk| match store(disk).and_then(|store| store.use_token(&token)) {
        Ok(true) => Ok(()),
        Ok(false) => Err("gone".to_owned()),
        Err(error) => Err(error.to_string()),
    };
    at_every_step(&disk, redeem, |disk, done, context| {
        opens(disk, context);
        let status = store(disk)
            .unwrap()
            .token(&token)
            .unwrap_or_else(|error| panic!("{context}: {error}"));
        assert!(!done || status == TokenStatus::Used, "{context}: {status:?}");
        assert_ne!(status, TokenStatus::Unknown, "{context}");
    });
}

#[test]
fn logging_with_a_fault_at_every_step_keeps_every_acknowledged_entry_and_a_valid_chain() {
    let disk = founded();
    let count = |disk: &MemoryDisk| store(disk).unwrap().log_head().unwrap().unwrap().count;
    let before = count(&disk);
    let append = |disk: &MemoryDisk| issue(&open(disk)).map(|issued| issued.entry).map_err(|e| e.to_string());
    at_every_step(&disk, append, |disk, done, context| {
        let ca = opens(disk, context);
        let after = count(disk);
        assert!(after == before + 1 || (!done && after == before), "{context}: {after}");
        assert_eq!(issue(&ca).unwrap().entry, after + 1, "{context}");
    });
}

#[test]
fn after_a_failed_write_the_same_process_goes_on_with_a_valid_log() {
    let dry = founded();
    let ca = open(&dry);
    let start = dry.operations();
    issue(&ca).unwrap();
    let steps = dry.operations() - start;
    for step in 0..steps {
        for fault in [Fault::Refused, Fault::Half] {
            let disk = founded();
            let ca = open(&disk);
            disk.arm(step, fault);
            assert!(matches!(issue(&ca), Err(IssueError::Log(_))), "step {step} {fault:?}");
            let next = issue(&ca).unwrap().entry;
            drop(ca);
            let store = store(&disk.restart(Survives::Nothing)).unwrap();
            let (log, head) = (BufReader::new(store.read_log(0).unwrap()), store.log_head().unwrap());
            let verified = verify(log, head.as_ref(), |_| {})
                .unwrap_or_else(|error: LogFault| panic!("step {step} {fault:?}: {error}"));
            assert_eq!(verified.head.count, next, "step {step} {fault:?}");
        }
    }
}

#[test]
fn restarting_the_log_with_a_fault_at_every_step_can_be_done_again() {
    let disk = founded();
    issue(&open(&disk)).unwrap();
    disk.tamper(Path::new("/ca/log.jsonl"), |bytes| bytes.truncate(100));
    let restart = |disk: &MemoryDisk| {
        let store = store(disk).map_err(|e| e.to_string())?;
        log::restart(&store, "test", now()).map_err(|e| e.to_string())
    };
    at_every_step(&disk, restart, |disk, done, context| {
        if !done {
            restart(disk).unwrap_or_else(|error| panic!("{context}: again: {error}"));
        }
        issue(&opens(disk, context)).unwrap_or_else(|error| panic!("{context}: {error}"));
        let names = crate::store::disk::Disk::list(disk, Path::new("/ca")).unwrap();
        assert!(
            names.iter().any(|name| name.starts_with("log.damaged-")),
            "{context}: {names:?}"
        );
    });
}

#[test]
fn revoking_and_undoing_it_with_a_fault_at_every_step_keeps_what_was_reported_as_done() {
    let disk = founded();
    let target = Target::Identity(web());
    let with = |disk: &MemoryDisk| {
        let ca = CertificateAuthority::open(store(disk).map_err(|e| e.to_string())?, None, now());
        ca.map_err(|e| e.to_string())
    };
    let revoke = |disk: &MemoryDisk| {
        let ca = with(disk)?;
        let done = ca.revoke(&target, "lost", false, now()).map_err(|e| e.to_string());
        let refused = ca.watch_revocations().borrow().check_identity(&web(), now()).is_err();
        assert_eq!(refused, done.is_ok(), "nothing takes effect before it is kept");
        done
    };
    at_every_step(&disk, revoke, |disk, done, context| {
        let ca = opens(disk, context);
        let refused = matches!(issue(&ca), Err(IssueError::Revoked(_)));
        assert!(refused || !done, "{context}: what was reported as done holds");
    });
    revoke(&disk).unwrap();
    let undo = |disk: &MemoryDisk| with(disk)?.unrevoke(&target, now()).map_err(|e| e.to_string());
    at_every_step(&disk, undo, |disk, done, context| {
        let ca = opens(disk, context);
        let refused = matches!(issue(&ca), Err(IssueError::Revoked(_)));
        assert!(!refused || !done, "{context}: what was reported as undone is");
    });
}

#[test]
fn a_revocation_ends_with_the_certificates_it_concerns_and_that_of_an_identity_does_not() {
    let disk = founded();
    let ca = open(&disk);
    let issued = issue(&ca).unwrap();
    let end = issued.validity.not_after;
    let second = Duration::from_secs(1);
    ca.revoke(&Target::Certificate(issued.serial.clone()), "lost", false, now())
        .unwrap();
    ca.revoke(&Target::Identity(web()), "copied", true, now()).unwrap();
    let other: SpiffeId = "spiffe://cluster.local/ns/shop/sa/db".parse().unwrap();
    ca.revoke(&Target::Identity(other.clone()), "gone", false, now())
        .unwrap();

    let bundles = TrustBundles::new([(*ca.bundle()).clone()]);
    let peer = identify(&issued.chain, &bundles, now(), Role::Client).unwrap();
    assert!(ca.watch_revocations().borrow().check(&peer).is_err());
    assert!(issue(&ca).is_ok(), "what it is issued from now on is good");
    let revoked = |time| ca.revoked(time).into_iter().map(|view| view.target).collect::<Vec<_>>();
    assert_eq!(revoked(end).len(), 3);
    assert_eq!(revoked(end + second), [web().to_string(), other.to_string()]);
    assert_eq!(revoked(now() + days(30)), [other.to_string()]);
    assert_eq!(ca.expire_revocations(now() + days(30)).unwrap(), 2);
    drop(ca);
    assert_eq!(open(&disk).revoked(now()).len(), 1, "and the rest was kept");
}

#[test]
fn a_revocation_needs_a_reason_and_undoing_one_needs_a_revocation() {
    let ca = open(&founded());
    let target = Target::Identity(web());
    for reason in ["", "  ", "two\nlines", &"x".repeat(257)] {
        let refused = ca.revoke(&target, reason, false, now());
        assert!(matches!(refused, Err(RevokeError::Reason)), "{reason:?}");
    }
    assert!(matches!(ca.unrevoke(&target, now()), Err(RevokeError::NotRevoked(_))));
    let serial: Target = "4a0b".parse().unwrap();
    assert!(matches!(
        ca.revoke(&serial, "lost", true, now()),
        Err(RevokeError::IssuedOnly(_))
    ));
    ca.revoke(&target, "lost", false, now()).unwrap();
    ca.revoke(&target, "found and lost again", false, now()).unwrap();
    assert_eq!(ca.revoked(now()).len(), 1, "the later one replaces the earlier");
}

// ---- rotation --------------------------------------------------------------------------------------------------------

fn evidence(ca: &CertificateAuthority, sequence: u64) -> crate::roster::Evidence {
    let current = ca.current();
    crate::roster::Evidence {
        bundle_digest: current.hierarchy.bundle().digest(),
        bundle_sequence: sequence,
        svid_root: current.hierarchy.signing_root().to_string(),
        svid_serial: "01".into(),
        svid_not_after: now() + profile::DEFAULT_TTL,
        stands_on_old_root: false,
    }
}

fn of_web_1(ca: &CertificateAuthority, time: SystemTime) -> Issued {
    let attested = Attested {
        workload: Some("shop/web-1".into()),
        ..attested(web())
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(ca.issue(&attested, &csr(), None, time)).unwrap()
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Looks at the gate for as long as it has to be open.
fn passes(ca: &CertificateAuthority, at: SystemTime) -> Option<String> {
    (0..=4).find_map(|n| {
        ca.advance_if_open(at + seconds(n))
            .unwrap()
            .map(|reached| reached.phase)
    })
}

#[test]
fn a_rotation_goes_on_when_every_holder_has_shown_it_and_nobodys_certificate_is_worth_nothing_on_the_way() {
    let disk = founded();
    let ca = open(&disk);
    ca.verify_log(now()).unwrap();
    let old = of_web_1(&ca, now());
    ca.rotate(None, "test", now()).unwrap();
    assert_eq!(passes(&ca, now()), None, "web-1 has not reported");
    let good = |ca: &CertificateAuthority, issued: &Issued| {
        let bundles = TrustBundles::new([(*ca.bundle()).clone()]);
        identify(&issued.chain, &bundles, now(), Role::Client).is_ok()
    };
    let report = |sequence| ca.roster().report(web(), "shop/web-1", evidence(&ca, sequence), now());
    report(2);
    assert_eq!(
        of_web_1(&ca, now()).chain[1],
        old.chain[1],
        "the old root signs until the gate opens"
    );
    assert_eq!(passes(&ca, now()).as_deref(), Some("switch"));
    let new = of_web_1(&ca, now());
    assert_ne!(new.chain[1], old.chain[1]);
    assert!(good(&ca, &old) && good(&ca, &new));
    assert_eq!(passes(&ca, now()), None);
    report(3);
    assert_eq!(passes(&ca, now()).as_deref(), Some("retire"));
    assert!(!good(&ca, &old) && good(&ca, &new), "only now the old root is gone");
    report(4);
    assert_eq!(passes(&ca, now()).as_deref(), Some("stable"));
    assert_eq!(ca.status().unwrap().roots.len(), 1);
    drop(ca);
    assert_eq!(open(&disk).verify_log(now()).unwrap().unacknowledged, 0);
}

#[test]
fn a_ca_that_was_killed_waits_for_whoever_holds_a_certificate_although_nobody_is_connected_yet() {
    let disk = founded();
    let ca = open(&disk);
    ca.verify_log(now()).unwrap();
    of_web_1(&ca, now());
    ca.rotate(None, "test", now()).unwrap();
    ca.roster().report(web(), "shop/web-1", evidence(&ca, 2), now());
    drop(ca);
    // Right after the start the fleet is empty, and the log not read yet.
    let ca = open(&disk);
    assert_eq!(passes(&ca, now()), None);
    assert!(ca.progress(now()).doubt.is_some());
    ca.verify_log(now()).unwrap();
    assert_eq!(passes(&ca, now()), None, "what it said before is no evidence now");
    let progress = ca.progress(now());
    assert_eq!((progress.holders, progress.shown), (1, 0));
    assert_eq!(progress.missing[0].workload.as_deref(), Some("shop/web-1"));
    let ended = now() + profile::DEFAULT_TTL;
    assert_eq!(
        passes(&ca, ended).as_deref(),
        Some("switch"),
        "it is gone for longer than its SVID lived"
    );
    assert!(ca.progress(ended).gone[0].who.contains("shop/web-1"));
}

#[test]
fn a_gate_that_closes_again_is_not_passed_and_a_forced_step_names_the_bundle_it_was_asked_for() {
    let ca = open(&founded());
    ca.verify_log(now()).unwrap();
    of_web_1(&ca, now());
    ca.rotate(None, "test", now()).unwrap();
    let report = |sequence| ca.roster().report(web(), "shop/web-1", evidence(&ca, sequence), now());
    report(2);
    assert!(
        ca.advance_if_open(now()).unwrap().is_none(),
        "it has to stay open for a moment"
    );
    report(1);
    assert!(ca.advance_if_open(now() + seconds(5)).unwrap().is_none());
    report(2);
    assert!(
        ca.advance_if_open(now() + seconds(6)).unwrap().is_none(),
        "and the moment begins anew"
    );
    report(1);
    assert!(matches!(
        ca.force(1, now()),
        Err(RotateError::MovedOn { now: 2, named: 1 })
    ));
    assert_eq!(ca.force(2, now()).unwrap().phase, "switch");
    assert!(matches!(ca.rotate(None, "test", now()), Err(RotateError::Rotation(_))));
    assert!(ca.abort(now()).unwrap().aborting);
}

#[test]
fn a_rotation_begins_by_itself_when_so_much_of_the_roots_life_is_over_unless_an_admin_brought_the_root() {
    let disk = founded();
    let ca = open(&disk);
    let due = ca.root_validity().at_percent(80);
    assert!(!ca.rotate_if_due(80, due - seconds(1)).unwrap());
    assert!(ca.rotate_if_due(80, due).unwrap());
    assert!(!ca.rotate_if_due(80, due).unwrap(), "one at a time");
    drop(ca);
    let store = store(&disk).unwrap();
    let mut state = store.load().unwrap().unwrap();
    state = Hierarchy::found_on(&domain(), state.roots[0].clone(), now()).unwrap();
    state.roots[0].supplied = true;
    store.save(&state).unwrap();
    drop(store);
    assert!(!open(&disk).rotate_if_due(80, due).unwrap());
}

#[test]
fn every_step_of_a_rotation_with_a_fault_at_every_write_leaves_the_phase_before_or_after_and_a_ca_that_signs() {
    type Step = fn(&CertificateAuthority) -> Result<crate::roster::Progress, RotateError>;
    let begin: Step = |ca| ca.rotate(None, "test", now());
    let on: Step = |ca| ca.force(ca.current().state.sequence, now());
    let back: Step = |ca| ca.abort(now());
    // Every transition there is, each from where the ones before it lead.
    let ways: [&[Step]; 3] = [
        &[begin, on, on, on],
        &[begin, on, back, on, on],
        &[begin, on, on, back, on],
    ];
    for way in ways {
        let disk = founded();
        for (nth, step) in way.iter().enumerate() {
            let phase = |disk: &MemoryDisk| {
                let state = store(disk).unwrap().load().unwrap().unwrap();
                (state.phase.label(), state.sequence, state.active_root)
            };
            let before = phase(&disk);
            let take = |disk: &MemoryDisk| {
                let store = store(disk).map_err(|e| e.to_string())?;
                let ca = CertificateAuthority::open(store, None, now()).map_err(|e| e.to_string())?;
                let bundle = ca.bundle();
                let done = step(&ca).map_err(|e| e.to_string());
                if done.is_err() {
                    assert_eq!(
                        ca.bundle().sequence(),
                        bundle.sequence(),
                        "nothing takes effect before it is kept"
                    );
                }
                done
            };
            let dry = disk.copy();
            take(&dry).unwrap();
            let after = phase(&dry);
            at_every_step(&disk, take, |disk, done, context| {
                let ca = opens(disk, context);
                let found = phase(disk);
                // A step makes new keys each time: compare where it stands.
                let shape = |phase: &(&'static str, u64, String)| (phase.0, phase.1);
                assert!(
                    shape(&found) == shape(&after) || (!done && found == before),
                    "step {nth}, {context}: {found:?}"
                );
                let issued = issue(&ca).unwrap_or_else(|error| panic!("step {nth}, {context}: {error}"));
                let bundles = TrustBundles::new([(*ca.bundle()).clone()]);
                identify(&issued.chain, &bundles, now(), Role::Client).unwrap();
                ca.verify_log(now())
                    .unwrap_or_else(|error| panic!("step {nth}, {context}: {error}"));
            });
            take(&disk).unwrap();
        }
    }
}

// ---- JWT-SVIDs -------------------------------------------------------------------------------------------------------

/// A token for the audience `db`, at this time, as the SVID of `web` would get it.
fn token(ca: &CertificateAuthority, at: SystemTime) -> Result<crate::jwt::SignedJwt, IssueError> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let audience = crate::jwt::Audience::new(vec!["db".into()]).unwrap();
    runtime.block_on(ca.issue_jwt(&attested(web()), &audience, None, at + days(1), at))
}

fn verified(ca: &CertificateAuthority, token: &str, at: SystemTime) -> bool {
    let bundles = TrustBundles::new([(*ca.bundle()).clone()]);
    squire_mesh::jwt_svid::verify(token, "db", &bundles, at).is_ok_and(|svid| svid.id == web())
}

#[test]
fn a_token_is_logged_and_verifies_under_the_published_bundle_until_it_ends() {
    let ca = open(&founded());
    let sequence = ca.bundle().sequence();
    let signed = token(&ca, now()).unwrap();
    assert!(verified(&ca, &signed.token, now()));
    assert!(!verified(&ca, &signed.token, now() + crate::jwt::DEFAULT_JWT_TTL));
    assert_eq!(ca.bundle().sequence(), sequence, "signing changes nothing");
    assert_eq!(ca.verify_log(now()).unwrap().head.count, 4);
    ca.revoke(&Target::Identity(web()), "gone", false, now()).unwrap();
    assert!(matches!(token(&ca, now()), Err(IssueError::Revoked(_))));
    let stranger = attested("spiffe://elsewhere/ns/a/sa/b".parse().unwrap());
    let audience = crate::jwt::Audience::new(vec!["db".into()]).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let refused = runtime.block_on(ca.issue_jwt(&stranger, &audience, None, now() + days(1), now()));
    assert!(matches!(refused, Err(IssueError::NotOurs { .. })));
}

#[test]
fn keys_for_tokens_move_on_by_themselves_and_every_change_counts_the_bundle_up() {
    let ca = open(&founded());
    let mut told = ca.watch_bundle();
    told.mark_unchanged();
    let first = token(&ca, now()).unwrap();
    let before = ca.bundle().sequence();
    let prepared = now() + crate::jwt::KEY_LIFE - crate::jwt::LEAD;
    assert!(!ca.advance_jwt_keys(prepared - Duration::from_secs(1)).unwrap());
    assert!(ca.advance_jwt_keys(prepared).unwrap());
    assert!(told.has_changed().unwrap() && ca.bundle().sequence() > before);
    assert_eq!(ca.bundle().jwt_keys().len(), 2);
    assert_eq!(
        token(&ca, prepared).unwrap().kid,
        first.kid,
        "published first, signs later"
    );
    let later = token(&ca, prepared + crate::jwt::LEAD).unwrap();
    assert_ne!(later.kid, first.kid);
    assert!(
        ca.advance_jwt_keys(prepared + crate::jwt::LEAD + crate::jwt::MAX_JWT_TTL + profile::BACKDATE)
            .unwrap()
    );
    assert_eq!(ca.bundle().jwt_keys().len(), 1, "what the old one signed has expired");
    assert_eq!(ca.bundle().jwt_keys()[0].kid(), later.kid);
}

#[test]
fn a_ca_from_before_there_were_tokens_gets_its_first_key_when_it_is_opened() {
    let disk = founded();
    let shared = store(&disk).unwrap();
    let mut old = shared.load().unwrap().unwrap();
    old.jwt_keys.clear();
    shared.save(&old).unwrap();
    drop(shared);
    let ca = open(&disk);
    assert_eq!(
        (ca.bundle().jwt_keys().len(), ca.bundle().sequence()),
        (1, old.sequence + 1)
    );
    assert!(verified(&ca, &token(&ca, now()).unwrap().token, now()));
}

#[test]
fn rotating_the_key_for_tokens_with_a_fault_at_every_step_leaves_old_or_new_keys_and_never_one_that_signs_unpublished()
{
    let disk = founded();
    let rotate = |disk: &MemoryDisk| {
        let ca = open(disk);
        ca.rotate_jwt_key(Duration::ZERO, false, now())
            .map_err(|error| error.to_string())
    };
    at_every_step(&disk, rotate, |disk, done, context| {
        let ca = opens(disk, context);
        let keys = ca.bundle().jwt_keys().len();
        assert!(keys == 2 || (!done && keys == 1), "{context}: {keys}");
        let signed = token(&ca, now()).unwrap();
        assert!(ca.bundle().jwt_key(&signed.kid).is_some(), "{context}");
        assert!(verified(&ca, &signed.token, now()), "{context}");
    });
}
