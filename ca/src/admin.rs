//! The CA's admin socket: a Unix socket in its directory, for commands beside the process that runs it. Whoever may open
//! the directory has the keys anyway, so the file system says who is an admin. One line of JSON asks, one answers; nothing
//! here decides, the CA does.

mod cluster;
mod command;

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    os::{fd::AsRawFd as _, unix::net::UnixStream},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustix::fs::{Mode, fchmod};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream as AsyncStream},
    time::timeout,
};

pub use cluster::{ClusterAskError, ask_cluster, serve_cluster};
pub use command::{Command, Reply, execute};

use crate::authority::CertificateAuthority;

/// Its name in the CA's directory.
const FILE: &str = "admin.sock";
/// Longest command and longest answer, in bytes.
const MAX_LINE: u64 = 32 << 20;
/// A command arrives and is answered within this time.
const LIMIT: Duration = Duration::from_secs(30);
/// Commands that may wait to be accepted.
const BACKLOG: i32 = 128;

/// Why the process that runs a CA could not be asked.
#[derive(Debug, thiserror::Error)]
#[error("{}: the process that runs this CA cannot be asked: {source}; try again when it has started or ended", path.display())]
pub struct AskError {
    /// The socket.
    path: PathBuf,
    /// What the system said.
    source: io::Error,
}

/// Opens the socket in a CA's directory, whose lock the caller holds.
///
/// # Errors
/// When it cannot be made.
pub fn listen(dir: &Path) -> io::Result<UnixListener> {
    let open = File::open(dir)?;
    match std::fs::remove_file(dir.join(FILE)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // Narrow from its first moment, for other commands check the directory meanwhile: the file takes the mode that the
    // socket has when it is bound. (A umask belongs to the process: two threads that set it undo each other.)
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    socket.bind(&SockAddr::unix(short(&open))?)?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    UnixListener::from_std(socket.into())
}

/// Answers commands until it is dropped.
pub async fn serve(listener: UnixListener, ca: Arc<CertificateAuthority>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let ca = Arc::downgrade(&ca);
                tokio::spawn(async move {
                    let answered = timeout(LIMIT, async {
                        match ca.upgrade() {
                            Some(ca) => answer(stream, ca).await,
                            None => Ok(()),
                        }
                    });
                    if let Ok(Err(error)) = answered.await {
                        tracing::debug!(%error, "an admin command broke off");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the CA's admin socket could not accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn answer(mut stream: AsyncStream, ca: Arc<CertificateAuthority>) -> io::Result<()> {
    let mut line = Vec::new();
    let (read, mut write) = stream.split();
    tokio::io::BufReader::new(read.take(MAX_LINE))
        .read_until(b'\n', &mut line)
        .await?;
    let reply = match serde_json::from_slice(&line) {
        Ok(command) => {
            let done = tokio::task::spawn_blocking(move || execute(&ca, command, SystemTime::now()));
            done.await.map_err(io::Error::other)?
        }
        Err(error) => Reply::Refused {
            mistaken: true,
            why: format!("not a command of this version of squire: {error}"),
        },
    };
    tracing::info!(
        refused = matches!(reply, Reply::Refused { .. }),
        "an admin command was answered"
    );
    let mut text = serde_json::to_vec(&reply)?;
    text.push(b'\n');
    write.write_all(&text).await
}

/// Asks the process that runs the CA of a directory. Blocks.
///
/// # Errors
/// When there is no such process, or it does not answer.
pub fn ask(dir: &Path, command: &Command) -> Result<Reply, AskError> {
    ask_socket(dir, command).map_err(|source| AskError {
        path: dir.join(FILE),
        source,
    })
}

fn ask_socket(dir: &Path, command: &Command) -> io::Result<Reply> {
    let open = File::open(dir)?;
    let mut stream = UnixStream::connect(short(&open))?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    let mut text = serde_json::to_vec(command)?;
    text.push(b'\n');
    stream.write_all(&text)?;
    let mut line = Vec::new();
    BufReader::new(stream.take(MAX_LINE)).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_slice(&line)?)
}

/// The socket by its open directory: addresses of Unix sockets are at most 108 bytes long, paths are not.
fn short(dir: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd())).join(FILE)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn the_socket_is_private_from_its_first_moment_however_many_open_at_once() {
        let opened = (0..64).map(|_| {
            tokio::task::spawn(async {
                let dir = tempfile::tempdir().unwrap();
                let _listener = listen(dir.path()).unwrap();
                std::fs::metadata(dir.path().join(FILE)).unwrap().mode() & 0o777
            })
        });
        for mode in opened.collect::<Vec<_>>() {
            assert_eq!(mode.await.unwrap(), 0o600);
        }
    }
}
