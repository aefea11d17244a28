//! Kubernetes service-account tokens, judged by the API server itself (TokenReview). Only tokens made for this CA count
//! (audience [`CA_AUDIENCE`]), and only those bound to a pod that exists, with that uid, and is not being deleted. Who it is,
//! the review says; nothing in the token is believed, and nobody else is asked when the API server does not answer.

use std::time::Duration;

use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec, UserInfo},
    core::v1::Pod,
};
use kube::{Api, Client, api::PostParams};
use squire_mesh::{
    ports::CA_AUDIENCE,
    spiffe::{SpiffeId, TrustDomain},
};
use tokio::time::timeout;

use super::{AttestError, Attested, Attestor, Evidence, Verdict};
use crate::token::PREFIX;

/// For one answer of the API server.
const PATIENCE: Duration = Duration::from_secs(5);
/// Larger tokens are not asked about.
const LONGEST: usize = 16 * 1024;
/// What the API server calls service accounts.
const ACCOUNT: &str = "system:serviceaccount:";
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

/// Accepts service-account tokens of the cluster.
pub struct ServiceAccounts {
    client: Client,
    domain: TrustDomain,
}

impl ServiceAccounts {
    /// Accepts tokens that the API server of this client vouches for, for identities of this trust domain.
    #[must_use]
    pub fn new(client: Client, domain: TrustDomain) -> Self {
        Self { client, domain }
    }

    async fn judge(&self, token: &str) -> Result<Attested, AttestError> {
        if token.len() > LONGEST {
            return Err(AttestError::BadJwt(format!("it is longer than {LONGEST} bytes")));
        }
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: token.to_owned(),
                audiences: Some(vec![CA_AUDIENCE.to_owned()]),
            },
            ..TokenReview::default()
        };
        let reviews: Api<TokenReview> = Api::all(self.client.clone());
        let reviewed = answer(reviews.create(&PostParams::default(), &review)).await?;
        let status = reviewed.status.unwrap_or_default();
        let audiences = status.audiences.unwrap_or_default();
        if status.authenticated != Some(true) {
            return Err(refused(status.error.as_deref()));
        }
        // An API server that knows nothing of audiences says nothing of them: then this proves nothing.
        if !audiences.iter().any(|audience| audience == CA_AUDIENCE) {
            return Err(AttestError::WrongAudience(CA_AUDIENCE.to_owned()));
        }
        let bound = Bound::read(status.user.unwrap_or_default())?;
        self.check_pod(&bound).await?;
        let id = SpiffeId::workload(&self.domain, &bound.namespace, &bound.account)
            .map_err(|error| AttestError::NoServiceAccount(error.to_string()))?;
        Ok(Attested {
            id,
            attestor: "kubernetes",
            subject: format!("pod {}/{} {}", bound.namespace, bound.pod, bound.uid),
            workload: Some(format!("{}/{}", bound.namespace, bound.pod)),
        })
    }

    /// The pod that the token is bound to must still be that pod.
    async fn check_pod(&self, bound: &Bound) -> Result<(), AttestError> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &bound.namespace);
        let gone = |why: &str| AttestError::PodGone(format!("{}/{}", bound.namespace, bound.pod), why.to_owned());
        let Some(pod) = answer(pods.get_opt(&bound.pod)).await? else {
            return Err(gone("does not exist"));
        };
        if pod.metadata.uid.as_deref() != Some(&*bound.uid) {
            return Err(gone("is another one of the same name"));
        }
        if pod.metadata.deletion_timestamp.is_some() {
            return Err(gone("is being deleted"));
        }
        let phase = pod.status.and_then(|status| status.phase);
        if matches!(phase.as_deref(), Some("Succeeded" | "Failed")) {
            return Err(gone("has ended"));
        }
        let account = pod.spec.and_then(|spec| spec.service_account_name);
        if account.as_deref() != Some(&*bound.account) {
            return Err(gone("has another service account"));
        }
        Ok(())
    }
}

