//! Gates open when everybody who counts has shown what they ask for, and never because somebody is unknown.

use std::{path::Path, time::Duration};

use squire_mesh::svid::{Revocations, Serial};

use super::*;
use crate::{
    authority::CertificateAuthority,
    log::rfc3339,
    store::{DirStore, Store, faults::MemoryDisk},
};

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
}

fn id(account: &str) -> SpiffeId {
    format!("spiffe://cluster.local/ns/shop/sa/{account}").parse().unwrap()
}

fn leaf<'a>(number: u64, account: &str, workload: Option<&'a str>, serial: &'a str, issuer: &'a str) -> Leaf<'a> {
    Leaf {
        number,
        id: id(account),
        workload,
        serial,
        issuer,
        not_before: at(0),
        not_after: at(3600),
    }
}

fn evidence(sequence: u64, root: &str) -> Evidence {
    Evidence {
        bundle_digest: "both".into(),
        bundle_sequence: sequence,
        svid_root: root.into(),
        svid_serial: "01".into(),
        svid_not_after: at(3600),
        stands_on_old_root: false,
    }
}

/// A roster that knows everybody, with an intermediate under each of two roots.
fn complete() -> Roster {
    let roster = Roster::default();
    roster.intermediate("under-a", "A");
    roster.intermediate("under-b", "B");
    roster.lock().reading = Reading::Done;
    roster
}

fn gate(sequence: u64) -> Gate {
    Gate {
        sequence,
        digest: "both".into(),
        waits: Waits::Bundle,
        is_old: false,
    }
}

fn gate_two(sequence: u64) -> Gate {
    Gate {
        waits: Waits::Svid {
            root: "B".into(),
            digest: "digest-b".into(),
        },
        ..gate(sequence)
    }
}

fn tally(roster: &Roster, gate: &Gate, now: SystemTime) -> gate::Tally {
    roster.tally(gate, &Revocations::default(), at(0), now)
}

fn why(roster: &Roster, gate: &Gate) -> Vec<String> {
    tally(roster, gate, at(10))
        .missing
        .into_iter()
        .map(|missing| missing.why)
        .collect()
}

#[test]
fn whoever_was_issued_a_certificate_is_waited_for_until_it_has_reported_or_its_certificate_has_ended() {
    let roster = complete();
    roster.issued(leaf(1, "web", Some("shop/web-1"), "01", "under-a"));
    let open = |now| tally(&roster, &gate(2), now).is_complete();
    assert!(!open(at(10)) && !open(at(3599)) && open(at(3600)));
    roster.report(id("web"), "shop/web-1", evidence(1, "digest-a"), at(11));
    assert_eq!(why(&roster, &gate(2)), ["trusts bundle 1, not 2"]);
    roster.report(id("web"), "shop/web-1", evidence(2, "digest-a"), at(12));
    assert!(open(at(13)));
}

#[test]
fn before_the_log_has_been_read_no_gate_opens_not_even_for_nobody() {
    let roster = Roster::default();
    let closed = tally(&roster, &gate(2), at(10));
    assert_eq!((closed.holders, closed.is_complete()), (0, false));
    assert!(closed.doubt.unwrap().contains("still being read"));
    assert!(tally(&complete(), &gate(2), at(10)).is_complete());
}

#[test]
fn a_bundle_of_another_number_or_content_is_not_the_one_asked_for() {
    let roster = complete();
    roster.issued(leaf(1, "web", Some("shop/web-1"), "01", "under-a"));
    // The same roots as before, under the number of an earlier phase: said before the step.
    roster.report(id("web"), "shop/web-1", evidence(4, "digest-a"), at(11));
    assert_eq!(why(&roster, &gate(2)), ["trusts bundle 4, not 2"]);
    let other = Evidence {
        bundle_digest: "one".into(),
        ..evidence(2, "digest-a")
    };
    roster.report(id("web"), "shop/web-1", other, at(11));
    assert_eq!(why(&roster, &gate(2)).len(), 1);
}

#[test]
fn gate_two_wants_an_svid_under_the_new_root_and_connections_that_stand_on_it() {
    let roster = complete();
    roster.issued(leaf(1, "web", Some("shop/web-1"), "01", "under-a"));
    let reports = |sequence, root| roster.report(id("web"), "shop/web-1", evidence(sequence, root), at(11));
    reports(3, "digest-a");
    assert!(why(&roster, &gate_two(3))[0].contains("an SVID under the root that is to go"));
    roster.issued(leaf(2, "web", Some("shop/web-1"), "02", "under-b"));
    let stands = Evidence {
        stands_on_old_root: true,
        ..evidence(3, "digest-b")
    };
    roster.report(id("web"), "shop/web-1", stands, at(12));
    assert!(why(&roster, &gate_two(3))[0].contains("has connections"));
    reports(3, "digest-b");
    assert!(why(&roster, &gate_two(3)).is_empty());
    // It was signed another one under the old root in the moment of the step: it may hold that by now.
    roster.issued(leaf(3, "web", Some("shop/web-1"), "03", "under-a"));
    assert_eq!(why(&roster, &gate_two(3)).len(), 1);
}

