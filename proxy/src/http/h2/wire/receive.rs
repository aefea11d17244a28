//! Frames from the peer, one by one, as strictly as RFC 9113 says: what each does to its stream and the connection.

mod control;
mod heads;

use h2::Reason;

pub(super) use self::heads::Block;
use super::{
    core::{Core, Fault, Role},
    error::{By, Error},
    frame::{self, Header},
    table::Half,
};

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
            frame::PRIORITY => control::priority(header, payload),
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
        // What was given back too little of to be told is told when the rest has shrunk: streams that nobody reads may keep it.
        self.give_back(0);
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

const PROTOCOL: Fault = Fault::Connection(Reason::PROTOCOL_ERROR);
