//! The CA's state encrypted at rest: AES-256-GCM under a key that a passphrase gives (PBKDF2-HMAC-SHA256), or that a command
//! of the admin's wraps, as key-management services do. The envelope says how it was made; it is read whole or not at all.

use std::{
    io::Write as _,
    num::NonZeroU32,
    path::Path,
    process::{Command, Stdio},
    sync::Mutex,
};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey},
    pbkdf2, rand,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::store::StoreError;

/// The version of the envelope.
const VERSION: u32 = 1;
/// Rounds of PBKDF2: about a third of a second, once at the start and at each change of the state.
const ROUNDS: u32 = 600_000;
/// An envelope that asks for more rounds than that is not ours.
const MAX_ROUNDS: u32 = 10_000_000;
/// Shortest passphrase, in bytes.
const MIN_PASSPHRASE: usize = 12;
/// Longest answer of a command.
const MAX_WRAPPED: usize = 64 * 1024;
const KEY: usize = 32;

type Key = Zeroizing<[u8; KEY]>;

/// What opens and seals.
pub struct Seal {
    by: By,
    /// The key in use and how it is found again: made once, so that a command is not asked at every change.
    current: Mutex<Option<(Key, Wrapping)>>,
}

enum By {
    Passphrase(Zeroizing<String>),
    Command(String),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope {
    /// The version; its name tells an envelope from what is in it.
    squire_sealed: u32,
    cipher: String,
    key: Wrapping,
    nonce: String,
    ciphertext: String,
}

/// How the key is found again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "kebab-case", deny_unknown_fields)]
enum Wrapping {
    Passphrase { kdf: String, rounds: u32, salt: String },
    Command { wrapped: String },
}

/// Why something cannot be sealed or opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Too easy to guess.
    #[error("the passphrase is shorter than {MIN_PASSPHRASE} bytes")]
    Short,
    /// Not an envelope of this version.
    #[error("it is encrypted in a way that this version of squire does not know: {0}")]
    Unknown(String),
    /// Sealed otherwise.
    #[error("it was encrypted {0}: give that")]
    OtherWay(&'static str),
    /// The wrong key, or somebody changed it.
    #[error("it cannot be decrypted: the passphrase or the command's key is another one, or the file was changed")]
    Wrong,
    /// The command.
    #[error("the key command {command:?} failed to {what}: {reason}")]
    Command {
        /// What was run.
        command: String,
        /// `wrap` or `unwrap`.
        what: &'static str,
        /// What came of it.
        reason: String,
    },
    /// No random numbers.
    #[error("the operating system gave no random numbers: check /dev/urandom")]
    Random,
}

impl Seal {
    /// By a passphrase; white space around it does not count.
    ///
    /// # Errors
    /// When it is too short.
    pub fn passphrase(text: &str) -> Result<Self, SealError> {
        let text = text.trim();
        if text.len() < MIN_PASSPHRASE {
            return Err(SealError::Short);
        }
        Ok(Self::new(By::Passphrase(Zeroizing::new(text.to_owned()))))
    }

    /// By the passphrase in a file.
    ///
    /// # Errors
    /// When it cannot be read, or is too short.
    pub fn passphrase_file(path: &Path) -> Result<Self, StoreError> {
        let text = std::fs::read_to_string(path)
            .map(Zeroizing::new)
            .map_err(|source| StoreError::Io {
                path: path.to_owned(),
                action: "read the passphrase",
                source,
            })?;
        Self::passphrase(&text).map_err(|error| StoreError::Sealed {
            path: path.to_owned(),
            error,
        })
    }

    /// By a shell command. It is run with `wrap` or `unwrap` as its last argument: `wrap` reads a key (base64) and writes
    /// whatever it can be found by again; `unwrap` reads that and writes the key.
    #[must_use]
    pub fn command(command: &str) -> Self {
        Self::new(By::Command(command.to_owned()))
    }

    fn new(by: By) -> Self {
        Self {
            by,
            current: Mutex::default(),
        }
    }

    /// Encrypts.
    ///
    /// # Errors
    /// When no key can be made or wrapped.
    pub fn seal(&self, plain: &[u8]) -> Result<Vec<u8>, SealError> {
        let (key, wrapping) = self.key()?;
        let mut ciphertext = plain.to_vec();
        let nonce = cipher(&key)?
            .seal_in_place_append_tag(Aad::from(bound(&wrapping)), &mut ciphertext)
            .map_err(|_| SealError::Random)?;
        let envelope = Envelope {
            squire_sealed: VERSION,
            cipher: CIPHER.into(),
            key: wrapping,
            nonce: STANDARD.encode(nonce.as_ref()),
            ciphertext: STANDARD.encode(ciphertext),
        };
        serde_json::to_vec_pretty(&envelope).map_err(|error| SealError::Unknown(error.to_string()))
    }

