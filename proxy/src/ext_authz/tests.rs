//! Real providers over loopback, HTTP and gRPC: what they are shown, what their answers do, and what happens without one.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, server::conn, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use squire_mesh::{
    policy::{
        self, AuthorizationPolicy, BodyInCheck, Connection, CustomPolicy, Destination, HttpCheck, Kind, ObjectRef,
        Principal, ProviderAddress, Rule, Source, TextMatch, Why,
    },
    wire::{
        auth::{
            CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse,
            authorization_server::{Authorization, AuthorizationServer},
            check_response::HttpResponse,
        },
        core::{HeaderValue, HeaderValueOption, QueryParameter},
        http_status::HttpStatus,
        rpc,
    },
};
use tokio::{
    net::TcpListener,
    task::{JoinHandle, JoinSet},
};
use tower_service::Service as _;

use super::*;
use crate::{
    callouts::outside::{Outside, Tls},
    http::test::{Head, view},
};

const NO_EDITS: &Edits = &Edits {
    remove: Vec::new(),
    set: Vec::new(),
    add: Vec::new(),
    target: None,
};

fn asker() -> Asker {
    let metrics = Arc::new(CalloutMetrics::register(&prometheus::Registry::new()).unwrap());
    Asker::new(Arc::new(Client::new(Arc::new(Outside), Tls::new(None))), metrics)
}

/// A table whose CUSTOM policies match everything.
fn table(providers: Vec<Provider>) -> Table {
    let custom = providers.into_iter().enumerate().map(|(index, provider)| {
        let object = ObjectRef::new(Kind::AuthorizationPolicy, "shop", &format!("p{index}"));
        CustomPolicy {
            policy: Arc::new(AuthorizationPolicy {
                object,
                rules: [Rule::default()].into(),
            }),
            provider: Some(Arc::new(provider)),
        }
    });
    let mut table = Table::default();
    table.authorization.custom = custom.collect();
    table
}

fn provider(kind: ProviderKind, address: SocketAddr) -> Provider {
    Provider {
        address: Some(ProviderAddress {
            host: address.ip().to_string().into(),
            port: address.port(),
        }),
        timeout: Duration::from_secs(10),
        ..Provider::new("p", kind)
    }
}

/// A connection of bytes from web, with mutual TLS.
fn connection() -> Request<'static> {
    let source = Source::external("10.0.0.1".parse().unwrap()).with_principal(Principal::new("td/ns/shop/sa/web"));
    let destination = Destination {
        ip: "10.0.0.2".parse().unwrap(),
        port: 8080,
        workload: None,
    };
    let connection = Connection {
        mutual_tls: true,
        ..Connection::default()
    };
    Request::connection(source, destination, connection)
}

async fn ask(asker: &Asker, table: &Table, head: &Head, body: Body<'_>, edits: &Edits) -> (Answered, policy::Decision) {
    let view = view(head);
    let request = connection().with_http(view.as_policy());
    let local = "spiffe://td/ns/shop/sa/db".parse().unwrap();
    let context = Context {
        source_port: 4444,
        local: Some(&local),
        request_id: "r1",
        edits,
    };
    let answered = asker.ask(table, &request, Some(&view), body, &context).await;
    let decision = policy::decide_inbound(table, &request.with_answers(&answered));
    (answered, decision)
}

async fn ask_plainly(asker: &Asker, table: &Table) -> (Answered, policy::Decision) {
    ask(asker, table, &Head::get("/a?b=c"), Body::NONE, NO_EDITS).await
}

type Answering = dyn Fn(::http::request::Parts, Bytes) -> ::http::Response<&'static str> + Send + Sync;

/// An HTTP provider that counts connections and requests.
struct HttpProvider {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    seen: Arc<Mutex<Vec<(::http::request::Parts, Bytes)>>>,
    task: JoinHandle<()>,
}

