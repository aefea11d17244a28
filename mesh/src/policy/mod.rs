//! The policy table of one workload and the pure function that decides with it. Everything that any language says about
//! the workload (NetworkPolicy, PeerAuthentication, AuthorizationPolicy, RequestAuthentication) is compiled into one
//! [`Table`]; the `decide*` functions read it together with a [`Request`] and name the rule that decided. Nothing here
//! allocates on the way to a decision, backtracks, panics, reads a clock or touches the network.
//!
//! How a proxy uses it:
//! - [`Table::mtls_mode`] before the handshake: may plaintext come in on this port?
//! - [`decide_inbound`] with `http: None` for a connection that carries bytes (HTTP-only rules then follow spec §3.10).
//! - For a connection that carries HTTP: [`Table::needs_http`] says whether requests must be looked at at all;
//!   [`decide_connection`] gives the answer that holds for every request, if there is one, and [`decide_inbound`] with
//!   `http: Some(..)` decides each request.
//! - [`decide_outbound`] at the source: the egress half of NetworkPolicy.

mod authorization;
mod cidr;
mod decide;
mod decision;
mod explain;
mod matching;
mod network;
pub mod path;
mod provider;
mod reference;
mod request;
mod sketch;
mod table;
mod template;
mod text;
mod token;
pub mod wire;

pub use authorization::{
    Action, Attribute, AuthorizationPolicy, ClaimPath, Condition, Conditions, CustomPolicy, PathMatch,
    RequestPrincipalMatch, Rule, Texts,
};
pub use cidr::Cidr;
pub use decide::{
    Gates, OnConnection, authorize, decide, decide_connection, decide_inbound, decide_outbound, egress, gates, ingress,
    peer_authentication,
};
pub use decision::{Decision, MtlsMode, Shadow, Verdict, Why};
pub use explain::{Failed, Nearest, nearest_allow, nearest_egress, nearest_ingress};
pub use network::{
    LabelBits, LabelSelector, NamespaceMatch, NetworkGate, NetworkPolicy, NetworkRule, Operator, Peer, PortMatch,
    Requirement,
};
pub use path::{BadPath, PathNormalization};
pub use provider::{BodyInCheck, HttpCheck, PROVIDER_TIMEOUT, Provider, ProviderAddress, ProviderKind};
pub use reference::{Kind, ObjectRef, RuleRef};
pub use request::{
    Answer, Answers, Connection, Destination, Endpoint, Headers, Http, Principal, Protocol, Request, Source, Unanswered,
};
pub use table::{Authorization, MutualTls, Refusal, Table};
pub use template::{InvalidTemplate, Template};
pub use text::TextMatch;
pub use token::{ClaimHeader, TOKEN_TIMEOUT, TokenIssuer, TokenKeys, TokenPlace};
