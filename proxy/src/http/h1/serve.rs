//! Serving the HTTP/1 requests of one client connection, one after another: read a head, let the side judge it and reach
//! an upstream, relay, count. A request that comes early waits in the client's socket for its turn.

use std::sync::Arc;

use super::{
    answer::{finish, late, refuse},
    attempt::one,
    receive::{Idle, Unread, idle, read_head},
    scratch,
    side::Side,
    wire::Wire,
};
use crate::{
    connection::{Application, Connection},
    forward::Interrupted,
    outcome::Outcome,
    shared::Shared,
};

/// Serves the client at the other end of `down` until one of us ends the connection.
pub(crate) async fn serve<D: Wire + Send, S: Side>(
    shared: &Shared,
    connection: &Arc<Connection>,
    down: &mut D,
    side: &mut S,
) -> Outcome {
    connection.facts().application = Application::Http1;
    loop {
        match idle(connection, &shared.draining, down, side).await {
            Idle::Input => {}
            Idle::Over => {
                finish(down).await;
                return Outcome::Complete;
            }
            Idle::Failed(error) => return Outcome::Interrupted(connection.near_failed(error)),
            Idle::Cut(cut) => return Outcome::Interrupted(Interrupted::Cut(cut)),
        }
        let mut head = scratch::take_request();
        let read = read_head(connection, down, &mut head, side.normalization(), shared.head_timeout).await;
        let step = match read {
            Ok(()) => one(shared, connection, down, side, &head).await,
            Err(Unread::Bad(bad)) => refuse(shared, connection, down, bad).await,
            Err(Unread::Late) => late(shared, connection, down).await,
            Err(Unread::Failed(error)) => Step::End(Outcome::Interrupted(connection.near_failed(error))),
            Err(Unread::Cut(cut)) => Step::End(Outcome::Interrupted(Interrupted::Cut(cut))),
        };
        scratch::give_request(head);
        match step {
            Step::Next => {}
            Step::Finish(outcome) => {
                finish(down).await;
                return outcome;
            }
            Step::End(outcome) => {
                down.abort();
                return outcome;
            }
        }
    }
}

/// What follows a request.
pub(super) enum Step {
    /// The next one.
    Next,
    /// The end of the connection, in order.
    Finish(Outcome),
    /// The end of the connection, as a failure.
    End(Outcome),
}
