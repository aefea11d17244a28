//! Certificates as they must not be: signed with the mesh CA's own intermediate key, or by a CA nobody trusts.

use std::{
    fs,
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};

use crate::Mesh;

/// Somebody who signs.
pub struct Forge {
    issuer: Issuer<'static, KeyPair>,
    above: Vec<CertificateDer<'static>>,
}

/// What a client or server shows: chain and key.
#[derive(Debug)]
pub struct Shown {
    /// Leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's key.
    pub key: PrivateKeyDer<'static>,
}

impl Forge {
    /// Has the key of the mesh CA's intermediate.
    #[must_use]
    pub fn of(mesh: &Mesh) -> Self {
        let state = fs::read_to_string(mesh.ca_dir().join("state.json")).unwrap();
        let state: serde_json::Value = serde_json::from_str(&state).unwrap();
        let pem = |field: &str| state["intermediate"][field].as_str().unwrap();
        let key = KeyPair::from_pem(pem("key")).unwrap();
        Self {
            issuer: Issuer::from_ca_cert_pem(pem("certificate"), key).unwrap(),
            above: vec![CertificateDer::from_pem_slice(pem("certificate").as_bytes()).unwrap()],
        }
    }

    /// A CA of its own, which calls itself as it likes.
    #[must_use]
    pub fn stranger() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "a stranger");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let root = CertifiedIssuer::self_signed(params.clone(), KeyPair::generate().unwrap()).unwrap();
        Self {
            above: vec![root.der().clone()],
            issuer: Issuer::new(params, KeyPair::from_pem(&root.key().serialize_pem()).unwrap()),
        }
    }

    /// The certificate above all that is signed, as PEM.
    #[must_use]
    pub fn root(&self) -> String {
        let last = self.above.last().unwrap();
        pem::encode(&pem::Pem::new("CERTIFICATE", last.as_ref()))
    }

    /// Signs what a real SVID of `id` would say, after `change`.
    #[must_use]
    pub fn sign(&self, id: &str, change: impl FnOnce(&mut CertificateParams)) -> Shown {
        let mut params = svid(id);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        let mut chain = vec![leaf.der().clone()];
        chain.extend(self.above.iter().cloned());
        Shown {
            chain,
            key: PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        }
    }
}

impl Shown {
    /// Chain and key as PEM in one text, as haproxy takes them.
    #[must_use]
    pub fn pem(&self) -> String {
        let mut text = String::new();
        for cert in &self.chain {
            text += &pem::encode(&pem::Pem::new("CERTIFICATE", cert.as_ref()));
        }
        text + &pem::encode(&pem::Pem::new("PRIVATE KEY", self.key.secret_der()))
    }
}

/// What an SVID says: one URI SAN, no CA, digitalSignature, both extended usages, an hour.
#[must_use]
pub fn svid(id: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![uri(id)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let now = SystemTime::now();
    params.not_before = (now - Duration::from_secs(300)).into();
    params.not_after = (now + Duration::from_secs(3600)).into();
    params
}

/// A URI SAN.
#[must_use]
pub fn uri(id: &str) -> SanType {
    SanType::URI(id.try_into().unwrap())
}