    /// Decrypts.
    ///
    /// # Errors
    /// When it was sealed otherwise, or changed.
    pub fn open(&self, bytes: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let unknown = |what: &str| SealError::Unknown(what.to_owned());
        let envelope: Envelope =
            serde_json::from_slice(bytes).map_err(|error| SealError::Unknown(error.to_string()))?;
        if envelope.squire_sealed != VERSION || envelope.cipher != CIPHER {
            return Err(SealError::Unknown(format!(
                "version {}, {}",
                envelope.squire_sealed, envelope.cipher
            )));
        }
        let nonce = STANDARD.decode(&envelope.nonce).map_err(|_| unknown("its nonce"))?;
        let nonce = Nonce::try_assume_unique_for_key(&nonce).map_err(|_| unknown("its nonce"))?;
        let mut bytes = STANDARD
            .decode(&envelope.ciphertext)
            .map_err(|_| unknown("its content"))?;
        let key = self.find(&envelope.key)?;
        let bound = Aad::from(bound(&envelope.key));
        let plain = cipher(&key)?
            .open_in_place(nonce, bound, &mut bytes)
            .map_err(|_| SealError::Wrong)?;
        let plain = Zeroizing::new(plain.to_vec());
        *self.current() = Some((key, envelope.key));
        Ok(plain)
    }

    /// The key in use, made when there is none.
    fn key(&self) -> Result<(Key, Wrapping), SealError> {
        let mut current = self.current();
        if let Some(known) = &*current {
            return Ok(known.clone());
        }
        let made = match &self.by {
            By::Passphrase(passphrase) => {
                let mut salt = [0; 16];
                rand::fill(&mut salt).map_err(|_| SealError::Random)?;
                let wrapping = Wrapping::Passphrase {
                    kdf: KDF.into(),
                    rounds: ROUNDS,
                    salt: STANDARD.encode(salt),
                };
                (derive(passphrase, ROUNDS, &salt)?, wrapping)
            }
            By::Command(command) => {
                let mut key = Key::default();
                rand::fill(&mut *key).map_err(|_| SealError::Random)?;
                let text = Zeroizing::new(STANDARD.encode(*key));
                let wrapped = run(command, "wrap", &text)?.to_string();
                (key, Wrapping::Command { wrapped })
            }
        };
        *current = Some(made.clone());
        Ok(made)
    }

    /// The key that an envelope was sealed with.
    fn find(&self, wrapping: &Wrapping) -> Result<Key, SealError> {
        if let Some((key, known)) = &*self.current()
            && known == wrapping
        {
            return Ok(key.clone());
        }
        match (&self.by, wrapping) {
            (By::Passphrase(passphrase), Wrapping::Passphrase { kdf, rounds, salt }) => {
                let salt = STANDARD
                    .decode(salt)
                    .map_err(|_| SealError::Unknown("its salt".into()))?;
                if kdf != KDF || *rounds > MAX_ROUNDS {
                    return Err(SealError::Unknown(format!("{kdf}, {rounds} rounds")));
                }
                derive(passphrase, *rounds, &salt)
            }
            (By::Command(command), Wrapping::Command { wrapped }) => {
                let text = run(command, "unwrap", wrapped)?;
                let bytes = Zeroizing::new(STANDARD.decode(text.as_bytes()).map_err(|_| SealError::Wrong)?);
                let key: [u8; KEY] = bytes.as_slice().try_into().map_err(|_| SealError::Wrong)?;
                Ok(Zeroizing::new(key))
            }
            (_, Wrapping::Passphrase { .. }) => {
                Err(SealError::OtherWay("with a passphrase (SQUIRE_CA_PASSPHRASE_FILE)"))
            }
            (_, Wrapping::Command { .. }) => Err(SealError::OtherWay("by a key command (SQUIRE_CA_KEY_COMMAND)")),
        }
    }

