//! HTTP as the sidecar sees it, whatever version carries it: the view of a request that policy, tokens, providers and
//! routes look at, the edits they ask for, and the replies we give ourselves. Moves no bytes.

mod edits;
mod reply;
mod view;

#[allow(unused_imports, reason = "the versions of HTTP that use them are on their way")]
pub(crate) use self::{
    edits::Edits,
    reply::LocalReply,
    view::{Fields, RequestView, Version},
};
