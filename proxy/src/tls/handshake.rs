//! Drives a rustls handshake over a socket, one TLS record at a time, and hands over to [`Records`]: so nothing that
//! follows the handshake is ever read past, and what an unauthenticated peer can make us hold is bounded. Who the peer
//! is has been judged by rustls' verifiers by then; no certificate is looked at here.

use std::{io, sync::Arc};

use bytes::BufMut as _;
use rustls::{
    CipherSuite, ClientConfig, ProtocolVersion, ServerConfig,
    client::UnbufferedClientConnection,
    pki_types::{CertificateDer, ServerName},
    server::UnbufferedServerConnection,
    unbuffered::{ConnectionState, EncodeError, InsufficientSizeError, UnbufferedStatus},
};
use squire_mesh::tls::identify_error;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    fallback::Fallback,
    own::Own,
    records::{Engine, RecordError, Records},
    schedule::{Secrets, caught},
};
use crate::chunk::RECORD_HEADER;

/// Bytes a peer may send before the handshake is over: room for certificate chains of any sensible size.
const MAX_HANDSHAKE: usize = 48 * 1024;
/// Bytes taken in one read; together with the limit above, what is left over always fits a chunk.
const MAX_READ: usize = 16 * 1024;
const _: () = assert!(MAX_HANDSHAKE + MAX_READ <= crate::chunk::CHUNK);
/// Largest record taken during the handshake (RFC 8446 §5.2: ciphertext may be 256 bytes longer than plaintext).
const MAX_RECORD: usize = 16 * 1024 + 256;

/// Content types a handshake may consist of: change_cipher_spec, alert, handshake, application_data (RFC 8446 §5.1).
const RECORD_TYPES: std::ops::RangeInclusive<u8> = 20..=23;

/// Why a handshake did not succeed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    /// The socket failed.
    #[error("the connection failed during the TLS handshake: {0}")]
    Io(#[from] io::Error),
    /// The peer closed before the handshake was over.
    #[error("the peer closed the connection during the TLS handshake")]
    Closed,
    /// rustls refused.
    #[error("TLS handshake: {0}")]
    Tls(rustls::Error),
    /// More bytes than any honest handshake has.
    #[error("the peer sent more than {MAX_HANDSHAKE} bytes without finishing the TLS handshake")]
    TooLarge,
    /// Our verifier inside rustls refused the certificate, or it did not stand a second look.
    #[error(transparent)]
    Identity(#[from] squire_mesh::svid::IdentifyError),
    /// The established keys could not be taken over.
    #[error(transparent)]
    Records(#[from] RecordError),
}

/// What our verifier said is taken out of rustls' wrapping, so that people read it in its own words.
impl From<rustls::Error> for HandshakeError {
    fn from(error: rustls::Error) -> Self {
        match identify_error(&error) {
            Some(identity) => Self::Identity(identity.clone()),
            None => Self::Tls(error),
        }
    }
}

/// An established connection: everything later steps need of the handshake.
pub(crate) struct Established {
    pub(crate) tcp: TcpStream,
    pub(crate) records: Records,
    /// Bytes already read that belong to the records after the handshake.
    pub(crate) leftover: Vec<u8>,
    pub(crate) peer_chain: Vec<CertificateDer<'static>>,
    pub(crate) alpn: Vec<u8>,
    pub(crate) parameters: Parameters,
}

/// What was negotiated, as the standard names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Parameters {
    /// Protocol version, e.g. `TLSv1.3`.
    pub version: &'static str,
    /// Cipher suite, e.g. `TLS_AES_128_GCM_SHA256`.
    pub suite: &'static str,
    /// Key-exchange group, e.g. `X25519MLKEM768`.
    pub group: &'static str,
}

/// As everybody's tools write it; rustls has a spelling of its own.
fn version_name(version: ProtocolVersion) -> &'static str {
    match version {
        ProtocolVersion::TLSv1_3 => "TLSv1.3",
        other => other.as_str().unwrap_or("unknown"),
    }
}

/// As RFC 8446 §B.4 and everybody's tools write it; rustls has spellings of its own.
fn suite_name(suite: CipherSuite) -> &'static str {
    match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        other => other.as_str().unwrap_or("unknown"),
    }
}

/// Accepts: `received` is what has already been read of the connection.
pub(crate) async fn accept(
    config: Arc<ServerConfig>,
    tcp: TcpStream,
    received: Vec<u8>,
    engine: Engine,
) -> Result<Established, HandshakeError> {
    drive(UnbufferedServerConnection::new(config)?, tcp, received, engine).await
}

/// Connects; the certificate that `config`'s verifier expects is checked inside, before ours is sent.
pub(crate) async fn connect(
    config: Arc<ClientConfig>,
    tcp: TcpStream,
    engine: Engine,
) -> Result<Established, HandshakeError> {
    // The server is identified by its SPIFFE ID, so no name is sent; rustls wants one all the same.
    let name = ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into());
    drive(UnbufferedClientConnection::new(config, name)?, tcp, Vec::new(), engine).await
}

