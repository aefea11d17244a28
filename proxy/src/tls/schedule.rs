//! What of the TLS 1.3 key schedule outlives the handshake: one traffic secret for each direction, from which the next keys
//! follow (RFC 8446 §7.2, §7.3). rustls tells the secrets through its key log, while it computes them; everything else it
//! holds of a connection, the peer's certificates first of all, can then be let go. They never leave this room.

use std::cell::RefCell;

use aws_lc_rs::{
    aead::{AES_128_GCM, AES_256_GCM, Algorithm, CHACHA20_POLY1305, LessSafeKey, UnboundKey},
    hkdf::{self, HKDF_SHA256, HKDF_SHA384, Prk},
};
use rustls::{ConnectionTrafficSecrets, KeyLog};
use zeroize::Zeroize as _;

use super::records::RecordError;

/// Length of every nonce (RFC 8446 §5.3).
pub(super) const NONCE: usize = 12;
/// The longest secret: one hash of SHA-384.
const LONGEST: usize = 48;
/// The longest AEAD key.
const KEY: usize = 32;

/// Records sealed under one AES-GCM key before a key update: well under the 2^24.5 of RFC 8446 §5.5.
const GCM_RECORDS: u64 = 1 << 23;
/// ChaCha20-Poly1305 has no such limit in practice; keys are still refreshed.
const CHACHA_RECORDS: u64 = 1 << 32;

/// A cipher suite, as far as record protection goes (RFC 8446 §B.4).
pub(super) struct Suite {
    aead: &'static Algorithm,
    hash: hkdf::Algorithm,
    /// Records sealed under one key before it is updated.
    pub(super) refresh_at: u64,
}

static AES_128: Suite = Suite {
    aead: &AES_128_GCM,
    hash: HKDF_SHA256,
    refresh_at: GCM_RECORDS,
};
static AES_256: Suite = Suite {
    aead: &AES_256_GCM,
    hash: HKDF_SHA384,
    refresh_at: GCM_RECORDS,
};
static CHACHA20: Suite = Suite {
    aead: &CHACHA20_POLY1305,
    hash: HKDF_SHA256,
    refresh_at: CHACHA_RECORDS,
};

/// The traffic secret of one direction.
#[derive(Clone)]
pub(super) struct Secret {
    bytes: [u8; LONGEST],
    length: u8,
}

