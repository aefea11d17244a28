//! Finding and reading manifest files. A path may be a file or a directory, which is read with everything below it
//! (`.yaml`, `.yml`, `.json`, in the order of names; hidden ones are skipped). It never follows more than it must: no
//! network, no templates.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{Manifest, Place};

/// A file beyond this is refused rather than read into memory.
const MAX_FILE: u64 = 256 * 1024 * 1024;

impl Manifest {
    /// Reads files and directories. What cannot be read is among the problems.
    #[must_use]
    pub fn from_paths<P: AsRef<Path>>(paths: &[P]) -> Self {
        let mut manifest = Self::default();
        for path in paths {
            manifest.add_path(path.as_ref());
        }
        manifest
    }

    fn add_path(&mut self, path: &Path) {
        let mut files = Vec::new();
        if let Err((path, error)) = find(path, &mut files) {
            self.unreadable(&path, &error);
        }
        for file in files {
            match read(&file) {
                Ok(text) => self.add_text(&file.display().to_string(), &text),
                Err(error) => self.unreadable(&file, &error),
            }
        }
    }

    fn unreadable(&mut self, path: &Path, error: &io::Error) {
        let place = Place {
            file: path.display().to_string().into(),
            document: 0,
            line: 0,
        };
        self.problems
            .push(place.problem(format!("cannot be read: {error}"), "check the path and its permissions"));
    }
}

fn find(path: &Path, files: &mut Vec<PathBuf>) -> Result<(), (PathBuf, io::Error)> {
    let failed = |error| (path.to_owned(), error);
    if !fs::metadata(path).map_err(failed)?.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    let mut entries = fs::read_dir(path)
        .and_then(|entries| {
            entries
                .map(|entry| entry.map(|entry| entry.path()))
                .collect::<io::Result<Vec<_>>>()
        })
        .map_err(failed)?;
    entries.sort();
    for entry in entries {
        let hidden = entry
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with('.'));
        // `file_type` of the link itself: a directory link could lead in a circle.
        let directory = fs::symlink_metadata(&entry).is_ok_and(|metadata| metadata.is_dir());
        if hidden {
            continue;
        } else if directory {
            find(&entry, files)?;
        } else if entry
            .extension()
            .is_some_and(|end| end == "yaml" || end == "yml" || end == "json")
        {
            files.push(entry);
        }
    }
    Ok(())
}

fn read(file: &Path) -> io::Result<String> {
    let size = fs::metadata(file)?.len();
    if size > MAX_FILE {
        return Err(io::Error::other(format!("{size} bytes; the limit is {MAX_FILE}")));
    }
    fs::read_to_string(file)
}