impl HttpProvider {
    async fn start(
        answer: impl Fn(::http::request::Parts, Bytes) -> ::http::Response<&'static str> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (connections, seen) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::default()));
        let (counted, noted, answer): (_, Arc<Mutex<Vec<_>>>, Arc<Answering>) =
            (Arc::clone(&connections), Arc::clone(&seen), Arc::new(answer));
        let task = tokio::spawn(async move {
            let mut serving = JoinSet::new();
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                counted.fetch_add(1, SeqCst);
                let (noted, answer) = (Arc::clone(&noted), Arc::clone(&answer));
                serving.spawn(async move {
                    let service = service_fn(move |request: ::http::Request<Incoming>| {
                        let (noted, answer) = (Arc::clone(&noted), Arc::clone(&answer));
                        async move {
                            let (head, body) = request.into_parts();
                            let body = body.collect().await?.to_bytes();
                            let response = answer(head.clone(), body.clone()).map(|text| Full::new(Bytes::from(text)));
                            noted.lock().unwrap().push((head, body));
                            Ok::<_, hyper::Error>(response)
                        }
                    });
                    let _ = conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(tcp), service)
                        .await;
                });
            }
        });
        Self {
            address,
            connections,
            seen,
            task,
        }
    }

    fn last(&self) -> (::http::request::Parts, Bytes) {
        self.seen.lock().unwrap().last().unwrap().clone()
    }

    async fn stop(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }
}

fn answer(status: u16) -> ::http::Response<&'static str> {
    ::http::Response::builder().status(status).body("").unwrap()
}

#[tokio::test]
async fn over_http_200_allows_and_anything_else_denies_with_that_answer() {
    let server = HttpProvider::start(|head, _| match head.uri.path() {
        "/check/allowed" => answer(200),
        "/check/created" => answer(201),
        _ => ::http::Response::builder()
            .status(302)
            .header("location", "https://login")
            .header("set-cookie", "s=1")
            .header("x-more", "m")
            .body("go there")
            .unwrap(),
    })
    .await;
    let mut one = provider(ProviderKind::Http, server.address);
    one.http.path_prefix = "/check".into();
    let open = table(vec![one.clone()]);
    let asker = asker();
    let (answered, decision) = ask(&asker, &open, &Head::get("/allowed"), Body::NONE, NO_EDITS).await;
    assert!(decision.is_allowed() && answered.reply.is_none() && answered.edits.is_empty());
    let (answered, decision) = ask(&asker, &open, &Head::get("/created"), Body::NONE, NO_EDITS).await;
    assert_eq!(
        (decision.why, answered.reply.unwrap().status),
        (Why::ProviderDenied, 201)
    );
    let (answered, decision) = ask(&asker, &open, &Head::get("/other"), Body::NONE, NO_EDITS).await;
    assert_eq!(decision.why, Why::ProviderDenied);
    let reply = answered.reply.unwrap();
    assert_eq!((reply.status, &*reply.body), (302, &b"go there"[..]));
    let names = |reply: &LocalReply| {
        reply
            .fields
            .iter()
            .map(|(name, _)| name.to_string())
            .collect::<Vec<_>>()
    };
    assert!(names(&reply).contains(&"x-more".into()) && names(&reply).contains(&"set-cookie".into()));
    assert!(!names(&reply).contains(&"content-length".into()));
    // With a list, only what it names and what a client needs to log in.
    one.http.downstream_on_deny = [TextMatch::parse("x-*")].into();
    let (answered, _) = ask(&asker, &table(vec![one]), &Head::get("/other"), Body::NONE, NO_EDITS).await;
    let mut names = names(&answered.reply.unwrap());
    names.sort();
    assert_eq!(names, ["location", "x-more"]);
    assert_eq!(
        server.connections.load(SeqCst),
        1,
        "one connection carries one check after another"
    );
    assert_eq!(
        (
            asker.reach.metrics.checks("http", "allow"),
            asker.reach.metrics.checks("http", "deny")
        ),
        (1, 3)
    );
}

