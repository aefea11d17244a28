//! How a connection ended: where all errors of the data path meet. The exhaustive match below gives each a closed label
//! for metrics and logs and says whose fault it was. It formats; it decides nothing.

use std::io;

use crate::{
    connection::Cut,
    demand::Unanswered,
    dial::DialError,
    forward::Interrupted,
    link::{LinkError, frame::ResetReason},
    tls::{handshake::HandshakeError, records::RecordError},
};

/// Every label [`Outcome::label`] can return; a test keeps the two together.
pub(crate) const LABELS: [&str; 33] = [
    "complete",
    "denied",
    "not_ready",
    "unanswered",
    "plaintext_refused",
    "handshake_timeout",
    "handshake_closed",
    "handshake_too_large",
    "handshake_failed",
    "peer_refused_us",
    "peer_identity",
    "no_certificate",
    "no_protocol",
    "tls_incompatible",
    "tls_broken",
    "app_unreachable",
    "unreachable",
    "no_route",
    "app_reset",
    "peer_reset",
    "peer_lost",
    "peer_denied",
    "peer_app_unreachable",
    "protocol_error",
    "cut_policy",
    "cut_expired",
    "cut_revoked",
    "cut_untrusted",
    "cut_draining",
    "cut_address",
    "cut_gone",
    "limit",
    "abandoned",
];

/// Who has to look when a connection did not end well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nobody: it ended in order.
    None,
    /// The application beside this sidecar.
    Application,
    /// The peer, its sidecar or the network in between.
    Peer,
    /// Policy, as it is meant to.
    Policy,
    /// This sidecar, its limits or its configuration.
    Squire,
}

impl Fault {
    /// For logs.
    #[must_use]
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Application => "application",
            Self::Peer => "peer",
            Self::Policy => "policy",
            Self::Squire => "squire",
        }
    }
}

/// The end of one connection.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Both directions were closed in order.
    Complete,
    /// Policy refused it before a byte was forwarded. The reason stands in the record.
    Denied,
    /// There is no policy or identity to judge it by yet.
    NotReady(&'static str),
    /// The control plane did not say what the connection needs to be judged by.
    Unanswered(Unanswered),
    /// Bytes that are not mesh mutual TLS, on a port that takes nothing else.
    Plaintext,
    /// No finished handshake in time.
    HandshakeTimeout,
    /// The handshake failed, here or there.
    Handshake(HandshakeError),
    /// The peer finished a handshake but speaks no protocol of ours.
    NoProtocol,
    /// The application beside us could not be reached.
    AppUnreachable(DialError),
    /// The destination could not be reached.
    Unreachable(DialError),
    /// Nothing can be made of the destination.
    NoRoute(&'static str),
    /// Forwarding was interrupted.
    Interrupted(Interrupted),
    /// A limit was hit.
    Limit(&'static str),
    /// Its task ended without saying how: the net under everything else.
    Abandoned,
}

impl Outcome {
    /// The closed label.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Denied => "denied",
            Self::NotReady(_) => "not_ready",
            Self::Unanswered(_) => "unanswered",
            Self::Plaintext => "plaintext_refused",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::Handshake(error) => handshake_label(error),
            Self::NoProtocol => "no_protocol",
            Self::AppUnreachable(_) => "app_unreachable",
            Self::Unreachable(error) => dial_label(error),
            Self::NoRoute(_) => "no_route",
            Self::Interrupted(interrupted) => interrupted_label(interrupted),
            Self::Limit(_) => "limit",
            Self::Abandoned => "abandoned",
        }
    }

    /// Whose fault it was.
    pub(crate) fn fault(&self) -> Fault {
        match self {
            Self::Complete => Fault::None,
            Self::Denied => Fault::Policy,
            Self::NotReady(_) | Self::Unanswered(_) | Self::Limit(_) | Self::Abandoned => Fault::Squire,
            Self::Plaintext | Self::HandshakeTimeout | Self::Handshake(_) | Self::NoProtocol => Fault::Peer,
            Self::Unreachable(DialError::NoIdentity) => Fault::Squire,
            Self::Unreachable(_) => Fault::Peer,
            Self::AppUnreachable(_) | Self::NoRoute(_) => Fault::Application,
            Self::Interrupted(interrupted) => match interrupted {
                Interrupted::App(_) => Fault::Application,
                Interrupted::Far(_) | Interrupted::Link(_) => Fault::Peer,
                Interrupted::Reset(ResetReason::Denied) => Fault::Policy,
                Interrupted::Reset(_) => Fault::Peer,
                Interrupted::Cut(Cut::Draining) => Fault::Squire,
                Interrupted::Cut(_) => Fault::Policy,
            },
        }
    }

    /// One sentence for the access log; empty where there is nothing to say.
    pub(crate) fn detail(&self) -> String {
        match self {
            Self::Complete | Self::Denied => String::new(),
            Self::NotReady(what) => format!("refused: this sidecar has no {what} yet"),
            Self::Unanswered(unanswered) => unanswered.to_string(),
            Self::Plaintext => "the port takes mesh mutual TLS only (STRICT), and the client did not start it".into(),
            Self::HandshakeTimeout => "the TLS handshake was not finished in time".into(),
            Self::Handshake(error) => error.to_string(),
            Self::NoProtocol => "the peer offered neither squire/1 nor squire-tls/1 by ALPN".into(),
            Self::AppUnreachable(error) => format!("the application could not be reached: {error}"),
            Self::Unreachable(error) => error.to_string(),
            Self::NoRoute(why) => (*why).into(),
            Self::Interrupted(interrupted) => interrupted.to_string(),
            Self::Limit(limit) => format!("refused: the limit {limit} is reached"),
            Self::Abandoned => "the task serving it ended early".into(),
        }
    }
}

