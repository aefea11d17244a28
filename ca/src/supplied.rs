//! Roots and intermediates that an admin brings: checked by signing a trial certificate under them and showing that to the
//! same door that peers pass. Keys made here for signing elsewhere never leave the state. It saves nothing.

use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, PublicKeyData as _};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use squire_mesh::{
    bundle::{BundleError, TrustBundle, TrustBundles},
    spiffe::{SpiffeId, TrustDomain},
    svid::{IdentifyError, Role, UnverifiedSigner, identify, inspect_signer_unverified},
};

use crate::{
    hierarchy::{self, HierarchyError, Signer},
    log::rfc3339,
    profile::{self, MIN_TTL, Validity},
    secret::Secret,
    state::{IntermediateRecord, RequestRecord, RootRecord},
};

/// A certificate that an admin brings lasts at least so long: time to bring the next one.
pub const LEAST_LIFE: Duration = Duration::from_secs(7 * 86_400);

/// Why what an admin brings does not do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SuppliedError {
    /// Not PEM, or not as many certificates as there should be.
    #[error("the {what} should be {wanted}: {reason}")]
    Pem {
        /// Root or intermediate.
        what: &'static str,
        /// What is expected.
        wanted: &'static str,
        /// What is there.
        reason: String,
    },
    /// It may not sign, or names another trust domain.
    #[error("the {what} does not do: {reason}")]
    Profile {
        /// Root or intermediate.
        what: &'static str,
        /// Which rule it breaks.
        reason: String,
    },
    /// It ends soon, or begins later.
    #[error("the {what} is valid from {from} to {until}: it has to be valid now and for {} days more", LEAST_LIFE.as_secs() / 86_400)]
    Life {
        /// Root or intermediate.
        what: &'static str,
        /// RFC 3339.
        from: String,
        /// RFC 3339.
        until: String,
    },
    /// Root, intermediate or key do not belong together.
    #[error("{0}")]
    Hierarchy(#[from] HierarchyError),
    /// The key that was asked to be signed is another.
    #[error(
        "the intermediate is not for the key that is waiting here: sign what `squire ca csr` prints, it was made anew since"
    )]
    OtherKey,
    /// Nothing was asked for.
    #[error("no key is waiting to be signed: begin with `squire ca csr`")]
    NotRequested,
    /// The root is not known, and was not brought along.
    #[error("the intermediate's root is not known here: append its certificate to the file")]
    NoRoot,
    /// The door would not let anybody in.
    #[error("a certificate signed under the {what} would be refused by every peer: {reason}")]
    Trial {
        /// Root or intermediate.
        what: &'static str,
        /// What the door said.
        reason: String,
    },
}

/// A root from PEM, with its key unless that is kept elsewhere.
///
/// # Errors
/// The first rule it breaks.
pub fn root(
    domain: &TrustDomain,
    certificate: &str,
    key: Option<Secret>,
    now: SystemTime,
) -> Result<RootRecord, SuppliedError> {
    let what = "root";
    let [der] = one(what, certificate)?;
    let signer = sound(what, domain, &der, now)?;
    if !signer.self_issued {
        return Err(SuppliedError::Profile {
            what,
            reason: "it was signed by another CA, and a root signs itself: bring that one, or import an intermediate"
                .into(),
        });
    }
    if signer.path_length == Some(0) {
        return Err(SuppliedError::Profile {
            what,
            reason: "its path length is 0, so there can be no intermediate under it".into(),
        });
    }
    let mut record = RootRecord {
        name: String::new(),
        certificate: to_pem(&der),
        key,
        supplied: true,
    };
    record.name = Signer::of_root(&record)?.key_id().to_owned();
    hierarchy::check_self_signed(&record.name, &der)?;
    if record.key.is_some() {
        let intermediate = hierarchy::intermediate_under(domain, &record, now)?;
        trial(what, domain, &record, &intermediate, now)?;
    }
    Ok(record)
}

/// A key that is to be signed elsewhere.
///
/// # Errors
/// When the machine cannot make keys.
pub fn request(now: SystemTime) -> Result<RequestRecord, HierarchyError> {
    Ok(RequestRecord {
        key: Secret::new(hierarchy::new_key()?.serialize_pem()),
        made: crate::rotation::seconds(now),
    })
}

/// The PKCS#10 request for that key, with everything an intermediate should say, as PEM.
///
/// # Errors
/// When the key is damaged.
pub fn csr(domain: &TrustDomain, request: &RequestRecord) -> Result<String, HierarchyError> {
    let key = pair(request)?;
    let life = Validity {
        not_before: SystemTime::UNIX_EPOCH,
        not_after: SystemTime::UNIX_EPOCH,
    };
    let asked = profile::signer("intermediate", domain, &key, life, BasicConstraints::Constrained(0))?;
    let mut params = CertificateParams::default();
    params.distinguished_name = asked.distinguished_name;
    params.subject_alt_names = asked.subject_alt_names;
    params.key_usages = asked.key_usages;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let sign = |error: rcgen::Error| HierarchyError::Sign(error.to_string());
    params.serialize_request(&key).map_err(sign)?.pem().map_err(sign)
}

