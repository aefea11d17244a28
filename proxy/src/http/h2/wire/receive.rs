//! Frames from the peer, one by one, as strictly as RFC 9113 says: what each does to its stream and the connection.

use h2::Reason;

use super::{
    core::{ANYBODY, Core, Fault, LEAVING, Leaving, Role},
    error::{By, Error},
    fields::FieldList,
    frame::{self, Header},
    hpack::Decoded,
    message,
    table::Half,
};

/// CONTINUATION frames of one header block, beyond those that the largest list we take could need.
const CONTINUATIONS: usize = 5;

/// A header block whose CONTINUATION has not come yet.
#[derive(Debug)]
pub(super) struct Block {
    stream: u32,
    ended: bool,
    bytes: Vec<u8>,
    frames: usize,
}

impl Core {
    /// Takes in one whole frame.
    pub(super) fn receive(&mut self, header: Header, payload: &[u8]) -> Result<(), Fault> {
        // Nothing may come between the frames of a header block (RFC 9113 §6.10), nor before SETTINGS (§3.4).
        let expected = match &self.block {
            Some(block) => header.kind == frame::CONTINUATION && header.stream == block.stream,
            None if !self.greeted => header.kind == frame::SETTINGS && !header.has(frame::ACK),
            None => header.kind != frame::CONTINUATION,
        };
        if !expected {
            return Err(PROTOCOL);
        }
        match header.kind {
            frame::DATA => self.data(header, payload),
            frame::HEADERS => self.headers(header, payload),
            frame::CONTINUATION => self.continuation(header, payload),
            frame::PRIORITY => priority(header, payload),
            frame::RST_STREAM => self.reset(header, payload),
            frame::SETTINGS => self.settings(header, payload),
            frame::PING => self.ping(header, payload),
            frame::GOAWAY => self.goaway(header, payload),
            frame::WINDOW_UPDATE => self.window(header, payload),
            // We have said that we take none, and clients may not send any.
            frame::PUSH_PROMISE => Err(PROTOCOL),
            // What is not known is passed over (RFC 9113 §4.1).
            _ => Ok(()),
        }
    }

    fn data(&mut self, header: Header, payload: &[u8]) -> Result<(), Fault> {
        self.ensure_not_idle(header.stream)?;
        let bytes = frame::unpadded(header, payload).ok_or(PROTOCOL)?;
        let (whole, ended) = (payload.len() as u32, header.has(frame::END_STREAM));
        self.receive_window -= i64::from(whole);
        if self.receive_window < 0 {
            return Err(Fault::Connection(Reason::FLOW_CONTROL_ERROR));
        }
        let Some(place) = self.streams.find(header.stream) else {
            self.give_back(whole);
            return self.late(header.stream);
        };
        let Some(stream) = self.streams.get(place) else {
            return Ok(());
        };
        if stream.receiving != Half::Open {
            self.give_back(whole);
            return Err(Fault::Stream(header.stream, Reason::STREAM_CLOSED));
        }
        stream.receive_window -= i64::from(whole);
        let expected = stream.expected.map(|expected| expected.checked_sub(bytes.len() as u64));
        let fault = match expected {
            _ if stream.receive_window < 0 => Some(Reason::FLOW_CONTROL_ERROR),
            // More than `content-length`, or the end before it (RFC 9113 §8.1.1).
            Some(None) => Some(Reason::PROTOCOL_ERROR),
            Some(Some(1..)) if ended => Some(Reason::PROTOCOL_ERROR),
            _ => None,
        };
        if let Some(reason) = fault {
            self.give_back(whole);
            return Err(Fault::Stream(header.stream, reason));
        }
        stream.expected = expected.flatten();
        if ended {
            stream.receiving = Half::Ended;
        }
        let deaf = stream.deaf;
        let kept = if deaf { 0 } else { bytes.len() as u32 };
        if kept > 0 {
            stream.keep(bytes);
            stream.unreleased += kept;
        }
        // An empty frame that ends nothing says nothing.
        if kept > 0 || ended {
            stream.wake();
        }
        // Padding, and what nobody reads, is given back at once.
        let spare = whole - kept;
        let done = ended && stream.is_done();
        if spare > 0 {
            if !deaf {
                self.give_back_on(place, spare);
            }
            self.give_back(spare);
        }
        if done {
            self.done(place);
        }
        Ok(())
    }

