//! Root and intermediate, parsed and checked, ready to sign. It makes new keys and certificates but saves nothing: a new
//! [`State`] takes effect only after a store has it.

mod signer;

pub use signer::Signer;

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use rcgen::{BasicConstraints, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256};
use squire_mesh::{
    bundle::{BundleError, RootDigest, Signing, TrustBundle},
    spiffe::{SpiffeIdError, TrustDomain},
};

use self::signer::{certificate, check_signature};
use crate::{
    digest::hex,
    jwt::{self, JwtKeyError, JwtKeys},
    profile::{self, INTERMEDIATE_LIFE, ProfileError, ROOT_LIFE, Validity},
    secret::Secret,
    state::{IntermediateRecord, Phase, RootRecord, State, VERSION},
};

/// What the state describes, parsed.
pub struct Hierarchy {
    bundle: TrustBundle,
    root: Signer,
    intermediate: Signer,
    jwt_keys: JwtKeys,
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
    /// A key for JWT-SVIDs is damaged.
    #[error(transparent)]
    JwtKey(#[from] JwtKeyError),
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
        Self::found_on(domain, new_root(domain, now)?, now)
    }

    /// The first intermediate under a root that is there.
    ///
    /// # Errors
    /// When the root's key is not here or is another's, or the machine cannot make keys.
    pub fn found_on(domain: &TrustDomain, root: RootRecord, now: SystemTime) -> Result<State, HierarchyError> {
        let intermediate = intermediate_under(domain, &root, now)?;
        Ok(State {
            version: VERSION,
            trust_domain: domain.to_string(),
            sequence: 1,
            phase: Phase::Stable,
            active_root: root.name.clone(),
            roots: vec![root],
            intermediate,
            standby: Vec::new(),
            requested: None,
            revocations: Vec::new(),
            jwt_keys: vec![jwt::first(now)?],
        })
    }

    /// Parses a state and checks that its parts belong together.
    ///
    /// # Errors
    /// Names the part that is damaged or does not fit.
    pub fn load(state: &State) -> Result<Self, HierarchyError> {
        let domain: TrustDomain = state.trust_domain.parse().map_err(HierarchyError::TrustDomain)?;
        let named = |name: &str| {
            let root = state.root(name);
            root.ok_or_else(|| HierarchyError::NoActiveRoot(name.to_owned()))
        };
        let record = named(&state.active_root)?;
        let root = Signer::of_root(record)?;
        if state.intermediate.root != state.active_root {
            return Err(HierarchyError::NotSigned(state.active_root.clone()));
        }
        let intermediate = load_intermediate(&state.intermediate, record)?;
        if let Some(rotation) = state.phase.rotation() {
            named(&rotation.from)?;
            named(&rotation.to)?;
        }
        for record in &state.standby {
            load_intermediate(record, named(&record.root)?)?;
        }
        let trusted = state.trusted().map(|root| certificate("root", &root.certificate));
        let trusted = trusted.collect::<Result<Vec<_>, _>>()?;
        let signing = Signing {
            root: RootDigest::of(root.der()),
            renew_within: renew_within(&state.phase),
        };
        let jwt_keys = JwtKeys::load(&state.jwt_keys)?;
        let bundle = TrustBundle::new(domain, trusted, state.sequence)?.with_signing(signing);
        Ok(Self {
            bundle: bundle.with_jwt_keys(jwt_keys.published()),
            root,
            intermediate,
            jwt_keys,
        })
    }

    /// The state with a new intermediate, signed by the active root.
    ///
    /// # Errors
    /// When the root's key is not here, or the machine cannot make keys.
    pub fn renew_intermediate(&self, state: &State, now: SystemTime) -> Result<State, HierarchyError> {
        let root = state.root(&state.active_root);
        let root = root.ok_or_else(|| HierarchyError::NoActiveRoot(state.active_root.clone()))?;
        let intermediate = intermediate_under(self.bundle.trust_domain(), root, now)?;
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

    /// SHA-256 of the certificate of the root that signs: what proxies report.
    #[must_use]
    pub fn signing_root(&self) -> RootDigest {
        RootDigest::of(self.root.der())
    }

    /// What signs JWT-SVIDs.
    #[must_use]
    pub fn jwt_keys(&self) -> &JwtKeys {
        &self.jwt_keys
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

impl fmt::Debug for Hierarchy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hierarchy")
            .field("root", &self.root)
            .field("intermediate", &self.intermediate)
            .finish()
    }
}

/// A root with a key of its own, for this trust domain.
pub(crate) fn new_root(domain: &TrustDomain, now: SystemTime) -> Result<RootRecord, HierarchyError> {
    let key = new_key()?;
    let validity = Validity::starting(now, ROOT_LIFE);
    let params = profile::signer("root", domain, &key, validity, BasicConstraints::Constrained(1))?;
    let root = params
        .self_signed(&key)
        .map_err(|error| HierarchyError::Sign(error.to_string()))?;
    Ok(RootRecord {
        name: hex(&params.key_identifier(&key)),
        certificate: root.pem(),
        key: Some(Secret::new(key.serialize_pem())),
        supplied: false,
    })
}

/// A new intermediate under a root whose key is here.
pub(crate) fn intermediate_under(
    domain: &TrustDomain,
    root: &RootRecord,
    now: SystemTime,
) -> Result<IntermediateRecord, HierarchyError> {
    let signer = Signer::of_root(root)?;
    let offline = || HierarchyError::RootOffline(root.name.clone());
    let issuer = signer.issuer().ok_or_else(offline)?;
    new_intermediate(domain, &root.name, issuer, signer.validity(), now)
}

/// Whether a root's signature is its own.
pub(crate) fn check_self_signed(name: &str, der: &[u8]) -> Result<(), HierarchyError> {
    check_signature(der, der, name)
}

/// An intermediate that this root has signed, with its key.
pub(crate) fn load_intermediate(record: &IntermediateRecord, root: &RootRecord) -> Result<Signer, HierarchyError> {
    let intermediate = Signer::load("intermediate", &record.certificate, Some(&record.key))?;
    let parent = certificate("root", &root.certificate)?;
    check_signature(intermediate.der(), &parent, &record.root)?;
    Ok(intermediate)
}

/// How fast SVIDs under another root than the one that signs are renewed.
fn renew_within(phase: &Phase) -> Duration {
    /// When no rotation says how many there are.
    const OTHERWISE: Duration = Duration::from_secs(60);
    match phase {
        Phase::Switch(rotation) | Phase::Retire(rotation) => Duration::from_secs(rotation.renew_within.into()),
        Phase::Stable | Phase::Distribute(_) => OTHERWISE,
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
