//! Who may look into a CA's directory: its owner, nobody else. It corrects nothing by itself; it says the command that does.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::Path,
};

use super::{StoreError, run};

/// Makes a directory that only its owner can enter, unless it is there.
pub(super) fn make_private(dir: &Path) -> Result<(), StoreError> {
    run(
        dir,
        "create the directory",
        fs::DirBuilder::new().mode(0o700).recursive(true).create(dir),
    )
}

/// Private keys are inside: nobody but the owner may look.
pub(super) fn check_permissions(dir: &Path) -> Result<(), StoreError> {
    let missing = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => StoreError::NotInitialised(dir.to_owned()),
        _ => StoreError::Io {
            path: dir.to_owned(),
            action: "look at",
            source,
        },
    };
    let meta = fs::metadata(dir).map_err(missing)?;
    if !meta.is_dir() {
        let source = io::ErrorKind::NotADirectory.into();
        return Err(StoreError::Io {
            path: dir.to_owned(),
            action: "use it as a CA directory",
            source,
        });
    }
    check_mode(dir, &meta, "700")?;
    for entry in run(dir, "list", fs::read_dir(dir))? {
        let entry = run(dir, "list", entry)?;
        let path = entry.path();
        match entry.metadata() {
            Ok(meta) => check_mode(&path, &meta, if meta.is_dir() { "700" } else { "600" })?,
            // A file that was just renamed away by the process that runs the CA.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => {
                return Err(StoreError::Io {
                    path,
                    action: "look at",
                    source,
                });
            }
        }
    }
    Ok(())
}

fn check_mode(path: &Path, meta: &fs::Metadata, fix: &'static str) -> Result<(), StoreError> {
    let mode = meta.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(StoreError::Permissions {
            path: path.to_owned(),
            mode,
            fix,
        });
    }
    Ok(())
}
