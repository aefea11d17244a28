//! Requests of all kinds at the gRPC door, without a network: what is issued, what is refused, with which code and words.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use squire_mesh::{
    bundle::{TrustBundle, TrustBundles},
    spiffe::SpiffeId,
    svid::{Role, identify},
};

use super::*;
use crate::{
    attest::{JoinTokens, Renewal},
    store::{
        DirStore, Store,
        faults::{Fault, MemoryDisk},
    },
    token::JoinToken,
};

const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";

#[derive(Default)]
struct Counts(Mutex<BTreeMap<String, u32>>);

impl Observer for Counts {
    fn issued(&self, attestor: &'static str, _: Duration) {
        *self.0.lock().unwrap().entry(format!("issued {attestor}")).or_default() += 1;
    }

    fn refused(&self, reason: &'static str) {
        *self.0.lock().unwrap().entry(format!("refused {reason}")).or_default() += 1;
    }
}

struct Door {
    service: IssuingService,
    store: Arc<dyn Store>,
    disk: MemoryDisk,
    counts: Arc<Counts>,
    revocations: watch::Sender<Arc<Revocations>>,
}

fn door() -> Door {
    let disk = MemoryDisk::default();
    let store: Arc<dyn Store> = Arc::new(DirStore::on(disk.clone()).unwrap());
    // Opened on a thread of its own: opening blocks.
    let ca = std::thread::scope(|scope| {
        let open = || {
            let domain = "cluster.local".parse().unwrap();
            CertificateAuthority::init(&store, &domain, SystemTime::now()).unwrap();
            CertificateAuthority::open(Arc::clone(&store), Some(&domain), SystemTime::now()).unwrap()
        };
        scope.spawn(open).join().unwrap()
    });
    let domain = ca.trust_domain().clone();
    let attestors: Vec<Box<dyn Attestor>> = vec![
        Box::new(JoinTokens::new(Arc::clone(&store), domain.clone())),
        Box::new(Renewal::new(domain)),
    ];
    let revocations = watch::Sender::new(Arc::default());
    let counts = Arc::new(Counts::default());
    let observer: Arc<dyn Observer> = Arc::clone(&counts) as _;
    let service = IssuingService::new(ca, attestors, revocations.subscribe(), observer);
    Door {
        service,
        store,
        disk,
        counts,
        revocations,
    }
}

fn csr() -> String {
    let params = CertificateParams::new(vec!["spiffe://cluster.local/ns/evil/sa/evil".to_owned()]).unwrap();
    params
        .serialize_request(&KeyPair::generate().unwrap())
        .unwrap()
        .pem()
        .unwrap()
}

impl Door {
    fn token(&self, id: &str, ttl: u64, now: SystemTime) -> String {
        let id: SpiffeId = id.parse().unwrap();
        let token = JoinToken::create(&*self.store, "cluster.local", &id, Duration::from_secs(ttl), now).unwrap();
        token.expose().to_string()
    }

    async fn ask(&self, csr: String, bearer: Option<&str>, peer: Option<VerifiedPeer>) -> Result<Vec<String>, Status> {
        let mut request = Request::new(IstioCertificateRequest {
            csr,
            validity_duration: 600,
            metadata: None,
        });
        if let Some(bearer) = bearer {
            request
                .metadata_mut()
                .insert("authorization", format!("Bearer {bearer}").parse().unwrap());
        }
        request.extensions_mut().insert(PeerIdentity(peer));
        self.service
            .create_certificate(request)
            .await
            .map(|reply| reply.into_inner().cert_chain)
    }

    fn count(&self, name: &str) -> u32 {
        self.counts.0.lock().unwrap().get(name).copied().unwrap_or(0)
    }
}

/// The peer that a reply makes of its bearer, verified against the root at the reply's end.
fn peer(chain: &[String]) -> VerifiedPeer {
    let ders: Vec<_> = chain
        .iter()
        .map(|pem| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap())
        .collect();
    let (root, chain) = ders.split_last().unwrap();
    let bundle = TrustBundle::new("cluster.local".parse().unwrap(), [root.clone()], 1).unwrap();
    identify(chain, &TrustBundles::new([bundle]), SystemTime::now(), Role::Server).unwrap()
}

#[tokio::test]
async fn a_join_token_gets_exactly_its_identity_once() {
    let door = door();
    let token = door.token(WEB, 60, SystemTime::now());
    let chain = door.ask(csr(), Some(&token), None).await.unwrap();
    assert_eq!(chain.len(), 3);
    assert_eq!(peer(&chain).id().as_str(), WEB, "the name in the request is ignored");
    let life = peer(&chain).not_after().duration_since(SystemTime::now()).unwrap();
    assert!(life <= Duration::from_secs(600), "{life:?}");
    let replay = door.ask(csr(), Some(&token), None).await.unwrap_err();
    assert_eq!(replay.code(), Code::Unauthenticated);
    assert!(
        replay.message().contains("used before") && !replay.message().contains(&token),
        "{replay}"
    );
    assert_eq!(
        (door.count("issued join-token"), door.count("refused replayed_token")),
        (1, 1)
    );
}