#[tokio::test]
async fn over_http_a_provider_sees_what_is_listed_and_sets_what_is_listed() {
    let server = HttpProvider::start(|_, _| {
        ::http::Response::builder()
            .header("x-user", "alice")
            .header("x-secret", "s")
            .header("x-down", "d")
            .header("content-type", "text/plain")
            .body("")
            .unwrap()
    })
    .await;
    let mut one = provider(ProviderKind::Http, server.address);
    one.http = HttpCheck {
        request_headers: ["x-a", "x-b*", "content-length", "host"].map(TextMatch::parse).into(),
        additional_headers: [("x-fixed".into(), "f".into()), ("x-a".into(), "ours".into())].into(),
        upstream_on_allow: ["x-user", "content-length"].map(TextMatch::parse).into(),
        downstream_on_allow: [TextMatch::parse("x-down")].into(),
        ..HttpCheck::default()
    };
    let head = Head::get("/a?b=c")
        .method("POST")
        .field("x-a", "theirs")
        .field("x-b1", "1")
        .field("x-c", "no")
        .field("x-sub", "forged")
        .field("authorization", "Bearer t");
    // What tokens changed is changed for the provider too.
    let edits = Edits {
        set: vec![("x-b2".into(), (*b"2").into())],
        ..Edits::default()
    };
    let (answered, decision) = ask(&asker(), &table(vec![one]), &head, Body::NONE, &edits).await;
    assert!(decision.is_allowed());
    let (seen, _) = server.last();
    assert_eq!(
        (seen.method.as_str(), seen.uri.to_string().as_str()),
        ("POST", "/a?b=c")
    );
    let value = |name: &str| seen.headers.get(name).map(|value| value.to_str().unwrap());
    for (name, expected) in [
        ("host", Some("app.shop")),
        ("authorization", Some("Bearer t")),
        ("content-length", Some("0")),
        ("x-a", Some("ours")),
        ("x-b1", Some("1")),
        ("x-b2", Some("2")),
        ("x-fixed", Some("f")),
        ("x-c", None),
        ("x-sub", None),
    ] {
        assert_eq!(value(name), expected, "{name}");
    }
    assert_eq!(answered.edits.set, [("x-user".into(), (*b"alice").into())]);
    assert_eq!(answered.response.set, [("x-down".into(), (*b"d").into())]);
}

#[tokio::test]
async fn a_body_is_shown_up_to_its_limit_or_refused() {
    let server = HttpProvider::start(|_, _| answer(200)).await;
    let mut one = provider(ProviderKind::Http, server.address);
    let limit = |allow_partial| BodyInCheck {
        max_bytes: 4,
        allow_partial,
        pack_as_bytes: false,
    };
    one.body = Some(limit(true));
    let head = Head::get("/");
    let partial = table(vec![one.clone()]);
    let request = connection().with_http(view(&head).as_policy());
    assert_eq!(Asker::body_wanted(&partial, &request), 4);
    for (bytes, complete, shown, cut) in [
        (&b"abc"[..], true, &b"abc"[..], "false"),
        (b"abcd", false, b"abcd", "true"),
        (b"abcdef", true, b"abcd", "true"),
    ] {
        let (_, decision) = ask(&asker(), &partial, &head, Body { bytes, complete }, NO_EDITS).await;
        assert!(decision.is_allowed());
        let (seen, body) = server.last();
        assert_eq!(
            (&*body, seen.headers["x-envoy-auth-partial-body"].to_str().unwrap()),
            (shown, cut)
        );
    }
    one.body = Some(limit(false));
    let whole = table(vec![one]);
    let body = Body {
        bytes: b"abcd",
        complete: false,
    };
    let (answered, decision) = ask(&asker(), &whole, &head, body, NO_EDITS).await;
    assert_eq!(
        (decision.why, answered.reply.unwrap().status),
        (Why::ProviderDenied, 413)
    );
}

#[tokio::test]
async fn a_provider_that_cannot_be_asked_denies_or_passes_as_configured() {
    // One that errs, one that is silent, one that is not there.
    let failing = HttpProvider::start(|_, _| answer(503)).await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gone = HttpProvider::start(|_, _| answer(200)).await;
    let nobody = gone.address;
    gone.stop().await;
    for kind in [ProviderKind::Http, ProviderKind::Grpc] {
        for (address, result) in [
            (failing.address, "error"),
            (silent.local_addr().unwrap(), "timeout"),
            (nobody, "error"),
        ] {
            let mut one = provider(kind, address);
            if result == "timeout" {
                one.timeout = Duration::from_millis(50);
            }
            one.status_on_error = 500;
            let asker = asker();
            let (answered, decision) = ask_plainly(&asker, &table(vec![one.clone()])).await;
            assert_eq!(decision.why, Why::ProviderFailed, "{kind:?} {result}");
            assert_eq!(answered.reply.unwrap().status, 500);
            one.fail_open = true;
            let (answered, decision) = ask_plainly(&asker, &table(vec![one])).await;
            assert!(decision.is_allowed() && answered.reply.is_none(), "{kind:?} {result}");
            let label = if kind == ProviderKind::Http { "http" } else { "grpc" };
            assert_eq!(asker.reach.metrics.checks(label, result), 2, "{kind:?} {result}");
        }
    }
}

