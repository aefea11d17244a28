//! A disk in memory that fails or loses power at a chosen operation, and leaves what a real one may leave: content that was
//! not synced lost, cut in half or kept; names that were not synced old or new. For tests.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use super::disk::Disk;

/// What happens at the chosen operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The operation does nothing and reports an error; later ones work.
    Refused,
    /// The operation does half of its work and reports an error; later ones work.
    Half,
    /// Power is lost before the operation; everything after it fails until [`MemoryDisk::restart`].
    PowerLost,
}

/// What of the unsynced work is found after power was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Survives {
    /// All of it, as when only the process was killed.
    Everything,
    /// None of it.
    Nothing,
    /// New names, but no content that was not synced.
    Names,
    /// Content half, names old.
    HalfContent,
    /// Content half, names new.
    NamesAndHalfContent,
}

pub(crate) const EVERY_SURVIVAL: [Survives; 5] = [
    Survives::Everything,
    Survives::Nothing,
    Survives::Names,
    Survives::HalfContent,
    Survives::NamesAndHalfContent,
];

#[derive(Debug, Clone, Default)]
pub(crate) struct MemoryDisk(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    files: Vec<Content>,
    /// Names as processes see them, and as they are on the medium.
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    operations: usize,
    fault: Option<(usize, Fault)>,
    off: bool,
}

#[derive(Debug, Clone, Default)]
struct Content {
    now: Vec<u8>,
    durable: Vec<u8>,
}

enum Step {
    Whole,
    Half,
}

impl MemoryDisk {
    /// Arms a fault at the `operation`th write operation from now on.
    pub(crate) fn arm(&self, operation: usize, fault: Fault) {
        let mut inner = self.inner();
        inner.fault = Some((inner.operations + operation, fault));
    }

    /// Write operations so far.
    pub(crate) fn operations(&self) -> usize {
        self.inner().operations
    }

    /// What another process would find now, after power was lost: a disk of its own.
    pub(crate) fn restart(&self, survives: Survives) -> Self {
        let inner = self.inner();
        let keep_names = matches!(
            survives,
            Survives::Everything | Survives::Names | Survives::NamesAndHalfContent
        );
        let names = if keep_names {
            inner.names.clone()
        } else {
            inner.durable_names.clone()
        };
        let files = inner.files.iter().map(|content| {
            let now = match survives {
                Survives::Everything => content.now.clone(),
                Survives::Nothing | Survives::Names => content.durable.clone(),
                Survives::HalfContent | Survives::NamesAndHalfContent => halfway(content),
            };
            Content {
                durable: now.clone(),
                now,
            }
        });
        let files = files.collect();
        Self(Arc::new(Mutex::new(Inner {
            files,
            durable_names: names.clone(),
            names,
            ..Inner::default()
        })))
    }

    /// An independent copy of the disk as processes see it.
    pub(crate) fn copy(&self) -> Self {
        self.restart(Survives::Everything)
    }

    /// Changes a file as a vandal would.
    pub(crate) fn tamper(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut inner = self.inner();
        let file = inner.names[path];
        change(&mut inner.files[file].now);
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    fn operate<T>(&self, work: impl FnOnce(&mut Inner, Step) -> io::Result<T>) -> io::Result<T> {
        let mut inner = self.inner();
        if inner.off {
            return Err(io::Error::other("power is off"));
        }
        let due = inner
            .fault
            .filter(|(at, _)| *at == inner.operations)
            .map(|(_, fault)| fault);
        inner.operations += 1;
        match due {
            None => work(&mut inner, Step::Whole),
            Some(Fault::Refused) => Err(io::Error::other("refused")),
            Some(Fault::Half) => work(&mut inner, Step::Half).and(Err(io::Error::other("half done"))),
            Some(Fault::PowerLost) => {
                inner.off = true;
                Err(io::Error::other("power was lost"))
            }
        }
    }
}

/// Some prefix of what was written since the last sync; for a file that was cut, the cut is lost.
fn halfway(content: &Content) -> Vec<u8> {
    if content.now.starts_with(&content.durable) {
        let new = content.now.len() - content.durable.len();
        return content.now[..content.durable.len() + new / 2].to_vec();
    }
    content.durable.clone()
}

impl Inner {
    fn file(&self, path: &Path) -> io::Result<usize> {
        self.names
            .get(path)
            .copied()
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Disk for MemoryDisk {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let inner = self.inner();
        inner.file(path).map(|file| inner.files[file].now.clone())
    }

    fn open(&self, path: &Path, from: u64) -> io::Result<Box<dyn io::Read>> {
        let bytes = self.read(path)?;
        Ok(Box::new(io::Cursor::new(
            bytes.get(usize::try_from(from).unwrap()..).unwrap_or_default().to_vec(),
        )))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let inside = |path: &&PathBuf| path.parent() == Some(dir);
        let name = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
        Ok(self.inner().names.keys().filter(inside).map(name).collect())
    }

    fn create(&self, path: &Path) -> io::Result<()> {
        self.operate(|inner, _| {
            if let Ok(file) = inner.file(path) {
                inner.files[file].now.clear();
            } else {
                inner.files.push(Content::default());
                let file = inner.files.len() - 1;
                inner.names.insert(path.to_owned(), file);
            }
            Ok(())
        })
    }

    fn append(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.operate(|inner, step| {
            let file = inner.file(path)?;
            let length = if matches!(step, Step::Half) {
                bytes.len() / 2
            } else {
                bytes.len()
            };
            inner.files[file].now.extend_from_slice(&bytes[..length]);
            Ok(())
        })
    }

    fn truncate(&self, path: &Path, length: u64) -> io::Result<()> {
        self.operate(|inner, _| {
            let file = inner.file(path)?;
            inner.files[file].now.truncate(usize::try_from(length).unwrap());
            Ok(())
        })
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        self.operate(|inner, step| {
            let file = inner.file(path)?;
            let content = &mut inner.files[file];
            content.durable = if matches!(step, Step::Half) {
                halfway(content)
            } else {
                content.now.clone()
            };
            Ok(())
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.operate(|inner, _| {
            let file = inner.file(from)?;
            inner.names.remove(from);
            inner.names.insert(to.to_owned(), file);
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.operate(|inner, _| {
            inner.file(path)?;
            inner.names.remove(path);
            Ok(())
        })
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.operate(|inner, _| {
            let elsewhere = |path: &PathBuf| path.parent() != Some(dir);
            inner.durable_names.retain(|path, _| elsewhere(path));
            let here: Vec<_> = inner
                .names
                .iter()
                .filter(|(path, _)| !elsewhere(path))
                .map(|(p, f)| (p.clone(), *f))
                .collect();
            inner.durable_names.extend(here);
            Ok(())
        })
    }
}
