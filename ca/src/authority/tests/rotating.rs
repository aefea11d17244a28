//! Rotations of the root: gates, killing, forcing, going back, by itself, and a fault at every write.

use super::*;

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

#[test]
fn a_root_that_other_meshes_fetch_is_handed_out_for_as_long_as_that_takes_before_it_signs() {
    let ca = open(&founded());
    ca.verify_log(now()).unwrap();
    ca.publish_for(seconds(300));
    ca.rotate(None, "test", now()).unwrap();
    assert_eq!(
        passes(&ca, now()),
        None,
        "nobody holds a certificate, and still it waits"
    );
    assert!(ca.progress(now()).waits_for.contains("other meshes"));
    assert_eq!(passes(&ca, now() + seconds(290)), None);
    assert_eq!(passes(&ca, now() + seconds(300)).as_deref(), Some("switch"));
    assert_eq!(
        passes(&ca, now() + seconds(310)).as_deref(),
        Some("retire"),
        "a root that goes needs no time"
    );
}
