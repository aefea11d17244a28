//! Where an admin's command is done: by the process that runs the CA, over the socket in its directory, or here when
//! nobody runs it. There is one writer of a CA's state at any time.

use std::{sync::Arc, time::SystemTime};

use anyhow::anyhow;
use squire_ca::{
    admin::{Command, Reply, ask, execute},
    authority::CertificateAuthority,
    store::StoreError,
};

use super::Place;
use crate::exit::Failure;

/// Has a command done. What the CA refuses is a failure here.
pub(super) fn perform(place: &Place, command: Command) -> Result<Reply, Failure> {
    let reply = match place.open() {
        Ok(store) => {
            let now = SystemTime::now();
            let ca = CertificateAuthority::open(Arc::new(store), None, now)?;
            execute(&ca, command, now)
        }
        Err(StoreError::Locked { .. }) => ask(&place.dir, &command).map_err(Failure::unavailable)?,
        Err(other) => return Err(other.into()),
    };
    match reply {
        Reply::Refused { mistaken: true, why } => Err(Failure::usage(anyhow!(why))),
        Reply::Refused { mistaken: false, why } => Err(Failure::unavailable(anyhow!(why))),
        done => Ok(done),
    }
}

/// Another answer than the command has.
pub(super) fn unexpected(reply: &Reply) -> Failure {
    Failure::unavailable(anyhow!(
        "the process that runs this CA answered something else ({reply:?}): is it another version of squire?"
    ))
}
