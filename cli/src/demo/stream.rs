//! A long connection to `db` and back on which every byte is checked: by its place as it comes, and by SHA-256 of all that
//! went and all that came at the end. What is seen is told in lines of JSON; it judges nothing.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use aws_lc_rs::digest::{Context, SHA256};
use http::{Request, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::{
    body::{Bytes, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::{
    net::TcpStream,
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval, timeout},
};

use super::{channel::ChannelBody, pattern};

/// For an answer of `db`.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// What is sent at once, and how often: the load of a busy client, not of a benchmark.
const PIECE: usize = 32 << 10;
const PACE: Duration = Duration::from_millis(5);
/// Between two lines of progress.
const TELL: Duration = Duration::from_millis(20);

/// One line about a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub(super) enum Line {
    /// So many bytes have come back, each the one that belongs there.
    Progress { echoed: u64 },
    /// It ended in order.
    End {
        sent: u64,
        echoed: u64,
        sha256_sent: String,
        sha256_echoed: String,
    },
    /// It broke off.
    Broken { echoed: u64, error: String },
    /// A byte came back that does not belong there.
    Mismatch { offset: u64 },
}

/// Streams until `stop` changes, the connection breaks, or nobody listens to `lines`.
pub(super) async fn run(db: SocketAddr, stop: watch::Receiver<u64>, lines: mpsc::Sender<Bytes>) {
    let mut echoed = 0;
    let line = match attempt(db, stop, &lines, &mut echoed).await {
        Ok(line) => line,
        Err(error) => Line::Broken {
            echoed,
            error: format!("{error:#}"),
        },
    };
    tell(&lines, &line).await;
}

async fn attempt(
    db: SocketAddr,
    stop: watch::Receiver<u64>,
    lines: &mpsc::Sender<Bytes>,
    echoed: &mut u64,
) -> anyhow::Result<Line> {
    let tcp = TcpStream::connect(db).await?;
    tcp.set_nodelay(true).ok();
    let (mut sender, connection) = http1::handshake(TokioIo::new(tcp)).await?;
    let connection = tokio::spawn(connection);
    let (pieces, body) = mpsc::channel(4);
    let request = Request::post("/echo")
        .header(header::HOST, "db")
        .body(ChannelBody::new(body))?;
    let writer = tokio::spawn(write(pieces, stop));
    let response = timeout(PATIENCE, sender.send_request(request)).await??;
    anyhow::ensure!(response.status() == StatusCode::OK, "db answered {}", response.status());
    let read = read(response.into_body(), lines, echoed).await;
    let sent = writer.await;
    connection.abort();
    let (sent, sha256_sent) = sent?;
    Ok(match read? {
        Read::Ended(sha256_echoed) => Line::End {
            sent,
            echoed: *echoed,
            sha256_sent,
            sha256_echoed,
        },
        Read::Mismatch(offset) => Line::Mismatch { offset },
    })
}

/// Sends until told to stop, or nobody takes it any more. What was sent, and its checksum.
async fn write(pieces: mpsc::Sender<Bytes>, mut stop: watch::Receiver<u64>) -> (u64, String) {
    stop.mark_unchanged();
    let (mut sent, mut digest) = (0, Context::new(&SHA256));
    let mut ticks = interval(PACE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let piece = pattern::at(sent, PIECE);
        tokio::select! {
            _ = stop.changed() => break,
            _ = ticks.tick() => {}
        }
        digest.update(&piece);
        if pieces.send(piece.into()).await.is_err() {
            break;
        }
        sent += PIECE as u64;
    }
    (sent, hex(digest))
}

enum Read {
    Ended(String),
    Mismatch(u64),
}

/// Checks what comes back until it ends.
async fn read(mut body: Incoming, lines: &mpsc::Sender<Bytes>, echoed: &mut u64) -> anyhow::Result<Read> {
    let mut digest = Context::new(&SHA256);
    let mut told = Instant::now();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        let expected = pattern::at(*echoed, data.len());
        if let Some(wrong) = data.iter().zip(&expected).position(|(is, should)| is != should) {
            return Ok(Read::Mismatch(*echoed + wrong as u64));
        }
        digest.update(&data);
        *echoed += data.len() as u64;
        if told.elapsed() >= TELL {
            told = Instant::now();
            anyhow::ensure!(tell(lines, &Line::Progress { echoed: *echoed }).await, "nobody listens");
        }
    }
    Ok(Read::Ended(hex(digest)))
}

/// False: nobody listens any more.
async fn tell(lines: &mpsc::Sender<Bytes>, line: &Line) -> bool {
    let mut text = serde_json::to_vec(line).unwrap_or_default();
    text.push(b'\n');
    lines.send(text.into()).await.is_ok()
}

fn hex(digest: Context) -> String {
    digest
        .finish()
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