async fn drive<C: Side>(
    mut side: C,
    mut tcp: TcpStream,
    mut incoming: Vec<u8>,
    engine: Engine,
) -> Result<Established, HandshakeError> {
    let mut outgoing = Vec::new();
    let mut secrets = Secrets::default();
    let mut total = incoming.len();
    // One record more at a time: what follows the handshake in the same segment stays sealed for `Records`.
    let mut fed = 0;
    loop {
        let (discard, step) = side.step(&mut incoming[..fed], &mut outgoing);
        caught(&mut secrets);
        incoming.drain(..discard);
        fed -= discard;
        match step {
            Ok(Step::Again) => {}
            Ok(Step::Flush) => {
                tcp.write_all(&outgoing).await?;
                outgoing.clear();
            }
            Ok(Step::Read) => {
                let next = record_length(&incoming[fed..])?;
                if let Some(length) = next.filter(|length| fed + length <= incoming.len()) {
                    fed += length;
                    continue;
                }
                if total >= MAX_HANDSHAKE {
                    return Err(HandshakeError::TooLarge);
                }
                incoming.reserve(4096);
                let read = tcp.read_buf(&mut (&mut incoming).limit(MAX_READ)).await?;
                if read == 0 {
                    return Err(HandshakeError::Closed);
                }
                total += read;
            }
            Ok(Step::Done) => break,
            Err(error) => {
                // Best effort: the alert tells the peer why; our own error is what counts.
                while let (_, Ok(Step::Again)) = side.step(&mut incoming[..fed], &mut outgoing) {}
                let _ = tcp.write_all(&outgoing).await;
                return Err(error.into());
            }
        }
    }
    if !outgoing.is_empty() {
        tcp.write_all(&outgoing).await?;
    }
    side.finish(tcp, incoming, secrets, engine)
}

/// Bytes of the record at the front of `incoming`, once its header is there. Bytes that cannot be TLS are told at once.
fn record_length(incoming: &[u8]) -> Result<Option<usize>, HandshakeError> {
    let not_tls = rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType);
    if incoming.first().is_some_and(|kind| !RECORD_TYPES.contains(kind)) || incoming.get(1).is_some_and(|&v| v != 3) {
        return Err(not_tls.into());
    }
    let &[_, _, _, high, low, ..] = incoming else {
        return Ok(None);
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > MAX_RECORD {
        return Err(rustls::Error::InvalidMessage(rustls::InvalidMessage::MessageTooLarge).into());
    }
    Ok(Some(RECORD_HEADER + length))
}

enum Step {
    /// Something was encoded or digested; call again.
    Again,
    /// Write what was encoded.
    Flush,
    /// Read more.
    Read,
    /// Finished.
    Done,
}

/// The client or the server side of a handshake.
trait Side {
    fn step(&mut self, incoming: &mut [u8], outgoing: &mut Vec<u8>) -> (usize, Result<Step, rustls::Error>);
    fn finish(
        self,
        tcp: TcpStream,
        leftover: Vec<u8>,
        secrets: Secrets,
        engine: Engine,
    ) -> Result<Established, HandshakeError>;
}

macro_rules! side {
    ($connection:ty, sends: $sends:ident, receives: $receives:ident) => {
        impl Side for $connection {
            fn step(&mut self, incoming: &mut [u8], outgoing: &mut Vec<u8>) -> (usize, Result<Step, rustls::Error>) {
                let UnbufferedStatus { discard, state } = self.process_tls_records(incoming);
                let step = state.map(|state| match state {
                    ConnectionState::EncodeTlsData(mut data) => {
                        encode(outgoing, |room| data.encode(room));
                        Step::Again
                    }
                    ConnectionState::TransmitTlsData(data) => {
                        data.done();
                        Step::Flush
                    }
                    ConnectionState::WriteTraffic(_) => Step::Done,
                    // BlockedHandshake: what was given is taken up, or kept until the rest of a message is there.
                    _ => Step::Read,
                });
                (discard, step)
            }

            fn finish(
                self,
                tcp: TcpStream,
                leftover: Vec<u8>,
                secrets: Secrets,
                engine: Engine,
            ) -> Result<Established, HandshakeError> {
                let peer_chain = self.peer_certificates().map(<[_]>::to_vec).unwrap_or_default();
                let alpn = self.alpn_protocol().map(<[_]>::to_vec).unwrap_or_default();
                let parameters = Parameters {
                    version: self.protocol_version().map_or("unknown", version_name),
                    suite: self
                        .negotiated_cipher_suite()
                        .map_or("unknown", |suite| suite_name(suite.suite())),
                    group: self
                        .negotiated_key_exchange_group()
                        .and_then(|g| g.name().as_str())
                        .unwrap_or("unknown"),
                };
                let records = match engine {
                    Engine::Squire => {
                        let (keys, _certificates_and_all) = self.dangerous_into_kernel_connection()?;
                        Records::Own(Box::new(Own::new(keys, secrets.$sends, secrets.$receives)?))
                    }
                    Engine::Rustls => Records::Rustls(Box::new(Fallback::new(Box::new(self)))),
                };
                Ok(Established {
                    tcp,
                    records,
                    leftover,
                    peer_chain,
                    alpn,
                    parameters,
                })
            }
        }
    };
}

side!(UnbufferedClientConnection, sends: client, receives: server);
side!(UnbufferedServerConnection, sends: server, receives: client);

/// Appends what `encode` writes, growing `outgoing` to the size it asks for.
fn encode(outgoing: &mut Vec<u8>, mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>) {
    let start = outgoing.len();
    let mut room = 4096;
    loop {
        outgoing.resize(start + room, 0);
        match encode(&mut outgoing[start..]) {
            Ok(written) => return outgoing.truncate(start + written),
            Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) => room = required_size,
            Err(EncodeError::AlreadyEncoded) => return outgoing.truncate(start),
        }
    }
}
