//! The limit on open files: raised as far as we may, because every connection takes two. It lowers nothing.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Listeners, admin, control plane, access log.
const OWN: u64 = 128;

/// Raises the soft limit to the hard one, and says so if that is not enough for `connections`.
pub(crate) fn raise(connections: usize) {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let now = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(error) => {
            tracing::warn!(%error, "the limit on open files cannot be raised");
            limit.current
        }
    };
    let needed = 2 * connections as u64 + OWN;
    if let Some(open_files) = now.filter(|now| *now < needed) {
        tracing::info!(
            open_files,
            needed,
            "limits.maxConnections cannot be reached: the limit on open files comes first; raise it, or lower that"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        raise(1);
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
    }
}
