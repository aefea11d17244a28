//! Probes of every kind, put to real servers on loopback.

use std::{net::Ipv4Addr, time::Duration};

use squire_mesh::probe;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::*;

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn prober(action: Action) -> Prober {
    let mut probes = Probes::default();
    let timeout = Duration::from_millis(700);
    probes.insert(probe::path("web", "liveness"), Probe { action, timeout });
    Prober::new(probes)
}

async fn asked(action: Action) -> Answer {
    let mut fields = HeaderMap::new();
    fields.insert("user-agent", "kube-probe/1.34".parse().unwrap());
    fields.insert("cookie", "not=passed-on".parse().unwrap());
    prober(action)
        .answer("/probe/web/liveness", LOCAL, &fields)
        .await
        .unwrap()
}

/// A server that answers each request head with the next of these texts, and hands over the heads.
async fn server(answers: &'static [&'static str]) -> (u16, tokio::task::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind((LOCAL, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let heads = tokio::spawn(async move {
        let mut heads = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            heads.push(String::from_utf8(head).unwrap());
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
        heads
    });
    (port, heads)
}

fn http(port: u16, headers: &[(&str, &str)]) -> Action {
    let headers = headers
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    Action::Http {
        tls: false,
        port,
        path: "/healthz?full=1".into(),
        headers,
    }
}

#[tokio::test]
async fn an_http_probe_keeps_its_path_fields_and_user_agent_and_passes_the_status_on() {
    for (answer, status) in [
        ("HTTP/1.1 204 No Content\r\n\r\n", 204),
        ("HTTP/1.1 418 Teapot\r\ncontent-length: 0\r\n\r\n", 418),
        ("HTTP/1.1 503 Busy\r\ncontent-length: 1000\r\n\r\nnot all of it", 503),
    ] {
        let (port, heads) = server(Box::leak(Box::new([answer]))).await;
        let answer = asked(http(port, &[("X-Probe", "yes"), ("Host", "shop.example")])).await;
        assert_eq!(answer.status.as_u16(), status, "{}", answer.text);
        let head = heads.await.unwrap().remove(0).to_ascii_lowercase();
        assert!(head.starts_with("get /healthz?full=1 http/1.1\r\n"), "{head}");
        for field in [
            "host: shop.example\r\n",
            "x-probe: yes\r\n",
            "user-agent: kube-probe/1.34\r\n",
        ] {
            assert!(head.contains(field), "{field} in {head}");
        }
        assert!(!head.contains("cookie") && head.matches("host:").count() == 1, "{head}");
    }
}

#[tokio::test]
async fn redirects_within_the_application_are_followed() {
    let answers = &[
        "HTTP/1.1 302 Found\r\nlocation: /login\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n",
    ];
    let (port, heads) = server(answers).await;
    assert_eq!(asked(http(port, &[])).await.status.as_u16(), 500);
    assert!(heads.await.unwrap()[1].starts_with("GET /login "));
}

#[tokio::test]
async fn an_application_that_is_silent_absent_or_speaks_something_else_is_unhealthy() {
    let silent = TcpListener::bind((LOCAL, 0)).await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let answer = asked(http(port, &[])).await;
    assert_eq!(answer.status, StatusCode::GATEWAY_TIMEOUT);
    assert!(answer.text.contains("700ms"), "{}", answer.text);
    let answer = asked(Action::Grpc {
        port,
        service: String::new(),
    })
    .await;
    assert!(!answer.status.is_success(), "{}", answer.text);
    drop(silent);
    for action in [
        http(port, &[]),
        Action::Tcp { port },
        Action::Grpc {
            port,
            service: String::new(),
        },
    ] {
        let answer = asked(action).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(answer.text.contains("cannot connect"), "{}", answer.text);
    }
    let (port, _heads) = server(&["SSH-2.0-OpenSSH\r\n"]).await;
    assert_eq!(asked(http(port, &[])).await.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn a_tcp_probe_needs_a_listener_and_nothing_more() {
    let listener = TcpListener::bind((LOCAL, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    assert_eq!(asked(Action::Tcp { port }).await.status, StatusCode::OK);
}

#[tokio::test]
async fn an_https_probe_does_not_care_whose_certificate_it_is() {
    let key = rcgen::generate_simple_self_signed(vec!["somebody.else".to_owned()]).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(squire_mesh::tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![key.cert.der().clone()],
            rustls::pki_types::PrivateKeyDer::Pkcs8(key.signing_key.serialize_der().into()),
        )
        .unwrap();
    let listener = TcpListener::bind((LOCAL, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let served = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = tokio_rustls::TlsAcceptor::from(Arc::new(config))
            .accept(stream)
            .await
            .unwrap();
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            .await
            .unwrap();
        let _ = stream.read(&mut [0; 1024]).await;
    });
    let action = Action::Http {
        tls: true,
        port,
        path: "/".into(),
        headers: Vec::new(),
    };
    let answer = asked(action).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    served.await.unwrap();
}

#[tokio::test]
async fn a_grpc_probe_asks_for_the_health_of_its_service() {
    use squire_mesh::wire::health::{
        HealthCheckRequest, HealthCheckResponse,
        health_check_response::ServingStatus,
        health_server::{Health, HealthServer},
    };

    struct Clinic;

    #[tonic::async_trait]
    impl Health for Clinic {
        async fn check(
            &self,
            request: tonic::Request<HealthCheckRequest>,
        ) -> Result<tonic::Response<HealthCheckResponse>, tonic::Status> {
            let status = match request.get_ref().service.as_str() {
                "" | "shop.Cart" => ServingStatus::Serving,
                "shop.Ill" => ServingStatus::NotServing,
                _ => return Err(tonic::Status::not_found("no such service")),
            };
            Ok(tonic::Response::new(HealthCheckResponse { status: status.into() }))
        }
    }

    let listener = TcpListener::bind((LOCAL, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(HealthServer::new(Clinic))
            .serve_with_incoming(incoming),
    );
    for (service, healthy, says) in [
        ("", true, "200"),
        ("shop.Cart", true, "200"),
        ("shop.Ill", false, "NOT_SERVING"),
        ("shop.Gone", false, "no such service"),
    ] {
        let answer = asked(Action::Grpc {
            port,
            service: service.to_owned(),
        })
        .await;
        assert_eq!(answer.status.is_success(), healthy, "{service}: {}", answer.text);
        assert!(answer.text.contains(says), "{service}: {}", answer.text);
    }
}

#[tokio::test]
async fn only_configured_probes_can_be_asked() {
    let prober = prober(Action::Tcp { port: 1 });
    for path in [
        "/probe/web/readiness",
        "/probe/web/liveness/",
        "/probe/",
        "/probe/web/liveness?port=22",
    ] {
        assert_eq!(prober.answer(path, LOCAL, &HeaderMap::new()).await, None, "{path}");
    }
}
