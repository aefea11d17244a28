//! Root and intermediate, parsed and checked, ready to sign. It makes new keys and certificates but saves nothing: a new
//! [`State`] takes effect only after a store has it.

use std::{fmt, time::SystemTime};

use rcgen::{BasicConstraints, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use squire_mesh::{
    bundle::{BundleError, TrustBundle},
    spiffe::{SpiffeIdError, TrustDomain},
};
use x509_parser::prelude::{FromDer as _, ParsedExtension, X509Certificate};

use crate::{
    digest::hex,
    profile::{self, INTERMEDIATE_LIFE, ProfileError, ROOT_LIFE, Validity},
    secret::Secret,
    state::{IntermediateRecord, Phase, RootRecord, State, VERSION},
};

/// What the state describes, parsed.
pub struct Hierarchy {
    bundle: TrustBundle,
    root: Signer,
    intermediate: Signer,
}

/// A signing certificate. Without a key it only names its issuer.
pub struct Signer {
    der: CertificateDer<'static>,
    validity: Validity,
    key_id: String,
    issuer: Option<Issuer<'static, KeyPair>>,
}

/// Why certificates and keys do not form a CA.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HierarchyError {
    /// The trust domain's name is not valid.
    #[error("its trust domain is not valid: {0}")]
    TrustDomain(SpiffeIdError),
    /// The roots are not a bundle.
    #[error("its roots are not valid: {0}")]
    Bundle(#[from] BundleError),
    /// The root that should sign is not among the roots.
    #[error("its active root {0} is not among its roots")]
    NoActiveRoot(String),
    /// A certificate cannot be read.
    #[error("the certificate of its {what} cannot be read: {reason}")]
    Certificate {
        /// Root or intermediate.
        what: &'static str,
        /// What the parser said.
        reason: String,
    },
    /// A key cannot be read, or belongs to another certificate.
    #[error("the private key of its {what} is damaged or belongs to another certificate: {reason}")]
    Key {
        /// Root or intermediate.
        what: &'static str,
        /// What is wrong; nothing of the key itself.
        reason: String,
    },
    /// The intermediate was not signed by the root it names.
    #[error("its intermediate was not signed by its root {0}")]
    NotSigned(String),
    /// The root's key is kept elsewhere, so no intermediate can be signed here.
    #[error("the key of root {0} is not here: sign a new intermediate where it is kept and import it")]
    RootOffline(String),
    /// No random numbers or an impossible name.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// The signature failed.
    #[error("a certificate could not be signed: {0}")]
    Sign(String),
}

impl Hierarchy {
    /// Makes a new root and its first intermediate.
    ///
    /// # Errors
    /// When the machine cannot make keys.
    pub fn found(domain: &TrustDomain, now: SystemTime) -> Result<State, HierarchyError> {
        let key = new_key()?;
        let validity = Validity::starting(now, ROOT_LIFE);
        let params = profile::signer("root", domain, &key, validity, BasicConstraints::Constrained(1))?;
        let root = params
            .self_signed(&key)
            .map_err(|error| HierarchyError::Sign(error.to_string()))?;
        let name = hex(&params.key_identifier(&key));
        let issuer = Issuer::new(params, &key);
        let intermediate = new_intermediate(domain, &name, &issuer, validity, now)?;
        Ok(State {
            version: VERSION,
            trust_domain: domain.to_string(),
            sequence: 1,
            phase: Phase::Stable,
            roots: vec![RootRecord {
                name: name.clone(),
                certificate: root.pem(),
                key: Some(Secret::new(key.serialize_pem())),
            }],
            active_root: name,
            intermediate,
            revocations: Vec::new(),
        })
    }

    /// Parses a state and checks that its parts belong together.
    ///
    /// # Errors
    /// Names the part that is damaged or does not fit.
    pub fn load(state: &State) -> Result<Self, HierarchyError> {
        let domain: TrustDomain = state.trust_domain.parse().map_err(HierarchyError::TrustDomain)?;
        let record = state
            .roots
            .iter()
            .find(|root| root.name == state.active_root)
            .ok_or_else(|| HierarchyError::NoActiveRoot(state.active_root.clone()))?;
        let root = Signer::load("root", &record.certificate, record.key.as_ref())?;
        let intermediate = Signer::load(
            "intermediate",
            &state.intermediate.certificate,
            Some(&state.intermediate.key),
        )?;
        let parent = match state.roots.iter().find(|root| root.name == state.intermediate.root) {
            Some(parent) => certificate("root", &parent.certificate)?,
            None => return Err(HierarchyError::NoActiveRoot(state.intermediate.root.clone())),
        };
        check_signature(&intermediate.der, &parent, &state.intermediate.root)?;
        let roots = state
            .roots
            .iter()
            .map(|root| certificate("root", &root.certificate))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            bundle: TrustBundle::new(domain, roots, state.sequence)?,
            root,
            intermediate,
        })
    }

    /// The state with a new intermediate, signed by the active root.
    ///
    /// # Errors
    /// When the root's key is not here, or the machine cannot make keys.
    pub fn renew_intermediate(&self, state: &State, now: SystemTime) -> Result<State, HierarchyError> {
        let root = &self.root;
        let issuer = root
            .issuer
            .as_ref()
            .ok_or_else(|| HierarchyError::RootOffline(root.key_id.clone()))?;
        let domain = self.bundle.trust_domain();
        let intermediate = new_intermediate(domain, &state.active_root, issuer, root.validity, now)?;
        Ok(State {
            intermediate,
            ..state.clone()
        })
    }

    /// The roots that peers must trust.
    #[must_use]
    pub fn bundle(&self) -> &TrustBundle {
        &self.bundle
    }

    /// The root that signs intermediates.
    #[must_use]
    pub fn root(&self) -> &Signer {
        &self.root
    }

    /// The intermediate that signs leaves.
    #[must_use]
    pub fn intermediate(&self) -> &Signer {
        &self.intermediate
    }
}

impl Signer {
    fn load(what: &'static str, pem: &str, key: Option<&Secret>) -> Result<Self, HierarchyError> {
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

impl fmt::Debug for Hierarchy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hierarchy")
            .field("root", &self.root)
            .field("intermediate", &self.intermediate)
            .finish()
    }
}

pub(crate) fn new_key() -> Result<KeyPair, HierarchyError> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|error| HierarchyError::Sign(error.to_string()))
}

fn new_intermediate(
    domain: &TrustDomain,
    root: &str,
    issuer: &Issuer<'_, impl rcgen::SigningKey>,
    root_validity: Validity,
    now: SystemTime,
) -> Result<IntermediateRecord, HierarchyError> {
    let key = new_key()?;
    let validity = Validity::starting(now, INTERMEDIATE_LIFE).within(root_validity);
    let params = profile::signer("intermediate", domain, &key, validity, BasicConstraints::Constrained(0))?;
    let signed = params
        .signed_by(&key, issuer)
        .map_err(|error| HierarchyError::Sign(error.to_string()))?;
    Ok(IntermediateRecord {
        root: root.to_owned(),
        certificate: signed.pem(),
        key: Secret::new(key.serialize_pem()),
    })
}

fn certificate(what: &'static str, pem: &str) -> Result<CertificateDer<'static>, HierarchyError> {
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

fn check_signature(der: &[u8], parent: &[u8], root: &str) -> Result<(), HierarchyError> {
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
