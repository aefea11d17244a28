//! Writing header blocks. Fields that come again are put into the table and named by their index from then on; strings are
//! written as they are.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
};

use super::{
    TABLE,
    table::{Dynamic, STATIC},
};
use crate::http::h2::wire::fields::Field;

/// Fields that differ from one message to the next, or that nobody should be able to guess at by watching how well they
/// compress (RFC 7541 §7.1).
const UNKEPT: [&str; 13] = [
    ":path",
    "age",
    "authorization",
    "content-length",
    "cookie",
    "etag",
    "grpc-timeout",
    "if-modified-since",
    "if-none-match",
    "location",
    "proxy-authorization",
    "set-cookie",
    "traceparent",
];

/// Writes the header blocks of one connection, in order.
#[derive(Debug)]
pub(in super::super) struct Encoder {
    table: Dynamic,
    /// By name and value: the number of the entry, counted from the first one ever.
    known: HashMap<u64, u64, BuildHasherDefault<Ready>>,
    /// Entries ever put into the table.
    inserted: u64,
    /// The peer allows another size: said at the beginning of the next block (RFC 7541 §4.2), with the smallest in between.
    resized: Option<(usize, usize)>,
    limit: usize,
}

impl Encoder {
    pub(in super::super) fn new() -> Self {
        Self {
            table: Dynamic::new(TABLE),
            known: HashMap::default(),
            inserted: 0,
            resized: None,
            limit: TABLE,
        }
    }

    /// The peer's table may hold so much. More than the usual is not made use of.
    pub(in super::super) fn allow(&mut self, limit: usize) {
        let limit = limit.min(TABLE);
        if limit == self.limit && self.resized.is_none() {
            return;
        }
        let least = self.resized.map_or(limit, |(least, _)| least.min(limit));
        self.resized = Some((least, limit));
    }

    /// Appends a block.
    pub(in super::super) fn encode<'a>(&mut self, fields: impl Iterator<Item = Field<'a>>, out: &mut Vec<u8>) {
        if let Some((least, limit)) = self.resized.take() {
            if least < limit {
                self.resize(least, out);
            }
            self.resize(limit, out);
        }
        for field in fields {
            self.field(field, out);
        }
    }

    fn resize(&mut self, limit: usize, out: &mut Vec<u8>) {
        self.limit = limit;
        self.table.resize(limit);
        integer(limit, 5, 0x20, out);
    }

    fn field(&mut self, field: Field<'_>, out: &mut Vec<u8>) {
        let (name, exact) = static_index(field);
        if let Some(index) = exact {
            return integer(index, 7, 0x80, out);
        }
        if field.sensitive || is_unkept(field.name) {
            let kind = if field.sensitive { 0x10 } else { 0 };
            return literal(name, field, 4, kind, out);
        }
        let key = key(field);
        if let Some(index) = self.find(key, field) {
            return integer(STATIC.len() + 1 + index, 7, 0x80, out);
        }
        literal(name, field, 6, 0x40, out);
        if self.table.insert(field, true).kept {
            self.known.insert(key, self.inserted);
            self.inserted += 1;
        }
        // What has left the table is forgotten now and then: a few hundred at most.
        if self.known.len() > 2 * self.table.len() + 64 {
            let oldest = self.inserted - self.table.len() as u64;
            self.known.retain(|_, number| *number >= oldest);
        }
    }

    /// How many entries are newer than that of this field.
    fn find(&self, key: u64, field: Field<'_>) -> Option<usize> {
        let number = *self.known.get(&key)?;
        let index = usize::try_from(self.inserted - 1 - number).ok()?;
        let (entry, _) = self.table.get(index)?;
        (entry.name == field.name && entry.value == field.value).then_some(index)
    }
}

/// The indices in the static table of a field's name, and of the whole field.
fn static_index(field: Field<'_>) -> (Option<usize>, Option<usize>) {
    let Some(first) = first_of(field.name) else {
        return (None, None);
    };
    let same_name = STATIC[first - 1..]
        .iter()
        .take_while(|(name, _)| name.as_bytes() == field.name);
    for (index, (_, value)) in (first..).zip(same_name) {
        if value.as_bytes() == field.value {
            return (Some(first), Some(index));
        }
    }
    (Some(first), None)
}

/// The first index of a name in the static table. Lengths and letters tell most names apart at once.
fn first_of(name: &[u8]) -> Option<usize> {
    let index = match (name.len(), name) {
        (10, b":authority") => 1,
        (7, b":method") => 2,
        (5, b":path") => 4,
        (7, b":scheme") => 6,
        (7, b":status") => 8,
        (_, [b':', ..]) => return None,
        // Sorted, but for `accept` behind what it begins.
        (6, b"accept") => 19,
        (_, [b'a', b'c', b'c', b'e', ..]) => 15 + search(&STATIC[14..18], name)?,
        _ => 20 + search(&STATIC[19..], name)?,
    };
    Some(index)
}

fn search(sorted: &[(&str, &str)], name: &[u8]) -> Option<usize> {
    sorted.binary_search_by(|(known, _)| known.as_bytes().cmp(name)).ok()
}

fn is_unkept(name: &[u8]) -> bool {
    UNKEPT.iter().any(|unkept| unkept.as_bytes() == name)
}

fn literal(name: Option<usize>, field: Field<'_>, bits: u32, kind: u8, out: &mut Vec<u8>) {
    integer(name.unwrap_or(0), bits, kind, out);
    if name.is_none() {
        string(field.name, out);
    }
    string(field.value, out);
}

fn string(text: &[u8], out: &mut Vec<u8>) {
    integer(text.len(), 7, 0, out);
    out.extend_from_slice(text);
}

/// An integer with so many bits in the first byte, whose other bits are `kind` (RFC 7541 §5.1).
fn integer(value: usize, bits: u32, kind: u8, out: &mut Vec<u8>) {
    let most = (1_usize << bits) - 1;
    if value < most {
        return out.push(kind | value as u8);
    }
    out.push(kind | most as u8);
    let mut rest = value - most;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// A number for a field, good enough to find it again: what is found is compared.
fn key(field: Field<'_>) -> u64 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut hash = field.name.len() as u64;
    for part in [field.name, field.value] {
        let mut words = part.chunks_exact(8);
        for word in &mut words {
            let word = word.first_chunk().map_or(0, |word| u64::from_le_bytes(*word));
            hash = (hash ^ word).wrapping_mul(FACTOR).rotate_left(29);
        }
        let mut last = [0; 8];
        let rest = words.remainder();
        last[..rest.len()].copy_from_slice(rest);
        hash = (hash ^ u64::from_le_bytes(last) ^ (rest.len() as u64) << 56)
            .wrapping_mul(FACTOR)
            .rotate_left(29);
    }
    hash
}

/// Keys are hashes already.
#[derive(Debug, Default)]
struct Ready(u64);

impl Hasher for Ready {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}
