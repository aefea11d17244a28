//! A small CA for tests that can also issue certificates that break one rule each. It never leaves the tests.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, CustomExtension, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose as Eku, IsCa, KeyPair, KeyUsagePurpose as Usage, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::{
    bundle::{TrustBundle, TrustBundles},
    spiffe::TrustDomain,
    tls::Svid,
};

/// The time of the tests.
pub(crate) fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

pub(crate) fn key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()
}

pub(crate) fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

pub(crate) fn signer(name: &str, uris: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![Usage::KeyCertSign, Usage::CrlSign];
    params.subject_alt_names = uris.iter().copied().map(uri).collect();
    params.not_before = (now() - Duration::from_secs(86_400)).into();
    params.not_after = (now() + Duration::from_secs(86_400)).into();
    params.use_authority_key_identifier_extension = true;
    params
}

/// A leaf that breaks no rule.
pub(crate) fn leaf(id: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![Usage::DigitalSignature];
    params.extended_key_usages = vec![Eku::ServerAuth, Eku::ClientAuth];
    params.subject_alt_names = vec![uri(id)];
    params.not_before = (now() - Duration::from_secs(300)).into();
    params.not_after = (now() + Duration::from_secs(3600)).into();
    params.use_authority_key_identifier_extension = true;
    params
}

/// keyUsage digitalSignature that is not critical.
pub(crate) fn soft_key_usage() -> CustomExtension {
    CustomExtension::from_oid_content(&[2, 5, 29, 15], vec![0x03, 0x02, 0x07, 0x80])
}

/// An extension nobody knows, critical.
pub(crate) fn unknown_critical() -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 55555, 1], vec![0x05, 0x00]);
    extension.set_criticality(true);
    extension
}

/// root → intermediate of one trust domain.
pub(crate) struct Ca {
    pub(crate) domain: TrustDomain,
    pub(crate) root: CertifiedIssuer<'static, KeyPair>,
    pub(crate) intermediate: CertifiedIssuer<'static, KeyPair>,
}

impl Ca {
    pub(crate) fn new(domain: &str, name: &str) -> Self {
        let id = format!("spiffe://{domain}");
        let root = CertifiedIssuer::self_signed(signer(name, &[&id]), key()).unwrap();
        let params = signer(&format!("{name} intermediate"), &[&id]);
        let intermediate = CertifiedIssuer::signed_by(params, key(), &root).unwrap();
        Self {
            domain: domain.parse().unwrap(),
            root,
            intermediate,
        }
    }

    pub(crate) fn bundle(&self) -> TrustBundle {
        TrustBundle::new(self.domain.clone(), [self.root.der().clone()], 1).unwrap()
    }

    pub(crate) fn bundles(&self) -> TrustBundles {
        TrustBundles::new([self.bundle()])
    }

    /// Signs whatever it is given; leaf and intermediate.
    pub(crate) fn sign(&self, params: &CertificateParams) -> Vec<CertificateDer<'static>> {
        self.sign_for(params, &key())
    }

    pub(crate) fn sign_for(&self, params: &CertificateParams, key: &KeyPair) -> Vec<CertificateDer<'static>> {
        let leaf = params.signed_by(key, &self.intermediate).unwrap();
        vec![leaf.der().clone(), self.intermediate.der().clone()]
    }

    pub(crate) fn svid(&self, id: &str) -> Svid {
        // TLS handshakes look at the real clock.
        let mut params = leaf(id);
        params.not_before = (SystemTime::now() - Duration::from_secs(300)).into();
        params.not_after = (SystemTime::now() + Duration::from_secs(3600)).into();
        self.svid_of(&params)
    }

    pub(crate) fn svid_of(&self, params: &CertificateParams) -> Svid {
        let key = key();
        let chain = self.sign_for(params, &key);
        Svid::new(chain, PrivateKeyDer::Pkcs8(key.serialize_der().into())).unwrap()
    }

    /// The same roots, valid today instead of in the time of the tests.
    pub(crate) fn today(domain: &str, name: &str) -> Self {
        let id = format!("spiffe://{domain}");
        let current = |name: &str| {
            let mut params = signer(name, &[&id]);
            params.not_before = (SystemTime::now() - Duration::from_secs(86_400)).into();
            params.not_after = (SystemTime::now() + Duration::from_secs(86_400)).into();
            params
        };
        let root = CertifiedIssuer::self_signed(current(name), key()).unwrap();
        let intermediate = CertifiedIssuer::signed_by(current(&format!("{name} intermediate")), key(), &root).unwrap();
        Self {
            domain: domain.parse().unwrap(),
            root,
            intermediate,
        }
    }
}
