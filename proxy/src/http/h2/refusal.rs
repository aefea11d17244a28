//! Why a client's connection or request was refused at the level of HTTP/2: a closed label for one metric.

use h2::Reason;

use super::wire::Error;

/// What a client did that is not put up with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Refusal {
    /// A request that breaks RFC 9113 §8, or cannot be understood safely: answered 400.
    Malformed = 1,
    /// Not the client preface, or not in time.
    Preface,
    /// Streams opened and reset at once, again and again.
    RapidReset,
    /// One header block in ever more CONTINUATION frames.
    ContinuationFlood,
    /// A header list beyond the limit: answered 431, or so far beyond it that the connection ends.
    HeaderList,
    /// More PING frames than anybody needs.
    PingFlood,
    /// More SETTINGS frames than anybody needs.
    SettingsFlood,
    /// More PRIORITY or unknown frames than anybody needs.
    FrameFlood,
    /// DATA frames so small that they cost more than they carry.
    TinyFrames,
    /// More streams than allowed, or broken ones, again and again.
    StreamErrors,
    /// It overran a window.
    FlowControl,
    /// A header block that HPACK cannot decode.
    Compression,
    /// It broke the protocol in another way.
    Protocol,
    /// It takes nothing of what waits for it, or answers no PING.
    Stalled,
    /// The body that a provider has to see did not come in time: answered 408.
    SlowBody,
    /// The end of a header block did not come in time.
    SlowHead,
}

impl Refusal {
    /// All of them, for metrics that start at zero.
    pub(crate) const ALL: [Self; 16] = [
        Self::Malformed,
        Self::Preface,
        Self::RapidReset,
        Self::ContinuationFlood,
        Self::HeaderList,
        Self::PingFlood,
        Self::SettingsFlood,
        Self::FrameFlood,
        Self::TinyFrames,
        Self::StreamErrors,
        Self::FlowControl,
        Self::Compression,
        Self::Protocol,
        Self::Stalled,
        Self::SlowBody,
        Self::SlowHead,
    ];

    /// The closed label.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Preface => "preface",
            Self::RapidReset => "rapid_reset",
            Self::ContinuationFlood => "continuation_flood",
            Self::HeaderList => "header_list",
            Self::PingFlood => "ping_flood",
            Self::SettingsFlood => "settings_flood",
            Self::FrameFlood => "frame_flood",
            Self::TinyFrames => "tiny_frames",
            Self::StreamErrors => "stream_errors",
            Self::FlowControl => "flow_control",
            Self::Compression => "compression",
            Self::Protocol => "protocol",
            Self::Stalled => "stalled",
            Self::SlowBody => "slow_body",
            Self::SlowHead => "slow_head",
        }
    }

    pub(super) fn from_u8(value: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|refusal| *refusal as u8 == value)
    }
}

/// Frames of a connection so far that are told apart to name what a client was doing when it was refused.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Seen {
    pub(super) headers: u32,
    pub(super) resets: u32,
    pub(super) data: u32,
    /// CONTINUATION frames of one header block.
    pub(super) continuations: u32,
}

/// What the error is that the protocol library has ended a connection with; none: not the client's doing.
pub(super) fn refusal_of(error: &Error, seen: Seen) -> Option<Refusal> {
    Some(match error.broken_by_peer()? {
        Reason::FLOW_CONTROL_ERROR => Refusal::FlowControl,
        Reason::COMPRESSION_ERROR => Refusal::Compression,
        Reason::ENHANCE_YOUR_CALM if seen.continuations > 1 => Refusal::ContinuationFlood,
        Reason::ENHANCE_YOUR_CALM if seen.resets > 0 && seen.resets >= seen.headers / 2 => Refusal::RapidReset,
        Reason::ENHANCE_YOUR_CALM if seen.data > seen.headers => Refusal::TinyFrames,
        Reason::ENHANCE_YOUR_CALM if seen.headers <= 1 => Refusal::HeaderList,
        Reason::ENHANCE_YOUR_CALM => Refusal::StreamErrors,
        _ => Refusal::Protocol,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_label_of_its_own_and_survives_its_number() {
        let labels: std::collections::HashSet<_> = Refusal::ALL.iter().map(|refusal| refusal.as_str()).collect();
        assert_eq!(labels.len(), Refusal::ALL.len());
        for refusal in Refusal::ALL {
            assert_eq!(Refusal::from_u8(refusal as u8), Some(refusal));
        }
        assert_eq!(Refusal::from_u8(0), None);
    }
}
