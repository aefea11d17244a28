//! Reading header blocks.

use super::{
    TABLE, huffman,
    table::{Dynamic, STATIC},
};
use crate::http::h2::wire::{
    fields::{Field, FieldList},
    fit,
};

/// A block that is not HPACK: the tables of both ends are no longer the same (RFC 7541 §2.3.3, §3.1), so the connection
/// ends with COMPRESSION_ERROR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct BadBlock;

/// What a block held.
#[derive(Debug, Default)]
pub(in super::super) struct Decoded {
    pub(in super::super) fields: FieldList,
    /// The list was larger than allowed: `fields` is only its beginning.
    pub(in super::super) oversize: bool,
    /// A name or a value holds characters that cannot stand there (RFC 9113 §8.2.1).
    pub(in super::super) unfit: bool,
}

/// Reads the header blocks of one connection, in order.
#[derive(Debug)]
pub(in super::super) struct Decoder {
    table: Dynamic,
    /// Largest list, in the measure of RFC 9113 §6.5.2.
    limit: usize,
    /// Decoded for the table alone, where the list keeps nothing more.
    scratch: FieldList,
}

impl Decoder {
    pub(in super::super) fn new(limit: usize) -> Self {
        Self {
            table: Dynamic::new(TABLE),
            limit,
            scratch: FieldList::default(),
        }
    }

    /// Reads a whole block.
    pub(in super::super) fn decode(&mut self, block: &[u8]) -> Result<Decoded, BadBlock> {
        let mut decoded = Decoded {
            fields: FieldList::with_room(512, 16),
            ..Decoded::default()
        };
        let (mut rest, mut size) = (block, 0);
        while let Some(&first) = rest.first() {
            match first {
                // Indexed (RFC 7541 §6.1).
                0x80.. => {
                    let index = integer(&mut rest, 7)?;
                    let (field, is_fit) = self.indexed(index)?;
                    decoded.unfit |= !is_fit;
                    size += field.size();
                    if size <= self.limit {
                        decoded.fields.push_field(field);
                    }
                }
                // Another size of the table, only before the first field (RFC 7541 §4.2, §6.3).
                0x20..=0x3f => {
                    let limit = integer(&mut rest, 5)?;
                    if limit > TABLE || size > 0 {
                        return Err(BadBlock);
                    }
                    self.table.resize(limit);
                }
                // Literal, and kept (RFC 7541 §6.2.1); otherwise only read (§6.2.2), and never to be kept (§6.2.3).
                _ => size += self.literal(first, &mut rest, size, &mut decoded)?,
            }
        }
        decoded.oversize = size > self.limit;
        Ok(decoded)
    }

    fn literal(
        &mut self,
        first: u8,
        rest: &mut &[u8],
        before: usize,
        decoded: &mut Decoded,
    ) -> Result<usize, BadBlock> {
        let keep = first & 0x40 != 0;
        let name = integer(rest, if keep { 6 } else { 4 })?;
        let full = before > self.limit;
        let mut scratch = std::mem::take(&mut self.scratch);
        let list = if full { &mut scratch } else { &mut decoded.fields };
        let read = list.push_with(!keep && first & 0x10 != 0, |bytes| {
            let at = bytes.len();
            match name {
                0 => string(rest, bytes)?,
                index => bytes.extend_from_slice(self.indexed(index)?.0.name),
            }
            let length = bytes.len() - at;
            string(rest, bytes).map(|()| length)
        });
        let field = read?;
        let size = field.size();
        let is_fit = fit::is_name(field.name) && fit::is_value(field.value);
        decoded.unfit |= !is_fit;
        if keep {
            self.table.insert(field, is_fit);
        }
        if full || before + size > self.limit {
            list.pop();
        }
        self.scratch = scratch;
        Ok(size)
    }

    fn indexed(&self, index: usize) -> Result<(Field<'_>, bool), BadBlock> {
        let index = index.checked_sub(1).ok_or(BadBlock)?;
        match STATIC.get(index) {
            Some((name, value)) => Ok((
                Field {
                    name: name.as_bytes(),
                    value: value.as_bytes(),
                    sensitive: false,
                },
                true,
            )),
            None => self.table.get(index - STATIC.len()).ok_or(BadBlock),
        }
    }
}

/// An integer whose first byte leaves so many bits (RFC 7541 §5.1). None that we could use needs more than four bytes.
fn integer(rest: &mut &[u8], bits: u32) -> Result<usize, BadBlock> {
    let (&first, mut after) = rest.split_first().ok_or(BadBlock)?;
    let most = (1_usize << bits) - 1;
    let mut value = usize::from(first) & most;
    if value == most {
        let mut shift = 0;
        loop {
            let (&byte, next) = after.split_first().ok_or(BadBlock)?;
            after = next;
            if shift > 21 {
                return Err(BadBlock);
            }
            value += usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
    }
    *rest = after;
    Ok(value)
}

/// A string (RFC 7541 §5.2). A coded one grows at most to 8/5 of its length: the block bounds it.
fn string(rest: &mut &[u8], out: &mut Vec<u8>) -> Result<(), BadBlock> {
    let coded = rest.first().ok_or(BadBlock)? & 0x80 != 0;
    let length = integer(rest, 7)?;
    let (text, after) = rest.split_at_checked(length).ok_or(BadBlock)?;
    *rest = after;
    match coded {
        true => huffman::decode(text, out).map_err(|huffman::BadCode| BadBlock),
        false => {
            out.extend_from_slice(text);
            Ok(())
        }
    }
}
