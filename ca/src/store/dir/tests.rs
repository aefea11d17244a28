//! The real directory: modes, lock, tokens beside a running CA.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::*;
use crate::{authority::CertificateAuthority, token::JoinToken};

fn founded() -> (tempfile::TempDir, PathBuf) {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("ca");
    let store: Arc<dyn Store> = Arc::new(DirStore::create(&dir).unwrap());
    CertificateAuthority::init(&store, &"cluster.local".parse().unwrap(), SystemTime::now()).unwrap();
    drop(store);
    released(&dir);
    (temp, dir)
}

/// The log writer holds the store until its thread has ended.
fn released(dir: &Path) {
    let file = fs::File::open(dir.join("lock")).unwrap();
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).unwrap();
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn everything_is_for_the_owner_only() {
    let (_temp, dir) = founded();
    assert_eq!(mode(&dir), 0o700);
    assert_eq!(mode(&dir.join("tokens")), 0o700);
    for name in ["state.json", "log.jsonl", "log.head", "lock"] {
        assert_eq!(mode(&dir.join(name)), 0o600, "{name}");
    }
}

#[test]
fn open_modes_are_refused_with_the_command_that_corrects_them() {
    for (name, bad, fix) in [("", 0o755, "chmod 700"), ("state.json", 0o640, "chmod 600")] {
        let (_temp, dir) = founded();
        let path = if name.is_empty() { dir.clone() } else { dir.join(name) };
        fs::set_permissions(&path, fs::Permissions::from_mode(bad)).unwrap();
        for error in [DirStore::open(&dir).unwrap_err(), DirStore::shared(&dir).unwrap_err()] {
            let text = error.to_string();
            assert!(
                text.contains(&format!("{fix} {}", path.display())) && text.contains(&format!("{bad:04o}")),
                "{text}"
            );
        }
    }
}

#[test]
fn a_second_process_is_told_who_runs_the_ca_and_where() {
    let (_temp, dir) = founded();
    assert_eq!(DirStore::owner(&dir), None);
    let first = DirStore::open(&dir).unwrap();
    let error = DirStore::open(&dir).unwrap_err();
    assert!(
        error
            .to_string()
            .contains(&format!("in use by process {}", std::process::id())),
        "{error}"
    );
    first.advertise("127.0.0.1:15012".parse().unwrap()).unwrap();
    let owner = DirStore::owner(&dir).unwrap();
    assert_eq!(
        (owner.pid, owner.address),
        (std::process::id(), Some("127.0.0.1:15012".parse().unwrap()))
    );
    drop(first);
    assert_eq!(DirStore::owner(&dir), None);
    DirStore::open(&dir).unwrap();
}

#[test]
fn beside_a_running_ca_one_can_read_and_add_tokens_and_nothing_else() {
    let (_temp, dir) = founded();
    let running = DirStore::open(&dir).unwrap();
    let beside = DirStore::shared(&dir).unwrap();
    let state = beside.load().unwrap().unwrap();
    assert!(matches!(beside.save(&state), Err(StoreError::ReadOnly(_))));
    let id = "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap();
    let now = SystemTime::now();
    let token = JoinToken::create(&beside, "cluster.local", &id, Duration::from_secs(60), now)
        .unwrap()
        .digest();
    assert!(matches!(beside.use_token(&token), Err(StoreError::ReadOnly(_))));
    assert!(matches!(running.token(&token).unwrap(), TokenStatus::Fresh(_)));
    assert!(running.use_token(&token).unwrap());
    assert!(!running.use_token(&token).unwrap(), "only once");
    assert_eq!(running.token(&token).unwrap(), TokenStatus::Used);
    assert_eq!(running.sweep_tokens(now).unwrap(), 0);
    assert_eq!(running.sweep_tokens(now + Duration::from_secs(120)).unwrap(), 1);
    assert_eq!(running.token(&token).unwrap(), TokenStatus::Unknown);
}

#[test]
fn a_missing_directory_says_how_to_make_one() {
    let error = DirStore::open(Path::new("/nonexistent/ca")).unwrap_err();
    assert!(
        error.to_string().contains("squire ca init --dir /nonexistent/ca"),
        "{error}"
    );
}

#[test]
fn leftovers_of_an_interrupted_write_are_cleared() {
    let (_temp, dir) = founded();
    fs::write(dir.join("state.json.new"), "half").unwrap();
    fs::set_permissions(dir.join("state.json.new"), fs::Permissions::from_mode(0o600)).unwrap();
    DirStore::open(&dir).unwrap();
    assert!(!dir.join("state.json.new").exists());
}
