//! The CA at work, in a directory in memory and as several replicas; with a fault at every step of everything it writes.

mod faults;
mod issuing;
mod opening;
mod replicas;
mod revoking;
mod rotating;
mod tokens;

use std::{
    io::BufReader,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rcgen::{CertificateParams, KeyPair};
use squire_mesh::{
    bundle::TrustBundles,
    svid::{Role, identify},
};
use x509_parser::prelude::{FromDer as _, ParsedExtension, X509Certificate};

use super::*;
use crate::{
    log::{LogFault, verify},
    profile,
    revocation::Target,
    store::{
        DirStore, TokenStatus,
        faults::{EVERY_SURVIVAL, Fault, MemoryDisk, Survives},
    },
    token::JoinToken,
};

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn days(n: u64) -> Duration {
    Duration::from_secs(n * 86_400)
}

fn domain() -> TrustDomain {
    "cluster.local".parse().unwrap()
}

fn web() -> SpiffeId {
    "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap()
}

fn store(disk: &MemoryDisk) -> Result<Arc<dyn Store>, StoreError> {
    Ok(Arc::new(DirStore::on(disk.clone())?))
}

fn founded() -> MemoryDisk {
    let disk = MemoryDisk::default();
    CertificateAuthority::init(&store(&disk).unwrap(), &domain(), now()).unwrap();
    disk
}

fn open(disk: &MemoryDisk) -> Arc<CertificateAuthority> {
    CertificateAuthority::open(store(disk).unwrap(), None, now()).unwrap()
}

fn csr() -> Csr {
    let params = CertificateParams::new(vec!["spiffe://cluster.local/ns/evil/sa/evil".to_owned()]).unwrap();
    Csr::parse(params.serialize_request(&KeyPair::generate().unwrap()).unwrap().der()).unwrap()
}

fn attested(id: SpiffeId) -> Attested {
    Attested {
        id,
        attestor: "test",
        subject: "t".into(),
        workload: None,
    }
}

/// Issues outside of any runtime, as the fault tests do.
fn issue(ca: &CertificateAuthority) -> Result<Issued, IssueError> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(ca.issue(&attested(web()), &csr(), None, now()))
}

fn issue_at(ca: &CertificateAuthority, time: SystemTime) -> Result<Issued, IssueError> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(ca.issue(&attested(web()), &csr(), None, time))
}

/// Runs `action` on copies of `disk` with every fault at each of its write operations, and has `check` look at what is found
/// afterwards: by the same process where it goes on, by a new one where power was lost.
fn at_every_step<T>(
    disk: &MemoryDisk,
    action: impl Fn(&MemoryDisk) -> Result<T, String>,
    check: impl Fn(&MemoryDisk, bool, &str),
) {
    let dry = disk.copy();
    assert!(action(&dry).is_ok(), "the action works without faults");
    let steps = dry.operations();
    assert!(steps >= 2, "the action writes");
    for step in 0..steps {
        for fault in [Fault::Refused, Fault::Half, Fault::PowerLost] {
            for survives in EVERY_SURVIVAL {
                let disk = disk.copy();
                disk.arm(step, fault);
                let done = action(&disk).is_ok();
                check(
                    &disk.restart(survives),
                    done,
                    &format!("step {step} {fault:?} {survives:?}"),
                );
            }
        }
    }
}

fn opens(disk: &MemoryDisk, context: &str) -> Arc<CertificateAuthority> {
    match store(disk)
        .map_err(CaError::from)
        .and_then(|store| CertificateAuthority::open(store, None, now()))
    {
        Ok(ca) => ca,
        Err(error) => panic!("{context}: {error}"),
    }
}

fn evidence(ca: &CertificateAuthority, sequence: u64) -> crate::roster::Evidence {
    let current = ca.current();
    crate::roster::Evidence {
        bundle_digest: current.hierarchy.bundle().digest(),
        bundle_sequence: sequence,
        svid_root: current.hierarchy.signing_root().to_string(),
        svid_serial: "01".into(),
        svid_not_after: now() + profile::DEFAULT_TTL,
        stands_on_old_root: false,
    }
}

fn of_web_1(ca: &CertificateAuthority, time: SystemTime) -> Issued {
    let attested = Attested {
        workload: Some("shop/web-1".into()),
        ..attested(web())
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(ca.issue(&attested, &csr(), None, time)).unwrap()
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Looks at the gate for as long as it has to be open.
fn passes(ca: &CertificateAuthority, at: SystemTime) -> Option<String> {
    (0..=4).find_map(|n| {
        ca.advance_if_open(at + seconds(n))
            .unwrap()
            .map(|reached| reached.phase)
    })
}
