//! What a CA finds when it is opened: another one, damage, tampering.

use super::*;

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
