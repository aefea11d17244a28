//! How far a message body reaches (RFC 9112 §6): found out while its bytes pass, without changing them. A chunked body is
//! checked to the letter, so that no two parsers can disagree about where it ends.

use super::head::is_barred_from_trailers;

/// Longest chunk-size line with its extensions.
const MAX_LINE: u32 = 4096;
/// Longest trailer section.
const MAX_TRAILERS: u32 = 16 * 1024;

/// Longest name of a field that may not be a trailer.
const LONGEST: usize = 23;

/// The length of a body, as its head declares it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Length {
    /// There is none.
    None,
    /// `content-length`.
    Exact(u64),
    /// `transfer-encoding: chunked`.
    Chunked,
    /// Until the sender closes (responses only).
    UntilClose,
}

/// A body that cannot be understood safely.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed chunked body: {0}")]
pub(crate) struct BadBody(&'static str);

/// Where in its body a message is.
#[derive(Debug, Clone)]
pub(crate) struct Body(State);

#[derive(Debug, Clone)]
enum State {
    Done,
    Exact(u64),
    UntilClose,
    Chunked(Chunked),
}

impl Body {
    pub(crate) fn new(length: Length) -> Self {
        Self(match length {
            Length::None | Length::Exact(0) => State::Done,
            Length::Exact(length) => State::Exact(length),
            Length::UntilClose => State::UntilClose,
            Length::Chunked => State::Chunked(Chunked::default()),
        })
    }

    /// A request's, whose trailers may not claim what only heads, or only squires, say.
    pub(crate) fn of_request(length: Length) -> Self {
        let mut body = Self::new(length);
        if let State::Chunked(chunked) = &mut body.0 {
            chunked.of_request = true;
        }
        body
    }

    /// Whether the body is over.
    pub(crate) fn is_done(&self) -> bool {
        matches!(self.0, State::Done)
    }

    /// How many bytes are to come, where that is known.
    pub(crate) fn left(&self) -> Option<u64> {
        match self.0 {
            State::Done => Some(0),
            State::Exact(left) => Some(left),
            State::UntilClose | State::Chunked(_) => None,
        }
    }

    /// Whether only the end of the connection ends it.
    pub(crate) fn ends_with_connection(&self) -> bool {
        matches!(self.0, State::UntilClose)
    }

    /// Goes on over bytes that follow; returns how many of them belong to the body. Less than all: it is over.
    ///
    /// # Errors
    /// When chunked framing is broken; nothing that follows may be passed on.
    pub(crate) fn scan(&mut self, bytes: &[u8]) -> Result<usize, BadBody> {
        self.scan_data(bytes, |_| {})
    }

    /// The same; `data` is given what the bytes carry, without framing.
    pub(crate) fn scan_data(&mut self, bytes: &[u8], mut data: impl FnMut(&[u8])) -> Result<usize, BadBody> {
        match &mut self.0 {
            State::Done => Ok(0),
            State::UntilClose => {
                data(bytes);
                Ok(bytes.len())
            }
            State::Exact(left) => {
                let taken = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                data(&bytes[..taken]);
                *left -= taken as u64;
                if *left == 0 {
                    self.0 = State::Done;
                }
                Ok(taken)
            }
            State::Chunked(chunked) => {
                let taken = chunked.scan(bytes, data)?;
                if chunked.at == At::Over {
                    self.0 = State::Done;
                }
                Ok(taken)
            }
        }
    }
}

/// Chunked transfer coding (RFC 9112 §7.1), byte for byte.
#[derive(Debug, Clone)]
struct Chunked {
    at: At,
    /// Bytes of the current chunk that are to come; the size while it is being read.
    left: u64,
    /// Bytes of the current line, or of the trailers.
    length: u32,
    of_request: bool,
    /// The name of the current trailer field, as far as it may matter, and how long it is.
    name: [u8; LONGEST],
    named: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// Before the first digit of a size.
    Size,
    /// After a digit.
    Digits,
    /// In an extension.
    Extension,
    /// After the CR of the size line.
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// At the start of a trailer line.
    Trailer,
    /// In the name of a trailer field.
    TrailerName,
    /// In its value.
    TrailerValue,
    /// After the CR of a trailer line.
    TrailerLf,
    /// After the CR of the empty line.
    LastLf,
    Over,
}

impl Default for Chunked {
    fn default() -> Self {
        Self {
            at: At::Size,
            left: 0,
            length: 0,
            of_request: false,
            name: [0; LONGEST],
            named: 0,
        }
    }
}

impl Chunked {
    fn scan(&mut self, bytes: &[u8], mut data: impl FnMut(&[u8])) -> Result<usize, BadBody> {
        let mut at = 0;
        while at < bytes.len() && self.at != At::Over {
            if self.at == At::Data {
                let taken = (bytes.len() - at).min(usize::try_from(self.left).unwrap_or(usize::MAX));
                data(&bytes[at..at + taken]);
                self.left -= taken as u64;
                at += taken;
                if self.left == 0 {
                    self.at = At::DataCr;
                }
                continue;
            }
            self.step(bytes[at])?;
            at += 1;
        }
        Ok(at)
    }

    fn step(&mut self, byte: u8) -> Result<(), BadBody> {
        self.at = match (self.at, byte) {
            (At::Size | At::Digits, digit) if digit.is_ascii_hexdigit() => {
                self.digit(digit)?;
                At::Digits
            }
            (At::Digits, b'\r') => At::SizeLf,
            (At::Digits, b';') => At::Extension,
            (At::Extension, b'\r') => At::SizeLf,
            (At::Extension, text) if is_text(text) => {
                self.longer(MAX_LINE, "a chunk extension is too long")?;
                At::Extension
            }
            (At::SizeLf, b'\n') if self.left == 0 => {
                self.length = 0;
                At::Trailer
            }
            (At::SizeLf, b'\n') => At::Data,
            (At::DataCr, b'\r') => At::DataLf,
            (At::DataLf, b'\n') => {
                (self.left, self.length) = (0, 0);
                At::Size
            }
            (At::Trailer, b'\r') => At::LastLf,
            (At::Trailer | At::TrailerName, name) if is_token(name) => {
                self.longer(MAX_TRAILERS, "the trailers are too long")?;
                self.name(name);
                At::TrailerName
            }
            (At::TrailerName, b':') => {
                self.named_well()?;
                At::TrailerValue
            }
            (At::TrailerValue, b'\r') => At::TrailerLf,
            (At::TrailerValue, text) if is_text(text) => {
                self.longer(MAX_TRAILERS, "the trailers are too long")?;
                At::TrailerValue
            }
            (At::TrailerLf, b'\n') => At::Trailer,
            (At::LastLf, b'\n') => At::Over,
            (At::Size | At::Digits | At::Extension | At::SizeLf, _) => return Err(BadBody("a chunk size is not one")),
            (At::DataCr | At::DataLf, _) => return Err(BadBody("a chunk is not followed by CR LF")),
            (At::Data | At::Over, _) => return Err(BadBody("there is data where none can be")),
            _ => return Err(BadBody("a trailer field is not one")),
        };
        Ok(())
    }

    fn digit(&mut self, digit: u8) -> Result<(), BadBody> {
        // More digits than a u64 has, leading zeros included, serve nobody.
        self.longer(16, "a chunk size is too long")?;
        let value = char::from(digit).to_digit(16).map_or(0, u64::from);
        self.left = self.left << 4 | value;
        Ok(())
    }

    /// One byte more of a trailer's name.
    fn name(&mut self, byte: u8) {
        if self.at == At::Trailer {
            self.named = 0;
        }
        if let Some(place) = self.name.get_mut(self.named) {
            *place = byte;
        }
        self.named += 1;
    }

    fn named_well(&self) -> Result<(), BadBody> {
        let name = self.name.get(..self.named).unwrap_or_default();
        match self.of_request && is_barred_from_trailers(name) {
            true => Err(BadBody("a trailer field that may not be one")),
            false => Ok(()),
        }
    }

    fn longer(&mut self, limit: u32, otherwise: &'static str) -> Result<(), BadBody> {
        self.length += 1;
        if self.length > limit {
            return Err(BadBody(otherwise));
        }
        Ok(())
    }
}

/// What may stand in a field value or a chunk extension: no control character but the tab.
fn is_text(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

/// `tchar` (RFC 9110 §5.6.2).
pub(super) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(length: Length, bytes: &[u8]) -> Result<(usize, bool), BadBody> {
        let mut body = Body::new(length);
        let taken = body.scan(bytes)?;
        Ok((taken, body.is_done()))
    }

    #[test]
    fn a_body_of_known_length_ends_where_it_ends() {
        assert_eq!(whole(Length::Exact(3), b"abcGET"), Ok((3, true)));
        assert_eq!(whole(Length::Exact(3), b"ab"), Ok((2, false)));
        assert_eq!(whole(Length::None, b"GET"), Ok((0, true)));
        assert_eq!(whole(Length::UntilClose, b"abc"), Ok((3, false)));
    }

    #[test]
    fn chunks_extensions_and_trailers_belong_to_a_chunked_body() {
        for body in [
            "0\r\n\r\n",
            "3\r\nabc\r\n0\r\n\r\n",
            "A;x=\"y z\"\r\n0123456789\r\n000\r\n\r\n",
            "1\r\na\r\n0\r\ngrpc-status: 0\r\nx:\r\n\r\n",
        ] {
            let stream = format!("{body}GET / HTTP/1.1\r\n");
            assert_eq!(
                whole(Length::Chunked, stream.as_bytes()),
                Ok((body.len(), true)),
                "{body:?}"
            );
        }
    }

    #[test]
    fn what_parsers_could_read_differently_is_refused() {
        for body in [
            "3\nabc\r\n0\r\n\r\n",
            "3\r\nabc\n0\r\n\r\n",
            "3\r\nabcd\r\n0\r\n\r\n",
            " 3\r\nabc\r\n0\r\n\r\n",
            "3 \r\nabc\r\n0\r\n\r\n",
            "0x3\r\nabc\r\n0\r\n\r\n",
            "+3\r\nabc\r\n0\r\n\r\n",
            "-1\r\n\r\n",
            "\r\nabc",
            ";x\r\n",
            "3;a\nb\r\nabc\r\n0\r\n\r\n",
            "3;a\rb\r\nabc\r\n0\r\n\r\n",
            "3;\0\r\nabc\r\n0\r\n\r\n",
            "00000000000000003\r\nabc\r\n0\r\n\r\n",
            "0\r\n x: y\r\n\r\n",
            "0\r\nx y\r\n\r\n",
            "0\r\nx : y\r\n\r\n",
            "0\r\nx: y\n\r\n",
            "0\r\n:y\r\n\r\n",
            "0\r\n\n",
        ] {
            assert!(whole(Length::Chunked, body.as_bytes()).is_err(), "{body:?}");
        }
        let long = format!("0\r\nx: {}\r\n\r\n", "y".repeat(MAX_TRAILERS as usize));
        assert!(whole(Length::Chunked, long.as_bytes()).is_err());
    }

    #[test]
    fn a_requests_trailers_claim_nothing_that_heads_or_squires_say() {
        let trailer = |name: &str| format!("1\r\na\r\n0\r\nx-t: 1\r\n{name}: 1\r\n\r\n");
        for name in [
            "X-Forwarded-Client-Cert",
            "x_forwarded-for",
            "Content-Length",
            "Transfer-Encoding",
            "Host",
        ] {
            let stream = trailer(name);
            let mut body = Body::of_request(Length::Chunked);
            let scanned: Result<Vec<usize>, BadBody> = stream.bytes().map(|byte| body.scan(&[byte])).collect();
            assert!(scanned.is_err(), "{name}");
            assert!(
                whole(Length::Chunked, stream.as_bytes()).is_ok(),
                "{name} in a response"
            );
        }
        for name in ["X-Forwarded-Client-Cert-2", "x-forwarded", "grpc-status"] {
            assert!(
                Body::of_request(Length::Chunked).scan(trailer(name).as_bytes()).is_ok(),
                "{name}"
            );
        }
    }

    #[test]
    fn data_comes_without_its_framing() {
        let data_of = |length, bytes: &[u8]| {
            let (mut body, mut data) = (Body::new(length), Vec::new());
            body.scan_data(bytes, |piece| data.extend_from_slice(piece)).unwrap();
            String::from_utf8(data).unwrap()
        };
        let chunked = b"3;x=y\r\nabc\r\n4\r\ndefg\r\n0\r\nX-T: 1\r\n\r\nGET";
        assert_eq!(data_of(Length::Chunked, chunked), "abcdefg");
        assert_eq!(data_of(Length::Exact(3), b"abcGET"), "abc");
    }

    proptest! {
        #[test]
        fn how_the_bytes_arrive_makes_no_difference(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 0..5),
            cuts in proptest::collection::vec(1usize..7, 1..40),
        ) {
            let mut stream = Vec::new();
            for chunk in &chunks {
                stream.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                stream.extend_from_slice(chunk);
                stream.extend_from_slice(b"\r\n");
            }
            stream.extend_from_slice(b"0\r\n\r\n");
            let end = stream.len();
            stream.extend_from_slice(b"rest");
            let mut body = Body::new(Length::Chunked);
            let (mut at, mut cuts) = (0, cuts.into_iter().cycle());
            while !body.is_done() {
                let piece = &stream[at..(at + cuts.next().unwrap()).min(stream.len())];
                at += body.scan(piece).unwrap();
            }
            prop_assert_eq!(at, end);
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = whole(Length::Chunked, &bytes);
        }
    }
}
