//! Certificate signing requests (PKCS#10): the public key and the proof that the requester holds its private key. Names and
//! extensions in a request are never read: the attested identity is what gets signed.

use std::fmt;

use rcgen::SubjectPublicKeyInfo;
use x509_parser::{
    certification_request::X509CertificationRequest,
    oid_registry::{
        OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_PKCS1_RSAENCRYPTION, OID_PKCS1_SHA256WITHRSA,
        OID_PKCS1_SHA384WITHRSA, OID_PKCS1_SHA512WITHRSA, OID_SIG_ECDSA_WITH_SHA256, OID_SIG_ECDSA_WITH_SHA384,
        OID_SIG_ED25519,
    },
    prelude::FromDer as _,
    public_key::PublicKey,
    x509,
};

use crate::digest::Sha256;

/// Longest request that is looked at, in bytes.
pub const MAX_BYTES: usize = 16 * 1024;

/// A request whose key is strong enough and whose signature proves possession of the private key.
#[derive(Clone)]
pub struct Csr {
    key: SubjectPublicKeyInfo,
    fingerprint: Sha256,
}

/// Why a request cannot be signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// Longer than any honest request.
    #[error("the certificate request has {0} bytes, more than {MAX_BYTES}: send one PKCS#10 request with one key")]
    TooLong(usize),
    /// Not PKCS#10.
    #[error("this is not a certificate request: {0}; send PKCS#10 as PEM (BEGIN CERTIFICATE REQUEST) or DER")]
    NotACsr(String),
    /// The key is too weak.
    #[error("the key of the certificate request is too weak: {0}; use ECDSA P-256")]
    WeakKey(String),
    /// A key type or signature we do not sign for.
    #[error("{0} is not supported: use ECDSA P-256 or P-384, Ed25519, or RSA of 2048 to 8192 bits, signed with SHA-2")]
    Unsupported(String),
    /// The signature is wrong.
    #[error("the signature of the certificate request is wrong: whoever sent it does not hold the private key")]
    NoProof,
}

impl Csr {
    /// Parses PEM or DER, checks the key's strength and the proof of possession.
    ///
    /// # Errors
    /// When it is no request, its key is weak or unsupported, or its signature does not verify.
    pub fn parse(bytes: &[u8]) -> Result<Self, CsrError> {
        if bytes.len() > MAX_BYTES {
            return Err(CsrError::TooLong(bytes.len()));
        }
        let der = decode(bytes)?;
        let (rest, request) =
            X509CertificationRequest::from_der(&der).map_err(|error| CsrError::NotACsr(error.to_string()))?;
        if !rest.is_empty() {
            return Err(CsrError::NotACsr(format!("{} bytes follow it", rest.len())));
        }
        let spki = &request.certification_request_info.subject_pki;
        check_key(spki)?;
        check_signature_algorithm(&request.signature_algorithm)?;
        request.verify_signature().map_err(|_| CsrError::NoProof)?;
        let key = SubjectPublicKeyInfo::from_der(spki.raw).map_err(|error| CsrError::Unsupported(error.to_string()))?;
        Ok(Self {
            key,
            fingerprint: Sha256::of(spki.raw),
        })
    }

    /// The public key to certify.
    #[must_use]
    pub fn key(&self) -> &SubjectPublicKeyInfo {
        &self.key
    }

    /// SHA-256 of the SubjectPublicKeyInfo.
    #[must_use]
    pub fn fingerprint(&self) -> Sha256 {
        self.fingerprint
    }
}

impl fmt::Debug for Csr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Csr")
            .field("fingerprint", &self.fingerprint)
            .finish_non_exhaustive()
    }
}

fn decode(bytes: &[u8]) -> Result<Vec<u8>, CsrError> {
    if bytes.first() == Some(&0x30) {
        return Ok(bytes.to_vec());
    }
    let block = pem::parse(bytes).map_err(|error| CsrError::NotACsr(error.to_string()))?;
    match block.tag() {
        "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST" => Ok(block.into_contents()),
        other => Err(CsrError::NotACsr(format!(
            "it is a PEM block {:?}",
            other.chars().take(40).collect::<String>()
        ))),
    }
}

fn check_key(spki: &x509::SubjectPublicKeyInfo<'_>) -> Result<(), CsrError> {
    let algorithm = &spki.algorithm.algorithm;
    if *algorithm == OID_SIG_ED25519 {
        return Ok(());
    }
    if *algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY {
        let curve = spki.algorithm.parameters.as_ref().and_then(|curve| curve.as_oid().ok());
        return match curve {
            Some(curve) if curve == OID_EC_P256 || curve == OID_NIST_EC_P384 => Ok(()),
            Some(curve) => Err(CsrError::Unsupported(format!("the elliptic curve {curve}"))),
            None => Err(CsrError::NotACsr("its elliptic curve is not named".into())),
        };
    }
    if *algorithm != OID_PKCS1_RSAENCRYPTION {
        return Err(CsrError::Unsupported(format!("the key type {algorithm}")));
    }
    match spki.parsed() {
        Ok(PublicKey::RSA(key)) => check_rsa_bits(significant_bits(key.modulus)),
        _ => Err(CsrError::NotACsr("its RSA key cannot be read".into())),
    }
}