#[test]
fn a_restarted_process_takes_the_place_of_its_last_and_workloads_of_one_identity_count_apart() {
    let roster = complete();
    for (number, workload) in [(1, "shop/web-1"), (2, "shop/web-2"), (3, "shop/web-1")] {
        roster.issued(leaf(number, "web", Some(workload), "01", "under-a"));
    }
    assert_eq!(tally(&roster, &gate(2), at(10)).holders, 2);
    roster.report(id("web"), "shop/web-1", evidence(2, "digest-a"), at(11));
    assert_eq!(
        tally(&roster, &gate(2), at(12)).missing[0].workload.as_deref(),
        Some("shop/web-2")
    );
}

#[test]
fn a_certificate_of_somebody_who_never_reports_counts_until_it_ends_or_is_revoked() {
    let roster = complete();
    roster.issued(leaf(1, "laptop", None, "4a0b", "under-a"));
    assert!(why(&roster, &gate(2))[0].contains("does not report"));
    let mut revoked = Revocations::default();
    revoked.revoke_serial(Serial::new(&[0x4a, 0x0b]), "lost");
    assert!(roster.tally(&gate(2), &revoked, at(0), at(10)).is_complete());
    let mut revoked = Revocations::default();
    revoked.revoke_identity(id("laptop"), "lost", None);
    assert!(roster.tally(&gate(2), &revoked, at(0), at(10)).is_complete());
}

#[test]
fn who_is_gone_for_longer_than_its_certificate_lives_stops_counting_and_is_told_of() {
    let roster = complete();
    roster.issued(leaf(1, "web", Some("shop/web-1"), "01", "under-a"));
    roster.forget_ended(at(3599));
    assert_eq!(roster.holders(), 1);
    roster.forget_ended(at(3600));
    assert_eq!(roster.holders(), 0);
    let gone = tally(&roster, &gate(2), at(3601)).gone;
    assert_eq!(gone[0].ended, rfc3339(at(3600)));
    assert!(gone[0].who.starts_with("shop/web-1 ("), "{gone:?}");
    let later = roster.tally(&gate(2), &Revocations::default(), at(3600), at(3601));
    assert!(later.gone.is_empty(), "those of earlier phases are history");
}

#[test]
fn who_reports_without_being_in_the_log_counts_from_then_on_for_no_longer_than_a_certificate_can_live() {
    let roster = complete();
    let forever = Evidence {
        svid_not_after: at(1_000_000_000),
        ..evidence(1, "digest-a")
    };
    roster.report(id("web"), "shop/web-1", forever, at(0));
    assert_eq!(why(&roster, &gate(2)).len(), 1);
    assert!(tally(&roster, &gate(2), at(0) + MAX_TTL).is_complete());
}

#[test]
fn a_log_that_began_anew_or_cannot_be_read_keeps_gates_closed() {
    let gap = Reading::Gap { until: at(100) };
    assert!(gap.doubt(at(99)).is_some_and(|why| why.contains(&rfc3339(at(100)))));
    assert!(gap.doubt(at(100)).is_none());
    let roster = Roster::default();
    let disk = MemoryDisk::default();
    let store: Arc<dyn Store> = Arc::new(DirStore::on(disk.clone()).unwrap());
    CertificateAuthority::init(&store, &"cluster.local".parse().unwrap(), at(0)).unwrap();
    disk.tamper(Path::new("/ca/log.jsonl"), |bytes| bytes[20] ^= 1);
    assert!(roster.read(&*store, at(0)).is_err());
    assert!(tally(&roster, &gate(2), at(10)).doubt.unwrap().contains("is not known"));
}

#[test]
fn those_who_are_missing_are_named_longest_silence_first_and_not_all_of_a_hundred_thousand() {
    let roster = complete();
    for number in 1..=600_u64 {
        let workload = format!("shop/web-{number}");
        roster.issued(leaf(number, "web", Some(&workload), "01", "under-a"));
        roster.report(id("web"), &workload, evidence(1, "digest-a"), at(number));
    }
    let tally = tally(&roster, &gate(2), at(700));
    assert_eq!(
        (tally.holders, tally.shown, tally.missing.len(), tally.more_missing),
        (600, 0, 500, 100)
    );
    assert_eq!(tally.missing[0].workload.as_deref(), Some("shop/web-1"));
    assert_eq!(tally.missing[0].since, rfc3339(at(1)));
}