#[tokio::test]
async fn two_requests_with_one_token_at_once_get_one_certificate() {
    let door = door();
    let token = door.token(WEB, 60, SystemTime::now());
    let (one, two) = tokio::join!(door.ask(csr(), Some(&token), None), door.ask(csr(), Some(&token), None));
    assert_eq!(u8::from(one.is_ok()) + u8::from(two.is_ok()), 1);
}

#[tokio::test]
async fn expired_unknown_and_missing_credentials_are_unauthenticated_with_what_to_do() {
    let door = door();
    let old = door.token(WEB, 60, SystemTime::now() - Duration::from_secs(61));
    let foreign = "squire-join-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    for (bearer, label, words) in [
        (Some(old.as_str()), "expired_token", "expired at"),
        (Some(foreign), "unknown_token", "make a new one with `squire ca token`"),
        (Some("squire-join-short"), "unknown_token", "not known"),
        (Some("letmein"), "unknown_credential", "no kind that this CA accepts"),
        (None, "no_credential", "authorization: Bearer"),
    ] {
        let status = door.ask(csr(), bearer, None).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated, "{label}");
        assert!(status.message().contains(words), "{status}");
        assert!(door.count(&format!("refused {label}")) >= 1, "{label}");
    }
}

#[tokio::test]
async fn a_bad_request_is_an_invalid_argument_and_does_not_cost_the_token() {
    let door = door();
    let token = door.token(WEB, 60, SystemTime::now());
    let weak = include_str!("../../testdata/rsa1024.csr.pem").to_owned();
    for (csr, words) in [
        ("hello".to_owned(), "not a certificate request"),
        (weak, "1024 bits, less than 2048"),
    ] {
        let status = door.ask(csr, Some(&token), None).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(words), "{status}");
    }
    assert!(door.ask(csr(), Some(&token), None).await.is_ok());
}

#[tokio::test]
async fn a_current_svid_renews_itself_and_nothing_else() {
    let door = door();
    let token = door.token(WEB, 60, SystemTime::now());
    let holder = peer(&door.ask(csr(), Some(&token), None).await.unwrap());
    let renewed = peer(&door.ask(csr(), None, Some(holder.clone())).await.unwrap());
    assert_eq!(renewed.id(), holder.id());
    assert_ne!(renewed.serial(), holder.serial());
    assert_eq!(door.count("issued svid"), 1);
}

#[tokio::test]
async fn what_was_revoked_is_not_renewed_nor_attested_anew() {
    let door = door();
    let token = door.token(WEB, 60, SystemTime::now());
    let holder = peer(&door.ask(csr(), Some(&token), None).await.unwrap());
    let mut serial = Revocations::default();
    serial.revoke_serial(holder.serial().clone(), "key leaked");
    door.revocations.send_replace(Arc::new(serial));
    let status = door.ask(csr(), None, Some(holder.clone())).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(status.message().contains("key leaked"), "{status}");
    let mut identity = Revocations::default();
    identity.revoke_identity(holder.id().clone(), "left the company", None);
    door.revocations.send_replace(Arc::new(identity));
    let token = door.token(WEB, 60, SystemTime::now());
    for (bearer, peer) in [(None, Some(holder)), (Some(token.as_str()), None)] {
        let status = door.ask(csr(), bearer, peer).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied);
    }
    assert_eq!(door.count("refused revoked"), 3);
}

#[tokio::test]
async fn a_failing_store_is_unavailable_and_its_details_stay_inside_the_log_line() {
    let door = door();
    let token = door.token(WEB, 60, SystemTime::now());
    door.disk.arm(0, Fault::Refused);
    let status = door.ask(csr(), Some(&token), None).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(
        status.message().contains("try again") && !status.message().contains("/ca/"),
        "{status}"
    );
    assert!(
        door.ask(csr(), Some(&token), None).await.is_ok(),
        "the token was not used up"
    );
}

#[test]
fn the_bearer_token_is_read_from_the_authorization_header_only() {
    for (header, token) in [
        ("Bearer abc", Some("abc")),
        ("bearer  abc ", Some("abc")),
        ("Basic abc", None),
        ("Bearer ", None),
        ("Bearer", None),
    ] {
        let mut metadata = MetadataMap::new();
        metadata.insert("authorization", header.parse().unwrap());
        assert_eq!(bearer(&metadata).as_deref().map(String::as_str), token, "{header}");
    }
}
