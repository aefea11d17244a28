//! HTTP/1.0 and 1.1: heads are read strictly, judged and written anew; bodies are forwarded as the bytes they are.

mod ahead;
mod answer;
mod attempt;
mod body;
mod broken;
#[cfg(test)]
mod differential;
pub(crate) mod head;
mod idle;
mod inbound;
mod outbound;
mod receive;
mod relay;
mod scratch;
mod serve;
mod side;
mod slow;
mod tunnel;
mod wire;

pub(crate) use self::{
    idle::{IdleUp, IdleUpstreams, UpKey},
    inbound::Inbound,
    outbound::{Outbound, UpWire},
    scratch::release,
    serve::serve,
    wire::{LinkWire, TcpWire, Wire},
};

/// Every reason for which a request is refused before it is judged.
pub(crate) const REFUSALS: [&str; 8] = {
    let [a, b, c, d, e, f] = head::Bad::LABELS;
    [a, b, c, d, e, f, answer::SLOW, answer::STALLED]
};
