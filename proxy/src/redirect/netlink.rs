//! Netlink messages and their attributes, written and read as bytes, and the socket they travel on (netlink(7)). It knows
//! how messages are framed, not what they mean; the kernel is only asked, never configured, by what stands here.

use std::io::{self, Read as _};

use socket2::{Domain, Protocol, Socket, Type};

/// Bytes of `struct nlmsghdr`.
const HEADER: usize = 16;
/// More than the kernel puts into one answer.
const ANSWER: usize = 64 * 1024;
/// The part of an attribute's type that is not flags.
const TYPE: u16 = 0x3fff;
const NESTED: u16 = 0x8000;

const ERROR: u16 = 2;
const DONE: u16 = 3;
const REQUEST: u16 = 1;
const DUMP: u16 = 0x300;
/// Make it, if it is not there.
pub(super) const CREATE: u16 = 0x400;
/// Behind the others.
pub(super) const APPEND: u16 = 0x800;
/// Only if it is not there yet.
pub(super) const EXCLUSIVE: u16 = 0x200;

/// One attribute: a value, or attributes in turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Attribute {
    kind: u16,
    value: Value,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    Bytes(Vec<u8>),
    Nested(Vec<Attribute>),
}

impl Attribute {
    pub(super) fn bytes(kind: u16, bytes: impl Into<Vec<u8>>) -> Self {
        Self {
            kind,
            value: Value::Bytes(bytes.into()),
        }
    }

    /// A number in network byte order, as nf_tables wants them.
    pub(super) fn number(kind: u16, number: u32) -> Self {
        Self::bytes(kind, number.to_be_bytes())
    }

    /// A text, ended by NUL.
    pub(super) fn text(kind: u16, text: &str) -> Self {
        let mut bytes = text.as_bytes().to_vec();
        bytes.push(0);
        Self::bytes(kind, bytes)
    }

    pub(super) fn nested(kind: u16, attributes: Vec<Self>) -> Self {
        Self {
            kind,
            value: Value::Nested(attributes),
        }
    }

    /// Attributes behind a fixed header, as one value.
    pub(super) fn headed(kind: u16, header: &[u8], attributes: &[Self]) -> Self {
        let mut bytes = header.to_vec();
        attributes.iter().for_each(|attribute| attribute.encode(&mut bytes));
        Self::bytes(kind, bytes)
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        let flags = match self.value {
            Value::Bytes(_) => 0,
            Value::Nested(_) => NESTED,
        };
        out.extend([0; 2]);
        out.extend((self.kind | flags).to_ne_bytes());
        match &self.value {
            Value::Bytes(bytes) => out.extend(bytes),
            Value::Nested(attributes) => attributes.iter().for_each(|attribute| attribute.encode(out)),
        }
        // What is sent here is far shorter than 64 KiB; were it not, the kernel would refuse the message.
        let length = u16::try_from(out.len() - start).unwrap_or(u16::MAX);
        out[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        out.resize(out.len().next_multiple_of(4), 0);
    }

    /// Whether `bytes`, a value the kernel gave for an attribute of this kind, say the same; in whichever order.
    fn agrees(&self, bytes: &[u8]) -> bool {
        match &self.value {
            Value::Bytes(value) => value == bytes,
            Value::Nested(attributes) => agree(attributes, bytes),
        }
    }
}

/// Whether `bytes` hold exactly these attributes: those of one kind in this order, different kinds in any.
pub(super) fn agree(expected: &[Attribute], bytes: &[u8]) -> bool {
    let mut found: Vec<(u16, &[u8])> = attributes(bytes).collect();
    let all = expected.iter().all(|attribute| {
        let at = found.iter().position(|(kind, _)| *kind == attribute.kind);
        at.is_some_and(|at| attribute.agrees(found.remove(at).1))
    });
    all && found.is_empty()
}

/// The attributes in `bytes`, up to the first that is malformed.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let &[a, b, c, d, ..] = bytes else {
            return None;
        };
        let length = usize::from(u16::from_ne_bytes([a, b]));
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([c, d]) & TYPE, value))
    })
}

