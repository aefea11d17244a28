//! The frames of `squire/1`, the protocol between two squires inside mutual TLS: one application connection at a time,
//! one after another. Encoding and decoding only; what a frame does is decided in [`super::link`].
//!
//! A frame is one byte of kind, three bytes of length (big-endian), then the body. Unknown kinds end the connection.
//!
//! | kind | body | meaning |
//! |---|---|---|
//! | 0 DATA | bytes | of the open application connection |
//! | 1 OPEN | sequence u32, connection id u64 | the dialling side begins the next application connection |
//! | 2 FIN | – | the sender's half is closed; both halves closed: ready for the next OPEN |
//! | 3 RESET | sequence u32, reason u8 | the application connection is aborted; answered once with RESET |
//! | 4 GOAWAY | – | the accepting side wants no further OPEN here; one under way is still served |

/// Bytes of a frame header.
pub(crate) const HEADER: usize = 4;
/// Longest control frame.
pub(crate) const MAX_CONTROL: usize = HEADER + OPEN_BODY;
/// Largest length a header can state.
pub(crate) const MAX_DATA: usize = (1 << 24) - 1;

const OPEN_BODY: usize = 12;
const RESET_BODY: usize = 5;

const DATA: u8 = 0;
const OPEN: u8 = 1;
const FIN: u8 = 2;
const RESET: u8 = 3;
const GOAWAY: u8 = 4;

/// Why an application connection was reset, as the peer is told. The reason in words stays in the log of the side that
/// decided; a denied peer never learns the policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ResetReason {
    /// The application, or its network, aborted.
    Aborted,
    /// Policy does not allow it.
    Denied,
    /// The application behind the peer could not be reached.
    Unreachable,
    /// The peer is shutting down.
    Draining,
    /// A reason this version does not know.
    Other(u8),
}

impl ResetReason {
    fn code(self) -> u8 {
        match self {
            Self::Aborted => 0,
            Self::Denied => 1,
            Self::Unreachable => 2,
            Self::Draining => 3,
            Self::Other(code) => code,
        }
    }

    fn from_code(code: u8) -> Self {
        match code {
            0 => Self::Aborted,
            1 => Self::Denied,
            2 => Self::Unreachable,
            3 => Self::Draining,
            code => Self::Other(code),
        }
    }
}

/// A frame other than DATA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Control {
    Open { sequence: u32, id: u64 },
    Fin,
    Reset { sequence: u32, reason: ResetReason },
    GoAway,
}

impl Control {
    /// Writes the frame to the front of `out`; returns its length.
    pub(crate) fn encode(self, out: &mut [u8; MAX_CONTROL]) -> usize {
        let (kind, body) = match self {
            Self::Open { sequence, id } => {
                out[HEADER..HEADER + 4].copy_from_slice(&sequence.to_be_bytes());
                out[HEADER + 4..HEADER + OPEN_BODY].copy_from_slice(&id.to_be_bytes());
                (OPEN, OPEN_BODY)
            }
            Self::Fin => (FIN, 0),
            Self::Reset { sequence, reason } => {
                out[HEADER..HEADER + 4].copy_from_slice(&sequence.to_be_bytes());
                out[HEADER + 4] = reason.code();
                (RESET, RESET_BODY)
            }
            Self::GoAway => (GOAWAY, 0),
        };
        out[..HEADER].copy_from_slice(&[kind, 0, 0, body as u8]);
        HEADER + body
    }

    fn decode(kind: u8, body: &[u8]) -> Option<Self> {
        Some(match (kind, body) {
            (OPEN, &[a, b, c, d, ref id @ ..]) => Self::Open {
                sequence: u32::from_be_bytes([a, b, c, d]),
                id: u64::from_be_bytes(id.try_into().ok()?),
            },
            (FIN, []) => Self::Fin,
            (RESET, &[a, b, c, d, code]) => Self::Reset {
                sequence: u32::from_be_bytes([a, b, c, d]),
                reason: ResetReason::from_code(code),
            },
            (GOAWAY, []) => Self::GoAway,
            _ => return None,
        })
    }
}

/// Header of a DATA frame with `length` bytes (at most [`MAX_DATA`]).
pub(crate) fn data_header(length: usize) -> [u8; HEADER] {
    debug_assert!(length <= MAX_DATA);
    let [_, a, b, c] = (length as u32).to_be_bytes();
    [DATA, a, b, c]
}

/// A frame that cannot be: the peer does not speak `squire/1`, or not this version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the peer sent a squire/1 frame of kind {kind} with length {length}, which is not allowed")]
pub(crate) struct FrameError {
    /// The kind byte.
    pub kind: u8,
    /// The stated length.
    pub length: u32,
}

/// What the next bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Item {
    /// Part of a header or of a control frame; nothing to pass on yet.
    Partial,
    /// So many bytes of application data.
    Data,
    Control(Control),
}

/// Splits a stream of plaintext into frames; a frame may be cut anywhere.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    /// Bytes of the current DATA frame still to come.
    data: u32,
    /// The start of a header or control frame.
    held: [u8; MAX_CONTROL],
    held_length: u8,
}

