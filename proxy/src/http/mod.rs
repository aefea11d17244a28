//! HTTP as the sidecar sees it, whatever version carries it: the view of a request that policy, tokens, providers and
//! routes look at, the edits they ask for, the replies we give ourselves, and the record of each request.

mod detect;
mod edits;
mod exchange;
mod flag;
mod forwarded;
mod gate;
pub(crate) mod h1;
pub(crate) mod h2;
mod reply;
#[cfg(test)]
pub(crate) mod test;
mod view;
mod way;

pub(crate) use self::{
    detect::{Declared, detect},
    edits::Edits,
    exchange::{Exchange, Target},
    flag::Flag,
    forwarded::Forwarded,
    gate::{Gate, Refused, Standing},
    reply::LocalReply,
    view::{Fields, RequestView, Version},
    way::{Chosen, Course, Way},
};
