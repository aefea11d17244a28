//! The two certificate verifiers that rustls calls during a handshake. Both end in [`identify`]; neither ever accepts by
//! DNS name, and TLS 1.2 signatures are refused.

use std::{
    error::Error as StdError,
    io,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, PeerIncompatible, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::verify_tls13_signature,
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};

use super::{ClientAuth, Expect, PROVIDER};
use crate::{
    bundle::TrustBundles,
    svid::{IdentifyError, Role, VerifiedPeer, identify},
};

/// A client's check of the server: good SVID of a trusted domain, and exactly the identity we expect. It runs before the
/// client sends its own certificate, so a wrong server never sees it.
#[derive(Debug)]
pub struct ServerVerifier {
    bundles: Arc<TrustBundles>,
    expected: Expect,
}

/// A server's check of its clients: good SVID of a trusted domain. What the identity may do is decided later, by policy.
#[derive(Debug)]
pub struct ClientVerifier {
    bundles: Arc<TrustBundles>,
    auth: ClientAuth,
}

impl ServerVerifier {
    /// Trusts these bundles and accepts only whom is expected.
    #[must_use]
    pub fn new(bundles: Arc<TrustBundles>, expected: Expect) -> Self {
        Self { bundles, expected }
    }
}

impl ClientVerifier {
    /// Trusts these bundles.
    #[must_use]
    pub fn new(bundles: Arc<TrustBundles>, auth: ClientAuth) -> Self {
        Self { bundles, auth }
    }
}

/// What [`identify`] said, when a handshake failed for that.
#[must_use]
pub fn identify_error(error: &Error) -> Option<&IdentifyError> {
    match error {
        Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) => inner.downcast_ref(),
        _ => None,
    }
}

/// As [`identify_error`], for the I/O error in which tokio-rustls wraps it.
#[must_use]
pub fn identify_error_in_io(error: &io::Error) -> Option<&IdentifyError> {
    let inner: &(dyn StdError + 'static) = error.get_ref()?;
    inner.downcast_ref::<Error>().and_then(identify_error)
}

fn verify(
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    bundles: &TrustBundles,
    now: UnixTime,
    role: Role,
) -> Result<VerifiedPeer, IdentifyError> {
    let chain: Vec<_> = std::iter::once(end_entity)
        .chain(intermediates)
        .map(|der| CertificateDer::from(&**der))
        .collect();
    identify(
        &chain,
        bundles,
        SystemTime::UNIX_EPOCH + Duration::from_secs(now.as_secs()),
        role,
    )
}

fn refused(error: IdentifyError) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
}

fn no_tls12() -> Error {
    PeerIncompatible::Tls12NotOffered.into()
}

fn verify_signature(
    message: &[u8],
    cert: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    verify_tls13_signature(message, cert, signature, &PROVIDER.signature_verification_algorithms)
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let peer = verify(end_entity, intermediates, &self.bundles, now, Role::Server).map_err(refused)?;
        if !self.expected.accepts(peer.id()) {
            let expected = self.expected.to_string();
            return Err(refused(IdentifyError::Unexpected {
                expected,
                actual: peer.id().clone(),
            }));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_signature(message, cert, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        PROVIDER.signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.auth == ClientAuth::Required
    }

    /// Empty: clients have one certificate and need no hint which to send.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        verify(end_entity, intermediates, &self.bundles, now, Role::Client)
            .map(|_| ClientCertVerified::assertion())
            .map_err(refused)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_signature(message, cert, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        PROVIDER.signature_verification_algorithms.supported_schemes()
    }
}