#[tokio::test]
async fn a_provider_without_an_address_denies_even_where_failing_would_pass() {
    let one = Provider {
        fail_open: true,
        ..Provider::new("p", ProviderKind::Http)
    };
    let (answered, decision) = ask_plainly(&asker(), &table(vec![one])).await;
    assert_eq!(
        (decision.why, answered.reply.unwrap().status),
        (Why::ProviderDenied, 403)
    );
}

#[tokio::test]
async fn a_provider_that_restarts_is_asked_on_a_new_connection() {
    let first = HttpProvider::start(|_, _| answer(200)).await;
    let (asker, open) = (asker(), table(vec![provider(ProviderKind::Http, first.address)]));
    assert!(ask_plainly(&asker, &open).await.1.is_allowed());
    let address = first.address;
    first.stop().await;
    assert!(!ask_plainly(&asker, &open).await.1.is_allowed());
    let listener = TcpListener::bind(address).await.unwrap();
    let again = tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        let service = service_fn(|_: ::http::Request<Incoming>| async {
            Ok::<_, hyper::Error>(answer(200).map(|_| Full::<Bytes>::default()))
        });
        let _ = conn::http1::Builder::new()
            .serve_connection(TokioIo::new(tcp), service)
            .await;
    });
    assert!(ask_plainly(&asker, &open).await.1.is_allowed());
    again.abort();
}

#[tokio::test]
async fn every_provider_that_matches_has_to_allow_and_the_first_denial_ends_it() {
    let (yes, no, third) = tokio::join!(
        HttpProvider::start(|_, _| answer(200)),
        HttpProvider::start(|_, _| answer(401)),
        HttpProvider::start(|_, _| answer(200))
    );
    let named = |name: &str, server: &HttpProvider| Provider {
        name: name.into(),
        ..provider(ProviderKind::Http, server.address)
    };
    let all = table(vec![
        named("yes", &yes),
        named("yes", &yes),
        named("no", &no),
        named("third", &third),
    ]);
    let (answered, decision) = ask_plainly(&asker(), &all).await;
    assert_eq!(
        (decision.why, answered.reply.unwrap().status),
        (Why::ProviderDenied, 401)
    );
    let asked = |server: &HttpProvider| server.seen.lock().unwrap().len();
    assert_eq!((asked(&yes), asked(&no), asked(&third)), (1, 1, 0));
}

type Judge = dyn Fn(CheckRequest) -> Result<CheckResponse, tonic::Status> + Send + Sync;

/// A gRPC provider.
#[derive(Clone)]
struct Judging(Arc<Judge>, Arc<Mutex<Vec<CheckRequest>>>);

#[tonic::async_trait]
impl Authorization for Judging {
    async fn check(
        &self,
        request: tonic::Request<CheckRequest>,
    ) -> Result<tonic::Response<CheckResponse>, tonic::Status> {
        let request = request.into_inner();
        self.1.lock().unwrap().push(request.clone());
        (self.0)(request).map(tonic::Response::new)
    }
}

struct GrpcProvider {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    seen: Arc<Mutex<Vec<CheckRequest>>>,
    task: JoinHandle<()>,
}

impl GrpcProvider {
    async fn start(
        judge: impl Fn(CheckRequest) -> Result<CheckResponse, tonic::Status> + Send + Sync + 'static,
    ) -> Self {
        Self::at("127.0.0.1:0".parse().unwrap(), judge).await
    }

