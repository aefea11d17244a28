//! Letting go of the oldest part of a log that is kept in parts, so that it does not grow for ever. Only what concerns nobody
//! goes: every certificate in it has ended. The log says so before it happens, with the hash that the first entry left
//! continues; roots and intermediates are said once more.

use std::time::SystemTime;

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{Entry, Event, Log, LogError, LogFault};
use crate::store::Store;

/// Lets the oldest parts go as long as more than `keep` bytes are left without them. Says how many entries went. Blocks.
///
/// # Errors
/// When the store fails, or a part holds what is no entry; what has not been let go then is still there.
pub(crate) fn prune(store: &dyn Store, log: &Log, keep: u64, now: SystemTime) -> Result<u64, LogError> {
    let mut gone = 0;
    while let Some(part) = store.oldest_log_part()? {
        let head = store.log_head()?.ok_or(LogError::Fault(LogFault::NoHead))?;
        if head.bytes.saturating_sub(part.end.bytes) < keep {
            break;
        }
        let Some(carried) = carried(&part.lines, now)? else {
            break;
        };
        let event = Event::Pruned {
            entries: part.end.count,
            hash: part.end.hash,
            carried,
        };
        log.append_blocking(event, now)?;
        store.drop_log_part(&part)?;
        gone += part.end.count - part.base.count;
    }
    Ok(gone)
}

/// What has to be said once more of a part; none where it still concerns somebody.
fn carried(lines: &[u8], now: SystemTime) -> Result<Option<Vec<Event>>, LogError> {
    let mut carried = Vec::new();
    for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let entry: Entry = serde_json::from_slice(line).map_err(|error| {
            LogError::Fault(LogFault::NotAnEntry {
                line: 0,
                reason: error.to_string(),
            })
        })?;
        match entry.event {
            Event::Issued { not_after, .. } | Event::JwtSvid { not_after, .. } if !has_ended(&not_after, now) => {
                return Ok(None);
            }
            Event::Root { .. } | Event::Intermediate { .. } => carried.push(entry.event),
            Event::Pruned { carried: earlier, .. } => carried.extend(earlier),
            Event::Issued { .. }
            | Event::JwtSvid { .. }
            | Event::JwtKey { .. }
            | Event::Restarted { .. }
            | Event::Restored { .. }
            | Event::Rotation { .. }
            | Event::Revoked { .. }
            | Event::Unrevoked { .. } => {}
        }
    }
    Ok(Some(carried))
}

/// A time that cannot be read is taken for one to come.
fn has_ended(not_after: &str, now: SystemTime) -> bool {
    OffsetDateTime::parse(not_after, &Rfc3339).is_ok_and(|end| SystemTime::from(end) < now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{digest::Sha256, log::Head};

    fn line(head: &mut Head, event: Event) -> Vec<u8> {
        let (line, next) = head.extend(event, SystemTime::UNIX_EPOCH).unwrap();
        *head = next;
        line
    }

    #[test]
    fn a_part_goes_only_when_everything_in_it_has_ended_and_its_roots_are_carried() {
        let mut head = Head::EMPTY;
        let root = Event::Root {
            key_id: "r".into(),
            sha256: Sha256::of(b"r"),
            not_after: "2040-01-01T00:00:00Z".into(),
        };
        let token = Event::JwtSvid {
            id: "spiffe://td/x".into(),
            jti: "j".into(),
            audience: vec![],
            not_after: "1970-01-01T01:00:00Z".into(),
            kid: "k".into(),
            attestor: "a".into(),
            subject: "s".into(),
        };
        let pruned = Event::Pruned {
            entries: 3,
            hash: Sha256::of(b"x"),
            carried: vec![root.clone()],
        };
        let lines: Vec<u8> = [pruned, root.clone(), token]
            .into_iter()
            .flat_map(|event| line(&mut head, event))
            .collect();
        let at = |seconds| SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        assert_eq!(carried(&lines, at(3600)).unwrap(), None, "a token is valid still");
        assert_eq!(carried(&lines, at(3601)).unwrap(), Some(vec![root.clone(), root]));
        assert!(carried(b"nonsense", at(0)).is_err());
    }
}
