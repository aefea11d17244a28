//! Record protection of our own, in place and without a copy (RFC 8446 §5): sealing what the application wrote, opening
//! what the peer sent, sequence numbers, key updates, alerts, the AEAD's limits. The handshake is rustls'; nothing is
//! negotiated here, and no socket is touched.

use aws_lc_rs::aead::{Aad, LessSafeKey, Nonce};
use rustls::ConnectionTrafficSecrets;

use super::{
    alert,
    records::{Opened, RecordError},
    schedule::{NONCE, Secret, Suite},
};
use crate::chunk::{RECORD, RECORD_HEADER, RECORD_PLAINTEXT, RECORD_TRAILER};

const TAG: usize = 16;
/// Largest ciphertext of one record (RFC 8446 §5.2).
const MAX_CIPHERTEXT: usize = RECORD_PLAINTEXT + 256;
/// Empty or non-application records in a row that are tolerated before the peer counts as abusive.
pub(super) const MAX_IDLE_RECORDS: u32 = 64;
/// Longest post-handshake message taken (a session ticket is far below).
const MAX_HANDSHAKE_MESSAGE: usize = 16 * 1024;

const CONTENT_ALERT: u8 = 21;
const CONTENT_HANDSHAKE: u8 = 22;
const CONTENT_APPLICATION: u8 = 23;

const HANDSHAKE_NEW_SESSION_TICKET: u8 = 4;
const HANDSHAKE_KEY_UPDATE: u8 = 24;
const KEY_UPDATE_REQUESTED: u8 = 1;

/// One direction's key, nonce base and sequence number, and the secret that its next key follows from.
struct Half {
    key: LessSafeKey,
    iv: [u8; NONCE],
    sequence: u64,
    refresh_at: u64,
    secret: Secret,
    suite: &'static Suite,
}

impl Half {
    /// Goes on where rustls is. `secret` has to be the one its keys follow from.
    fn take_over(
        (sequence, keys): (u64, ConnectionTrafficSecrets),
        secret: Option<Secret>,
    ) -> Result<Self, RecordError> {
        let secret = secret.ok_or(RecordError::KeyUpdate)?;
        let suite = secret.suite_of(&keys)?;
        Self::begin(sequence, secret, suite)
    }

    /// After a key update: the next secret's keys, from the first record on.
    fn next(&self) -> Result<Self, RecordError> {
        Self::begin(0, self.secret.next(self.suite)?, self.suite)
    }

    fn begin(sequence: u64, secret: Secret, suite: &'static Suite) -> Result<Self, RecordError> {
        let (key, iv) = secret.keys(suite)?;
        let refresh_at = suite.refresh_at;
        Ok(Self {
            key,
            iv,
            sequence,
            refresh_at,
            secret,
            suite,
        })
    }

    /// The nonce of the next record (RFC 8446 §5.3); each sequence number is used once.
    fn next_nonce(&mut self) -> Result<Nonce, RecordError> {
        let sequence = self.sequence;
        self.sequence = sequence.checked_add(1).ok_or(RecordError::Exhausted)?;
        let mut nonce = self.iv;
        for (byte, s) in nonce[4..].iter_mut().zip(sequence.to_be_bytes()) {
            *byte ^= s;
        }
        Ok(Nonce::assume_unique_for_key(nonce))
    }
}

/// Both directions of one connection.
pub(crate) struct Own {
    tx: Half,
    rx: Half,
    /// The start of a post-handshake message whose rest is in later records.
    fragment: Vec<u8>,
    idle_records: u32,
    /// The peer asked for a key update: ours goes out before the next record.
    answer_key_update: bool,
    #[cfg(test)]
    updates: u32,
    #[cfg(test)]
    refresh_after: Option<u64>,
}

