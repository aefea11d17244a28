//! Record protection by rustls, for when ours is switched off: the same operations as [`super::own`], by copying into
//! and out of rustls' unbuffered connection. Nothing is decided here.

use rustls::{
    client::UnbufferedClientConnection,
    server::UnbufferedServerConnection,
    unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus},
};

use super::records::{Opened, RecordError};
use crate::chunk::{RECORD, RECORD_HEADER, RECORD_PLAINTEXT};

/// A rustls connection, client or server.
pub(super) trait Connection: Send {
    /// Takes up what is in `incoming`: decrypted bytes go to `data`, what has to be sent to `outgoing`. Returns the bytes
    /// taken and whether the peer has closed.
    fn process(
        &mut self,
        incoming: &mut [u8],
        data: &mut Vec<u8>,
        outgoing: &mut Vec<u8>,
    ) -> Result<(usize, bool), rustls::Error>;

    /// Appends to `outgoing` what protects `plaintext`, or close_notify for none.
    fn encrypt(&mut self, plaintext: Option<&[u8]>, outgoing: &mut Vec<u8>) -> Result<(), RecordError>;
}

/// Both directions of one connection.
pub(crate) struct Fallback {
    connection: Box<dyn Connection>,
    /// Protected bytes rustls wants sent before anything else (a KeyUpdate).
    pending: Vec<u8>,
    data: Vec<u8>,
    scratch: Vec<u8>,
}

impl Fallback {
    pub(super) fn new(connection: Box<dyn Connection>) -> Self {
        Self {
            connection,
            pending: Vec::new(),
            data: Vec::new(),
            scratch: Vec::new(),
        }
    }

    pub(super) fn open(&mut self, buffer: &mut [u8]) -> Result<Opened, RecordError> {
        let &[_, _, _, high, low, ..] = &*buffer else {
            return Ok(Opened::Partial(RECORD_HEADER));
        };
        let length = RECORD_HEADER + usize::from(u16::from_be_bytes([high, low]));
        let Some(record) = buffer.get_mut(..length) else {
            return Ok(Opened::Partial(length));
        };
        self.data.clear();
        let processed = self.connection.process(record, &mut self.data, &mut self.pending);
        let (consumed, closed) = processed.map_err(|error| match error {
            rustls::Error::AlertReceived(alert) => RecordError::Alert { code: alert.into() },
            rustls::Error::DecryptError => RecordError::Unauthentic,
            _ => RecordError::Unexpected(record[0]),
        })?;
        // A record always goes in whole: it is either taken up or an error.
        debug_assert_eq!(consumed, length);
        if closed {
            return Ok(Opened::Closed { consumed: length });
        }
        if self.data.is_empty() {
            return Ok(Opened::Control { consumed: length });
        }
        // What came out is shorter than what went in.
        record[..self.data.len()].copy_from_slice(&self.data);
        Ok(Opened::Data {
            consumed: length,
            plaintext: 0..self.data.len(),
        })
    }

    pub(super) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    pub(super) fn take_pending(&mut self, out: &mut [u8]) -> Result<usize, RecordError> {
        let length = self.pending.len();
        out.get_mut(..length)
            .ok_or(RecordError::KeyUpdate)?
            .copy_from_slice(&self.pending);
        self.pending.clear();
        Ok(length)
    }

    pub(super) fn seal_close_notify(&mut self, out: &mut [u8]) -> Result<usize, RecordError> {
        let mut sealed = Vec::new();
        self.connection.encrypt(None, &mut sealed)?;
        out.get_mut(..sealed.len())
            .ok_or(RecordError::Exhausted)?
            .copy_from_slice(&sealed);
        Ok(sealed.len())
    }

    pub(super) fn seal(&mut self, slots: &mut [u8], total: usize) -> Result<usize, RecordError> {
        self.scratch.clear();
        let mut sealed = Vec::with_capacity(slots.len());
        for slot in slots.chunks(RECORD) {
            let length = (total - self.scratch.len()).min(RECORD_PLAINTEXT);
            if length == 0 {
                break;
            }
            self.scratch
                .extend_from_slice(&slot[RECORD_HEADER..RECORD_HEADER + length]);
        }
        self.connection.encrypt(Some(&self.scratch), &mut sealed)?;
        slots
            .get_mut(..sealed.len())
            .ok_or(RecordError::Exhausted)?
            .copy_from_slice(&sealed);
        Ok(sealed.len())
    }
}

macro_rules! connection {
    ($connection:ty) => {
        impl Connection for $connection {
            fn process(
                &mut self,
                incoming: &mut [u8],
                data: &mut Vec<u8>,
                outgoing: &mut Vec<u8>,
            ) -> Result<(usize, bool), rustls::Error> {
                let (mut taken, mut closed) = (0, false);
                loop {
                    let UnbufferedStatus { mut discard, state } = self.process_tls_records(&mut incoming[taken..]);
                    let more = match state? {
                        ConnectionState::ReadTraffic(mut traffic) => {
                            while let Some(record) = traffic.next_record() {
                                let record = record?;
                                discard += record.discard;
                                data.extend_from_slice(record.payload);
                            }
                            true
                        }
                        ConnectionState::EncodeTlsData(mut encode) => {
                            append(outgoing, |room| encode.encode(room).map_err(required));
                            true
                        }
                        ConnectionState::TransmitTlsData(transmit) => {
                            transmit.done();
                            true
                        }
                        ConnectionState::PeerClosed => {
                            closed = true;
                            true
                        }
                        _ => false,
                    };
                    taken += discard;
                    if !more {
                        return Ok((taken, closed));
                    }
                }
            }

            fn encrypt(&mut self, plaintext: Option<&[u8]>, outgoing: &mut Vec<u8>) -> Result<(), RecordError> {
                let UnbufferedStatus { state, .. } = self.process_tls_records(&mut []);
                let Ok(ConnectionState::WriteTraffic(mut traffic)) = state else {
                    return Err(RecordError::Exhausted);
                };
                let done = append(outgoing, |room| {
                    let written = match plaintext {
                        Some(plaintext) => traffic.encrypt(plaintext, room),
                        None => traffic.queue_close_notify(room),
                    };
                    written.map_err(|error| match error {
                        EncryptError::InsufficientSize(size) => Some(size.required_size),
                        EncryptError::EncryptExhausted => None,
                    })
                });
                if done { Ok(()) } else { Err(RecordError::Exhausted) }
            }
        }
    };
}

connection!(UnbufferedClientConnection);
connection!(UnbufferedServerConnection);

fn required(error: EncodeError) -> Option<usize> {
    match error {
        EncodeError::InsufficientSize(size) => Some(size.required_size),
        EncodeError::AlreadyEncoded => None,
    }
}

/// Appends what `write` writes, giving it the room it asks for. False: it cannot.
fn append(outgoing: &mut Vec<u8>, mut write: impl FnMut(&mut [u8]) -> Result<usize, Option<usize>>) -> bool {
    let start = outgoing.len();
    let mut room = 256;
    loop {
        outgoing.resize(start + room, 0);
        match write(&mut outgoing[start..]) {
            Ok(written) => {
                outgoing.truncate(start + written);
                return true;
            }
            Err(Some(required)) if required > room => room = required,
            Err(_) => {
                outgoing.truncate(start);
                return false;
            }
        }
    }
}