    async fn at(
        address: SocketAddr,
        judge: impl Fn(CheckRequest) -> Result<CheckResponse, tonic::Status> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let (connections, seen) = (Arc::new(AtomicUsize::new(0)), Arc::default());
        let judging = Judging(Arc::new(judge), Arc::clone(&seen));
        let routes = tonic::service::Routes::new(AuthorizationServer::new(judging)).prepare();
        let (address, counted) = (listener.local_addr().unwrap(), Arc::clone(&connections));
        let task = tokio::spawn(async move {
            let mut serving = JoinSet::new();
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                counted.fetch_add(1, SeqCst);
                let routes = routes.clone();
                serving.spawn(async move {
                    let service = service_fn(move |request: ::http::Request<Incoming>| {
                        let mut routes = routes.clone();
                        async move { Ok::<_, std::convert::Infallible>(routes.call(request).await.unwrap()) }
                    });
                    let _ = conn::http2::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(tcp), service)
                        .await;
                });
            }
        });
        Self {
            address,
            connections,
            seen,
            task,
        }
    }
}

fn status(code: i32) -> Option<rpc::Status> {
    Some(rpc::Status {
        code,
        ..rpc::Status::default()
    })
}

fn set(key: &str, value: &str, append: Option<bool>) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue {
            key: key.into(),
            value: value.into(),
            raw_value: Vec::new(),
        }),
        append,
        append_action: 0,
    }
}

#[tokio::test]
async fn over_grpc_the_whole_request_is_shown_and_the_answer_changes_it() {
    let server = GrpcProvider::start(|_| {
        Ok(CheckResponse {
            status: status(0),
            http_response: Some(HttpResponse::OkResponse(OkHttpResponse {
                headers: vec![
                    set("X-User", "alice", None),
                    set("x-role", "a", Some(true)),
                    set(":path", "/admin", None),
                    set("content-length", "0", None),
                    set("x-evil", "a\r\nb: c", None),
                ],
                headers_to_remove: vec!["X-Gone".into(), "host".into()],
                response_headers_to_add: vec![set("x-down", "d", None)],
                query_parameters_to_set: vec![QueryParameter {
                    key: "k".into(),
                    value: "v w".into(),
                }],
                query_parameters_to_remove: vec!["b".into()],
            })),
            dynamic_metadata: None,
        })
    })
    .await;
    let mut one = provider(ProviderKind::Grpc, server.address);
    one.body = Some(BodyInCheck {
        max_bytes: 10,
        allow_partial: false,
        pack_as_bytes: true,
    });
    let head = Head::get("/a?b=c&d=e")
        .method("POST")
        .field("x-a", "1")
        .field("x-a", "2")
        .field("cookie", "a=1")
        .field("cookie", "b=2");
    let body = Body {
        bytes: b"\xffbody",
        complete: true,
    };
    let asker = asker();
    let open = table(vec![one]);
    let (answered, decision) = ask(&asker, &open, &head, body, NO_EDITS).await;
    assert!(decision.is_allowed());
    assert_eq!(answered.edits.set, [("x-user".into(), (*b"alice").into())]);
    assert_eq!(answered.edits.add, [("x-role".into(), (*b"a").into())]);
    assert_eq!(answered.edits.remove, ["x-gone".into()]);
    assert_eq!(answered.edits.target.as_deref(), Some("/a?d=e&k=v%20w"));
    assert_eq!(answered.response.set, [("x-down".into(), (*b"d").into())]);

    let attributes = server.seen.lock().unwrap()[0].attributes.clone().unwrap();
    assert_eq!(attributes.source.unwrap().principal, "spiffe://td/ns/shop/sa/web");
    assert_eq!(attributes.destination.unwrap().principal, "spiffe://td/ns/shop/sa/db");
    let http = attributes.request.unwrap().http.unwrap();
    assert_eq!(
        (http.method.as_str(), http.path.as_str(), http.host.as_str()),
        ("POST", "/a?b=c&d=e", "app.shop")
    );
    assert_eq!(
        (http.query.as_str(), http.protocol.as_str(), http.id.as_str()),
        ("b=c&d=e", "HTTP/1.1", "r1")
    );
    assert_eq!((http.raw_body.as_slice(), http.body.as_str()), (&b"\xffbody"[..], ""));
    assert_eq!(
        (http.headers["x-a"].as_str(), http.headers["cookie"].as_str()),
        ("1,2", "a=1; b=2")
    );

    ask(&asker, &open, &head, body, NO_EDITS).await;
    assert_eq!(server.connections.load(SeqCst), 1, "checks share one connection");
}