/// Why a handshake failed, for its metric: what is wrong with the certificate where that is to blame, the outcome's
/// label otherwise. Both are closed sets.
pub(crate) fn handshake_reason(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Handshake(error) => certificate_fault(error).unwrap_or_else(|| handshake_label(error)),
        other => other.label(),
    }
}

/// As [`handshake_reason`], for a handshake that we began.
pub(crate) fn dial_reason(error: &DialError) -> &'static str {
    match error {
        DialError::Handshake(error) => certificate_fault(error).unwrap_or_else(|| handshake_label(error)),
        DialError::Peer { source, .. } => source.label(),
        other => dial_label(other),
    }
}

fn certificate_fault(error: &HandshakeError) -> Option<&'static str> {
    match error {
        HandshakeError::Identity(error) => Some(error.label()),
        HandshakeError::Io(_)
        | HandshakeError::Closed
        | HandshakeError::Tls(_)
        | HandshakeError::TooLarge
        | HandshakeError::Records(_) => None,
    }
}

/// The closed label of a failed dial.
pub(crate) fn dial_label(error: &DialError) -> &'static str {
    match error {
        DialError::Handshake(error) => handshake_label(error),
        DialError::Io { .. } | DialError::Timeout { .. } => "unreachable",
        DialError::HandshakeTimeout { .. } => "handshake_timeout",
        DialError::Protocol { .. } => "no_protocol",
        DialError::Peer { .. } => "peer_identity",
        DialError::NoIdentity => "not_ready",
    }
}

/// The closed label of a failed handshake.
pub(crate) fn handshake_label(error: &HandshakeError) -> &'static str {
    match error {
        HandshakeError::Io(_) | HandshakeError::Closed => "handshake_closed",
        HandshakeError::TooLarge => "handshake_too_large",
        HandshakeError::Records(error) => record_label(error),
        HandshakeError::Identity(_) => "peer_identity",
        HandshakeError::Tls(error) => match error {
            rustls::Error::AlertReceived(_) => "peer_refused_us",
            rustls::Error::NoCertificatesPresented => "no_certificate",
            rustls::Error::NoApplicationProtocol => "no_protocol",
            rustls::Error::PeerIncompatible(_) => "tls_incompatible",
            _ => "handshake_failed",
        },
    }
}

fn record_label(error: &RecordError) -> &'static str {
    match error {
        RecordError::Alert { .. } => "peer_refused_us",
        RecordError::Malformed { .. }
        | RecordError::Unauthentic
        | RecordError::Unexpected(_)
        | RecordError::Idle
        | RecordError::Exhausted
        | RecordError::KeyUpdate => "tls_broken",
    }
}

fn interrupted_label(interrupted: &Interrupted) -> &'static str {
    match interrupted {
        Interrupted::App(_) => "app_reset",
        Interrupted::Far(_) => "peer_reset",
        Interrupted::Link(LinkError::Record(error)) => record_label(error),
        Interrupted::Link(LinkError::Frame(_) | LinkError::OutOfTurn) => "protocol_error",
        Interrupted::Link(LinkError::Io(_) | LinkError::Truncated) => "peer_lost",
        Interrupted::Reset(ResetReason::Denied) => "peer_denied",
        Interrupted::Reset(ResetReason::Unreachable) => "peer_app_unreachable",
        Interrupted::Reset(ResetReason::Aborted | ResetReason::Draining | ResetReason::Other(_)) => "peer_reset",
        Interrupted::Cut(cut) => cut.outcome_label(),
    }
}

/// The label of a failed accept.
pub(crate) fn accept_label(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE) => "descriptors",
        Some(libc::ENOBUFS | libc::ENOMEM) => "memory",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text of the two label functions above: whatever they can return has to stand in [`LABELS`].
    #[test]
    fn every_label_in_the_source_is_listed() {
        let source = include_str!("outcome.rs");
        let body =
            &source[source.find("impl Outcome").unwrap()..source.find("/// The label of a failed accept").unwrap()];
        for line in body.lines().filter(|line| line.contains("=> \"")) {
            let label = line.split("=> \"").nth(1).unwrap().split('"').next().unwrap();
            if label.chars().all(|c| c.is_ascii_lowercase() || c == '_') {
                assert!(LABELS.contains(&label), "{label} is not in LABELS");
            }
        }
        for cut in Cut::ALL {
            assert!(LABELS.contains(&cut.outcome_label()));
        }
    }
}
