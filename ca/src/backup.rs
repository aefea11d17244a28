//! A CA's state and issuance log in one file, checked whole before anything is restored from it. Join tokens are not in it:
//! they last for minutes. A state that is kept encrypted stays so in its backup.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufReader, Read, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};

use crate::{
    authority::CaError,
    digest::Sha256,
    log::{self, Event, Head, Log, LogError, LogFault, rfc3339},
    seal::Seal,
    store::{DirStore, Store, StoreError},
};

/// The version of the file.
const VERSION: u32 = 1;
/// The line at its end: SHA-256 of everything before, hexadecimal, and a newline.
const TRAILER: u64 = 65;
/// Longest first line.
const MAX_HEADER: u64 = 64 * 1024;

/// The first line of a backup. State and log follow, byte for byte, then the line with the digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// The version of the file.
    pub squire_backup: u32,
    /// RFC 3339.
    pub made: String,
    /// Bytes of the state.
    pub state: u64,
    /// Of the log that follows the state.
    pub log: Head,
}

/// Why there is no backup, or nothing was restored from one.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The CA's own store.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// The file.
    #[error("{}: cannot {action}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What was attempted.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Not a backup, or not a whole one.
    #[error("{}: not a good backup: {reason}; nothing was restored", path.display())]
    Bad {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

impl From<StoreError> for BackupError {
    fn from(error: StoreError) -> Self {
        Self::Ca(error.into())
    }
}

/// Writes a backup, also beside the process that runs the CA; the file appears whole or not at all, for its owner only.
///
/// # Errors
/// When the CA cannot be read, or the file cannot be written or is there already.
pub fn make(store: &DirStore, path: &Path, now: SystemTime) -> Result<Header, BackupError> {
    let failed = |action, source| BackupError::File {
        path: path.to_owned(),
        action,
        source,
    };
    if path.exists() {
        return Err(failed("write", io::ErrorKind::AlreadyExists.into()));
    }
    let state = store.raw_state()?;
    let head = store.log_head()?.unwrap_or(Head::EMPTY);
    let header = Header {
        squire_backup: VERSION,
        made: rfc3339(now),
        state: state.len() as u64,
        log: head,
    };
    let mut aside = path.as_os_str().to_owned();
    aside.push(".new");
    let aside = PathBuf::from(aside);
    let write = || -> io::Result<()> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&aside)?;
        let mut out = Hashing::new(file);
        serde_json::to_writer(&mut out, &header)?;
        out.write_all(b"\n")?;
        out.write_all(&state)?;
        let log = store.read_log(0).map_err(io::Error::other)?;
        let copied = io::copy(&mut log.take(head.bytes), &mut out)?;
        if copied != head.bytes {
            return Err(io::Error::other("the log is shorter than its head says"));
        }
        let (mut file, digest) = out.finish();
        writeln!(file, "{digest}")?;
        file.sync_all()?;
        fs::rename(&aside, path)?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
    };
    let written = write();
    if written.is_err() {
        // What was begun is of no use to anybody; the error that is told is the first one.
        let _ = fs::remove_file(&aside);
    }
    written.map_err(|source| failed("write", source))?;
    Ok(header)
}

/// Restores a backup into a directory where there is no CA, and notes it in the log.
///
/// # Errors
/// When the file is not a whole and good backup, there is a CA already, or the directory cannot be written.
pub fn restore(path: &Path, dir: &Path, seal: Option<Arc<Seal>>, now: SystemTime) -> Result<Header, BackupError> {
    let (header, digest) = check(path)?;
    let bad = |reason: String| BackupError::Bad {
        path: path.to_owned(),
        reason,
    };
    let (mut state, mut log) = (open(path)?, open(path)?);
    let state = read_state(&mut state, &header).map_err(|error| bad(error.to_string()))?;
    let store = DirStore::create(dir)?.sealed_by(seal);
    if let Some(existing) = store.load()? {
        return Err(StoreError::AlreadyInitialised {
            path: dir.to_owned(),
            domain: existing.trust_domain,
        }
        .into());
    }
    store.parse(&state)?;
    read_state(&mut log, &header).map_err(|error| bad(error.to_string()))?;
    store.put_log(&mut log.take(header.log.bytes), &header.log)?;
    store.put_raw_state(&state)?;
    let store: Arc<dyn Store> = Arc::new(store);
    let log = Log::open(store).map_err(CaError::from)?;
    let event = Event::Restored {
        backup: digest,
        made: header.made.clone(),
    };
    log.append_blocking(event, now).map_err(CaError::from)?;
    Ok(header)
}

