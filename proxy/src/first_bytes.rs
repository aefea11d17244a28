//! PERMISSIVE ports: finding out what a client has started without making anybody wait. Whoever speaks first decides: a
//! client's bytes show mesh TLS or something opaque; an application that greets first shows a client that waits for it.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::Interest,
    net::TcpStream,
    time::{sleep, timeout},
};

use crate::{
    authorize::Prospect,
    shared::Shared,
    sniff::{ENOUGH, Sniffed, sniff},
};

/// Head start of a client that speaks first: it sends as soon as its connect returns. Only after that is the application
/// dialled, so that mesh connections do not show up there as ones that were opened and dropped.
///
/// A client whose address is that of a workload with a sidecar has longer: it starts mesh TLS, however late its sidecar gets
/// to run. To greet it would send in plaintext what it expects under TLS.
const HEAD_START: Duration = Duration::from_millis(2);

/// What a client started.
pub(crate) enum First {
    /// Mesh TLS; with the bytes read so far.
    Mesh(Vec<u8>),
    /// Anything else; with the bytes read so far, and the application if it had to be dialled to find out.
    Opaque { received: Vec<u8>, app: Option<TcpStream> },
    /// Nothing, and nobody may greet it: it is not allowed in without an identity.
    Silent,
}

/// Waits for the first bytes of either side. `prospect`: the client may enter without an identity, so the application may
/// be asked whether it speaks first; then there is no limit to how long both may be silent. `peer`: it has a sidecar, so that
/// it is waited for until the time for a handshake is over.
pub(crate) async fn wait(
    shared: &Arc<Shared>,
    client: &TcpStream,
    app: SocketAddr,
    prospect: Option<&Prospect>,
    peer: bool,
    limit: Duration,
) -> io::Result<First> {
    let mut received = Vec::new();
    let Some(prospect) = prospect else {
        return match timeout(limit, read(client, &mut received)).await {
            Ok(done) => done.map(|sniffed| first(sniffed, received, None)),
            Err(_) => Ok(First::Silent),
        };
    };
    tokio::select! {
        biased;
        done = spoken(client) => {
            done?;
            return decide(client, received, limit, None).await;
        }
        () = sleep(if peer { limit } else { HEAD_START }) => {}
    }
    let app = match shared.dialer.app(prospect, app).await {
        Ok(app) => app,
        // Whoever comes in next reports it; the client may still turn out to be a peer.
        Err(_) => return decide(client, received, limit, None).await,
    };
    tokio::select! {
        biased;
        done = spoken(client) => {
            done?;
            decide(client, std::mem::take(&mut received), limit, Some(app)).await
        }
        done = spoken(&app) => {
            done?;
            Ok(First::Opaque { received, app: Some(app) })
        }
    }
}

/// Waits until a side has said something, or ended. Looks at the bytes themselves: a socket that is new counts as
/// readable until that has been tried.
async fn spoken(stream: &TcpStream) -> io::Result<()> {
    stream.peek(&mut [0]).await.map(drop)
}

async fn decide(
    client: &TcpStream,
    mut received: Vec<u8>,
    limit: Duration,
    app: Option<TcpStream>,
) -> io::Result<First> {
    match timeout(limit, read(client, &mut received)).await {
        Ok(done) => done.map(|sniffed| first(sniffed, received, app)),
        // The start of something that looks like TLS, and then nothing: passed on as it is.
        Err(_) => Ok(First::Opaque { received, app }),
    }
}

fn first(sniffed: Sniffed, received: Vec<u8>, app: Option<TcpStream>) -> First {
    match sniffed {
        Sniffed::Mesh => First::Mesh(received),
        Sniffed::Opaque | Sniffed::Undecided => First::Opaque { received, app },
    }
}

/// Reads until the bytes tell, or there are no more.
async fn read(client: &TcpStream, received: &mut Vec<u8>) -> io::Result<Sniffed> {
    loop {
        match sniff(received) {
            Sniffed::Undecided if received.len() < ENOUGH => {}
            decided => return Ok(decided),
        }
        received.reserve(2048);
        client.ready(Interest::READABLE).await?;
        match client.try_read_buf(received) {
            Ok(0) => return Ok(Sniffed::Opaque),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}
