//! Real handshakes between the configurations, in memory.

use std::io::Cursor;

use rustls::{ClientConnection, ServerConnection, pki_types::PrivateKeyDer, pki_types::ServerName};

use super::*;
use crate::svid::corpus::{Ca, key, leaf};

const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";
const DB: &str = "spiffe://cluster.local/ns/shop/sa/db";
const ALPN: &[&[u8]] = &[b"squire/1"];

struct Ended {
    client: Result<ClientConnection, rustls::Error>,
    server: Result<ServerConnection, rustls::Error>,
    server_saw_certificate: bool,
}

/// Moves bytes until both are done or one has failed.
fn shake(client: Arc<ClientConfig>, server: Arc<ServerConfig>) -> Ended {
    let name = ServerName::try_from("10.0.0.1").unwrap();
    let mut client = ClientConnection::new(client, name).unwrap();
    let mut server = ServerConnection::new(server).unwrap();
    let (mut client_error, mut server_error) = (None, None);
    for _ in 0..8 {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        server.read_tls(&mut Cursor::new(bytes)).unwrap();
        server_error = server_error.or(server.process_new_packets().err());
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        client.read_tls(&mut Cursor::new(bytes)).unwrap();
        client_error = client_error.or(client.process_new_packets().err());
    }
    let server_saw_certificate = server.peer_certificates().is_some();
    Ended {
        client: client_error.map_or(Ok(client), Err),
        server: server_error.map_or(Ok(server), Err),
        server_saw_certificate,
    }
}

fn ca() -> Ca {
    Ca::today("cluster.local", "Test root")
}

fn bundles(ca: &Ca) -> Arc<TrustBundles> {
    Arc::new(ca.bundles())
}

fn exactly(id: &str) -> Expect {
    Expect::Exact(id.parse().unwrap())
}

fn server(ca: &Ca, id: &str, auth: ClientAuth) -> Arc<ServerConfig> {
    server_config(Arc::new(ca.svid(id)), bundles(ca), auth, ALPN)
}

fn label<T>(result: &Result<T, rustls::Error>) -> Option<&'static str> {
    result.as_ref().err().and_then(identify_error).map(IdentifyError::label)
}

#[test]
fn both_sides_are_authenticated_over_tls13_with_the_hybrid_group() {
    let ca = ca();
    let client = client_config(&ca.svid(WEB), bundles(&ca), exactly(DB), ALPN);
    let ended = shake(client, server(&ca, DB, ClientAuth::Required));
    let (client, server) = (ended.client.unwrap(), ended.server.unwrap());
    assert!(!client.is_handshaking() && !server.is_handshaking());
    assert_eq!(server.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    assert_eq!(server.alpn_protocol(), Some(&b"squire/1"[..]));
    let group = server.negotiated_key_exchange_group().map(|group| group.name());
    assert_eq!(group, Some(rustls::NamedGroup::X25519MLKEM768));
    assert_eq!(server.peer_certificates().map(<[_]>::len), Some(2));
    assert_eq!(server.server_name(), None, "no name is leaked");
}

#[test]
fn a_wrong_server_is_refused_before_it_sees_our_certificate() {
    let ca = ca();
    let client = client_config(&ca.svid(WEB), bundles(&ca), exactly(WEB), ALPN);
    let ended = shake(client, server(&ca, DB, ClientAuth::Required));
    assert_eq!(label(&ended.client), Some("unexpected_id"));
    let text = ended.client.as_ref().err().unwrap().to_string();
    assert!(text.contains(WEB) && text.contains(DB), "{text}");
    assert!(ended.server.is_err());
    assert!(!ended.server_saw_certificate);
}

#[test]
fn any_of_several_identities_may_be_expected() {
    let ca = ca();
    let either = Expect::AnyOf([WEB, DB].map(|id| id.parse().unwrap()).into());
    let client = client_config(&ca.svid(WEB), bundles(&ca), either, ALPN);
    assert!(shake(client, server(&ca, DB, ClientAuth::Required)).client.is_ok());
}

#[test]
fn a_client_without_certificate_is_let_in_only_where_it_is_optional() {
    let ca = ca();
    let anonymous = || anonymous_client_config(bundles(&ca), exactly(DB), ALPN);
    let ended = shake(anonymous(), server(&ca, DB, ClientAuth::Required));
    assert_eq!(ended.server.err(), Some(rustls::Error::NoCertificatesPresented));
    let ended = shake(anonymous(), server(&ca, DB, ClientAuth::Optional));
    assert!(ended.server.unwrap().peer_certificates().is_none());
}

#[test]
fn a_certificate_of_another_ca_is_refused_on_either_side_optional_or_not() {
    let (ours, theirs) = (ca(), Ca::today("cluster.local", "Stranger root"));
    let stranger = client_config(&theirs.svid(WEB), bundles(&ours), exactly(DB), ALPN);
    for auth in [ClientAuth::Required, ClientAuth::Optional] {
        let ended = shake(Arc::clone(&stranger), server(&ours, DB, auth));
        assert_eq!(label(&ended.server), Some("unknown_issuer"));
    }
    let client = client_config(&ours.svid(WEB), bundles(&ours), exactly(DB), ALPN);
    let ended = shake(client, server(&theirs, DB, ClientAuth::Required));
    assert_eq!(label(&ended.client), Some("unknown_issuer"));
}

#[test]
fn an_expired_client_is_refused_by_its_own_name() {
    let ca = ca();
    let mut params = leaf(WEB);
    params.not_before = (SystemTime::now() - std::time::Duration::from_secs(600)).into();
    params.not_after = (SystemTime::now() - std::time::Duration::from_secs(60)).into();
    let client = client_config(&ca.svid_of(&params), bundles(&ca), exactly(DB), ALPN);
    assert_eq!(
        label(&shake(client, server(&ca, DB, ClientAuth::Required)).server),
        Some("expired")
    );
}

#[test]
fn the_error_is_found_inside_an_io_error_too() {
    let inner = rustls::Error::InvalidCertificate(rustls::CertificateError::Other(rustls::OtherError(Arc::new(
        IdentifyError::NoUri,
    ))));
    let error = std::io::Error::new(std::io::ErrorKind::InvalidData, inner);
    assert_eq!(identify_error_in_io(&error), Some(&IdentifyError::NoUri));
    assert_eq!(identify_error_in_io(&std::io::Error::other("x")), None);
}

#[test]
fn an_svid_is_read_from_pem_and_its_key_must_fit() {
    let ca = ca();
    let pair = key();
    let chain = ca.sign_for(&leaf(WEB), &pair);
    let pem: String = chain
        .iter()
        .map(|der| pem::encode(&pem::Pem::new("CERTIFICATE", der.as_ref())))
        .collect();
    let svid = Svid::from_pem(pem.as_bytes(), pair.serialize_pem().as_bytes()).unwrap();
    assert_eq!((svid.id().as_str(), svid.chain().len()), (WEB, 2));
    assert!(!format!("{svid:?}").contains(" key:"), "the key is never printed");
    let other = PrivateKeyDer::Pkcs8(key().serialize_der().into());
    assert!(matches!(Svid::new(chain.clone(), other), Err(SvidError::Key(_))));
    let no_key = Svid::from_pem(pem.as_bytes(), b"nothing");
    assert!(matches!(
        no_key,
        Err(SvidError::Pem {
            what: "private key",
            ..
        })
    ));
    let no_chain = Svid::from_pem(b"", pair.serialize_pem().as_bytes());
    assert!(matches!(no_chain, Err(SvidError::Leaf(IdentifyError::NoCertificate))));
}
