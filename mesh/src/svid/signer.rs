//! What a signing certificate (a CA's) says of itself, and whether SPIFFE would have it so (X.509-SVID sections 3.2, 4.1 and
//! 4.3). For people: it proves nothing, nobody has checked who signed it, and no peer is ever let in by it.

use std::time::SystemTime;

use super::{IdentifyError, Serial, leaf, validity};
use crate::spiffe::SpiffeId;

/// A certificate that may sign others. Unverified.
#[derive(Debug, Clone)]
pub struct UnverifiedSigner {
    /// The subject's name.
    pub subject: String,
    /// The issuer's name.
    pub issuer: String,
    /// It names itself as its issuer: a root.
    pub self_issued: bool,
    /// The URIs it carries.
    pub uris: Vec<String>,
    /// How many signing certificates may stand below it; `None`: any number.
    pub path_length: Option<u32>,
    /// Its serial number.
    pub serial: Serial,
    /// Valid from.
    pub not_before: SystemTime,
    /// Valid until.
    pub not_after: SystemTime,
    signs: bool,
}

/// What is wrong with a signing certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignerFault {
    /// Its key usage does not let it sign.
    #[error("a signing certificate must set keyCertSign (X.509-SVID 4.3)")]
    NoKeyCertSign,
    /// More than one URI.
    #[error("{0} URI names; an X.509-SVID has exactly one (X.509-SVID 2)")]
    ManyUris(usize),
    /// A URI that is no SPIFFE ID.
    #[error("{uri:?} is not a SPIFFE ID: {reason} (X.509-SVID 2)")]
    BadId {
        /// The URI.
        uri: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A SPIFFE ID that is not that of a trust domain.
    #[error("{0}: the SPIFFE ID of a signing certificate must not have a path (X.509-SVID 3.2)")]
    HasPath(SpiffeId),
    /// Not valid yet.
    #[error("it is not valid yet")]
    NotYetValid,
    /// Not valid any more.
    #[error("it has expired")]
    Expired,
}

/// Reads a certificate that says it may sign others (basic constraints, cA); `None` for any other.
///
/// # Errors
/// When it is no certificate.
pub fn inspect_signer_unverified(der: &[u8]) -> Result<Option<UnverifiedSigner>, IdentifyError> {
    let cert = leaf::parse(der)?;
    let constraints = cert.basic_constraints().map_err(leaf::malformed)?;
    let Some(constraints) = constraints.filter(|constraints| constraints.value.ca) else {
        return Ok(None);
    };
    let usage = cert.key_usage().map_err(leaf::malformed)?;
    let (not_before, not_after) = validity(&cert);
    Ok(Some(UnverifiedSigner {
        subject: cert.subject().to_string(),
        issuer: cert.issuer().to_string(),
        self_issued: cert.subject().as_raw() == cert.issuer().as_raw(),
        uris: leaf::uris(&cert)?.into_iter().map(leaf::shortened).collect(),
        path_length: constraints.value.path_len_constraint,
        serial: Serial::new(cert.raw_serial()),
        not_before,
        not_after,
        signs: usage.is_some_and(|usage| usage.value.key_cert_sign()),
    }))
}

impl UnverifiedSigner {
    /// The SPIFFE ID it carries: none is allowed too.
    ///
    /// # Errors
    /// When there are several, or the one is not that of a trust domain.
    pub fn id(&self) -> Result<Option<SpiffeId>, SignerFault> {
        let uri = match self.uris.as_slice() {
            [] => return Ok(None),
            [uri] => uri,
            several => return Err(SignerFault::ManyUris(several.len())),
        };
        let id: SpiffeId = uri.parse().map_err(|reason| SignerFault::BadId {
            uri: uri.clone(),
            reason: format!("{reason}"),
        })?;
        if id.path().is_empty() {
            Ok(Some(id))
        } else {
            Err(SignerFault::HasPath(id))
        }
    }

    /// Whether SPIFFE would have it so, at a point in time.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn check(&self, now: SystemTime) -> Result<(), SignerFault> {
        self.id()?;
        if !self.signs {
            return Err(SignerFault::NoKeyCertSign);
        }
        if now < self.not_before {
            return Err(SignerFault::NotYetValid);
        }
        if now > self.not_after {
            return Err(SignerFault::Expired);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose, SanType};

    use super::*;

    fn signer(spoil: impl FnOnce(&mut CertificateParams)) -> UnverifiedSigner {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.subject_alt_names = vec![SanType::URI("spiffe://td".try_into().unwrap())];
        spoil(&mut params);
        let der = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        inspect_signer_unverified(der.der()).unwrap().unwrap()
    }

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_700_000_000)
    }

    #[test]
    fn a_ca_certificate_says_that_it_is_one() {
        let ca = signer(|_| ());
        assert_eq!(ca.check(now()), Ok(()));
        assert!(ca.self_issued);
        assert_eq!(ca.path_length, Some(0));
        assert_eq!(ca.id().unwrap().unwrap().as_str(), "spiffe://td");
        assert_eq!(signer(|params| params.subject_alt_names.clear()).check(now()), Ok(()));
    }

    #[test]
    fn a_leaf_is_no_ca_certificate() {
        let params = CertificateParams::default();
        let der = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        assert!(inspect_signer_unverified(der.der()).unwrap().is_none());
        assert!(inspect_signer_unverified(b"no certificate").is_err());
    }

    #[test]
    fn what_spiffe_forbids_a_signing_certificate_is_named() {
        let uri = |uri: &str| SanType::URI(uri.try_into().unwrap());
        let path = signer(|params| params.subject_alt_names = vec![uri("spiffe://td/ca")]);
        assert!(matches!(path.check(now()), Err(SignerFault::HasPath(_))));
        let two = signer(|params| params.subject_alt_names.push(uri("spiffe://other")));
        assert_eq!(two.check(now()), Err(SignerFault::ManyUris(2)));
        let web = signer(|params| params.subject_alt_names = vec![uri("https://td")]);
        assert!(matches!(web.check(now()), Err(SignerFault::BadId { .. })));
        let mute = signer(|params| params.key_usages = vec![KeyUsagePurpose::CrlSign]);
        assert_eq!(mute.check(now()), Err(SignerFault::NoKeyCertSign));
        let ca = signer(|_| ());
        assert_eq!(
            ca.check(ca.not_before - Duration::from_secs(1)),
            Err(SignerFault::NotYetValid)
        );
        assert_eq!(
            ca.check(ca.not_after + Duration::from_secs(1)),
            Err(SignerFault::Expired)
        );
    }
}