/// The first attribute of a kind.
pub(super) fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes)
        .find(|(found, _)| *found == kind)
        .map(|(_, value)| value)
}

/// A text attribute of a kind.
pub(super) fn text(bytes: &[u8], kind: u16) -> Option<&str> {
    let value = attribute(bytes, kind)?;
    std::str::from_utf8(value.strip_suffix(&[0]).unwrap_or(value)).ok()
}

/// A number attribute of a kind, in network byte order.
pub(super) fn number(bytes: &[u8], kind: u16) -> Option<u32> {
    attribute(bytes, kind)?.try_into().ok().map(u32::from_be_bytes)
}

/// Messages that are sent together; each has a name for when the kernel refuses it.
#[derive(Debug, Default)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    names: Vec<String>,
}

impl Batch {
    /// Adds a message: its type, its flags, its fixed header and its attributes.
    pub(super) fn message(&mut self, name: &str, kind: u16, flags: u16, header: &[u8], attributes: &[Attribute]) {
        let start = self.bytes.len();
        let sequence = u32::try_from(self.names.len()).unwrap_or(u32::MAX);
        self.bytes.extend([0; 4]);
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend((flags | REQUEST).to_ne_bytes());
        self.bytes.extend(sequence.to_ne_bytes());
        self.bytes.extend([0; 4]);
        self.bytes.extend(header);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        attributes
            .iter()
            .for_each(|attribute| attribute.encode(&mut self.bytes));
        let length = u32::try_from(self.bytes.len() - start).unwrap_or(u32::MAX);
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
        self.names.push(name.to_owned());
    }
}

/// What the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub(super) struct Refused {
    /// Which message.
    pub(super) what: String,
    /// Why.
    pub(super) source: io::Error,
}

impl Refused {
    fn of(what: &str, source: io::Error) -> Self {
        Self {
            what: what.to_owned(),
            source,
        }
    }
}

/// A netlink socket. The kernel answers a message while it is sent, so nothing here ever waits for it.
#[derive(Debug)]
pub(super) struct Netlink(Socket);

impl Netlink {
    /// Opens one for a subsystem (`NETLINK_NETFILTER`, `NETLINK_ROUTE`).
    pub(super) fn open(subsystem: i32) -> Result<Self, Refused> {
        let open = || {
            let socket = Socket::new(
                Domain::from(libc::AF_NETLINK),
                Type::RAW,
                Some(Protocol::from(subsystem)),
            )?;
            socket.set_nonblocking(true)?;
            // Room for an answer to every message; as much as an ordinary process may have.
            socket.set_send_buffer_size(1 << 20)?;
            socket.set_recv_buffer_size(1 << 20)?;
            Ok(socket)
        };
        open()
            .map(Self)
            .map_err(|error| Refused::of("opening a netlink socket", error))
    }

    /// Sends messages and looks whether one was refused. Each is only answered if it is.
    pub(super) fn send(&self, batch: &Batch) -> Result<(), Refused> {
        self.write(&batch.bytes)
            .map_err(|error| Refused::of("sending", error))?;
        let mut refused = None;
        self.answers(|message| {
            if let Some(error) = message.error() {
                let name = usize::try_from(message.sequence)
                    .ok()
                    .and_then(|at| batch.names.get(at));
                refused.get_or_insert_with(|| Refused::of(name.map_or("the batch", String::as_str), error));
            }
        })
        .map_err(|error| Refused::of("reading the answer", error))?;
        refused.map_or(Ok(()), Err)
    }

