//! The applications of the demo: `db` answers and echoes; a client asks it through its sidecar. Ordinary HTTP servers that
//! know nothing of the mesh: no certificates, no identities, no policies.

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use anyhow::Context as _;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use hyper::{
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
};

use super::{channel::ChannelBody, stream};
use crate::{
    exit::{Failure, Outcome, block_on},
    fetch::{self, Endpoint},
};

const EXAMPLES: &str = "\
Examples:
  squire demo-app --listen 127.10.0.110:5432 --name db
  squire demo-app --listen 127.10.0.111:8080 --name web --db 127.10.0.111:5432";

/// Lines of a stream that may wait for their reader.
const QUEUE: usize = 64;

/// One application of `squire demo`
#[derive(Debug, clap::Args)]
#[command(hide = true, after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Where it listens
    #[arg(long, value_name = "ADDR")]
    listen: SocketAddr,
    /// What it calls itself
    #[arg(long, value_name = "NAME")]
    name: String,
    /// Where it reaches the database; without it, it is the database
    #[arg(long, value_name = "ADDR")]
    db: Option<SocketAddr>,
}

type Body = UnsyncBoxBody<Bytes, hyper::Error>;

/// What every request sees.
struct App {
    name: String,
    db: Option<SocketAddr>,
    /// Every change ends the streams that are under way.
    stop: watch::Sender<u64>,
}

impl Args {
    pub(crate) fn run(self) -> Outcome {
        block_on(async move { serve(self).await.map_err(Failure::unavailable) })
    }
}

async fn serve(args: Args) -> anyhow::Result<()> {
    let listener = TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("{}: cannot listen", args.listen))?;
    let app = Arc::new(App {
        name: args.name,
        db: args.db,
        stop: watch::Sender::new(0),
    });
    loop {
        let (tcp, _) = listener.accept().await.context("cannot accept")?;
        tcp.set_nodelay(true).ok();
        let app = Arc::clone(&app);
        let service = service_fn(move |request| {
            let app = Arc::clone(&app);
            async move { Ok::<_, Infallible>(app.answer(request).await) }
        });
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(tcp), service));
    }
}

impl App {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        match (request.method(), request.uri().path(), self.db) {
            (&Method::GET, "/", None) => text(StatusCode::OK, format!("hello from {}\n", self.name)),
            (&Method::POST, "/echo", None) => Response::new(request.into_body().boxed_unsync()),
            (&Method::GET, "/", Some(db)) => self.ask(db).await,
            (&Method::GET, "/stream", Some(db)) => self.stream(db),
            (&Method::GET, "/stop", Some(_)) => {
                self.stop.send_modify(|stops| *stops += 1);
                text(StatusCode::OK, "every stream ends\n".to_owned())
            }
            _ => text(StatusCode::NOT_FOUND, "no such page\n".to_owned()),
        }
    }

    /// One request on a connection of its own.
    async fn ask(&self, db: SocketAddr) -> Response<Body> {
        match fetch::page(&Endpoint::from(db), "/", stream::PATIENCE).await {
            Ok(page) => {
                let said = page.text();
                text(page.status, format!("{} asked db, which said: {said}", self.name))
            }
            Err(error) => text(
                StatusCode::BAD_GATEWAY,
                format!("{} asked db, and got no answer: {error:#}\n", self.name),
            ),
        }
    }

    /// A stream through db and back, told line by line for as long as somebody listens.
    fn stream(&self, db: SocketAddr) -> Response<Body> {
        let (lines, told) = mpsc::channel(QUEUE);
        tokio::spawn(stream::run(db, self.stop.subscribe(), lines));
        let mut response = Response::new(ChannelBody::new(told).map_err(|never| match never {}).boxed_unsync());
        response.headers_mut().insert(
            http::header::CONTENT_TYPE,
            http::HeaderValue::from_static("application/jsonl"),
        );
        response
    }
}

fn text(status: StatusCode, body: String) -> Response<Body> {
    let body = Full::new(Bytes::from(body)).map_err(|never| match never {});
    let mut response = Response::new(body.boxed_unsync());
    *response.status_mut() = status;
    response
}