/// Reads the whole file once: that nothing is missing or changed, and that the log holds together.
fn check(path: &Path) -> Result<(Header, Sha256), BackupError> {
    let bad = |reason: &str| BackupError::Bad {
        path: path.to_owned(),
        reason: reason.to_owned(),
    };
    let length = fs::metadata(path).map_err(|source| BackupError::File {
        path: path.to_owned(),
        action: "read",
        source,
    })?;
    let body = length
        .len()
        .checked_sub(TRAILER)
        .ok_or_else(|| bad("it is too short"))?;
    let mut reader = open(path)?;
    let mut hasher = Hashing::new(io::sink());
    io::copy(&mut (&mut reader).take(body), &mut hasher).map_err(|error| bad(&error.to_string()))?;
    let (_, digest) = hasher.finish();
    let mut trailer = String::new();
    reader
        .read_to_string(&mut trailer)
        .map_err(|error| bad(&error.to_string()))?;
    if trailer.strip_suffix('\n') != Some(digest.to_string().as_str()) {
        return Err(bad("its digest is another one: it was cut short or changed"));
    }
    let mut reader = open(path)?;
    let header = read_header(&mut reader).map_err(|error| bad(&error.to_string()))?;
    if header.squire_backup != VERSION {
        return Err(bad(&format!(
            "it has version {}, this program knows {VERSION}",
            header.squire_backup
        )));
    }
    let mut reader = open(path)?;
    read_state(&mut reader, &header).map_err(|error| bad(&error.to_string()))?;
    let lines = BufReader::new(reader.take(header.log.bytes));
    log::verify(lines, Some(&header.log), |_| {})
        .map_err(|fault: LogFault| BackupError::Ca(CaError::Log(LogError::Fault(fault))))?;
    Ok((header, digest))
}

/// The state, and with it everything before the log.
fn read_state(reader: &mut impl Read, header: &Header) -> io::Result<zeroize::Zeroizing<Vec<u8>>> {
    read_header(reader)?;
    let mut state = zeroize::Zeroizing::new(Vec::new());
    reader.by_ref().take(header.state).read_to_end(&mut state)?;
    Ok(state)
}

/// The first line, byte by byte: what follows it is not read.
fn read_header(reader: &mut impl Read) -> io::Result<Header> {
    let mut line = Vec::new();
    let mut byte = [0];
    while (line.len() as u64) < MAX_HEADER {
        reader.read_exact(&mut byte)?;
        if byte[0] == b'\n' {
            return Ok(serde_json::from_slice(&line)?);
        }
        line.push(byte[0]);
    }
    Err(io::Error::other("its first line does not end"))
}

fn open(path: &Path) -> Result<BufReader<File>, BackupError> {
    File::open(path)
        .map(BufReader::new)
        .map_err(|source| BackupError::File {
            path: path.to_owned(),
            action: "read",
            source,
        })
}

/// Hashes what passes through.
struct Hashing<W> {
    inner: W,
    context: digest::Context,
}

impl<W: Write> Hashing<W> {
    fn new(inner: W) -> Self {
        Self {
            inner,
            context: digest::Context::new(&digest::SHA256),
        }
    }