impl Secret {
    fn new(bytes: &[u8]) -> Option<Self> {
        let mut secret = Self {
            bytes: [0; LONGEST],
            length: u8::try_from(bytes.len()).ok()?,
        };
        secret.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(secret)
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    /// HKDF-Expand-Label with an empty context (RFC 8446 §7.1).
    fn expand(&self, suite: &Suite, label: &[u8], out: &mut [u8]) -> Result<(), RecordError> {
        const PREFIX: &[u8] = b"tls13 ";
        let length = u16::try_from(out.len()).map_err(|_| RecordError::KeyUpdate)?;
        let label_length = u8::try_from(PREFIX.len() + label.len()).map_err(|_| RecordError::KeyUpdate)?;
        Prk::new_less_safe(suite.hash, self.bytes())
            .expand(
                &[&length.to_be_bytes(), &[label_length], PREFIX, label, &[0]],
                Length(out.len()),
            )
            .and_then(|expanded| expanded.fill(out))
            .map_err(|_| RecordError::KeyUpdate)
    }

    /// The secret after a key update (RFC 8446 §7.2).
    pub(super) fn next(&self, suite: &Suite) -> Result<Self, RecordError> {
        let mut next = self.clone();
        let length = usize::from(self.length);
        self.expand(suite, b"traffic upd", &mut next.bytes[..length])?;
        Ok(next)
    }

    /// Key and nonce base of the secret (RFC 8446 §7.3).
    pub(super) fn keys(&self, suite: &Suite) -> Result<(LessSafeKey, [u8; NONCE]), RecordError> {
        let (mut key, mut iv) = ([0; KEY], [0; NONCE]);
        let length = suite.aead.key_len();
        self.expand(suite, b"key", &mut key[..length])?;
        self.expand(suite, b"iv", &mut iv)?;
        let unbound = UnboundKey::new(suite.aead, &key[..length]);
        key.zeroize();
        Ok((LessSafeKey::new(unbound.map_err(|_| RecordError::KeyUpdate)?), iv))
    }

    /// Whether rustls protects its records with what follows from this secret; and with which suite.
    pub(super) fn suite_of(&self, secrets: &ConnectionTrafficSecrets) -> Result<&'static Suite, RecordError> {
        let (suite, key, iv): (&'static Suite, &[u8], &[u8]) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128, key.as_ref(), iv.as_ref()),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256, key.as_ref(), iv.as_ref()),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20, key.as_ref(), iv.as_ref()),
            _ => return Err(RecordError::KeyUpdate),
        };
        let (mut own_key, mut own_iv) = ([0; KEY], [0; NONCE]);
        let own = own_key.get_mut(..key.len()).ok_or(RecordError::KeyUpdate)?;
        self.expand(suite, b"key", own)?;
        self.expand(suite, b"iv", &mut own_iv)?;
        let same = *own == *key && own_iv == *iv;
        own_key.zeroize();
        if same { Ok(suite) } else { Err(RecordError::KeyUpdate) }
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

/// How many bytes are to be expanded.
struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// Both secrets of a connection, as soon as they are known.
#[derive(Default)]
pub(super) struct Secrets {
    pub(super) client: Option<Secret>,
    pub(super) server: Option<Secret>,
}

thread_local! {
    static CAUGHT: RefCell<Secrets> = const { RefCell::new(Secrets { client: None, server: None }) };
}

/// The key log that [`caught`] reads. It writes nothing anywhere.
#[derive(Debug)]
pub(crate) struct Catch;

impl KeyLog for Catch {
    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        CAUGHT.with_borrow_mut(|caught| match label {
            "CLIENT_TRAFFIC_SECRET_0" => caught.client = Secret::new(secret),
            "SERVER_TRAFFIC_SECRET_0" => caught.server = Secret::new(secret),
            _ => {}
        });
    }

    fn will_log(&self, label: &str) -> bool {
        matches!(label, "CLIENT_TRAFFIC_SECRET_0" | "SERVER_TRAFFIC_SECRET_0")
    }
}

/// What rustls has told on this thread since the last call: each step of a handshake runs through without a pause, so what
/// was told during the step belongs to its connection. (That it does is checked: see [`Secret::suite_of`].)
pub(super) fn caught(into: &mut Secrets) {
    let Secrets { client, server } = CAUGHT.take();
    into.client = client.or(into.client.take());
    into.server = server.or(into.server.take());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
            .collect()
    }

    /// RFC 8448 §3: the server's application traffic secret, and what follows from it.
    #[test]
    fn keys_follow_from_a_secret_as_the_standards_example_says() {
        let secret = Secret::new(&bytes(
            "a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643",
        ))
        .unwrap();
        let (mut key, mut iv) = ([0; 16], [0; NONCE]);
        secret.expand(&AES_128, b"key", &mut key).unwrap();
        secret.expand(&AES_128, b"iv", &mut iv).unwrap();
        assert_eq!(key[..], bytes("9f02283b6c9c07efc26bb9f2ac92e356"));
        assert_eq!(iv[..], bytes("cf782b88dd83549aadf1e984"));
    }

    #[test]
    fn a_secret_that_is_another_connections_is_not_taken() {
        let (ours, theirs) = (Secret::new(&[1; 32]).unwrap(), Secret::new(&[2; 32]).unwrap());
        let (mut key, mut iv) = ([0; KEY], [0; NONCE]);
        ours.expand(&CHACHA20, b"key", &mut key).unwrap();
        ours.expand(&CHACHA20, b"iv", &mut iv).unwrap();
        let told = ConnectionTrafficSecrets::Chacha20Poly1305 {
            key: key.into(),
            iv: iv.into(),
        };
        assert!(ours.suite_of(&told).is_ok());
        assert!(theirs.suite_of(&told).is_err());
    }

    #[test]
    fn each_connection_gets_its_own_secrets_and_nothing_stays_behind() {
        let mut first = Secrets::default();
        Catch.log("CLIENT_TRAFFIC_SECRET_0", &[], &[1; 32]);
        caught(&mut first);
        Catch.log("SERVER_TRAFFIC_SECRET_0", &[], &[2; 48]);
        caught(&mut first);
        assert_eq!(first.client.unwrap().bytes(), [1; 32]);
        assert_eq!(first.server.unwrap().bytes(), [2; 48]);
        let mut second = Secrets::default();
        caught(&mut second);
        assert!(second.client.is_none() && second.server.is_none());
    }
}
