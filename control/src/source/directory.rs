//! The files of a directory, taken together. Hidden names are skipped, so that the mechanics of a mounted ConfigMap
//! (`..data`) are not read twice; links are followed, so that its files are.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use serde::Serialize;
use squire_mesh::workload::Interner;

use super::{
    News, Source, Watch,
    file::{File, Look, Review},
};
use crate::{
    inventory::Inventory,
    manifest::{Object, Problem, Severity},
    push::epoch_seconds,
};

/// Deeper directories are not read: most likely a link leads in a circle.
const MAX_DEPTH: usize = 16;

/// A directory of Kubernetes objects.
pub struct Directory {
    root: PathBuf,
    review: Review,
    files: BTreeMap<PathBuf, File>,
    /// What is wrong with the directory itself.
    unreadable: Vec<Problem>,
    /// Every file was good at some moment.
    complete: bool,
    /// What was told last.
    told: Inventory,
    /// Where each object stands: file, document, line.
    places: BTreeMap<String, Placed>,
    watch: Option<Watch>,
}

/// All that the files say together.
#[derive(Debug, Default)]
struct Snapshot {
    inventory: Inventory,
    others: Vec<Arc<Object>>,
    problems: Vec<Problem>,
    files: Vec<FileView>,
    complete: bool,
    /// Where each object stands: file, document, line.
    places: BTreeMap<String, Placed>,
}

/// The state of one file, or of one kind that is watched.
#[derive(Clone, Debug, Serialize)]
pub struct FileView {
    /// Its name, relative to the directory; or the kind, as kubectl has it.
    pub file: String,
    /// Whether its current content is in force.
    pub good: bool,
    /// When the content in force was read, in seconds since the epoch; `null` if nothing of it ever was.
    pub in_force_since: Option<u64>,
    /// Since when it has been bad, in seconds since the epoch.
    pub bad_since: Option<u64>,
}

/// File, document and line of an object.
pub type Placed = (Arc<str>, usize, usize);

/// What came of a look at the source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// Something is different.
    pub changed: bool,
    /// A file is being written: look again soon.
    pub unsettled: bool,
}

impl Directory {
    /// A directory not looked at yet. `review` judges the objects that give no fact.
    pub fn new(root: impl Into<PathBuf>, review: Review) -> Self {
        let unreadable = Vec::new();
        Self {
            root: root.into(),
            review,
            files: BTreeMap::new(),
            unreadable,
            complete: false,
            told: Inventory::default(),
            places: BTreeMap::new(),
            watch: None,
        }
    }

    /// Lets the kernel watch it from now on.
    #[must_use]
    pub fn watched(mut self) -> Self {
        self.watch = Some(Watch::new(&self.root));
        self
    }

    /// Files that are gone are gone on purpose, unless their directory could not be read. Whether there were any.
    fn forget_missing(&mut self, walk: &Walk) -> bool {
        let before = self.files.len();
        let hidden = |path: &Path| walk.unreadable.iter().any(|(directory, _)| path.starts_with(directory));
        self.files.retain(|path, _| walk.files.contains(path) || hidden(path));
        self.files.len() != before
    }

    fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot {
            complete: self.complete,
            ..Snapshot::default()
        };
        snapshot.problems.extend(self.unreadable.iter().cloned());
        let mut first: BTreeMap<String, Placed> = BTreeMap::new();
        for file in self.files.values() {
            snapshot.problems.extend(file.problems.iter().cloned());
            snapshot.files.push(FileView {
                file: file.name().to_string(),
                good: !file.is_bad(),
                in_force_since: file.good.as_ref().map(|good| epoch_seconds(good.since)),
                bad_since: file.bad_since.map(epoch_seconds),
            });
            let Some(good) = &file.good else { continue };
            for located in &good.facts {
                let place = (Arc::clone(file.name()), located.document, located.line);
                if snapshot.inventory.add(located.fact.clone()) {
                    first.insert(located.object.clone(), place);
                } else {
                    snapshot
                        .problems
                        .push(duplicate(place, &located.object, first.get(&located.object)));
                }
            }
            for other in &good.others {
                let group = other.api_version.split('/').next().unwrap_or_default();
                let object = format!("{}.{group} {}/{}", other.kind, other.namespace_or_default(), other.name);
                let place = (Arc::clone(file.name()), other.place.document, other.place.line);
                if let Some(earlier) = first.get(&object) {
                    snapshot.problems.push(duplicate(place, &object, Some(earlier)));
                } else {
                    first.insert(object, place);
                    snapshot.others.push(Arc::clone(other));
                }
            }
        }
        snapshot.places = first;
        snapshot
    }

    fn directory_problem(&self, path: &Path, why: &str) -> Problem {
        Problem {
            severity: Severity::Error,
            file: path
                .strip_prefix(&self.root)
                .unwrap_or(path)
                .join("")
                .to_string_lossy()
                .into(),
            document: 0,
            line: 0,
            object: None,
            path: String::new(),
            message: format!("the directory {} cannot be read: {why}", path.display()),
            fix: "what was last read from it stays in force: make it readable again".to_owned(),
        }
    }
}