impl Attestor for ServiceAccounts {
    /// Every bearer token but those that are ours.
    fn recognises(&self, evidence: &Evidence) -> bool {
        let bearer = evidence.bearer.as_ref();
        bearer.is_some_and(|bearer| !bearer.starts_with(PREFIX))
    }

    fn attest<'a>(&'a self, evidence: &'a Evidence) -> Verdict<'a> {
        Box::pin(async move {
            let bearer = evidence.bearer.as_ref().ok_or(AttestError::NoCredential)?;
            self.judge(bearer).await
        })
    }
}

/// What a review says of a token.
#[derive(Debug, PartialEq, Eq)]
struct Bound {
    namespace: String,
    account: String,
    pod: String,
    uid: String,
}

impl Bound {
    fn read(user: UserInfo) -> Result<Self, AttestError> {
        let name = user.username.unwrap_or_default();
        let (namespace, account) = name
            .strip_prefix(ACCOUNT)
            .and_then(|rest| rest.split_once(':'))
            .ok_or_else(|| AttestError::NoServiceAccount(format!("the API server says that it is {name:?}")))?;
        let mut extra = user.extra.unwrap_or_default();
        let mut one = |key: &str| match extra.remove(key).as_deref() {
            Some([value]) => Ok(value.clone()),
            _ => Err(AttestError::NotBound),
        };
        Ok(Self {
            pod: one(POD_NAME)?,
            uid: one(POD_UID)?,
            namespace: namespace.to_owned(),
            account: account.to_owned(),
        })
    }
}

async fn answer<T>(asked: impl Future<Output = Result<T, kube::Error>>) -> Result<T, AttestError> {
    match timeout(PATIENCE, asked).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => {
            tracing::warn!(%error, "the API server could not be asked about a token");
            Err(AttestError::Reviewer)
        }
        Err(_) => {
            tracing::warn!("the API server did not answer about a token within {PATIENCE:?}");
            Err(AttestError::Reviewer)
        }
    }
}

/// Why the API server refused a token; its words, which never contain the token.
fn refused(error: Option<&str>) -> AttestError {
    let error = error.unwrap_or("it was not issued by this cluster");
    if error.contains("audience") {
        AttestError::WrongAudience(CA_AUDIENCE.to_owned())
    } else {
        let short: String = error.chars().take(200).collect();
        AttestError::Refused(short)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn user(name: &str, extra: &[(&str, &[&str])]) -> UserInfo {
        let owned = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect();
        UserInfo {
            username: Some(name.to_owned()),
            extra: Some(
                extra
                    .iter()
                    .map(|(key, values)| ((*key).to_owned(), owned(values)))
                    .collect::<BTreeMap<_, _>>(),
            ),
            ..UserInfo::default()
        }
    }

    #[test]
    fn only_tokens_bound_to_one_pod_prove_anything() {
        let pod: [(&str, &[&str]); 2] = [(POD_NAME, &["web-1"]), (POD_UID, &["u-1"])];
        let bound = Bound::read(user("system:serviceaccount:shop:web", &pod)).unwrap();
        assert_eq!(
            (bound.namespace, bound.account, bound.pod),
            ("shop".into(), "web".into(), "web-1".into())
        );
        for (name, extra) in [
            ("system:serviceaccount:shop:web", &[][..]),
            ("system:serviceaccount:shop:web", &pod[..1]),
            (
                "system:serviceaccount:shop:web",
                &[(POD_NAME, &["a", "b"][..]), (POD_UID, &["u"][..])][..],
            ),
            ("system:serviceaccount:shop", &pod[..]),
            ("system:node:web", &pod[..]),
            ("admin", &pod[..]),
            ("", &pod[..]),
        ] {
            assert!(Bound::read(user(name, extra)).is_err(), "{name} {extra:?}");
        }
    }
}
