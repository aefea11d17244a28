//! Header blocks from the peer: put together, decoded, and what they open or end.

use h2::Reason;

use super::PROTOCOL;
use crate::http::h2::wire::{
    core::{Core, Fault, Role},
    fields::FieldList,
    frame::{self, Header},
    hpack::Decoded,
    message,
    table::Half,
};

/// CONTINUATION frames of one header block, beyond those that the largest list we take could need.
const CONTINUATIONS: usize = 5;

/// Interim responses that may wait for their turn on one stream.
const INTERIM: usize = 16;

/// A header block whose CONTINUATION has not come yet.
#[derive(Debug)]
pub(in super::super) struct Block {
    pub(super) stream: u32,
    ended: bool,
    bytes: Vec<u8>,
    frames: usize,
}

impl Core {
    pub(super) fn headers(&mut self, header: Header, payload: &[u8]) -> Result<(), Fault> {
        if header.stream == 0 {
            return Err(PROTOCOL);
        }
        let mut block = frame::unpadded(header, payload).ok_or(PROTOCOL)?;
        let mut depends_on_itself = false;
        if header.has(frame::WITH_PRIORITY) {
            let (priority, rest) = block
                .split_at_checked(5)
                .ok_or(Fault::Connection(Reason::FRAME_SIZE_ERROR))?;
            depends_on_itself = frame::number(priority).is_some_and(|on| on & frame::MAX_STREAM == header.stream);
            block = rest;
        }
        if !header.has(frame::END_HEADERS) {
            self.block = Some(Block {
                stream: header.stream,
                ended: header.has(frame::END_STREAM),
                bytes: block.to_vec(),
                frames: 0,
            });
            return Ok(());
        }
        self.block_complete(header.stream, header.has(frame::END_STREAM), block)?;
        match depends_on_itself {
            true => Err(Fault::Stream(header.stream, Reason::PROTOCOL_ERROR)),
            false => Ok(()),
        }
    }

    pub(super) fn continuation(&mut self, header: Header, payload: &[u8]) -> Result<(), Fault> {
        let Some(mut block) = self.block.take() else {
            return Err(PROTOCOL);
        };
        let largest = self.limits.header_list as usize;
        block.frames += 1;
        if block.frames > largest / frame::PAYLOAD + CONTINUATIONS || block.bytes.len() + payload.len() > 2 * largest {
            return Err(Fault::Connection(Reason::ENHANCE_YOUR_CALM));
        }
        block.bytes.extend_from_slice(payload);
        if header.has(frame::END_HEADERS) {
            return self.block_complete(block.stream, block.ended, &block.bytes);
        }
        self.block = Some(block);
        Ok(())
    }

    /// A whole header block: it is decoded whatever becomes of it, for the table's sake.
    fn block_complete(&mut self, id: u32, ended: bool, block: &[u8]) -> Result<(), Fault> {
        let decoded = self
            .decoder
            .decode(block)
            .map_err(|_| Fault::Connection(Reason::COMPRESSION_ERROR))?;
        match (self.streams.find(id), self.role) {
            (Some(place), _) => self.later_head(place, ended, decoded),
            (None, Role::Server) if id > self.last_peer => self.request(id, ended, decoded),
            (None, _) => {
                self.ensure_not_idle(id)?;
                match self.is_late(id) {
                    true => Ok(()),
                    // Numbers only grow, and what is over stays over (RFC 9113 §5.1, §5.1.1).
                    false => Err(Fault::Connection(Reason::STREAM_CLOSED)),
                }
            }
        }
    }

    fn request(&mut self, id: u32, ended: bool, decoded: Decoded) -> Result<(), Fault> {
        // Clients open the odd ones (RFC 9113 §5.1.1).
        if id.is_multiple_of(2) {
            return Err(PROTOCOL);
        }
        if self.is_left_behind(id) {
            return Ok(());
        }
        self.last_peer = id;
        if self.streams.open() >= self.limits.max_streams as usize {
            return Err(Fault::Stream(id, Reason::REFUSED_STREAM));
        }
        let malformed = Fault::Stream(id, Reason::PROTOCOL_ERROR);
        if decoded.oversize {
            self.refuse_list(id, ended);
            return Ok(());
        }
        let expected = message::check_request(&decoded).map_err(|_| malformed)?;
        if ended && expected.is_some_and(|expected| expected > 0) {
            return Err(malformed);
        }
        let place = self.add(id);
        if let Some(stream) = self.streams.get(place) {
            stream.receiving = if ended { Half::Ended } else { Half::Open };
            stream.expected = expected;
            stream.head = Some(decoded.fields);
        }
        self.accepted.push_back(place);
        Ok(())
    }

    /// 431 for a header list that is too large (RFC 9113 §10.5.1).
    fn refuse_list(&mut self, id: u32, ended: bool) {
        self.refused_lists += 1;
        let mut fields = FieldList::default();
        fields.push(b":status", b"431");
        self.write_headers(id, &fields, true);
        if !ended {
            let place = self.add(id);
            if let Some(stream) = self.streams.get(place) {
                (stream.receiving, stream.sending) = (Half::Open, Half::Ended);
            }
            self.let_go(place);
        }
    }

    /// A head on a stream that is there: the response's, or trailers.
    fn later_head(&mut self, place: usize, ended: bool, decoded: Decoded) -> Result<(), Fault> {
        let Some(stream) = self.streams.get(place) else {
            return Ok(());
        };
        let malformed = Fault::Stream(stream.id, Reason::PROTOCOL_ERROR);
        match stream.receiving {
            Half::Idle => {
                if decoded.oversize {
                    return Err(malformed);
                }
                let checked = message::check_response(&decoded).map_err(|_| malformed)?;
                if checked.interim && ended {
                    return Err(malformed);
                }
                if !checked.interim {
                    stream.expected = checked.length.filter(|_| !stream.to_head && !checked.bodiless);
                    if ended && stream.expected.is_some_and(|expected| expected > 0) {
                        return Err(malformed);
                    }
                    stream.receiving = if ended { Half::Ended } else { Half::Open };
                    stream.head = Some(decoded.fields);
                } else if stream.interim.len() < INTERIM {
                    stream.interim.push_back(decoded.fields);
                } else {
                    return Err(Fault::Stream(stream.id, Reason::ENHANCE_YOUR_CALM));
                }
            }
            Half::Open => {
                // Trailers end the stream (RFC 9113 §8.1), and what was promised has to be there by then.
                let short = stream.expected.is_some_and(|expected| expected > 0);
                if !ended || short || decoded.oversize || message::check_trailers(&decoded).is_err() {
                    return Err(malformed);
                }
                stream.receiving = Half::Ended;
                stream.trailers = Some(decoded.fields);
            }
            Half::Ended => return Err(Fault::Stream(stream.id, Reason::STREAM_CLOSED)),
        }
        stream.wake();
        if stream.is_done() {
            self.done(place);
        }
        Ok(())
    }
}
