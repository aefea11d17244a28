//! What issuing costs: a request is parsed, a leaf signed, the log's entry written and synced; some hundreds ask at once, as
//! after a rotation. Under `taskset -c 0` the figure is of one core.

#![allow(
    missing_docs,
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a benchmark may fail"
)]

use std::{
    hint::black_box,
    sync::Arc,
    time::{Instant, SystemTime},
};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rcgen::{CertificateParams, KeyPair};
use squire_ca::{
    attest::Attested,
    authority::CertificateAuthority,
    csr::Csr,
    store::{DirStore, Store},
};
use tokio::task::LocalSet;

/// Who ask at once.
const AT_ONCE: u64 = 256;

fn request() -> String {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(Vec::new()).unwrap();
    params.serialize_request(&key).unwrap().pem().unwrap()
}

fn attested() -> Attested {
    Attested {
        id: "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap(),
        attestor: "svid",
        subject: "bench".to_owned(),
        workload: Some("shop/web-1".to_owned()),
    }
}

fn ca(dir: &tempfile::TempDir) -> Arc<CertificateAuthority> {
    let store: Arc<dyn Store> = Arc::new(DirStore::create(&dir.path().join("ca")).unwrap());
    let domain = "cluster.local".parse().unwrap();
    CertificateAuthority::init(&store, &domain, SystemTime::now()).unwrap();
    CertificateAuthority::open(store, None, SystemTime::now()).unwrap()
}

fn issuing(criterion: &mut Criterion) {
    let text = request();
    let mut group = criterion.benchmark_group("issue");
    group.throughput(Throughput::Elements(1));
    group.bench_function("request", |bencher| {
        bencher.iter(|| Csr::parse(black_box(text.as_bytes())).unwrap());
    });
    group.throughput(Throughput::Elements(AT_ONCE));
    let dir = tempfile::tempdir().unwrap();
    let (ca, attested, text) = (ca(&dir), Arc::new(attested()), Arc::new(text));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    group.bench_function("logged", |bencher| {
        bencher.iter_custom(|rounds| {
            let begun = Instant::now();
            for _ in 0..rounds {
                let local = LocalSet::new();
                for _ in 0..AT_ONCE {
                    let (ca, attested, text) = (Arc::clone(&ca), Arc::clone(&attested), Arc::clone(&text));
                    local.spawn_local(async move {
                        let csr = Csr::parse(text.as_bytes()).unwrap();
                        ca.issue(&attested, &csr, None, SystemTime::now()).await.unwrap();
                    });
                }
                runtime.block_on(local);
            }
            begun.elapsed()
        });
    });
    group.finish();
}

criterion_group!(benches, issuing);
criterion_main!(benches);