    fn headers(&mut self, header: Header, payload: &[u8]) -> Result<(), Fault> {
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

    fn continuation(&mut self, header: Header, payload: &[u8]) -> Result<(), Fault> {
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

    fn reset(&mut self, header: Header, payload: &[u8]) -> Result<(), Fault> {
        if payload.len() != 4 {
            return Err(Fault::Connection(Reason::FRAME_SIZE_ERROR));
        }
        self.ensure_not_idle(header.stream)?;
        let reason = Reason::from(frame::number(payload).unwrap_or_default());
        if let Some(place) = self.streams.find(header.stream) {
            let unseen = self.accepted.contains(&place);
            self.end(place, Error::Reset { reason, by: By::Peer });
            if unseen {
                self.note_unseen()?;
            }
        }
        Ok(())
    }

    fn settings(&mut self, header: Header, payload: &[u8]) -> Result<(), Fault> {
        if header.stream != 0 {
            return Err(PROTOCOL);
        }
        let acknowledged = header.has(frame::ACK);
        if !payload.len().is_multiple_of(6) || (acknowledged && !payload.is_empty()) {
            return Err(Fault::Connection(Reason::FRAME_SIZE_ERROR));
        }
        if acknowledged {
            return Ok(());
        }
        if !self.greeted && self.role == Role::Client {
            // A server that says nothing of it sets no limit (RFC 9113 §6.5.2).
            self.peer_streams = usize::MAX;
        }
        self.greeted = true;
        for setting in payload.chunks_exact(6) {
            let name = u16::from_be_bytes([setting[0], setting[1]]);
            let value = frame::number(&setting[2..]).unwrap_or_default();
            self.setting(name, value)?;
        }
        frame::write(self.out.buffer(), frame::SETTINGS, frame::ACK, 0, &[]);
        Ok(())
    }

    fn setting(&mut self, name: u16, value: u32) -> Result<(), Fault> {
        match name {
            frame::HEADER_TABLE_SIZE => self.encoder.allow(value as usize),
            // Only clients may want to be pushed something.
            frame::ENABLE_PUSH if value > 1 || (value == 1 && self.role == Role::Client) => return Err(PROTOCOL),
            frame::MAX_CONCURRENT_STREAMS => self.peer_streams = value as usize,
            frame::INITIAL_WINDOW_SIZE => self.initial_window(i64::from(value))?,
            frame::ENABLE_CONNECT_PROTOCOL if value > 1 => return Err(PROTOCOL),
            frame::ENABLE_CONNECT_PROTOCOL => self.peer_connects = value == 1,
            // We never send larger frames than everybody takes.
            frame::MAX_FRAME_SIZE if !(0x4000..=0xff_ffff).contains(&value) => return Err(PROTOCOL),
            _ => {}
        }
        Ok(())
    }

    /// The window of every stream changes by the difference (RFC 9113 §6.9.2).
    fn initial_window(&mut self, window: i64) -> Result<(), Fault> {
        const OVERFLOW: Fault = Fault::Connection(Reason::FLOW_CONTROL_ERROR);
        if window > frame::MAX_WINDOW {
            return Err(OVERFLOW);
        }
        let difference = window - std::mem::replace(&mut self.peer_window, window);
        for (_, stream) in self.streams.iter_mut() {
            stream.send_window += difference;
            if stream.send_window > frame::MAX_WINDOW {
                return Err(OVERFLOW);
            }
            if difference > 0 {
                stream.wake();
            }
        }
        Ok(())
    }

    fn ping(&mut self, header: Header, payload: &[u8]) -> Result<(), Fault> {
        if header.stream != 0 {
            return Err(PROTOCOL);
        }
        let payload: &[u8; 8] = payload
            .try_into()
            .map_err(|_| Fault::Connection(Reason::FRAME_SIZE_ERROR))?;
        if !header.has(frame::ACK) {
            frame::write(self.out.buffer(), frame::PING, frame::ACK, 0, payload);
        } else if *payload == ANYBODY {
            self.pong = true;
        } else if *payload == LEAVING && self.leaving == Leaving::Announced {
            // Whatever was under way when we began to leave is here now.
            self.go_away(Reason::NO_ERROR);
        }
        Ok(())
    }

    fn goaway(&mut self, header: Header, payload: &[u8]) -> Result<(), Fault> {
        if header.stream != 0 {
            return Err(PROTOCOL);
        }
        let (last, reason) = payload
            .split_at_checked(4)
            .and_then(|(last, rest)| Some((frame::number(last)? & frame::MAX_STREAM, frame::number(rest)?)))
            .ok_or(Fault::Connection(Reason::FRAME_SIZE_ERROR))?;
        let reason = Reason::from(reason);
        self.gone_away = Some(reason);
        if self.role == Role::Client {
            let error = Error::GoAway { reason, by: By::Peer };
            let unread: Vec<_> = self
                .streams
                .iter_mut()
                .filter(|(_, stream)| stream.id > last && !stream.is_done())
                .map(|(place, _)| place)
                .collect();
            for place in unread {
                self.end(place, error.clone());
            }
        }
        Ok(())
    }

    fn window(&mut self, header: Header, payload: &[u8]) -> Result<(), Fault> {
        let more: &[u8; 4] = payload
            .try_into()
            .map_err(|_| Fault::Connection(Reason::FRAME_SIZE_ERROR))?;
        let more = i64::from(u32::from_be_bytes(*more) & frame::MAX_STREAM);
        if header.stream == 0 {
            self.send_window += more;
            return match more {
                0 => Err(PROTOCOL),
                _ if self.send_window > frame::MAX_WINDOW => Err(Fault::Connection(Reason::FLOW_CONTROL_ERROR)),
                _ => {
                    self.wake_next();
                    Ok(())
                }
            };
        }
        self.ensure_not_idle(header.stream)?;
        let Some(stream) = self
            .streams
            .find(header.stream)
            .and_then(|place| self.streams.get(place))
        else {
            return Ok(());
        };
        if more == 0 {
            return Err(Fault::Stream(header.stream, Reason::PROTOCOL_ERROR));
        }
        stream.send_window += more;
        if stream.send_window > frame::MAX_WINDOW {
            return Err(Fault::Stream(header.stream, Reason::FLOW_CONTROL_ERROR));
        }
        stream.wake();
        Ok(())
    }

    /// Frames for a stream that was never opened break the protocol (RFC 9113 §5.1).
    fn ensure_not_idle(&self, id: u32) -> Result<(), Fault> {
        let opened = match self.role {
            Role::Server => (id <= self.last_peer || self.is_left_behind(id)) && !id.is_multiple_of(2),
            Role::Client => id < self.next && !id.is_multiple_of(2),
        };
        match opened {
            true => Ok(()),
            false => Err(PROTOCOL),
        }
    }

    /// A frame for a stream that is over.
    fn late(&self, id: u32) -> Result<(), Fault> {
        match self.is_late(id) {
            true => Ok(()),
            false => Err(Fault::Stream(id, Reason::STREAM_CLOSED)),
        }
    }
}

/// Interim responses that may wait for their turn on one stream.
const INTERIM: usize = 16;

const PROTOCOL: Fault = Fault::Connection(Reason::PROTOCOL_ERROR);

/// RFC 9113 §6.3: read, checked, and of no meaning.
fn priority(header: Header, payload: &[u8]) -> Result<(), Fault> {
    if header.stream == 0 {
        return Err(PROTOCOL);
    }
    match frame::number(payload) {
        _ if payload.len() != 5 => Err(Fault::Stream(header.stream, Reason::FRAME_SIZE_ERROR)),
        Some(on) if on & frame::MAX_STREAM == header.stream => {
            Err(Fault::Stream(header.stream, Reason::PROTOCOL_ERROR))
        }
        _ => Ok(()),
    }
}
