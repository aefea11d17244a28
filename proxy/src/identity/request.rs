//! A fresh private key and the certificate request for it. The request names nobody: the CA signs the identity it has
//! attested, whatever a request says.

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::PrivateKeyDer;

/// A key that exists nowhere else, and its request.
pub(super) struct KeyRequest {
    /// PKCS#10, PEM.
    pub(super) csr: String,
    /// PKCS#8.
    pub(super) key: PrivateKeyDer<'static>,
}

impl KeyRequest {
    /// Makes a P-256 key and signs a request with it.
    pub(super) fn new() -> Result<Self, rcgen::Error> {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let csr = params.serialize_request(&pair)?.pem()?;
        Ok(Self {
            csr,
            key: PrivateKeyDer::Pkcs8(pair.serialize_der().into()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_has_a_key_of_its_own_and_names_nobody() {
        let (a, b) = (KeyRequest::new().unwrap(), KeyRequest::new().unwrap());
        assert_ne!(a.key.secret_der(), b.key.secret_der());
        let parsed = rcgen::CertificateSigningRequestParams::from_pem(&a.csr).unwrap();
        assert!(parsed.params.subject_alt_names.is_empty());
        assert_eq!(parsed.params.distinguished_name.iter().count(), 0);
    }
}