#[tokio::test]
async fn over_grpc_a_denial_says_what_the_client_gets() {
    let denied = |http_response| {
        move |_: CheckRequest| {
            Ok(CheckResponse {
                status: status(7),
                http_response: Some(http_response).flatten(),
                dynamic_metadata: None,
            })
        }
    };
    let full = HttpResponse::DeniedResponse(DeniedHttpResponse {
        status: Some(HttpStatus { code: 401 }),
        headers: vec![
            set("www-authenticate", "Bearer", None),
            set("transfer-encoding", "chunked", None),
        ],
        body: "who are you?".into(),
    });
    let (with, without) = tokio::join!(
        GrpcProvider::start(move |request| denied(Some(full.clone()))(request)),
        GrpcProvider::start(move |request| denied(None)(request))
    );
    let (answered, decision) = ask_plainly(&asker(), &table(vec![provider(ProviderKind::Grpc, with.address)])).await;
    assert_eq!(decision.why, Why::ProviderDenied);
    let reply = answered.reply.unwrap();
    assert_eq!((reply.status, &*reply.body), (401, &b"who are you?"[..]));
    assert_eq!(reply.fields, [("www-authenticate".into(), (*b"Bearer").into())]);
    let (answered, _) = ask_plainly(&asker(), &table(vec![provider(ProviderKind::Grpc, without.address)])).await;
    assert_eq!(answered.reply.unwrap().status, 403);
}

#[tokio::test]
async fn over_grpc_a_failed_call_or_a_contradiction_is_no_answer() {
    let (failing, confused, empty) = tokio::join!(
        GrpcProvider::start(|_| Err(tonic::Status::permission_denied("not you, provider's client"))),
        GrpcProvider::start(|_| Ok(CheckResponse {
            status: status(0),
            http_response: Some(HttpResponse::DeniedResponse(DeniedHttpResponse::default())),
            dynamic_metadata: None,
        })),
        GrpcProvider::start(|_| Ok(CheckResponse::default()))
    );
    for server in [&failing, &confused, &empty] {
        let (_, decision) = ask_plainly(&asker(), &table(vec![provider(ProviderKind::Grpc, server.address)])).await;
        assert_eq!(decision.why, Why::ProviderFailed);
    }
}

#[tokio::test]
async fn a_grpc_provider_that_restarts_is_asked_again() {
    let allow = |_| {
        Ok(CheckResponse {
            status: status(0),
            ..CheckResponse::default()
        })
    };
    let first = GrpcProvider::start(allow).await;
    let (asker, address) = (asker(), first.address);
    let open = table(vec![provider(ProviderKind::Grpc, address)]);
    assert!(ask_plainly(&asker, &open).await.1.is_allowed());
    first.task.abort();
    assert!(first.task.await.unwrap_err().is_cancelled());
    let _second = GrpcProvider::at(address, allow).await;
    assert!(ask_plainly(&asker, &open).await.1.is_allowed());
}

#[tokio::test]
async fn connections_of_bytes_are_shown_to_grpc_providers_only() {
    let server = GrpcProvider::start(|_| {
        Ok(CheckResponse {
            status: status(16),
            ..CheckResponse::default()
        })
    })
    .await;
    let request = connection();
    let context = Context {
        source_port: 4444,
        local: None,
        request_id: "c1",
        edits: NO_EDITS,
    };
    let asker = asker();
    let grpc = table(vec![provider(ProviderKind::Grpc, server.address)]);
    let answered = asker.ask(&grpc, &request, None, Body::NONE, &context).await;
    assert_eq!(
        policy::decide_inbound(&grpc, &request.with_answers(&answered)).why,
        Why::ProviderDenied
    );
    let seen = server.seen.lock().unwrap()[0].attributes.clone().unwrap();
    assert!(seen.request.unwrap().http.is_none());
    let http = table(vec![provider(ProviderKind::Http, server.address)]);
    let answered = asker.ask(&http, &request, None, Body::NONE, &context).await;
    assert!(policy::decide_inbound(&http, &request.with_answers(&answered)).is_allowed());
}