impl Source for Directory {
    fn scan(&mut self, interner: &mut Interner) -> Scan {
        let mut walk = Walk::default();
        walk.enter(&self.root, 0);
        let mut scan = Scan {
            changed: self.forget_missing(&walk),
            unsettled: false,
        };
        for path in walk.files {
            let name = path
                .strip_prefix(&self.root)
                .unwrap_or(&path)
                .to_string_lossy()
                .into_owned();
            let file = self.files.entry(path.clone()).or_insert_with(|| File::new(&name));
            match file.look(&path, &self.review, interner) {
                Look::Same => {}
                Look::Changed => scan.changed = true,
                Look::Unsettled => scan.unsettled = true,
            }
        }
        let unreadable: Vec<Problem> = walk
            .unreadable
            .iter()
            .map(|(path, why)| self.directory_problem(path, why))
            .collect();
        scan.changed |= unreadable != self.unreadable;
        self.unreadable = unreadable;
        if !self.complete
            && self.unreadable.is_empty()
            && !scan.unsettled
            && self.files.values().all(|file| file.good.is_some())
        {
            (self.complete, scan.changed) = (true, true);
        }
        scan
    }

    fn news(&mut self) -> News {
        let now = self.snapshot();
        let changes = now.inventory.changes_since(&self.told);
        (self.told, self.places) = (now.inventory, now.places);
        News {
            changes,
            others: now.others,
            problems: now.problems,
            files: now.files,
            complete: now.complete,
        }
    }

    fn place(&self, object: &str) -> Option<Placed> {
        self.places.get(object).cloned()
    }

    fn stale_since(&self) -> Option<SystemTime> {
        let bad = self.files.values().filter(|file| file.is_bad());
        bad.filter_map(|file| file.good.as_ref().map(|good| good.since)).min()
    }

    async fn due(&mut self) {
        let watch = self.watch.get_or_insert_with(|| Watch::new(&self.root));
        watch.due().await;
    }
}

/// Two objects of one kind and name: the first file in alphabetical order counts.
fn duplicate(place: Placed, object: &str, first: Option<&Placed>) -> Problem {
    let (file, document, line) = place;
    let other = first.map_or("another file", |(file, ..)| &**file);
    Problem {
        severity: Severity::Error,
        file,
        document,
        line,
        object: Some(object.to_owned()),
        path: String::new(),
        message: format!("it is defined in {other} too, which is in force; this one is ignored"),
        fix: "keep one of them".to_owned(),
    }
}

#[derive(Default)]
struct Walk {
    files: BTreeSet<PathBuf>,
    unreadable: Vec<(PathBuf, String)>,
}

impl Walk {
    fn enter(&mut self, directory: &Path, depth: usize) {
        if depth > MAX_DEPTH {
            return self
                .unreadable
                .push((directory.to_owned(), format!("more than {MAX_DEPTH} levels deep")));
        }
        if let Err(error) = self.list(directory, depth) {
            self.unreadable.push((directory.to_owned(), error.to_string()));
        }
    }

    fn list(&mut self, directory: &Path, depth: usize) -> io::Result<()> {
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            let hidden = path
                .file_name()
                .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
            if hidden {
                continue;
            }
            // Following links; one that leads nowhere is looked at, and reported, if it has the name of a file we read.
            let is_directory = fs::metadata(&path).is_ok_and(|metadata| metadata.is_dir());
            let extension = path.extension().and_then(|extension| extension.to_str());
            if is_directory {
                self.enter(&path, depth + 1);
            } else if matches!(extension, Some("yaml" | "yml" | "json")) {
                self.files.insert(path);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