impl Own {
    /// Takes over from a finished handshake: `tx` is the secret of what we send, `rx` of what the peer sends.
    pub(super) fn new(
        keys: rustls::ExtractedSecrets,
        tx: Option<Secret>,
        rx: Option<Secret>,
    ) -> Result<Self, RecordError> {
        Ok(Self {
            tx: Half::take_over(keys.tx, tx)?,
            rx: Half::take_over(keys.rx, rx)?,
            fragment: Vec::new(),
            idle_records: 0,
            answer_key_update: false,
            #[cfg(test)]
            updates: 0,
            #[cfg(test)]
            refresh_after: None,
        })
    }

    /// Updates our sending keys after so many records, so that tests see it happen.
    #[cfg(test)]
    pub(super) fn refresh_after(&mut self, records: u64) {
        self.refresh_after = Some(records);
        self.tx.refresh_at = records;
    }

    /// How often our sending keys were updated.
    #[cfg(test)]
    pub(super) fn updates(&self) -> u32 {
        self.updates
    }

    /// Opens the record at the front of `buffer`, in place.
    pub(super) fn open(&mut self, buffer: &mut [u8]) -> Result<Opened, RecordError> {
        let &[kind, _, _, high, low, ..] = &*buffer else {
            return Ok(Opened::Partial(RECORD_HEADER));
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        let consumed = RECORD_HEADER + length;
        if kind != CONTENT_APPLICATION || !(TAG + 1..=MAX_CIPHERTEXT).contains(&length) {
            return Err(RecordError::Malformed { kind, length });
        }
        if buffer.len() < consumed {
            return Ok(Opened::Partial(consumed));
        }
        let (header, rest) = buffer.split_at_mut(RECORD_HEADER);
        let nonce = self.rx.next_nonce()?;
        let opened = self
            .rx
            .key
            .open_in_place(nonce, Aad::from(&*header), &mut rest[..length]);
        let inner = opened.map_err(|_| RecordError::Unauthentic)?;
        // TLSInnerPlaintext: content, type, zero padding.
        let Some(end) = inner.iter().rposition(|&b| b != 0) else {
            return Err(RecordError::Unexpected(0));
        };
        let kind = inner[end];
        if end > RECORD_PLAINTEXT {
            return Err(RecordError::Malformed { kind, length });
        }
        match kind {
            CONTENT_APPLICATION if end == 0 => self.count_idle().map(|()| Opened::Control { consumed }),
            CONTENT_APPLICATION => {
                self.idle_records = 0;
                Ok(Opened::Data {
                    consumed,
                    plaintext: RECORD_HEADER..RECORD_HEADER + end,
                })
            }
            CONTENT_ALERT => match inner[..end] {
                [_, alert::CLOSE_NOTIFY] => Ok(Opened::Closed { consumed }),
                [_, alert::USER_CANCELED] => self.count_idle().map(|()| Opened::Control { consumed }),
                [_, code] => Err(RecordError::Alert { code }),
                _ => Err(RecordError::Unexpected(kind)),
            },
            CONTENT_HANDSHAKE => {
                self.count_idle()?;
                let messages = inner[..end].to_vec();
                self.post_handshake(&messages)?;
                Ok(Opened::Control { consumed })
            }
            other => Err(RecordError::Unexpected(other)),
        }
    }

    fn count_idle(&mut self) -> Result<(), RecordError> {
        self.idle_records += 1;
        if self.idle_records > MAX_IDLE_RECORDS {
            Err(RecordError::Idle)
        } else {
            Ok(())
        }
    }

    /// Session tickets are passed over (resumption is off); key updates are followed.
    fn post_handshake(&mut self, messages: &[u8]) -> Result<(), RecordError> {
        self.fragment.extend_from_slice(messages);
        let mut pending = std::mem::take(&mut self.fragment);
        let mut rest = pending.as_slice();
        while let &[kind, a, b, c, ref after @ ..] = rest {
            let length = u32::from_be_bytes([0, a, b, c]) as usize;
            if length > MAX_HANDSHAKE_MESSAGE {
                return Err(RecordError::Unexpected(kind));
            }
            let Some((body, next)) = after.split_at_checked(length) else {
                break;
            };
            match (kind, body) {
                (HANDSHAKE_NEW_SESSION_TICKET, _) => {}
                // Nothing may follow in the same record: it would be under the old key (RFC 8446 §5.1).
                (HANDSHAKE_KEY_UPDATE, &[requested]) if requested <= KEY_UPDATE_REQUESTED && next.is_empty() => {
                    self.rx = self.rx.next()?;
                    self.answer_key_update |= requested == KEY_UPDATE_REQUESTED;
                }
                _ => return Err(RecordError::Unexpected(kind)),
            }
            rest = next;
        }
        let done = pending.len() - rest.len();
        pending.drain(..done);
        self.fragment = pending;
        Ok(())
    }

    /// Whether [`Own::seal_key_update`] has to run before the next record.
    pub(super) fn key_update_due(&self) -> bool {
        self.answer_key_update || self.tx.sequence >= self.tx.refresh_at
    }

    /// Seals a KeyUpdate under the old key and moves on to the new one. Returns the bytes written to `out`.
    pub(super) fn seal_key_update(&mut self, out: &mut [u8]) -> Result<usize, RecordError> {
        let body = [HANDSHAKE_KEY_UPDATE, 0, 0, 1, 0];
        let written = self.seal_small(CONTENT_HANDSHAKE, &body, out)?;
        self.tx = self.tx.next()?;
        self.answer_key_update = false;
        #[cfg(test)]
        {
            self.updates += 1;
            self.tx.refresh_at = self.refresh_after.unwrap_or(self.tx.refresh_at);
        }
        Ok(written)
    }

    /// Seals close_notify. Returns the bytes written to `out`.
    pub(super) fn seal_close_notify(&mut self, out: &mut [u8]) -> Result<usize, RecordError> {
        self.seal_small(CONTENT_ALERT, &[alert::WARNING, alert::CLOSE_NOTIFY], out)
    }

    fn seal_small(&mut self, kind: u8, body: &[u8], out: &mut [u8]) -> Result<usize, RecordError> {
        out[RECORD_HEADER..RECORD_HEADER + body.len()].copy_from_slice(body);
        self.seal_as(kind, out, body.len())
    }

    /// Protects `total` plaintext bytes that lie in the record slots of `slots`, slot by slot. Full slots lie end to end,
    /// so the result is one run of bytes, whose length is returned.
    pub(super) fn seal(&mut self, slots: &mut [u8], total: usize) -> Result<usize, RecordError> {
        let mut sealed = 0;
        let mut left = total;
        for slot in slots.chunks_mut(RECORD) {
            if left == 0 {
                break;
            }
            let length = left.min(RECORD_PLAINTEXT);
            sealed += self.seal_as(CONTENT_APPLICATION, slot, length)?;
            left -= length;
        }
        Ok(sealed)
    }

    fn seal_as(&mut self, kind: u8, record: &mut [u8], length: usize) -> Result<usize, RecordError> {
        debug_assert!(length <= RECORD_PLAINTEXT);
        let nonce = self.tx.next_nonce()?;
        let (header, rest) = record.split_at_mut(RECORD_HEADER);
        let protected = (length + RECORD_TRAILER) as u16;
        let [high, low] = protected.to_be_bytes();
        header.copy_from_slice(&[CONTENT_APPLICATION, 3, 3, high, low]);
        rest[length] = kind;
        let (inner, tag) = rest.split_at_mut(length + 1);
        let sealed = self
            .tx
            .key
            .seal_in_place_separate_tag(nonce, Aad::from(&*header), inner);
        tag[..TAG].copy_from_slice(sealed.map_err(|_| RecordError::Exhausted)?.as_ref());
        Ok(RECORD_HEADER + length + RECORD_TRAILER)
    }
}
