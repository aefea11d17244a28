//! A signing certificate, parsed, with its key if that is here. It signs nothing by itself and reads no state.

use std::{fmt, time::SystemTime};

use rcgen::{Issuer, KeyPair, PublicKeyData};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use x509_parser::prelude::{FromDer as _, ParsedExtension, X509Certificate};

use super::HierarchyError;
use crate::{digest::hex, profile::Validity, secret::Secret, state::RootRecord};

/// A signing certificate. Without a key it only names its issuer.
pub struct Signer {
    der: CertificateDer<'static>,
    validity: Validity,
    key_id: String,
    issuer: Option<Issuer<'static, KeyPair>>,
}

impl Signer {
    pub(super) fn load(what: &'static str, pem: &str, key: Option<&Secret>) -> Result<Self, HierarchyError> {
        let der = certificate(what, pem)?;
        let cert = parse(what, &der)?;
        let issuer = key.map(|key| load_key(what, &der, &cert, key)).transpose()?;
        let validity = Validity {
            not_before: time(cert.validity().not_before.timestamp()),
            not_after: time(cert.validity().not_after.timestamp()),
        };
        let key_id = key_id(&cert);
        Ok(Self {
            der,
            validity,
            key_id,
            issuer,
        })
    }

    /// A root as it is remembered.
    ///
    /// # Errors
    /// When its certificate or key is damaged, or the two do not belong together.
    pub(crate) fn of_root(record: &RootRecord) -> Result<Self, HierarchyError> {
        Self::load("root", &record.certificate, record.key.as_ref())
    }

    /// The certificate.
    #[must_use]
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// When it is valid.
    #[must_use]
    pub fn validity(&self) -> Validity {
        self.validity
    }

    /// Key identifier, hexadecimal.
    #[must_use]
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// What signs; absent when the key is kept elsewhere.
    #[must_use]
    pub fn issuer(&self) -> Option<&Issuer<'static, KeyPair>> {
        self.issuer.as_ref()
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer")
            .field("key_id", &self.key_id)
            .field("validity", &self.validity)
            .finish_non_exhaustive()
    }
}

pub(super) fn certificate(what: &'static str, pem: &str) -> Result<CertificateDer<'static>, HierarchyError> {
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| HierarchyError::Certificate {
        what,
        reason: error.to_string(),
    })
}

fn parse<'a>(what: &'static str, der: &'a [u8]) -> Result<X509Certificate<'a>, HierarchyError> {
    match X509Certificate::from_der(der) {
        Ok((_, cert)) => Ok(cert),
        Err(error) => Err(HierarchyError::Certificate {
            what,
            reason: error.to_string(),
        }),
    }
}

fn load_key(
    what: &'static str,
    der: &CertificateDer<'static>,
    cert: &X509Certificate<'_>,
    key: &Secret,
) -> Result<Issuer<'static, KeyPair>, HierarchyError> {
    let pair = KeyPair::from_pem(key.expose()).map_err(|_| HierarchyError::Key {
        what,
        reason: "it is not a PKCS#8 key in PEM".into(),
    })?;
    if pair.subject_public_key_info() != cert.public_key().raw {
        return Err(HierarchyError::Key {
            what,
            reason: "its public key is not the certificate's".into(),
        });
    }
    Issuer::from_ca_cert_der(der, pair).map_err(|error| HierarchyError::Certificate {
        what,
        reason: error.to_string(),
    })
}

pub(super) fn check_signature(der: &[u8], parent: &[u8], root: &str) -> Result<(), HierarchyError> {
    let (cert, parent) = (parse("intermediate", der)?, parse("root", parent)?);
    let named = cert.issuer().as_raw() == parent.subject().as_raw();
    if !named || cert.verify_signature(Some(parent.public_key())).is_err() {
        return Err(HierarchyError::NotSigned(root.to_owned()));
    }
    Ok(())
}

fn key_id(cert: &X509Certificate<'_>) -> String {
    let found = cert
        .extensions()
        .iter()
        .find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(hex(id.0)),
            _ => None,
        });
    found.unwrap_or_else(|| crate::digest::Sha256::of(cert.public_key().raw).to_string()[..40].to_owned())
}

fn time(seconds: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}
