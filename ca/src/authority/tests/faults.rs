//! Founding, renewing, tokens and the log with a fault at every step of everything that is written.

use super::*;

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