    fn finish(self) -> (W, Sha256) {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(self.context.finish().as_ref());
        (self.inner, Sha256::from_bytes(bytes))
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.context.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;
    use crate::authority::CertificateAuthority;

    fn founded(dir: &Path) {
        let store: Arc<dyn Store> = Arc::new(DirStore::create(dir).unwrap());
        CertificateAuthority::init(&store, &"cluster.local".parse().unwrap(), SystemTime::now()).unwrap();
    }

    fn backed_up(dir: &Path, out: &Path) -> Header {
        make(&DirStore::shared(dir).unwrap(), out, SystemTime::now()).unwrap()
    }

    #[test]
    fn what_was_backed_up_is_restored_with_its_log_which_tells_of_it_and_doubts_who_was_issued_since() {
        let files = tempfile::tempdir().unwrap();
        let (dir, out, other) = (
            files.path().join("ca"),
            files.path().join("ca.backup"),
            files.path().join("other"),
        );
        founded(&dir);
        let header = backed_up(&dir, &out);
        assert_eq!(header.log.count, 3);
        assert_eq!(fs::metadata(&out).unwrap().mode() & 0o777, 0o600);
        assert!(
            make(&DirStore::shared(&dir).unwrap(), &out, SystemTime::now()).is_err(),
            "none is overwritten"
        );
        restore(&out, &other, None, SystemTime::now()).unwrap();
        let state = |dir: &Path| DirStore::shared(dir).unwrap().load().unwrap().unwrap();
        assert_eq!(state(&dir), state(&other));
        let ca =
            CertificateAuthority::open(Arc::new(DirStore::open(&other).unwrap()), None, SystemTime::now()).unwrap();
        assert_eq!(ca.verify_log(SystemTime::now()).unwrap().head.count, 4);
        ca.rotate(None, "test", SystemTime::now()).unwrap();
        let doubt = ca.progress(SystemTime::now()).doubt.unwrap();
        assert!(doubt.contains("restored"), "{doubt}");
        drop(ca);
        let twice = restore(&out, &other, None, SystemTime::now()).unwrap_err();
        assert!(twice.to_string().contains("already"), "{twice}");
    }

    #[test]
    fn a_backup_that_was_cut_or_changed_restores_nothing() {
        let files = tempfile::tempdir().unwrap();
        let (dir, out) = (files.path().join("ca"), files.path().join("ca.backup"));
        founded(&dir);
        backed_up(&dir, &out);
        let good = fs::read(&out).unwrap();
        for (nth, spoilt) in [
            good[..good.len() - 1].to_vec(),
            good[..good.len() / 2].to_vec(),
            Vec::new(),
            good.iter()
                .enumerate()
                .map(|(at, byte)| if at == 400 { byte ^ 1 } else { *byte })
                .collect(),
        ]
        .into_iter()
        .enumerate()
        {
            fs::write(&out, spoilt).unwrap();
            let other = files.path().join(format!("other-{nth}"));
            let error = restore(&out, &other, None, SystemTime::now()).unwrap_err();
            assert!(error.to_string().contains("nothing was restored"), "{error}");
            assert!(!other.exists());
        }
    }

    #[test]
    fn an_encrypted_state_stays_so_in_its_backup_and_needs_its_passphrase_to_be_restored() {
        let files = tempfile::tempdir().unwrap();
        let (dir, out, other) = (
            files.path().join("ca"),
            files.path().join("ca.backup"),
            files.path().join("other"),
        );
        let seal = |text: &str| Some(Arc::new(Seal::passphrase(text).unwrap()));
        founded(&dir);
        let store = DirStore::open(&dir).unwrap().sealed_by(seal("correct horse battery"));
        assert!(store.seal_if_plain().unwrap() && !store.seal_if_plain().unwrap());
        drop(store);
        assert!(!fs::read_to_string(dir.join("state.json")).unwrap().contains("PRIVATE"));
        let closed = DirStore::shared(&dir).unwrap().load().unwrap_err();
        assert!(closed.to_string().contains("SQUIRE_CA_PASSPHRASE_FILE"), "{closed}");
        backed_up(&dir, &out);
        assert!(!fs::read_to_string(&out).unwrap().contains("PRIVATE"));
        assert!(restore(&out, &files.path().join("none"), None, SystemTime::now()).is_err());
        assert!(
            restore(
                &out,
                &files.path().join("wrong"),
                seal("another passphrase"),
                SystemTime::now()
            )
            .is_err()
        );
        restore(&out, &other, seal("correct horse battery"), SystemTime::now()).unwrap();
        let store = DirStore::shared(&other)
            .unwrap()
            .sealed_by(seal("correct horse battery"));
        assert_eq!(store.load().unwrap().unwrap().trust_domain, "cluster.local");
    }
}