/// What an admin brings back: the intermediate, and its root where that is not one of `known`.
///
/// # Errors
/// The first rule it breaks.
pub fn intermediate(
    domain: &TrustDomain,
    request: Option<&RequestRecord>,
    known: &[RootRecord],
    pem: &str,
    now: SystemTime,
) -> Result<(RootRecord, IntermediateRecord), SuppliedError> {
    let what = "intermediate";
    let request = request.ok_or(SuppliedError::NotRequested)?;
    let ders = certificates(what, pem)?;
    let (der, above) = match ders.as_slice() {
        [der] => (der, None),
        [der, root] => (der, Some(root)),
        _ => {
            return Err(SuppliedError::Pem {
                what,
                wanted: "the intermediate, and its root after it where that is new here",
                reason: format!("it holds {} certificates", ders.len()),
            });
        }
    };
    sound(what, domain, der, now)?;
    let mut record = IntermediateRecord {
        root: String::new(),
        certificate: to_pem(der),
        key: request.key.clone(),
    };
    if !belongs(der, &pair(request)?) {
        return Err(SuppliedError::OtherKey);
    }
    let brought = match above {
        Some(above) => Some(root(domain, &to_pem(above), None, now)?),
        None => None,
    };
    let candidates = known.iter().cloned().chain(brought);
    for candidate in candidates {
        record.root.clone_from(&candidate.name);
        if hierarchy::load_intermediate(&record, &candidate).is_ok() {
            trial(what, domain, &candidate, &record, now)?;
            return Ok((candidate, record));
        }
    }
    Err(SuppliedError::NoRoot)
}

fn certificates(what: &'static str, pem: &str) -> Result<Vec<CertificateDer<'static>>, SuppliedError> {
    let all = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
    all.map_err(|error| SuppliedError::Pem {
        what,
        wanted: "PEM CERTIFICATE blocks",
        reason: error.to_string(),
    })
}

fn one(what: &'static str, pem: &str) -> Result<[CertificateDer<'static>; 1], SuppliedError> {
    let all = certificates(what, pem)?;
    <[_; 1]>::try_from(all).map_err(|all| SuppliedError::Pem {
        what,
        wanted: "one PEM CERTIFICATE block",
        reason: format!("it holds {}", all.len()),
    })
}

/// May sign, for nobody but this trust domain, now and for a while.
fn sound(
    what: &'static str,
    domain: &TrustDomain,
    der: &CertificateDer<'static>,
    now: SystemTime,
) -> Result<UnverifiedSigner, SuppliedError> {
    let refused = |reason: String| SuppliedError::Profile { what, reason };
    let read = inspect_signer_unverified(der).map_err(|error: IdentifyError| refused(error.to_string()))?;
    let signer = read.ok_or_else(|| refused("it says it may not sign others: CA:true is missing".into()))?;
    let lasting = signer.not_before <= now && signer.not_after >= now + LEAST_LIFE;
    if !lasting {
        return Err(SuppliedError::Life {
            what,
            from: rfc3339(signer.not_before),
            until: rfc3339(signer.not_after),
        });
    }
    signer.check(now).map_err(|fault| refused(fault.to_string()))?;
    TrustBundle::new(domain.clone(), [der.clone()], 0).map_err(|error: BundleError| refused(error.to_string()))?;
    Ok(signer)
}

/// Signs a leaf that is thrown away, and asks the door about it.
fn trial(
    what: &'static str,
    domain: &TrustDomain,
    root: &RootRecord,
    intermediate: &IntermediateRecord,
    now: SystemTime,
) -> Result<(), SuppliedError> {
    let failed = |reason: String| SuppliedError::Trial { what, reason };
    let signer = hierarchy::load_intermediate(intermediate, root)?;
    let issuer = signer.issuer().ok_or_else(|| failed("it has no key".into()))?;
    let id = SpiffeId::workload(domain, "squire-trial", "nobody").map_err(|error| failed(error.to_string()))?;
    let validity = Validity::starting(now, MIN_TTL).within(signer.validity());
    let params = profile::leaf(&id, validity).map_err(|error| failed(error.to_string()))?;
    let leaf = params
        .signed_by(&hierarchy::new_key()?, issuer)
        .map_err(|error| failed(error.to_string()))?;
    let above = Signer::of_root(root)?;
    let bundle =
        TrustBundle::new(domain.clone(), [above.der().clone()], 0).map_err(|error| failed(error.to_string()))?;
    let chain = [leaf.into(), signer.der().clone()];
    for role in [Role::Client, Role::Server] {
        identify(&chain, &TrustBundles::new([bundle.clone()]), now, role).map_err(|error| failed(error.to_string()))?;
    }
    Ok(())
}

fn belongs(der: &CertificateDer<'static>, key: &KeyPair) -> bool {
    use x509_parser::prelude::{FromDer as _, X509Certificate};
    let spki = key.subject_public_key_info();
    X509Certificate::from_der(der).is_ok_and(|(_, cert)| cert.public_key().raw == spki)
}

fn pair(request: &RequestRecord) -> Result<KeyPair, HierarchyError> {
    KeyPair::from_pem(request.key.expose()).map_err(|_| HierarchyError::Key {
        what: "request",
        reason: "it is not a PKCS#8 key in PEM".into(),
    })
}

fn to_pem(der: &CertificateDer<'_>) -> String {
    pem::encode(&pem::Pem::new("CERTIFICATE", der.as_ref()))
}

#[cfg(test)]
mod tests;
