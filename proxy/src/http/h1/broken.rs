//! Why a request and its response did not both reach their ends: what is said of it in metrics and logs, and whose fault
//! it was.

use std::{io, time::Duration};

use super::{body::BadBody, head::Bad};
use crate::{
    connection::{Connection, Cut},
    forward::Interrupted,
    http::Flag,
    outcome::Outcome,
};

/// Why a request and its response did not both reach their ends.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    /// The client's connection failed or ended in the middle of the request.
    #[error("the client broke off: {0}")]
    Client(io::Error),
    /// The client took nothing of the response that waited for it.
    #[error("the client takes nothing of its response")]
    Stalled,
    /// The client's body is not framed as it says.
    #[error("the request's body: {0}")]
    BadRequest(BadBody),
    /// The upstream's connection failed or ended in the middle of the response.
    #[error("the upstream broke off: {0}")]
    Upstream(io::Error),
    /// The upstream's response cannot be passed on safely.
    #[error("the upstream's response: {0}")]
    BadResponse(Bad),
    /// The upstream's body is not framed as it says.
    #[error("the response's body: {0}")]
    BadResponseBody(BadBody),
    /// The time for the request is over.
    #[error("the upstream took too long")]
    Late,
    /// The response was held back: the request is to be sent again after so long.
    #[error("the request is to be sent again")]
    Held(Duration),
    /// The connection was cut.
    #[error("cut: {0}")]
    Cut(Cut),
    /// Policy no longer admits the request.
    #[error("policy no longer admits the request")]
    NoLongerAdmitted,
}

/// As requests are counted.
pub(super) fn flag_of(broken: &Broken) -> Flag {
    match broken {
        Broken::Client(_) | Broken::Stalled => Flag::ClientGone,
        Broken::BadRequest(_) => Flag::Malformed,
        Broken::Upstream(_) | Broken::BadResponse(_) | Broken::BadResponseBody(_) => Flag::UpstreamReset,
        Broken::Late | Broken::Held(_) => Flag::Timeout,
        Broken::Cut(_) => Flag::Cut,
        Broken::NoLongerAdmitted => Flag::Denied,
    }
}

/// As their connection is.
pub(super) fn outcome_of(connection: &Connection, broken: Broken) -> Outcome {
    let invalid = |error: String| io::Error::new(io::ErrorKind::InvalidData, error);
    Outcome::Interrupted(match broken {
        Broken::Client(error) => connection.near_failed(error),
        Broken::Stalled => connection.near_failed(io::ErrorKind::TimedOut.into()),
        Broken::BadRequest(error) => connection.near_failed(invalid(error.to_string())),
        Broken::Upstream(error) => connection.far_failed(error),
        Broken::BadResponse(error) => connection.far_failed(invalid(error.to_string())),
        Broken::BadResponseBody(error) => connection.far_failed(invalid(error.to_string())),
        Broken::Late | Broken::Held(_) => connection.far_failed(io::ErrorKind::TimedOut.into()),
        Broken::Cut(cut) => Interrupted::Cut(cut),
        Broken::NoLongerAdmitted => Interrupted::Cut(Cut::Policy),
    })
}
