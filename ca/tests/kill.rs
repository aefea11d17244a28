//! A real process runs a CA in a real directory, issuing, making and using tokens without a pause, and is killed with
//! SIGKILL at moments that nobody chose. Whatever is found afterwards loads, verifies, and holds every certificate that
//! the process had been given.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    env,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, SystemTime},
};

use rcgen::{CertificateParams, KeyPair};
use squire_ca::{
    attest::Attested,
    authority::CertificateAuthority,
    csr::Csr,
    log::{Event, verify},
    store::{DirStore, Store, TokenStatus},
    token::JoinToken,
};

const DIR: &str = "SQUIRE_TEST_CA_DIR";
const ROUNDS: usize = 12;

/// Not a test by itself: what the killed process does. It prints each serial number after it was given the certificate, and
/// each token's hash after the token was used up.
#[test]
#[ignore = "started by the test below, in a process of its own"]
fn run_a_ca_until_killed() {
    let dir = env::var_os(DIR).unwrap();
    let store: Arc<dyn Store> = Arc::new(DirStore::open(Path::new(&dir)).unwrap());
    let ca = CertificateAuthority::open(Arc::clone(&store), None, SystemTime::now()).unwrap();
    let key = KeyPair::generate().unwrap();
    let csr = Csr::parse(CertificateParams::default().serialize_request(&key).unwrap().der()).unwrap();
    let id: squire_mesh::spiffe::SpiffeId = "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap();
    let attested = Attested {
        id: id.clone(),
        attestor: "test",
        subject: "t".into(),
        workload: None,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    loop {
        let now = SystemTime::now();
        let issued = runtime.block_on(ca.issue(&attested, &csr, None, now)).unwrap();
        println!("serial {}", issued.serial);
        let token = JoinToken::create(&*store, "cluster.local", &id, Duration::from_secs(60), now)
            .unwrap()
            .digest();
        assert!(store.use_token(&token).unwrap());
        println!("token {token}");
    }
}

struct Running(Child);

impl Running {
    fn start(dir: &Path) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command
            .args(["--exact", "--ignored", "run_a_ca_until_killed", "--nocapture"])
            .env(DIR, dir);
        Self(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap())
    }

    /// Reads `lines` reports, kills the process in the middle of whatever it is doing, and reads what it had still said.
    fn kill_after(mut self, lines: usize) -> Vec<String> {
        let mut reader = BufReader::new(self.0.stdout.take().unwrap());
        let mut said = Vec::new();
        let mut killed = false;
        let mut line = String::new();
        while reader.read_line(&mut line).unwrap() > 0 {
            if line.ends_with('\n') && (line.starts_with("serial ") || line.starts_with("token ")) {
                said.push(line.trim().to_owned());
            }
            line.clear();
            if said.len() >= lines && !killed {
                self.0.kill().unwrap();
                killed = true;
            }
        }
        self.0.wait().unwrap();
        assert!(killed, "the process ended by itself");
        said
    }
}

#[test]
fn a_ca_killed_at_any_moment_loads_and_has_forgotten_nothing_it_said() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("ca");
    let domain = "cluster.local".parse().unwrap();
    {
        let store: Arc<dyn Store> = Arc::new(DirStore::create(&dir).unwrap());
        CertificateAuthority::init(&store, &domain, SystemTime::now()).unwrap();
    }
    let mut said = Vec::new();
    for round in 0..ROUNDS {
        wait_for_lock(&dir);
        said.extend(Running::start(&dir).kill_after(1 + round * 3));
        let store: Arc<dyn Store> = Arc::new(DirStore::open(&dir).unwrap());
        let ca = CertificateAuthority::open(Arc::clone(&store), Some(&domain), SystemTime::now()).unwrap();
        ca.verify_log(SystemTime::now()).unwrap();
        let mut serials = std::collections::HashSet::new();
        let log = BufReader::new(store.read_log(0).unwrap());
        verify(log, store.log_head().unwrap().as_ref(), |entry| {
            if let Event::Issued { serial, .. } = entry.event {
                serials.insert(serial);
            }
        })
        .unwrap();
        for line in &said {
            match line.split_once(' ').unwrap() {
                ("serial", serial) => assert!(serials.contains(serial), "round {round}: {serial} is not in the log"),
                (_, token) => {
                    let status = store.token(&token.parse().unwrap()).unwrap();
                    assert_eq!(status, TokenStatus::Used, "round {round}: {token}");
                }
            }
        }
    }
    assert!(said.len() > ROUNDS);
}

/// The log's writer holds the store until its thread has ended.
fn wait_for_lock(dir: &Path) {
    let file = std::fs::File::open(dir.join("lock")).unwrap();
    file.lock().unwrap();
}
