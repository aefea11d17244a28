//! A trust bundle as it is pushed to proxies.

use std::time::Duration;

use rustls::pki_types::CertificateDer;

use super::{BundleError, JwtKey, Signing, TrustBundle};
use crate::{
    jwk::{Curve, PublicKey},
    spiffe::TrustDomain,
    wire::{
        self,
        squire::jwt_key::{EcKey, Key, RsaKey},
    },
};

impl TryFrom<wire::squire::TrustBundle> for TrustBundle {
    type Error = BundleError;

    fn try_from(message: wire::squire::TrustBundle) -> Result<Self, BundleError> {
        let domain = message
            .trust_domain
            .parse()
            .map_err(|error| BundleError::TrustDomain(message.trust_domain.chars().take(300).collect(), error))?;
        let keys = message.jwt_keys.into_iter().map(|key| jwt_key(&domain, key));
        let keys = keys.collect::<Result<Vec<_>, _>>()?;
        let hint = u64::from(message.refresh_hint_seconds);
        let roots = message.roots.iter().map(|der| CertificateDer::from(der.to_vec()));
        let bundle = Self::new(domain, roots, message.sequence)?
            .with_jwt_keys(keys)
            .with_refresh_hint((hint > 0).then(|| Duration::from_secs(hint)));
        if message.signing_root.is_empty() {
            return Ok(bundle);
        }
        let signing = bundle
            .roots()
            .iter()
            .find(|root| root.digest().0[..] == message.signing_root[..]);
        let root = signing
            .ok_or_else(|| BundleError::Signing(bundle.trust_domain().clone()))?
            .digest();
        let renew_within = Duration::from_secs(message.renew_within_seconds.into());
        Ok(bundle.with_signing(Signing { root, renew_within }))
    }
}

impl From<&TrustBundle> for wire::squire::TrustBundle {
    fn from(bundle: &TrustBundle) -> Self {
        Self {
            trust_domain: bundle.trust_domain().to_string(),
            roots: bundle.roots().iter().map(|root| root.der().to_vec().into()).collect(),
            sequence: bundle.sequence(),
            jwt_keys: bundle.jwt_keys().iter().filter_map(message_of).collect(),
            signing_root: bundle
                .signing()
                .map(|signing| signing.root.0.to_vec().into())
                .unwrap_or_default(),
            renew_within_seconds: bundle.signing().map_or(0, |signing| {
                u32::try_from(signing.renew_within.as_secs()).unwrap_or(u32::MAX)
            }),
            refresh_hint_seconds: bundle
                .refresh_hint()
                .map_or(0, |hint| u32::try_from(hint.as_secs()).unwrap_or(u32::MAX)),
        }
    }
}

fn jwt_key(domain: &TrustDomain, message: wire::squire::JwtKey) -> Result<JwtKey, BundleError> {
    let unusable = || BundleError::JwtKey {
        trust_domain: domain.clone(),
        kid: message.kid.chars().take(100).collect(),
    };
    let key = match &message.key {
        Some(Key::Rsa(rsa)) => Some(PublicKey::Rsa {
            n: rsa.n.to_vec(),
            e: rsa.e.to_vec(),
        }),
        Some(Key::Ec(ec)) => Curve::named(&ec.curve).and_then(|curve| PublicKey::ec(curve, ec.point.to_vec())),
        None => None,
    };
    key.and_then(|key| JwtKey::new(&message.kid, key)).ok_or_else(unusable)
}

fn message_of(key: &JwtKey) -> Option<wire::squire::JwtKey> {
    let public = match key.key() {
        PublicKey::Rsa { n, e } => Key::Rsa(RsaKey {
            n: n.clone().into(),
            e: e.clone().into(),
        }),
        PublicKey::Ec(curve, point) => Key::Ec(EcKey {
            curve: curve.name().to_owned(),
            point: point.clone().into(),
        }),
        // No JWT-SVID is signed by one, and so no `JwtKey` holds one.
        PublicKey::Ed25519(_) => return None,
    };
    Some(wire::squire::JwtKey {
        kid: key.kid().to_owned(),
        key: Some(public),
    })
}
