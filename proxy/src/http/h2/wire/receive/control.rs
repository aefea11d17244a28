//! Frames from the peer about the connection rather than a message: SETTINGS, PING, GOAWAY, WINDOW_UPDATE, PRIORITY.

use h2::Reason;

use super::PROTOCOL;
use crate::http::h2::wire::{
    core::{ANYBODY, Core, Fault, LEAVING, Leaving, Role},
    error::{By, Error},
    frame::{self, Header},
};

impl Core {
    pub(super) fn settings(&mut self, header: Header, payload: &[u8]) -> Result<(), Fault> {
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

    pub(super) fn ping(&mut self, header: Header, payload: &[u8]) -> Result<(), Fault> {
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

    pub(super) fn goaway(&mut self, header: Header, payload: &[u8]) -> Result<(), Fault> {
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

    pub(super) fn window(&mut self, header: Header, payload: &[u8]) -> Result<(), Fault> {
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
}

/// RFC 9113 §6.3: read, checked, and of no meaning.
pub(super) fn priority(header: Header, payload: &[u8]) -> Result<(), Fault> {
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
