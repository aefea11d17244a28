//! Providers of external authorization, over HTTP and over gRPC, that keep what they were shown. What they say is in the
//! path of the request they are asked about: `/deny…` no, `/broken…` nothing of use, `/slow…` nothing at all, else yes.

use std::{
    convert::Infallible,
    future::pending,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use squire_mesh::wire::{
    auth::{
        CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse,
        authorization_server::{Authorization, AuthorizationServer},
        check_response::HttpResponse,
    },
    core::{HeaderValue, HeaderValueOption, header_value_option::HeaderAppendAction},
    http_status::HttpStatus,
    rpc::Status as RpcStatus,
};
use tokio::{io::AsyncWriteExt, net::TcpStream};
use tonic::{Code, Status};
use tower_service::Service;

use crate::{
    apps::{App, serving_at},
    http::{Message, body_of, read_head},
};

/// What `/deny…` is answered with by both.
pub const NO: &str = "ask your manager";

/// A provider over HTTP.
#[derive(Debug)]
pub struct HttpJudge {
    app: App,
    seen: Arc<Mutex<Vec<String>>>,
}

impl HttpJudge {
    /// Starts one at this address (port 0: any).
    pub async fn start(address: SocketAddr) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&seen);
        let app = serving_at(address, move |stream| over_http(stream, Arc::clone(&noted))).await;
        Self { app, seen }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.app.address()
    }

    /// The checks it was sent: heads and bodies.
    #[must_use]
    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

async fn over_http(mut stream: TcpStream, seen: Arc<Mutex<Vec<String>>>) {
    let mut rest = Vec::new();
    while let Ok(Some(head)) = read_head(&mut stream, &mut rest).await {
        let Ok(body) = body_of(&mut stream, &mut rest, &head, Message::Request).await else {
            return;
        };
        let text = head + &String::from_utf8_lossy(&body);
        let path = text.split(' ').nth(1).unwrap_or_default().to_owned();
        seen.lock().unwrap().push(text);
        let says = |word: &str| path.contains(word);
        let answer = match () {
            () if says("/slow") => pending().await,
            () if says("/broken") => "HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n".to_owned(),
            () if says("/deny") => format!(
                "HTTP/1.1 302 Found\r\nLocation: /login\r\nX-Why: because\r\nContent-Length: {}\r\n\r\n{NO}",
                NO.len()
            ),
            () => "HTTP/1.1 200 OK\r\nX-User: alice\r\nX-Private: 1\r\nSet-Cookie: seen=1\r\nContent-Length: 0\r\n\r\n"
                .to_owned(),
        };
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// A provider over gRPC. Connections of bytes are let in as [`GrpcJudge::lets_bytes_in`] says.
#[derive(Debug)]
pub struct GrpcJudge {
    app: App,
    judging: Judging,
}

#[derive(Debug, Clone)]
struct Judging {
    seen: Arc<Mutex<Vec<CheckRequest>>>,
    bytes: Arc<Mutex<bool>>,
}

impl GrpcJudge {
    /// Starts one at this address (port 0: any).
    pub async fn start(address: SocketAddr) -> Self {
        let judging = Judging {
            seen: Arc::default(),
            bytes: Arc::new(Mutex::new(true)),
        };
        let serving = judging.clone();
        let app = serving_at(address, move |stream| {
            let server = AuthorizationServer::new(serving.clone());
            async move {
                let service = service_fn(move |request: Request<Incoming>| {
                    let mut server = server.clone();
                    async move { server.call(request).await as Result<Response<tonic::body::Body>, Infallible> }
                });
                let _ = http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            }
        })
        .await;
        Self { app, judging }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.app.address()
    }

    /// The checks it was sent.
    #[must_use]
    pub fn seen(&self) -> Vec<CheckRequest> {
        self.judging.seen.lock().unwrap().clone()
    }

    /// Whether connections of bytes are let in from now on.
    pub fn lets_bytes_in(&self, yes: bool) {
        *self.judging.bytes.lock().unwrap() = yes;
    }
}

#[tonic::async_trait]
impl Authorization for Judging {
    async fn check(&self, request: tonic::Request<CheckRequest>) -> Result<tonic::Response<CheckResponse>, Status> {
        let request = request.into_inner();
        self.seen.lock().unwrap().push(request.clone());
        let http = request
            .attributes
            .and_then(|asked| asked.request)
            .and_then(|asked| asked.http);
        let Some(http) = http else {
            let yes = *self.bytes.lock().unwrap();
            return Ok(tonic::Response::new(said(
                if yes { Code::Ok } else { Code::PermissionDenied },
                None,
            )));
        };
        let answer = match &*http.path {
            path if path.contains("/slow") => pending().await,
            path if path.contains("/broken") => return Err(Status::internal("broken")),
            path if path.contains("/deny") => {
                let denied = DeniedHttpResponse {
                    status: Some(HttpStatus { code: 429 }),
                    headers: vec![field("x-why", "because")],
                    body: NO.to_owned(),
                };
                said(Code::PermissionDenied, Some(HttpResponse::DeniedResponse(denied)))
            }
            _ => {
                let ok = OkHttpResponse {
                    headers: vec![field("x-user", "alice")],
                    headers_to_remove: vec!["x-secret".to_owned()],
                    response_headers_to_add: vec![field("x-judged", "yes")],
                    ..OkHttpResponse::default()
                };
                said(Code::Ok, Some(HttpResponse::OkResponse(ok)))
            }
        };
        Ok(tonic::Response::new(answer))
    }
}

fn said(code: Code, http_response: Option<HttpResponse>) -> CheckResponse {
    CheckResponse {
        status: Some(RpcStatus {
            code: code as i32,
            ..RpcStatus::default()
        }),
        http_response,
        ..CheckResponse::default()
    }
}

fn field(name: &str, value: &str) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue {
            key: name.to_owned(),
            value: value.to_owned(),
            ..HeaderValue::default()
        }),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd as i32,
        ..HeaderValueOption::default()
    }
}
