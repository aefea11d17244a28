//! Connections outside of the mesh: the system's resolver and TCP, and TLS with the roots of the system (or a file).

use std::{
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};

use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs, pki_types::ServerName, version::TLS13};
use tokio::{
    net::{TcpStream, lookup_host},
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::connect::{Connect, Connected, Connecting, Standing, Stream};

/// For resolving and for each address's connect.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);

/// Where Linux distributions keep the roots everybody trusts.
const SYSTEM_ROOTS: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The system's resolver and TCP.
pub(crate) struct Outside;

impl Connect for Outside {
    fn connect<'a>(&'a self, host: &'a str, port: u16) -> Connecting<'a> {
        Box::pin(async move {
            let tcp = tcp(host, port).await?;
            crate::socket::tune(&socket2::SockRef::from(&tcp));
            Ok(Connected {
                stream: Box::new(tcp),
                standing: Standing::ALWAYS,
            })
        })
    }
}

/// Every address of the name in turn.
async fn tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    if let Ok(ip) = host.trim_matches(['[', ']']).parse::<IpAddr>() {
        return timeout(STEP_TIMEOUT, TcpStream::connect((ip, port))).await?;
    }
    let found = timeout(STEP_TIMEOUT, lookup_host((host, port))).await??;
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in found {
        match timeout(STEP_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(tcp)) => return Ok(tcp),
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(last)
}

/// TLS towards servers that show certificates of a public (or the configured) authority. TLS 1.3 only.
pub(crate) struct Tls {
    /// A PEM file; none: the system's.
    roots: Option<PathBuf>,
    config: OnceLock<Arc<ClientConfig>>,
}

impl Tls {
    /// With the roots of a PEM file, or the system's. They are read when the first server needs them.
    pub(crate) fn new(roots: Option<PathBuf>) -> Self {
        Self {
            roots,
            config: OnceLock::new(),
        }
    }

    /// TLS to `host` on a stream that leads there.
    pub(crate) async fn connect(&self, host: &str, stream: Stream) -> io::Result<Stream> {
        let config = self.config()?;
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).map_err(|_| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                "the host is no name a certificate can show",
            )
        })?;
        let tls = timeout(STEP_TIMEOUT, TlsConnector::from(config).connect(name, stream)).await??;
        Ok(Box::new(tls))
    }

    fn config(&self) -> io::Result<Arc<ClientConfig>> {
        if let Some(config) = self.config.get() {
            return Ok(Arc::clone(config));
        }
        let roots = match &self.roots {
            Some(file) => read(file)?,
            None => system()?,
        };
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(io::Error::other)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Arc::clone(self.config.get_or_init(|| Arc::new(config))))
    }
}

fn system() -> io::Result<RootCertStore> {
    let found = SYSTEM_ROOTS.map(Path::new).into_iter().find(|path| path.exists());
    let Some(path) = found else {
        let message = "this system has no file of root certificates; name one with `callouts.roots`";
        return Err(io::Error::new(io::ErrorKind::NotFound, message));
    };
    read(path)
}

fn read(path: &Path) -> io::Result<RootCertStore> {
    let failed = |why: String| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {why}", path.display()));
    let text = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
    let blocks = pem::parse_many(text).map_err(|error| failed(error.to_string()))?;
    let mut roots = RootCertStore::empty();
    let certificates = blocks.into_iter().filter(|block| block.tag() == "CERTIFICATE");
    roots.add_parsable_certificates(certificates.map(|block| block.into_contents().into()));
    if roots.is_empty() {
        return Err(failed("no root certificate in it".to_owned()));
    }
    Ok(roots)
}
