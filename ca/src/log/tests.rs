//! The chain tells tampering from a crash.

use super::*;
use proptest::prelude::*;
use std::time::Duration;

fn event(n: u64) -> Event {
    Event::Issued {
        id: format!("spiffe://cluster.local/ns/shop/sa/w{n}"),
        serial: format!("{n:x}"),
        not_before: rfc3339(SystemTime::UNIX_EPOCH),
        not_after: rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(3600)),
        key_sha256: Sha256::of(&n.to_be_bytes()),
        issuer: "aa".into(),
        attestor: "join-token".into(),
        subject: "token".into(),
        workload: None,
    }
}

fn log(count: u64) -> (Vec<Vec<u8>>, Head) {
    let mut head = Head::EMPTY;
    let mut lines = Vec::new();
    for n in 0..count {
        let (line, next) = head.extend(event(n), SystemTime::UNIX_EPOCH).unwrap();
        lines.push(line);
        head = next;
    }
    (lines, head)
}

fn fault(lines: &[Vec<u8>], head: &Head) -> LogFault {
    verify(&*lines.concat(), Some(head), |_| {}).unwrap_err()
}

#[test]
fn a_whole_log_verifies_and_gives_its_entries() {
    let (lines, head) = log(5);
    let mut seen = Vec::new();
    let verified = verify(&*lines.concat(), Some(&head), |entry| seen.push(entry.seq)).unwrap();
    assert_eq!(
        verified,
        Verified {
            head,
            unacknowledged: 0,
            torn: 0
        }
    );
    assert_eq!(seen, [1, 2, 3, 4, 5]);
    assert_eq!(verify(&b""[..], None, |_| {}).unwrap().head, Head::EMPTY);
}

#[test]
fn truncation_removal_and_reordering_are_found() {
    let (lines, head) = log(5);
    assert_eq!(fault(&lines[..4], &head), LogFault::Truncated { expected: 5, found: 4 });
    assert_eq!(fault(&[], &head), LogFault::Truncated { expected: 5, found: 0 });
    assert_eq!(fault(&lines[1..], &head), LogFault::Order { line: 1, seq: 2 });
    let mut swapped = lines.clone();
    swapped.swap(1, 2);
    assert_eq!(fault(&swapped, &head), LogFault::Order { line: 2, seq: 3 });
    assert_eq!(verify(&*lines.concat(), None, |_| {}), Err(LogFault::NoHead));
}

#[test]
fn a_changed_or_replaced_entry_is_found_even_the_last_one() {
    let (mut lines, head) = log(3);
    let (_, two) = log(2);
    let (last, _) = two.extend(event(99), SystemTime::UNIX_EPOCH).unwrap();
    lines[2] = last;
    assert_eq!(fault(&lines, &head), LogFault::Head { line: 3 });
    let (mut lines, head) = log(3);
    lines[0] = String::from_utf8(lines[0].clone())
        .unwrap()
        .replace("w0", "w9")
        .into_bytes();
    assert_eq!(fault(&lines, &head), LogFault::Chain { line: 2 });
}

#[test]
fn lines_beyond_the_head_and_a_torn_one_are_told_apart_from_tampering() {
    let (lines, _) = log(3);
    let (_, head) = log(2);
    let mut bytes = lines.concat();
    bytes.extend_from_slice(&lines[0][..10]);
    let verified = verify(&*bytes, Some(&head), |_| {}).unwrap();
    assert_eq!(
        (verified.unacknowledged, verified.torn, verified.head.count),
        (1, 10, 3)
    );
}

#[test]
fn the_end_alone_tells_truncation_a_changed_last_line_and_what_follows() {
    let (lines, head) = log(3);
    let bytes = lines.concat();
    let end = |bytes: &[u8], head: &Head| {
        verify_end(
            bytes
                .get(usize::try_from(head.start_of_last()).unwrap()..)
                .unwrap_or_default(),
            head,
        )
    };
    assert_eq!(
        end(&bytes, &head),
        Ok(Verified {
            head,
            unacknowledged: 0,
            torn: 0
        })
    );
    assert_eq!(
        end(&bytes[..bytes.len() - 1], &head),
        Err(LogFault::Short { expected: head.bytes })
    );
    assert_eq!(end(b"", &head), Err(LogFault::Short { expected: head.bytes }));
    let mut changed = bytes.clone();
    let position = changed.len() - 20;
    changed[position] ^= 1;
    assert_eq!(end(&changed, &head), Err(LogFault::Head { line: 3 }));
    let (_, earlier) = log(2);
    assert_eq!(
        end(&bytes, &earlier),
        Ok(Verified {
            head,
            unacknowledged: 1,
            torn: 0
        })
    );
    assert_eq!(end(&bytes[..bytes.len() - 5], &earlier).unwrap().head, earlier);
    assert_eq!(
        end(b"", &Head::EMPTY),
        Ok(Verified {
            head: Head::EMPTY,
            unacknowledged: 0,
            torn: 0
        })
    );
}

proptest! {
    #[test]
    fn no_single_change_of_a_byte_goes_unnoticed(position in 0usize..1500, bit in 0u8..8) {
        let (lines, head) = log(4);
        let mut bytes = lines.concat();
        let position = position % bytes.len();
        bytes[position] ^= 1 << bit;
        let found = verify(&*bytes, Some(&head), |_| {});
        prop_assert!(found.is_err());
    }
}
