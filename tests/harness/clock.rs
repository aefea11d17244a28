//! Processes whose clock is wrong: libfaketime shows them another time of day than the machine's. The clock that only runs
//! forward is left alone, as it is where a machine's time of day was set wrong.

use std::path::PathBuf;

use tokio::process::Command;

/// Lets a command see the time of day this far off, as in `-1h`, `+4m`, `-9y`.
pub fn shift(command: &mut Command, by: &str) {
    command.env("LD_PRELOAD", library()).env("FAKETIME", by);
    // Its name in older and in newer versions.
    command.env("DONT_FAKE_MONOTONIC", "1");
    command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
}

/// Where distributions keep it.
fn library() -> PathBuf {
    let folders = std::fs::read_dir("/usr/lib").unwrap().filter_map(Result::ok);
    let mut found = folders.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"));
    found
        .find(|library| library.is_file())
        .expect("faketime is not installed: use tests/run, which installs what the tests need")
}
