//! One file: its last good state, and what came of the last attempt to read it. Only a file without a single error
//! replaces its last good state, as an API server would refuse the object and keep the old one.

use std::{
    fs, io,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use squire_mesh::workload::Interner;

use crate::{
    facts,
    inventory::SharedFact,
    manifest::{Manifest, Object, Problem, Severity},
    tables::is_kept,
};

/// Larger files are refused: nobody writes them, and a mistake must not take all memory.
const MAX_BYTES: u64 = 256 * 1024 * 1024;
/// A file that has just become empty is probably about to be written.
const EMPTY_FOR: Duration = Duration::from_secs(1);
/// A file written this recently may be written again without a new time stamp.
const RACY: Duration = Duration::from_millis(50);

/// Says what is wrong with an object that gives no fact (a policy); errors make the file bad.
pub type Review = Arc<dyn Fn(&Object) -> Vec<Problem> + Send + Sync>;

/// A fact, and where it stands.
#[derive(Clone, Debug)]
pub struct Located {
    /// The fact.
    pub fact: SharedFact,
    /// The object as `Kind namespace/name`.
    pub object: String,
    /// The document in the file, from 1.
    pub document: usize,
    /// The line, from 1.
    pub line: usize,
}

/// What a good file contains.
#[derive(Clone, Debug)]
pub(super) struct Good {
    pub(super) facts: Vec<Located>,
    pub(super) others: Vec<Arc<Object>>,
    /// When it was read.
    pub(super) since: SystemTime,
}

/// One file.
#[derive(Debug)]
pub(super) struct File {
    name: Arc<str>,
    stamp: Option<Stamp>,
    /// Digest of what was last read, good or bad.
    content: Option<[u8; 32]>,
    pub(super) good: Option<Good>,
    /// What the last attempt found; errors mean that `good` is older than the file.
    pub(super) problems: Vec<Problem>,
    pub(super) bad_since: Option<SystemTime>,
}

/// What tells whether a file may have changed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    device: u64,
    inode: u64,
}

/// What came of a look at a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// Nothing is different.
    Same,
    /// Its good state or its problems are different.
    Changed,
    /// It is being written: look again soon.
    Unsettled,
}

impl File {
    /// A file not looked at yet; `name` is what people see.
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            stamp: None,
            content: None,
            good: None,
            problems: Vec::new(),
            bad_since: None,
        }
    }

    pub(super) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Whether it says something else than what is in force.
    pub(super) fn is_bad(&self) -> bool {
        self.bad_since.is_some()
    }

    /// Reads the file if it may have changed.
    pub(super) fn look(&mut self, path: &Path, review: &Review, interner: &mut Interner) -> Look {
        match self.fetch(path) {
            Ok(Fetched::Same) => Look::Same,
            Ok(Fetched::Unsettled) => Look::Unsettled,
            Ok(Fetched::Content(bytes)) => {
                self.read(&bytes, review, interner);
                Look::Changed
            }
            Err(error) => self.unreadable(&error),
        }
    }

    fn fetch(&mut self, path: &Path) -> io::Result<Fetched> {
        let metadata = fs::metadata(path)?;
        let stamp = Stamp::of(&metadata);
        if self.stamp.as_ref() == Some(&stamp) {
            return Ok(Fetched::Same);
        }
        if metadata.len() > MAX_BYTES {
            return Err(io::Error::other(format!("larger than {} MiB", MAX_BYTES >> 20)));
        }
        let age = stamp
            .modified
            .and_then(|modified| SystemTime::now().duration_since(modified).ok())
            .unwrap_or_default();
        let has_objects = self
            .good
            .as_ref()
            .is_some_and(|good| !good.facts.is_empty() || !good.others.is_empty());
        if metadata.len() == 0 && has_objects && age < EMPTY_FOR {
            return Ok(Fetched::Unsettled);
        }
        let bytes = fs::read(path)?;
        if Stamp::of(&fs::metadata(path)?) != stamp {
            return Ok(Fetched::Unsettled);
        }
        self.stamp = (age > RACY).then_some(stamp);
        let digest = digest(&bytes);
        let same = self.content.replace(digest) == Some(digest);
        Ok(if same { Fetched::Same } else { Fetched::Content(bytes) })
    }

    fn unreadable(&mut self, error: &io::Error) -> Look {
        (self.stamp, self.content) = (None, None);
        let problem = Problem {
            severity: Severity::Error,
            file: Arc::clone(&self.name),
            document: 0,
            line: 0,
            object: None,
            path: String::new(),
            message: format!("cannot be read: {error}"),
            fix: "make the file readable for the control plane, or remove it".to_owned(),
        };
        if self.problems == [problem.clone()] {
            return Look::Same;
        }
        self.refuse(vec![problem]);
        Look::Changed
    }

    fn read(&mut self, bytes: &[u8], review: &Review, interner: &mut Interner) {
        let text = match std::str::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => {
                let line = 1 + bytes[..error.valid_up_to()]
                    .iter()
                    .filter(|byte| **byte == b'\n')
                    .count();
                return self.refuse(vec![Problem {
                    severity: Severity::Error,
                    file: Arc::clone(&self.name),
                    document: 0,
                    line,
                    object: None,
                    path: String::new(),
                    message: "not UTF-8 text".to_owned(),
                    fix: "save the file as UTF-8".to_owned(),
                }]);
            }
        };
        let Manifest { objects, mut problems } = Manifest::parse(&self.name, text);
        let mut good = Good {
            facts: Vec::new(),
            others: Vec::new(),
            since: SystemTime::now(),
        };
        for mut object in objects {
            if facts::is_fact(&object.api_version, &object.kind) {
                let value = std::mem::take(&mut object.value);
                match facts::read(&object.api_version, &object.kind, value, interner) {
                    Ok(Some(fact)) => good.facts.push(located(fact, &object)),
                    Ok(None) => {}
                    Err(error) => {
                        let path = error.path().unwrap_or_default();
                        let fix = "mend the field; until then the last good state of this file stays in force";
                        problems.push(object.problem(Severity::Error, path, error.why(), fix));
                    }
                }
            } else if is_kept(&object) {
                problems.extend(review(&object));
                good.others.push(Arc::new(object));
            }
        }
        if problems.iter().any(|problem| problem.severity == Severity::Error) {
            self.refuse(problems);
        } else {
            (self.good, self.problems, self.bad_since) = (Some(good), problems, None);
        }
    }

    fn refuse(&mut self, problems: Vec<Problem>) {
        self.problems = problems;
        self.bad_since.get_or_insert_with(SystemTime::now);
    }
}

enum Fetched {
    Same,
    Unsettled,
    Content(Vec<u8>),
}

impl Stamp {
    fn of(metadata: &fs::Metadata) -> Self {
        use std::os::unix::fs::MetadataExt;
        Self {
            modified: metadata.modified().ok(),
            length: metadata.len(),
            device: metadata.dev(),
            inode: metadata.ino(),
        }
    }
}

fn digest(bytes: &[u8]) -> [u8; 32] {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    let mut copy = [0; 32];
    copy.copy_from_slice(digest.as_ref());
    copy
}

fn located(fact: facts::Fact, object: &Object) -> Located {
    Located {
        object: format!("{} {}", object.kind, fact.key()),
        fact: fact.into(),
        document: object.place.document,
        line: object.place.line,
    }
}