impl Decoder {
    /// Takes bytes from the front of `bytes` (not empty): how many, and what they are.
    pub(crate) fn next(&mut self, bytes: &[u8]) -> Result<(usize, Item), FrameError> {
        if self.data > 0 {
            let length = bytes.len().min(self.data as usize);
            self.data -= length as u32;
            return Ok((length, Item::Data));
        }
        let mut taken = self.hold(HEADER, bytes);
        if usize::from(self.held_length) < HEADER {
            return Ok((taken, Item::Partial));
        }
        let [kind, a, b, c, ..] = self.held;
        let length = u32::from_be_bytes([0, a, b, c]);
        if kind == DATA {
            self.held_length = 0;
            self.data = length;
            return Ok((taken, Item::Partial));
        }
        let error = FrameError { kind, length };
        let whole = HEADER + length as usize;
        if whole > MAX_CONTROL {
            return Err(error);
        }
        taken += self.hold(whole, &bytes[taken..]);
        if usize::from(self.held_length) < whole {
            return Ok((taken, Item::Partial));
        }
        self.held_length = 0;
        let control = Control::decode(kind, &self.held[HEADER..whole]).ok_or(error)?;
        Ok((taken, Item::Control(control)))
    }

    /// Moves bytes into `held` until it has `want`; returns how many.
    fn hold(&mut self, want: usize, bytes: &[u8]) -> usize {
        let have = usize::from(self.held_length);
        let take = want.saturating_sub(have).min(bytes.len());
        self.held[have..have + take].copy_from_slice(&bytes[..take]);
        self.held_length += take as u8;
        take
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone, PartialEq, Eq)]
    enum Sent {
        Data(Vec<u8>),
        Control(Control),
    }

    fn frames() -> impl Strategy<Value = Vec<Sent>> {
        let control = prop_oneof![
            (any::<u32>(), any::<u64>()).prop_map(|(sequence, id)| Control::Open { sequence, id }),
            Just(Control::Fin),
            (any::<u32>(), any::<u8>()).prop_map(|(sequence, code)| Control::Reset {
                sequence,
                reason: ResetReason::from_code(code)
            }),
            Just(Control::GoAway),
        ];
        let frame = prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..300).prop_map(Sent::Data),
            control.prop_map(Sent::Control),
        ];
        proptest::collection::vec(frame, 0..20)
    }

    fn encode(frames: &[Sent]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for frame in frames {
            match frame {
                Sent::Data(data) => {
                    bytes.extend_from_slice(&data_header(data.len()));
                    bytes.extend_from_slice(data);
                }
                Sent::Control(control) => {
                    let mut out = [0; MAX_CONTROL];
                    let length = control.encode(&mut out);
                    bytes.extend_from_slice(&out[..length]);
                }
            }
        }
        bytes
    }

    /// Adjacent data merges and empty data vanishes: only bytes and their order matter.
    fn normal(frames: Vec<Sent>) -> Vec<Sent> {
        let mut out: Vec<Sent> = Vec::new();
        for frame in frames {
            match (out.last_mut(), frame) {
                (_, Sent::Data(data)) if data.is_empty() => {}
                (Some(Sent::Data(before)), Sent::Data(data)) => before.extend(data),
                (_, frame) => out.push(frame),
            }
        }
        out
    }

    proptest! {
        #[test]
        fn frames_survive_being_cut_anywhere(sent in frames(), cut in 1usize..40) {
            let mut decoder = Decoder::default();
            let mut received = Vec::new();
            for piece in encode(&sent).chunks(cut) {
                let mut rest = piece;
                while !rest.is_empty() {
                    let (taken, item) = decoder.next(rest).unwrap();
                    prop_assert!(taken > 0);
                    match item {
                        Item::Data => received.push(Sent::Data(rest[..taken].to_vec())),
                        Item::Control(control) => received.push(Sent::Control(control)),
                        Item::Partial => {}
                    }
                    rest = &rest[taken..];
                }
            }
            prop_assert_eq!(normal(received), normal(sent));
        }

        #[test]
        fn no_bytes_panic_or_stall(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let mut decoder = Decoder::default();
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                match decoder.next(rest) {
                    Ok((taken, _)) => { prop_assert!(taken > 0); rest = &rest[taken..]; }
                    Err(_) => break,
                }
            }
        }
    }

    #[test]
    fn an_unknown_kind_or_a_long_control_frame_is_refused() {
        assert_eq!(
            Decoder::default().next(&[9, 0, 0, 0]),
            Err(FrameError { kind: 9, length: 0 })
        );
        assert_eq!(
            Decoder::default().next(&[2, 0, 1, 0]),
            Err(FrameError { kind: 2, length: 256 })
        );
        assert_eq!(
            Decoder::default().next(&[1, 0, 0, 2, 0, 0]),
            Err(FrameError { kind: 1, length: 2 })
        );
    }
}