fn check_rsa_bits(bits: usize) -> Result<(), CsrError> {
    match bits {
        0..2048 => Err(CsrError::WeakKey(format!("RSA with {bits} bits, less than 2048"))),
        2048..=8192 => Ok(()),
        _ => Err(CsrError::Unsupported(format!("RSA with {bits} bits"))),
    }
}

fn significant_bits(modulus: &[u8]) -> usize {
    let start = modulus.iter().position(|byte| *byte != 0).unwrap_or(modulus.len());
    let zeros = modulus.get(start).map_or(0, |byte| byte.leading_zeros() as usize);
    (modulus.len() - start) * 8 - zeros
}

fn check_signature_algorithm(algorithm: &x509::AlgorithmIdentifier<'_>) -> Result<(), CsrError> {
    const ACCEPTED: [x509_parser::der_parser::Oid<'static>; 6] = [
        OID_SIG_ECDSA_WITH_SHA256,
        OID_SIG_ECDSA_WITH_SHA384,
        OID_SIG_ED25519,
        OID_PKCS1_SHA256WITHRSA,
        OID_PKCS1_SHA384WITHRSA,
        OID_PKCS1_SHA512WITHRSA,
    ];
    if ACCEPTED.contains(&algorithm.algorithm) {
        return Ok(());
    }
    Err(CsrError::Unsupported(format!(
        "the request's signature algorithm {}",
        algorithm.algorithm
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{
        CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ECDSA_P521_SHA512,
        PKCS_ED25519, PKCS_RSA_SHA256, PublicKeyData, RsaKeySize, SignatureAlgorithm,
    };

    fn request(key: &KeyPair) -> Vec<u8> {
        let params = CertificateParams::new(vec!["someone.else.example".to_owned()]).unwrap();
        params.serialize_request(key).unwrap().der().to_vec()
    }

    fn of(algorithm: &'static SignatureAlgorithm) -> Result<Csr, CsrError> {
        Csr::parse(&request(&KeyPair::generate_for(algorithm).unwrap()))
    }

    #[test]
    fn good_keys_are_accepted_in_der_and_pem_whatever_names_the_request_carries() {
        for algorithm in [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
            of(algorithm).unwrap();
        }
        let key = KeyPair::generate().unwrap();
        let pem = pem::encode(&pem::Pem::new("CERTIFICATE REQUEST", request(&key)));
        let csr = Csr::parse(pem.as_bytes()).unwrap();
        assert_eq!(csr.key().subject_public_key_info(), key.subject_public_key_info());
        assert_eq!(csr.fingerprint(), Sha256::of(&key.subject_public_key_info()));
        let rsa = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
        Csr::parse(&request(&rsa)).unwrap();
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let key = KeyPair::generate().unwrap();
        let mut longer = request(&key);
        longer.push(0);
        let certificate = rcgen::generate_simple_self_signed(vec!["a".to_owned()]).unwrap().cert;
        let pem = certificate.pem();
        let inputs: [&[u8]; 6] = [
            b"",
            b"garbage",
            &[0x30, 0x03, 0, 0, 0],
            &longer,
            certificate.der(),
            pem.as_bytes(),
        ];
        for bytes in inputs {
            assert!(matches!(Csr::parse(bytes), Err(CsrError::NotACsr(_))), "{bytes:?}");
        }
        assert!(matches!(Csr::parse(&[0x30; MAX_BYTES + 1]), Err(CsrError::TooLong(_))));
    }

    #[test]
    fn a_request_without_proof_of_possession_is_refused() {
        let (mine, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let mut forged = request(&mine);
        let position = forged
            .windows(16)
            .position(|bytes| *bytes == mine.der_bytes()[1..17])
            .unwrap()
            - 1;
        forged[position..position + 65].copy_from_slice(other.der_bytes());
        assert_eq!(Csr::parse(&forged).unwrap_err(), CsrError::NoProof);
    }

    #[test]
    fn weak_and_unsupported_keys_are_refused_with_the_reason() {
        assert!(matches!(of(&PKCS_ECDSA_P521_SHA512), Err(CsrError::Unsupported(_))));
        for (bits, weak) in [(512, true), (1024, true), (2047, true), (2048, false), (4096, false)] {
            assert_eq!(check_rsa_bits(bits).is_err(), weak, "{bits}");
        }
        assert!(check_rsa_bits(16_384).is_err());
        assert_eq!(significant_bits(&[0, 0x80, 0, 0]), 24);
        assert_eq!(significant_bits(&[0x01, 0]), 9);
        assert_eq!(significant_bits(&[]), 0);
    }

    #[test]
    fn a_real_1024_bit_request_is_called_weak() {
        let error = Csr::parse(include_bytes!("../testdata/rsa1024.csr.pem")).unwrap_err();
        assert_eq!(error, CsrError::WeakKey("RSA with 1024 bits, less than 2048".into()));
        assert!(error.to_string().contains("use ECDSA P-256"));
    }
}
