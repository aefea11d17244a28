//! No connection outlives its grounds: whenever policy, trust or revocations change, and every second for what time
//! alone changes, each live connection is judged again and cut if it would not be let in now.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use squire_mesh::{
    bundle::TrustBundle,
    policy::{Decision, Why},
};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::{
    authorize::{self, Answer, OnConnection, Question, grounds, on_old_root},
    chunk,
    connection::{Carrier, Connection, Cut, Direction},
    destinations::of_family,
    ext_authz::NOBODY_ASKED,
    memory::{self, Housekeeping},
    report::Standing,
    shared::Shared,
    state::Snapshot,
};

const TICK: Duration = Duration::from_secs(1);
/// Ticks between two looks at idle links and idle metric series.
const HOUSEKEEPING: u32 = 5;

/// Runs until `stop`.
pub(crate) async fn watch(shared: Arc<Shared>, stop: CancellationToken) {
    let mut state = shared.state.clone();
    let mut credentials = shared.credentials.clone();
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut count: u32 = 0;
    let mut housekeeping = Housekeeping::new(TICK);
    loop {
        tokio::select! {
            changed = state.changed() => {
                if changed.is_err() { return }
                let snapshot = Arc::clone(&state.borrow_and_update());
                judge_all(&shared, &snapshot, true);
                shared.http2.sweep(&shared);
                tell_standing(&shared, &snapshot);
                housekeeping.untidy();
            }
            changed = credentials.changed() => {
                if changed.is_err() { return }
                sweep(&shared);
                shared.http2.sweep(&shared);
            }
            _ = ticks.tick() => {
                count = count.wrapping_add(1);
                let snapshot = shared.snapshot();
                judge_all(&shared, &snapshot, false);
                shared.http2.sweep(&shared);
                tell_standing(&shared, &snapshot);
                shared.callouts.refresh();
                rest_all(&shared);
                if count.is_multiple_of(HOUSEKEEPING) {
                    sweep(&shared);
                    shared.metrics.expire_idle_series();
                }
                if housekeeping.look(shared.metrics.opened_and_closed(), chunk::taken()) {
                    memory::tidy_up();
                }
            }
            () = stop.cancelled() => return,
        }
    }
}

/// Says whether live connections stand on a root that does not sign any more: while they do, it must not go.
fn tell_standing(shared: &Shared, snapshot: &Snapshot) {
    let own = snapshot.bundles.get(&shared.trust_domain);
    // Where one root is trusted, all that is alive stands on it.
    let several = own.is_some_and(|own| own.roots().len() > 1);
    let live = || shared.recorder.registry.all().into_iter();
    let old = |connection: Arc<Connection>| {
        let shares = connection.shares_upstreams();
        let facts = connection.facts();
        !shares && facts.peer.as_ref().is_some_and(|peer| on_old_root(snapshot, peer))
    };
    let signing = own.and_then(TrustBundle::signing);
    let handed = signing.is_some_and(|signing| shared.handed.any_not_on(signing.root, SystemTime::now()));
    let now = Standing {
        bundle: own.map_or(0, TrustBundle::sequence),
        on_old_root: several && (live().any(old) || shared.http2.any_on_old_root(snapshot) || handed),
    };
    shared.standing.send_if_modified(|told| {
        let changed = *told != now;
        *told = now;
        changed
    });
}

/// Closes idle connections that are old, lost or no longer ours.
fn sweep(shared: &Shared) {
    shared.upstreams.sweep(&shared.snapshot(), shared.generation());
    shared.pool.sweep();
}

/// What clients that are silent keep for their next request may be used by others, or closed.
fn rest_all(shared: &Shared) {
    let limit = shared.upstreams.idle_time();
    for connection in shared.recorder.registry.all() {
        if connection.direction == Direction::Outbound {
            connection.rest_after(limit);
        }
    }
}

/// Cuts everything that is still open.
pub(crate) fn cut_all(shared: &Shared, reason: Cut) {
    for connection in shared.recorder.registry.all() {
        connection.cut(reason);
    }
}

fn judge_all(shared: &Shared, snapshot: &Snapshot, policy_too: bool) {
    let now = SystemTime::now();
    for connection in shared.recorder.registry.all() {
        if let Err(cut) = judge(snapshot, &connection, now, policy_too) {
            connection.cut(cut);
        }
    }
}

/// Whether a live connection would be let in now.
fn judge(snapshot: &Snapshot, connection: &Connection, now: SystemTime, policy_too: bool) -> Result<(), Cut> {
    let shares = connection.shares_upstreams();
    let (peer, workload, port, upstream, carrier, application, judged, answered) = {
        let facts = connection.facts();
        (
            facts.peer.clone(),
            facts.peer_workload.clone(),
            facts.port,
            facts.upstream,
            facts.carrier,
            facts.application,
            facts.decision.is_some(),
            facts.answered.clone(),
        )
    };
    if let Some(peer) = peer.as_ref().filter(|_| !shares) {
        grounds(snapshot, peer, now)?;
        // An identity that was vouched for by hand never had a workload, and loses none.
        if workload.is_some_and(|uid| snapshot.workload(uid.as_str()).is_none()) {
            return Err(Cut::Gone);
        }
    }
    if !policy_too || !judged || carrier == Carrier::Unknown {
        return Ok(());
    }
    let answer = match (connection.direction, upstream) {
        (Direction::Inbound, _) => {
            let question = Question {
                peer: peer.as_deref(),
                remote: connection.client,
                local: connection.destination,
                port,
            };
            if application.is_http() {
                return match authorize::connection(snapshot, question) {
                    OnConnection::Decided(decision) if !decision.is_allowed() => Err(denied(connection, decision)),
                    OnConnection::Decided(_) => Ok(()),
                    OnConnection::PerRequest => {
                        connection.judge_again();
                        Ok(())
                    }
                };
            }
            // What providers said when it began still counts.
            let answered = answered.as_deref().unwrap_or(&NOBODY_ASKED);
            authorize::inbound(snapshot, question, answered)
        }
        (Direction::Outbound, _) if shares => {
            connection.judge_again();
            return Ok(());
        }
        (Direction::Outbound, Some(upstream)) => {
            let to = authorize::workload_at(snapshot, upstream, peer.as_deref());
            let me = snapshot.me.as_ref();
            let local = me.and_then(|me| of_family(&me.addresses, upstream.ip()));
            let local = local.map_or(connection.client, |ip| std::net::SocketAddr::new(ip, 0));
            let question = Question {
                peer: None,
                remote: upstream,
                local,
                port,
            };
            authorize::outbound(snapshot, question, to.as_deref())
        }
        (Direction::Outbound, None) => return Ok(()),
    };
    match answer {
        Answer::Permitted(_, decision) => {
            connection.facts().decision = Some(decision);
            Ok(())
        }
        Answer::Denied(decision) => Err(denied(connection, decision)),
        Answer::NotReady(_) => Err(Cut::Policy),
    }
}

fn denied(connection: &Connection, decision: Decision) -> Cut {
    let moved = decision.why == Why::AddressIdentityMismatch;
    connection.facts().decision = Some(decision);
    if moved { Cut::Address } else { Cut::Policy }
}
