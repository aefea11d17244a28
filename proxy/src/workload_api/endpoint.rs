//! The socket: who may connect, and the one header that every request must carry (Workload Endpoint 3, 5). It does not know
//! what is asked.

use std::{
    convert::Infallible,
    fs, io,
    os::unix::{
        fs::{FileTypeExt as _, PermissionsExt as _},
        net::UnixStream as Probe,
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use squire_mesh::wire::workload_api::spiffe_workload_api_server::SpiffeWorkloadApiServer;
use tokio::{
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    time::sleep,
};
use tonic::{Status, body::Body};
use tower_service::Service as _;

use super::{authority::ValidAuthority, figures::WorkloadApiFigures, service::Api};
use crate::config::{Users, WorkloadApi};

/// Connections at once: one for each client of the pod.
const MAX_CONNECTIONS: usize = 256;
/// Requests at once on one connection; streams stay open.
const MAX_STREAMS: u32 = 100;
/// Longest request message, in bytes: tokens are shorter.
const MAX_MESSAGE: usize = 64 * 1024;
/// After a failed accept (no file descriptors): pause instead of spinning.
const PAUSE: Duration = Duration::from_millis(100);
/// Keeps browsers and confused servers from being led to the socket (Workload Endpoint 3).
const HEADER: &str = "workload.spiffe.io";

/// The socket, open and not yet served. Its file goes with it.
#[derive(Debug)]
pub struct Endpoint {
    listener: UnixListener,
    path: PathBuf,
    users: Users,
}

impl Endpoint {
    /// Opens it. A socket that a dead process left is replaced; one that somebody serves, or another kind of file, is not.
    ///
    /// # Errors
    /// When the path is taken, or its directory cannot be written to.
    pub fn open(config: &WorkloadApi) -> io::Result<Self> {
        let path = config.socket.clone();
        remove_dead(&path)?;
        let listener = UnixListener::bind(&path)?;
        // The kernel lets in by mode, we by user: each connection's user is looked at, so the mode need not say it all.
        let mode = match config.users {
            Users::Own => 0o600,
            Users::Any | Users::These(_) => 0o666,
        };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        Ok(Self {
            listener,
            path,
            users: config.users.clone(),
        })
    }

    /// Serves until it is dropped.
    pub(super) async fn serve(self, api: Api, figures: Arc<WorkloadApiFigures>) {
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let server = SpiffeWorkloadApiServer::new(api).max_decoding_message_size(MAX_MESSAGE);
        loop {
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "the Workload API cannot accept; check the limit on open files");
                    sleep(PAUSE).await;
                    continue;
                }
            };
            if let Err(user) = self.admit(&stream) {
                figures.refused("user");
                tracing::warn!(
                    user,
                    socket = %self.path.display(),
                    "a connection to the Workload API was refused: its user may not ask; allow it with workloadApi.users"
                );
                continue;
            }
            let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
                figures.refused("limit");
                tracing::warn!(
                    limit = MAX_CONNECTIONS,
                    "a connection to the Workload API was refused: too many are open"
                );
                continue;
            };
            let (server, figures) = (server.clone(), Arc::clone(&figures));
            tokio::spawn(async move {
                connection(stream, server, figures).await;
                drop(slot);
            });
        }
    }

    /// Whether this connection's user may ask; if not, who it is.
    fn admit(&self, stream: &UnixStream) -> Result<(), String> {
        let user = match stream.peer_cred() {
            Ok(credentials) => credentials.uid(),
            Err(error) => return Err(format!("unknown: {error}")),
        };
        let own = rustix::process::geteuid().as_raw();
        if self.users.admits(user, own) {
            Ok(())
        } else {
            Err(user.to_string())
        }
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        // Nobody answers there any more; if it cannot be removed, the next start will see that.
        let _ = fs::remove_file(&self.path);
    }
}

/// Removes a socket that nobody serves.
fn remove_dead(path: &Path) -> io::Result<()> {
    let kind = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !kind.is_socket() {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "there is a file that is no socket",
        ));
    }
    match Probe::connect(path) {
        Ok(_) => Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "another process serves this socket",
        )),
        Err(_) => fs::remove_file(path),
    }
}

async fn connection(stream: UnixStream, server: SpiffeWorkloadApiServer<Api>, figures: Arc<WorkloadApiFigures>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let (mut server, figures) = (server.clone(), Arc::clone(&figures));
        async move {
            if !is_meant(&request) {
                figures.refused("header");
                return Ok::<Response<Body>, Infallible>(unmeant());
            }
            server.call(request).await
        }
    });
    let served = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(16 * 1024)
        .serve_connection(TokioIo::new(ValidAuthority::new(stream)), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection to the Workload API ended with an error");
    }
}

/// Whether the client knows whom it talks to. Header names have no case in HTTP/2; the value has.
fn is_meant<B>(request: &Request<B>) -> bool {
    request.headers().get(HEADER).is_some_and(|value| value == "true")
}

fn unmeant() -> Response<Body> {
    Status::invalid_argument(format!(
        "the request lacks the metadata {HEADER}: true (Workload Endpoint 3): use a SPIFFE client library"
    ))
    .into_http()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn api(path: &Path, users: Users) -> WorkloadApi {
        WorkloadApi {
            socket: path.to_owned(),
            users,
        }
    }

    #[test]
    fn only_the_exact_header_is_taken() {
        let request = |value: Option<&str>| {
            let mut request = Request::new(());
            if let Some(value) = value {
                request.headers_mut().insert(HEADER, value.parse().unwrap());
            }
            request
        };
        assert!(is_meant(&request(Some("true"))));
        for value in [
            None,
            Some("True"),
            Some("1"),
            Some(""),
            Some("true ,true"),
            Some("false"),
        ] {
            assert!(!is_meant(&request(value)), "{value:?}");
        }
    }

    #[tokio::test]
    async fn a_socket_that_was_left_is_replaced_and_one_that_is_served_or_another_file_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let endpoint = Endpoint::open(&api(&path, Users::Own)).unwrap();
        assert_eq!(mode(&path), 0o600);
        let taken = Endpoint::open(&api(&path, Users::Any)).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        drop(endpoint);
        assert!(!path.exists(), "the file goes with the socket");
        let open = Endpoint::open(&api(&path, Users::Any)).unwrap();
        assert_eq!(mode(&path), 0o666);
        drop(open);
        fs::write(&path, "precious").unwrap();
        let file = Endpoint::open(&api(&path, Users::Own)).unwrap_err();
        assert_eq!(file.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }
}
