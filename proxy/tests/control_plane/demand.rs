//! A sidecar that subscribes on demand, as a process with its data path, while its control plane says what it cannot
//! understand.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use rustls::pki_types::ServerName;
use squire_mesh::{
    policy::Table,
    ports::ALPN_SPIFFE_TLS,
    tls::{Expect, client_config},
    wire::{discovery::DeltaDiscoveryRequest, squire as wire},
};
use squire_proxy::state::Kind;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    admin::ask,
    fake::{Ca, Fake, WEB},
    process::Process,
    sidecar::{PATIENCE, everything, push, resource},
};

const DB: &str = "spiffe://cluster.local/ns/shop/sa/db";
/// How the sidecar asks who is at the address that its peer comes from.
const QUESTION: &str = "address:127.0.0.1";

/// An application that says again what it hears.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                tokio::io::copy(&mut from, &mut to).await
            });
        }
    });
    address
}

async fn connected(ca: &Ca, to: SocketAddr) -> TlsStream<TcpStream> {
    let expected = Expect::Exact(WEB.parse().unwrap());
    let config = client_config(&ca.svid(DB), ca.bundles(), expected, &[ALPN_SPIFFE_TLS]);
    let tcp = TcpStream::connect(to).await.unwrap();
    let name = ServerName::IpAddress(to.ip().into());
    TlsConnector::from(config).connect(name, tcp).await.unwrap()
}

async fn hears_itself(stream: &mut TlsStream<TcpStream>) {
    let round = async {
        stream.write_all(b"hello").await?;
        let mut heard = [0; 5];
        stream.read_exact(&mut heard).await?;
        assert_eq!(&heard, b"hello");
        Ok::<_, std::io::Error>(())
    };
    timeout(PATIENCE, round).await.expect("in time").unwrap();
}

#[tokio::test]
async fn a_policy_that_is_not_understood_is_refused_on_a_live_stream_on_demand_and_the_last_good_one_decides() {
    let ca = Ca::new("root");
    let mut control = Fake::start(&ca, None).await;
    // Nobody else on this machine has an address that is named after this process.
    let [.., a, b] = std::process::id().to_be_bytes();
    let address = IpAddr::from(Ipv4Addr::new(127, 77, a, b));
    let (inbound, admin) = (SocketAddr::new(address, 8080), SocketAddr::new(address, 15020));
    let settings = ["subscription.mode=on-demand", &format!("admin={admin}")];
    let mut process = Process::start_with(&ca, &control.address.to_string(), (inbound, echo().await), &settings);
    let stream = control.stream().await;
    for response in everything(&ca) {
        stream.send(Ok(response)).await.unwrap();
    }
    process.said("ready").await;
    let policy = |nonce: &str, message: &wire::Policy| {
        push(
            Kind::Policy,
            nonce,
            vec![resource(Kind::Policy, "shop/web-0", message)],
            &[],
        )
    };

    // Who comes waits until it is known who is at its address.
    let answered = async {
        let asked =
            |request: &DeltaDiscoveryRequest| request.resource_names_subscribe.iter().any(|name| name == QUESTION);
        let question = control.request(asked).await;
        assert_eq!(question.type_url, Kind::Workload.type_url());
        let nobody = push(Kind::Workload, "w2", vec![], &[QUESTION]);
        stream.send(Ok(nobody)).await.unwrap();
    };
    let (mut peer, ()) = tokio::join!(connected(&ca, inbound), answered);
    hears_itself(&mut peer).await;

    let newer = wire::Policy {
        ingress: None,
        ..wire::Policy::from(&Table::default())
    };
    stream.send(Ok(policy("p2", &newer))).await.unwrap();
    let refusal = control
        .request(|request| request.response_nonce == "p2")
        .await
        .error_detail
        .expect("a reason");
    assert!(
        refusal
            .message
            .contains("shop/web-0: ingress is missing; is the control plane newer than this proxy?"),
        "{}",
        refusal.message
    );
    process
        .said("an update from the control plane was refused, the last good state stays")
        .await;
    let (_, figures) = ask(admin, "GET /metrics").await;
    assert!(
        figures.contains("squire_state_updates_total{kind=\"policy\",result=\"refused\"} 1"),
        "{figures}"
    );
    assert_eq!(ask(admin, "GET /ready").await.0, 200, "what it holds is good");
    hears_itself(&mut peer).await;
    hears_itself(&mut connected(&ca, inbound).await).await;

    // The stream goes on: what is understood next is in force at once.
    let closed = wire::Policy::from(&Table::deny_all("a test"));
    stream.send(Ok(policy("p3", &closed))).await.unwrap();
    assert_eq!(
        control
            .request(|request| request.response_nonce == "p3")
            .await
            .error_detail,
        None
    );
    let end = timeout(PATIENCE, peer.read(&mut [0; 1])).await.expect("it is cut");
    assert!(!matches!(end, Ok(1..)), "{end:?}");
}
