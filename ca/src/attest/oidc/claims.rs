//! The claims that matter in a token, and the service account they name. Unverified until the signature is.

use std::time::{Duration, SystemTime};

use serde::Deserialize;

/// Claims of a verified token.
#[derive(Debug, Deserialize)]
pub(super) struct Claims {
    pub(super) sub: String,
    exp: u64,
    nbf: Option<u64>,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Option<Kubernetes>,
}

#[derive(Debug, Deserialize)]
struct Kubernetes {
    namespace: String,
    serviceaccount: ServiceAccount,
}

#[derive(Debug, Deserialize)]
struct ServiceAccount {
    name: String,
}

impl Claims {
    pub(super) fn expires(&self) -> SystemTime {
        moment(self.exp)
    }

    pub(super) fn not_before(&self) -> Option<SystemTime> {
        self.nbf.map(moment)
    }

    /// Namespace and name, from the `kubernetes.io` claim or the subject; where both are there, they must agree.
    pub(super) fn service_account(&self) -> Result<(&str, &str), String> {
        let subject = self
            .sub
            .strip_prefix("system:serviceaccount:")
            .and_then(|rest| rest.split_once(':'));
        let claim = self
            .kubernetes
            .as_ref()
            .map(|claim| (claim.namespace.as_str(), claim.serviceaccount.name.as_str()));
        match (claim, subject) {
            (Some(claim), Some(subject)) if claim != subject => {
                Err("its subject and its kubernetes.io claim name different ones".into())
            }
            (Some(account), _) | (None, Some(account)) => Ok(account),
            (None, None) => {
                Err("neither the claim kubernetes.io nor a subject system:serviceaccount:NAMESPACE:NAME".into())
            }
        }
    }
}

/// Far beyond any honest token, so that sums do not overflow.
const LAST_SECOND: u64 = 253_402_300_799;

fn moment(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.min(LAST_SECOND))
}
