//! How a request ended, as a closed label for metrics and logs: the application's own answer, or why there was another.

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Flag {
    /// The upstream's response was passed on whole.
    Ok,
    /// Policy denied it.
    Denied,
    /// Its token was refused (401).
    Unauthenticated,
    /// An external provider denied it.
    ProviderDenied,
    /// It could not be understood safely, or was larger than allowed.
    Malformed,
    /// A route answered by itself (redirect, no backend).
    RouteReply,
    /// Nothing is known to send it to.
    NoRoute,
    /// The upstream could not be reached.
    Unreachable,
    /// A limit on pending or active requests was reached.
    Overflow,
    /// The upstream took longer than allowed.
    Timeout,
    /// The upstream broke off, or answered nonsense.
    UpstreamReset,
    /// The client broke off.
    ClientGone,
    /// It was cut: its grounds went away while it was open.
    Cut,
    /// This sidecar is shutting down or has no policy or identity yet.
    NotReady,
    /// The control plane did not say what it needs to be sent anywhere.
    Unanswered,
    /// Its task ended without saying how.
    Abandoned,
}

impl Flag {
    /// All of them.
    #[cfg(test)]
    pub(crate) const ALL: [Self; 16] = [
        Self::Ok,
        Self::Denied,
        Self::Unauthenticated,
        Self::ProviderDenied,
        Self::Malformed,
        Self::RouteReply,
        Self::NoRoute,
        Self::Unreachable,
        Self::Overflow,
        Self::Timeout,
        Self::UpstreamReset,
        Self::ClientGone,
        Self::Cut,
        Self::NotReady,
        Self::Unanswered,
        Self::Abandoned,
    ];

    /// The closed label.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Denied => "denied",
            Self::Unauthenticated => "unauthenticated",
            Self::ProviderDenied => "provider_denied",
            Self::Malformed => "malformed",
            Self::RouteReply => "route_reply",
            Self::NoRoute => "no_route",
            Self::Unreachable => "unreachable",
            Self::Overflow => "overflow",
            Self::Timeout => "timeout",
            Self::UpstreamReset => "upstream_reset",
            Self::ClientGone => "client_gone",
            Self::Cut => "cut",
            Self::NotReady => "not_ready",
            Self::Unanswered => "unanswered",
            Self::Abandoned => "abandoned",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_distinct() {
        let labels: std::collections::HashSet<_> = Flag::ALL.iter().map(|flag| flag.as_str()).collect();
        assert_eq!(labels.len(), Flag::ALL.len());
    }
}