    /// Asks for all of a kind. Each body begins with the subsystem's fixed header.
    pub(super) fn dump(
        &self,
        what: &str,
        kind: u16,
        header: &[u8],
        attributes: &[Attribute],
    ) -> Result<Vec<Vec<u8>>, Refused> {
        let mut request = Batch::default();
        request.message(what, kind, DUMP, header, attributes);
        let (mut found, mut failed) = (Vec::new(), None);
        let asked = self.write(&request.bytes).and_then(|()| {
            self.answers(|message| match message.error() {
                Some(error) => failed = Some(error),
                None if message.kind > DONE => found.push(message.body.to_vec()),
                None => {}
            })
        });
        match asked.err().or(failed) {
            Some(error) => Err(Refused::of(what, error)),
            None => Ok(found),
        }
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let sent = self.0.send(bytes)?;
        if sent == bytes.len() {
            Ok(())
        } else {
            Err(io::ErrorKind::WriteZero.into())
        }
    }

    /// Gives every message that is there to `see`.
    fn answers(&self, mut see: impl FnMut(Message<'_>)) -> io::Result<()> {
        let mut buffer = vec![0; ANSWER];
        loop {
            let length = match (&self.0).read(&mut buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            let mut bytes = &buffer[..length];
            while let Some((message, rest)) = Message::parse(bytes) {
                see(message);
                bytes = rest;
            }
        }
    }
}

struct Message<'a> {
    kind: u16,
    sequence: u32,
    body: &'a [u8],
}

impl<'a> Message<'a> {
    fn parse(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let header = bytes.get(..HEADER)?;
        let word = |at: usize| -> Option<u32> { header.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes) };
        let length = usize::try_from(word(0)?).ok()?;
        let message = Self {
            kind: u16::from_ne_bytes([header[4], header[5]]),
            sequence: word(8)?,
            body: bytes.get(HEADER..length)?,
        };
        Some((message, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
    }

    /// The error it reports, if it does: `struct nlmsgerr`, or the end of a dump that failed.
    fn error(&self) -> Option<io::Error> {
        let code = match self.kind {
            ERROR | DONE => i32::from_ne_bytes(self.body.get(..4)?.try_into().ok()?),
            _ => 0,
        };
        (code < 0).then(|| io::Error::from_raw_os_error(code.saturating_neg()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_nested_and_can_be_read_again() {
        let tree = [
            Attribute::text(1, "squire"),
            Attribute::nested(4, vec![Attribute::number(1, 3), Attribute::bytes(2, [7])]),
        ];
        let mut bytes = Vec::new();
        tree.iter().for_each(|attribute| attribute.encode(&mut bytes));
        assert_eq!(bytes.len() % 4, 0);
        assert_eq!(text(&bytes, 1), Some("squire"));
        let inner = attribute(&bytes, 4).unwrap();
        assert_eq!(number(inner, 1), Some(3));
        assert_eq!(attribute(inner, 2), Some(&[7][..]));
        assert!(agree(&tree, &bytes));
    }

    #[test]
    fn a_missing_a_changed_and_a_further_attribute_are_all_noticed() {
        let said = |tree: &[Attribute]| {
            let mut bytes = Vec::new();
            tree.iter().for_each(|attribute| attribute.encode(&mut bytes));
            bytes
        };
        let [one, two] = [Attribute::number(1, 1), Attribute::number(2, 2)];
        let both = [one.clone(), two.clone()];
        assert!(agree(&both, &said(&[two.clone(), one.clone()])), "in any order");
        assert!(!agree(&both, &said(std::slice::from_ref(&one))));
        assert!(!agree(&both, &said(&[one.clone(), Attribute::number(2, 3)])));
        assert!(!agree(&both, &said(&[one, two.clone(), two])));
    }

    #[test]
    fn malformed_bytes_end_the_reading_and_nothing_else() {
        for bytes in [&[][..], &[1], &[3, 0, 1, 0], &[200, 0, 1, 0, 1], &[0; 16]] {
            assert_eq!(attributes(bytes).count(), 0, "{bytes:?}");
            assert!(Message::parse(bytes).is_none_or(|(message, _)| message.body.is_empty()));
        }
    }
}