    fn current(&self) -> std::sync::MutexGuard<'_, Option<(Key, Wrapping)>> {
        // A pair that is put in whole: a panic elsewhere has left none in halves.
        self.current.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

const CIPHER: &str = "AES-256-GCM";
const KDF: &str = "PBKDF2-HMAC-SHA256";

/// Whether these bytes are an envelope.
#[must_use]
pub fn is_sealed(bytes: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Mark {
        #[serde(rename = "squire_sealed")]
        _version: u32,
    }
    serde_json::from_slice::<Mark>(bytes).is_ok()
}

/// What the ciphertext is bound to: how its key was made.
fn bound(wrapping: &Wrapping) -> Vec<u8> {
    // Plain text and numbers always become JSON.
    serde_json::to_vec(&(VERSION, CIPHER, wrapping)).unwrap_or_default()
}

fn cipher(key: &Key) -> Result<RandomizedNonceKey, SealError> {
    RandomizedNonceKey::new(&AES_256_GCM, &key[..]).map_err(|_| SealError::Wrong)
}

fn derive(passphrase: &str, rounds: u32, salt: &[u8]) -> Result<Key, SealError> {
    let rounds = NonZeroU32::new(rounds).ok_or_else(|| SealError::Unknown("no rounds".into()))?;
    let mut key = Key::default();
    pbkdf2::derive(
        pbkdf2::PBKDF2_HMAC_SHA256,
        rounds,
        salt,
        passphrase.as_bytes(),
        &mut *key,
    );
    Ok(key)
}

/// Runs the command with something on its standard input; what it writes, without white space around it.
fn run(command: &str, what: &'static str, input: &str) -> Result<Zeroizing<String>, SealError> {
    let failed = |reason: String| SealError::Command {
        command: command.to_owned(),
        what,
        reason,
    };
    let mut child = Command::new("/bin/sh")
        .args(["-c", &format!("{command} {what}")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    // A command that does not read its input may be right all the same: its answer counts.
    if let Some(mut stdin) = child.stdin.take() {
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
    let text = Zeroizing::new(output.stdout);
    if !output.status.success() {
        return Err(failed(output.status.to_string()));
    }
    let text = std::str::from_utf8(&text)
        .map_err(|_| failed("it wrote no text".into()))?
        .trim();
    if text.is_empty() || text.len() > MAX_WRAPPED {
        return Err(failed(format!("it wrote {} bytes", text.len())));
    }
    Ok(Zeroizing::new(text.to_owned()))
}

impl std::fmt::Debug for Seal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.by {
            By::Passphrase(_) => "Seal(passphrase)",
            By::Command(_) => "Seal(command)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"-----BEGIN PRIVATE KEY-----";

    #[test]
    fn what_a_passphrase_sealed_only_the_same_one_opens_and_nothing_of_it_shows() {
        let sealed = Seal::passphrase("correct horse battery").unwrap().seal(TEXT).unwrap();
        assert!(is_sealed(&sealed) && !is_sealed(b"{\"version\": 2}"));
        assert!(!String::from_utf8_lossy(&sealed).contains("PRIVATE"));
        let opened = |passphrase: &str| Seal::passphrase(passphrase).unwrap().open(&sealed);
        assert_eq!(&**opened(" correct horse battery\n").unwrap(), TEXT);
        assert_eq!(opened("incorrect horse battery"), Err(SealError::Wrong));
        assert_eq!(Seal::passphrase("short").unwrap_err(), SealError::Short);
        let by_command = Seal::command("cat").open(&sealed).unwrap_err();
        assert!(by_command.to_string().contains("PASSPHRASE"), "{by_command}");
    }

    #[test]
    fn whatever_is_changed_is_noticed() {
        let seal = Seal::passphrase("correct horse battery").unwrap();
        let sealed: Envelope = serde_json::from_slice(&seal.seal(TEXT).unwrap()).unwrap();
        type Change = fn(&mut Envelope);
        let changes: [Change; 4] = [
            |envelope| {
                envelope
                    .ciphertext
                    .replace_range(0..1, if envelope.ciphertext.starts_with('A') { "B" } else { "A" })
            },
            |envelope| {
                envelope
                    .nonce
                    .replace_range(0..1, if envelope.nonce.starts_with('A') { "B" } else { "A" })
            },
            |envelope| {
                if let Wrapping::Passphrase { rounds, .. } = &mut envelope.key {
                    *rounds = 1;
                }
            },
            |envelope| envelope.squire_sealed = 2,
        ];
        for change in changes {
            let mut changed: Envelope = serde_json::from_value(serde_json::to_value(&sealed).unwrap()).unwrap();
            change(&mut changed);
            assert!(
                seal.open(&serde_json::to_vec(&changed).unwrap()).is_err(),
                "{changed:?}"
            );
        }
        let good = serde_json::to_vec(&sealed).unwrap();
        assert_eq!(&**seal.open(&good).unwrap(), TEXT);
    }

    #[test]
    fn a_command_wraps_the_key_once_and_unwraps_it_again_and_its_failure_is_told() {
        // Turns letters round, as a key-management service would do better.
        let service = "f() { tr 'A-Za-z' 'N-ZA-Mn-za-m'; }; f";
        let seal = Seal::command(service);
        let (first, second) = (seal.seal(TEXT).unwrap(), seal.seal(b"another").unwrap());
        assert_ne!(first, second);
        assert_eq!(&**Seal::command(service).open(&first).unwrap(), TEXT);
        assert_eq!(&**seal.open(&second).unwrap(), b"another");
        assert_eq!(Seal::command("f() { cat; }; f").open(&first), Err(SealError::Wrong));
        let error = Seal::command("exit 3; :").open(&first).unwrap_err().to_string();
        assert!(error.contains("unwrap") && error.contains("exit status: 3"), "{error}");
    }
}
