//! What SPIFFE asks of single certificates (X.509-SVID sections 2 to 4), beside path validation. It proves nothing about
//! who signed them.

use std::time::SystemTime;

use x509_parser::prelude::{FromDer as _, GeneralName, ParsedExtension, X509Certificate};

use super::{IdentifyError, Serial, validity};
use crate::spiffe::{SpiffeId, TrustDomain};

/// What a leaf says of itself. Unverified.
#[derive(Debug, Clone)]
pub(crate) struct Leaf {
    pub(crate) id: SpiffeId,
    pub(crate) serial: Serial,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
    pub(crate) issuer_key: Option<Box<[u8]>>,
}

/// Parses a leaf and checks everything SPIFFE asks of it alone.
pub(crate) fn inspect(der: &[u8]) -> Result<Leaf, IdentifyError> {
    let cert = parse(der)?;
    let id = spiffe_id(&cert)?;
    check_constraints(&cert, &id)?;
    check_key_usage(&cert, &id)?;
    check_extended_key_usage(&cert, &id)?;
    if id.path().is_empty() {
        return Err(IdentifyError::NoPath(id));
    }
    let (not_before, not_after) = validity(&cert);
    Ok(Leaf {
        id,
        serial: Serial::new(cert.raw_serial()),
        not_before,
        not_after,
        issuer_key: issuer_key(&cert),
    })
}

/// A signing certificate may carry only its trust domain's own ID (X.509-SVID 3.2). Says when it is valid.
pub(super) fn inspect_signer(der: &[u8], domain: &TrustDomain) -> Result<(SystemTime, SystemTime), IdentifyError> {
    let cert = parse(der)?;
    for uri in uris(&cert)? {
        if uri.parse::<SpiffeId>().as_ref() != Ok(&domain.id()) {
            return Err(IdentifyError::Signer {
                domain: domain.clone(),
                found: shortened(uri),
            });
        }
    }
    Ok(validity(&cert))
}

pub(super) fn parse(der: &[u8]) -> Result<X509Certificate<'_>, IdentifyError> {
    let (rest, cert) = X509Certificate::from_der(der).map_err(malformed)?;
    if !rest.is_empty() {
        return Err(IdentifyError::Malformed(format!(
            "{} bytes follow the certificate",
            rest.len()
        )));
    }
    Ok(cert)
}

pub(super) fn malformed(error: impl std::fmt::Display) -> IdentifyError {
    IdentifyError::Malformed(error.to_string())
}

pub(super) fn uris<'a>(cert: &'a X509Certificate<'_>) -> Result<Vec<&'a str>, IdentifyError> {
    let names = cert.subject_alternative_name().map_err(malformed)?;
    let mut uris = Vec::new();
    for name in names.iter().flat_map(|names| &names.value.general_names) {
        match name {
            GeneralName::URI(uri) => uris.push(*uri),
            GeneralName::Invalid(..) => return Err(malformed("a subject alternative name is invalid")),
            _ => {}
        }
    }
    Ok(uris)
}

fn spiffe_id(cert: &X509Certificate<'_>) -> Result<SpiffeId, IdentifyError> {
    let uris = uris(cert)?;
    let uri = match uris.as_slice() {
        [] => return Err(IdentifyError::NoUri),
        [uri] => *uri,
        several => return Err(IdentifyError::ManyUris(several.len())),
    };
    let id: SpiffeId = uri.parse().map_err(|reason| IdentifyError::BadId {
        uri: shortened(uri),
        reason,
    })?;
    let critical = cert
        .subject_alternative_name()
        .map_err(malformed)?
        .is_some_and(|names| names.critical);
    if cert.subject().iter().next().is_none() && !critical {
        return Err(IdentifyError::SanNotCritical(id));
    }
    Ok(id)
}

fn check_constraints(cert: &X509Certificate<'_>, id: &SpiffeId) -> Result<(), IdentifyError> {
    match cert.basic_constraints().map_err(malformed)? {
        None => Err(IdentifyError::NoBasicConstraints(id.clone())),
        Some(constraints) if constraints.value.ca => Err(IdentifyError::CaLeaf(id.clone())),
        Some(_) => Ok(()),
    }
}

fn check_key_usage(cert: &X509Certificate<'_>, id: &SpiffeId) -> Result<(), IdentifyError> {
    let usage = cert.key_usage().map_err(malformed)?;
    let problem = match usage {
        None => "the extension is missing",
        Some(usage) if !usage.critical => "the extension is not critical",
        Some(usage) if !usage.value.digital_signature() => "digitalSignature is not set",
        Some(usage) if usage.value.key_cert_sign() => "keyCertSign is set on a leaf",
        Some(usage) if usage.value.crl_sign() => "cRLSign is set on a leaf",
        Some(_) => return Ok(()),
    };
    Err(IdentifyError::KeyUsage {
        id: id.clone(),
        problem,
    })
}

fn check_extended_key_usage(cert: &X509Certificate<'_>, id: &SpiffeId) -> Result<(), IdentifyError> {
    match cert.extended_key_usage().map_err(malformed)? {
        Some(usage) if !(usage.value.server_auth && usage.value.client_auth) => {
            Err(IdentifyError::ExtendedKeyUsage(id.clone()))
        }
        _ => Ok(()),
    }
}

fn issuer_key(cert: &X509Certificate<'_>) -> Option<Box<[u8]>> {
    cert.extensions()
        .iter()
        .find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(key) => key.key_identifier.as_ref().map(|id| id.0.into()),
            _ => None,
        })
}

/// Keeps a hostile name from flooding a log.
pub(super) fn shortened(uri: &str) -> String {
    uri.chars().take(200).collect()
}
