//! What our certificates look like: root, intermediate and leaf (DESIGN §3, X.509-SVID sections 2 to 4). Pure: no keys are
//! kept and no clock is read here.

use std::time::{Duration, SystemTime};

use aws_lc_rs::rand;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
    PublicKeyData, SanType, SerialNumber,
};
use squire_mesh::{
    ports,
    spiffe::{SpiffeId, TrustDomain},
};

use crate::digest::hex;

/// How far `notBefore` lies in the past, for peers whose clock is slow.
pub const BACKDATE: Duration = Duration::from_secs(5 * 60);
/// Life of a root.
pub const ROOT_LIFE: Duration = Duration::from_secs(3650 * 86_400);
/// Life of an intermediate; it is replaced when half of it is over.
pub const INTERMEDIATE_LIFE: Duration = Duration::from_secs(30 * 86_400);
/// Life of a leaf when the request names none.
pub const DEFAULT_TTL: Duration = Duration::from_secs(3600);
/// Shortest life of a leaf.
pub const MIN_TTL: Duration = Duration::from_secs(5 * 60);
/// Longest life of a leaf.
pub const MAX_TTL: Duration = Duration::from_secs(24 * 3600);

/// When a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// From then.
    pub not_before: SystemTime,
    /// Until then.
    pub not_after: SystemTime,
}

/// A part of a certificate could not be put together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    /// The machine gives no random numbers.
    #[error("the operating system gave no random numbers for a serial number: check /dev/urandom")]
    Random,
    /// The ID does not fit into a certificate.
    #[error("{0} cannot be written into a certificate")]
    Name(String),
}

impl Validity {
    /// Whole seconds around `now`, backdated for slow clocks.
    #[must_use]
    pub fn starting(now: SystemTime, life: Duration) -> Self {
        let now = whole_seconds(now);
        Self {
            not_before: now - BACKDATE,
            not_after: now + life,
        }
    }

    /// The same, but nowhere outside the issuer's.
    #[must_use]
    pub fn within(self, issuer: Self) -> Self {
        Self {
            not_before: self.not_before.max(issuer.not_before),
            not_after: self.not_after.min(issuer.not_after),
        }
    }

    /// The moment when this share (in percent) of the time is over.
    #[must_use]
    pub fn at_percent(&self, percent: u32) -> SystemTime {
        let life = self.not_after.duration_since(self.not_before).unwrap_or_default();
        self.not_before + life * percent / 100
    }
}

/// The life a request gets: the default if it names none, never outside [`MIN_TTL`] to [`MAX_TTL`].
#[must_use]
pub fn granted_ttl(requested: Option<Duration>) -> Duration {
    requested.unwrap_or(DEFAULT_TTL).clamp(MIN_TTL, MAX_TTL)
}

/// Root or intermediate: CA:true, keyCertSign, the trust domain's own ID without a path. No name constraints: the
/// verifiers in use (webpki among them) do not evaluate URI constraints and refuse such chains.
pub(crate) fn signer(
    kind: &str,
    domain: &TrustDomain,
    key: &impl PublicKeyData,
    validity: Validity,
    path: BasicConstraints,
) -> Result<CertificateParams, ProfileError> {
    let mut params = start(&domain.id(), validity)?;
    let key_id = hex(&params.key_identifier(key));
    params
        .distinguished_name
        .push(DnType::CommonName, format!("squire {kind} {}", &key_id[..16]));
    params.is_ca = IsCa::Ca(path);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

/// An X.509-SVID: empty subject, exactly one URI name (critical, since the subject is empty), CA:false, digitalSignature,
/// serverAuth and clientAuth.
pub(crate) fn leaf(id: &SpiffeId, validity: Validity) -> Result<CertificateParams, ProfileError> {
    let mut params = start(id, validity)?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    for name in served_names(id) {
        let name = name.as_str().try_into().map_err(|_| ProfileError::Name(name.clone()))?;
        params.subject_alt_names.push(SanType::DnsName(name));
    }
    Ok(params)
}

/// DNS names beside the SPIFFE ID: none, but for the admission webhook, whose client is the API server, which knows no
/// SPIFFE. They follow from the attested identity alone.
fn served_names(id: &SpiffeId) -> Vec<String> {
    let (account, namespace) = (ports::INJECTOR_ACCOUNT, ports::SYSTEM_NAMESPACE);
    match SpiffeId::workload(id.trust_domain(), namespace, account) {
        Ok(injector) if injector == *id => vec![format!("{account}.{namespace}.svc")],
        _ => Vec::new(),
    }
}

fn start(id: &SpiffeId, validity: Validity) -> Result<CertificateParams, ProfileError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let uri = id.as_str().try_into().map_err(|_| ProfileError::Name(id.to_string()))?;
    params.subject_alt_names = vec![SanType::URI(uri)];
    params.not_before = validity.not_before.into();
    params.not_after = validity.not_after.into();
    params.serial_number = Some(serial()?);
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// 16 bytes, positive, 126 of the bits random (RFC 5280, 4.1.2.2 asks for at most 20 bytes).
fn serial() -> Result<SerialNumber, ProfileError> {
    let mut bytes = [0; 16];
    rand::fill(&mut bytes).map_err(|_| ProfileError::Random)?;
    bytes[0] = bytes[0] & 0x3f | 0x40;
    Ok(bytes.to_vec().into())
}

/// Certificates know whole seconds only.
fn whole_seconds(time: SystemTime) -> SystemTime {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_webhook_has_a_dns_name_and_only_its_own() {
        let names = |id: &str| served_names(&id.parse().unwrap());
        let injector = "spiffe://cluster.local/ns/squire-system/sa/squire-injector";
        assert_eq!(names(injector), ["squire-injector.squire-system.svc"]);
        for other in [
            "spiffe://cluster.local/ns/shop/sa/squire-injector",
            "spiffe://cluster.local/ns/squire-system/sa/squire-control",
            "spiffe://cluster.local/ns/kube-system/sa/kube-apiserver",
        ] {
            assert!(names(other).is_empty(), "{other}");
        }
    }

    #[test]
    fn the_life_of_a_leaf_is_clamped() {
        let minutes = |n: u64| Duration::from_secs(n * 60);
        for (asked, given) in [
            (None, minutes(60)),
            (Some(minutes(0)), minutes(5)),
            (Some(minutes(4)), minutes(5)),
            (Some(minutes(90)), minutes(90)),
            (Some(minutes(100_000)), minutes(24 * 60)),
        ] {
            assert_eq!(granted_ttl(asked), given, "{asked:?}");
        }
    }

    #[test]
    fn validity_is_backdated_whole_seconds_and_inside_the_issuers() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(1_800_000_000_750);
        let whole = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let validity = Validity::starting(now, Duration::from_secs(3600));
        assert_eq!(validity.not_before, whole - BACKDATE);
        assert_eq!(validity.not_after, whole + Duration::from_secs(3600));
        let issuer = Validity {
            not_before: whole - Duration::from_secs(60),
            not_after: whole + Duration::from_secs(60),
        };
        assert_eq!(validity.within(issuer), issuer);
        assert_eq!(issuer.within(validity), issuer);
        assert_eq!(issuer.at_percent(50), whole);
    }

    #[test]
    fn serials_are_positive_16_bytes_and_differ() {
        let serials: std::collections::HashSet<Vec<u8>> = (0..1000).map(|_| serial().unwrap().to_bytes()).collect();
        assert_eq!(serials.len(), 1000);
        assert!(
            serials
                .iter()
                .all(|serial| serial.len() == 16 && (0x40..0x80).contains(&serial[0]))
        );
    }
}
