//! Tokens of requests (RequestAuthentication, spec §3.14): found, verified, and turned into claims for policy and header
//! fields for the application. A request without a token passes without claims; one with a token that is not valid is
//! refused, whatever the other tokens say. Decides no policy.

mod compact;
mod keys;
mod places;
mod refused;
mod sources;

use std::{sync::Arc, time::SystemTime};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use futures_util::future::{BoxFuture, Either, FutureExt as _, Ready, ready};
use serde_json::{Map, Value};
use squire_mesh::policy::TokenIssuer;

use self::{
    compact::Compact,
    keys::KeySet,
    places::{Found, Subject},
    sources::{Known, Place, Sources},
};
pub(crate) use self::{refused::TokenRefused, sources::Pace};
use crate::{
    callouts::{client::Client, metrics::CalloutMetrics},
    http::{Edits, LocalReply, RequestView},
};

/// What a request's tokens say.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Verified {
    /// The claims of the validated token; none: there was no token.
    pub(crate) claims: Option<Map<String, Value>>,
    /// Output fields of the client removed and set from the claims; the token taken out.
    pub(crate) edits: Edits,
}

/// The outcome: at once where the keys are there, later where they have to be fetched.
pub(crate) type Verification = Either<Ready<Outcome>, BoxFuture<'static, Outcome>>;

/// Verified, or the reply that refuses the request.
pub(crate) type Outcome = Result<Verified, LocalReply>;

/// Verifies tokens; holds the keys.
pub(crate) struct Verifier {
    sources: Arc<Sources>,
    metrics: Arc<CalloutMetrics>,
}

/// Fetches for one request: a source that is not there, and one more for a key that is new.
const MAX_FETCHES: usize = 6;

/// What is missing to go on.
enum Missing {
    Keys { place: Place, lacking: Option<Arc<KeySet>> },
    Refused(TokenRefused),
}

impl Verifier {
    /// With the client that fetches keys.
    pub(crate) fn new(client: Arc<Client>, metrics: Arc<CalloutMetrics>, pace: Pace) -> Self {
        Self {
            sources: Arc::new(Sources::new(client, Arc::clone(&metrics), pace)),
            metrics,
        }
    }

    /// Fetches keys again that are in use and have grown old; called every second. Says how many sources that are.
    pub(crate) fn refresh_keys(&self) -> usize {
        self.sources.refresh()
    }

    /// Verifies every token the rules find in a request. Nothing of the request is borrowed by what is returned.
    pub(crate) fn verify(&self, issuers: &[TokenIssuer], view: &RequestView<'_>, now: SystemTime) -> Verification {
        let mut edits = Edits::default();
        let outputs = issuers.iter().flat_map(|issuer| {
            let claims = issuer.claim_headers.iter().map(|output| &output.header);
            claims.chain(&issuer.payload_header)
        });
        edits.remove.extend(outputs.cloned());
        if issuers.is_empty() || is_preflight(view) {
            return at_once(Ok(Verified { claims: None, edits }));
        }
        let subject = match places::find(issuers, view) {
            Ok(subject) if subject.found.is_empty() => {
                self.metrics.verified("none");
                return at_once(Ok(Verified { claims: None, edits }));
            }
            Ok(subject) => subject,
            Err(refused) => return at_once(Err(self.refuse(refused, &places::realm(view)))),
        };
        let missing = match judge(&self.sources, issuers, &subject, edits.clone(), now, true) {
            Ok(verified) => return at_once(Ok(self.accept(verified))),
            Err(Missing::Refused(refused)) => return at_once(Err(self.refuse(refused, &subject.realm))),
            Err(missing) => missing,
        };
        let verifier = Self {
            sources: Arc::clone(&self.sources),
            metrics: Arc::clone(&self.metrics),
        };
        let issuers: Vec<_> = issuers.to_vec();
        let later = async move {
            let verified = verifier.fetch_and_judge(&issuers, &subject, edits, now, missing).await;
            match verified {
                Ok(verified) => Ok(verifier.accept(verified)),
                Err(refused) => Err(verifier.refuse(refused, &subject.realm)),
            }
        };
        Either::Right(later.boxed())
    }

    async fn fetch_and_judge(
        &self,
        issuers: &[TokenIssuer],
        subject: &Subject,
        edits: Edits,
        now: SystemTime,
        mut missing: Missing,
    ) -> Result<Verified, TokenRefused> {
        for fetches in 1..=MAX_FETCHES {
            match missing {
                Missing::Refused(refused) => return Err(refused),
                Missing::Keys { place, lacking } => self.sources.obtain(&place, lacking).await,
            }
            match judge(
                &self.sources,
                issuers,
                subject,
                edits.clone(),
                now,
                fetches < MAX_FETCHES,
            ) {
                Ok(verified) => return Ok(verified),
                Err(more) => missing = more,
            }
        }
        match missing {
            Missing::Refused(refused) => Err(refused),
            Missing::Keys { .. } => Err(TokenRefused::KeysUnavailable),
        }
    }

    fn accept(&self, verified: Verified) -> Verified {
        self.metrics.verified("valid");
        verified
    }

    fn refuse(&self, refused: TokenRefused, realm: &str) -> LocalReply {
        self.metrics.verified(refused.label());
        refused.reply(realm)
    }
}

fn at_once(outcome: Outcome) -> Verification {
    Either::Left(ready(outcome))
}

/// A CORS preflight carries no token by design (Fetch §3.2.2).
fn is_preflight(view: &RequestView<'_>) -> bool {
    let has = |name: &str| view.field(name).is_some_and(|value| !value.is_empty());
    view.method == "OPTIONS" && has("origin") && has("access-control-request-method")
}

/// Verifies all tokens with the keys that are there. The claims are those of the first, in the order of the rules.
fn judge(
    sources: &Arc<Sources>,
    issuers: &[TokenIssuer],
    subject: &Subject,
    mut edits: Edits,
    now: SystemTime,
    may_fetch: bool,
) -> Result<Verified, Missing> {
    let mut valid = Vec::with_capacity(subject.found.len());
    for found in &subject.found {
        let token = Compact::read(&found.token).map_err(Missing::Refused)?;
        let rule = judge_token(sources, issuers, found, &token, now, may_fetch)?;
        valid.push((rule, &found.place, token));
    }
    valid.sort_by_key(|(rule, ..)| *rule);
    let mut stripped = Vec::new();
    for (rule, place, _) in &valid {
        if issuers.get(*rule).is_some_and(|issuer| !issuer.forward) {
            stripped.push(*place);
        }
    }
    subject.strip(&stripped, &mut edits);
    // Where two tokens want to fill one field, the one that counts for policy wins.
    for (rule, _, token) in valid.iter().rev() {
        if let Some(issuer) = issuers.get(*rule) {
            output(issuer, token, &mut edits);
        }
    }
    let claims = valid.into_iter().next().map(|(_, _, token)| token.claims);
    Ok(Verified { claims, edits })
}

/// Verifies one token by any of the rules for its issuer and place; returns which one it was.
fn judge_token(
    sources: &Arc<Sources>,
    issuers: &[TokenIssuer],
    found: &Found,
    token: &Compact<'_>,
    now: SystemTime,
    may_fetch: bool,
) -> Result<usize, Missing> {
    let issuer = token.issuer().ok_or(Missing::Refused(TokenRefused::Issuer))?;
    token.check_time(now).map_err(Missing::Refused)?;
    let mut outcome = Missing::Refused(TokenRefused::Issuer);
    for &index in &found.rules {
        let Some(rule) = issuers.get(index).filter(|rule| *rule.issuer == *issuer) else {
            continue;
        };
        if let Err(refused) = token.check_audience(&rule.audiences) {
            outcome = Missing::Refused(refused);
            continue;
        }
        let place = Place::of(rule);
        let set = match sources.known(&place) {
            Known::Set(set) => set,
            Known::Unfetched if may_fetch => return Err(Missing::Keys { place, lacking: None }),
            Known::Unfetched | Known::Failed => {
                outcome = Missing::Refused(TokenRefused::KeysUnavailable);
                continue;
            }
        };
        match set.verify(token) {
            Ok(()) => return Ok(index),
            Err(TokenRefused::NoKey) if may_fetch && sources.may_have_more(&place) => {
                return Err(Missing::Keys {
                    place,
                    lacking: Some(set),
                });
            }
            Err(refused) => outcome = Missing::Refused(refused),
        }
    }
    Err(outcome)
}

/// What the application is told of a verified token.
fn output(issuer: &TokenIssuer, token: &Compact<'_>, edits: &mut Edits) {
    let mut set = |name: &str, value: Vec<u8>| {
        edits.set.retain(|(known, _)| **known != *name);
        edits.set.push((name.into(), value.into()));
    };
    if let Some(name) = &issuer.payload_header {
        set(name, token.payload.as_bytes().to_vec());
    }
    for output in &issuer.claim_headers {
        if let Some(value) = claim(&token.claims, &output.claim).and_then(written) {
            set(&output.header, value);
        }
    }
}

/// A claim by its name, or by the names that lead to it, with dots between them.
fn claim<'c>(claims: &'c Map<String, Value>, name: &str) -> Option<&'c Value> {
    if let Some(value) = claims.get(name) {
        return Some(value);
    }
    let mut names = name.split('.');
    let first = claims.get(names.next()?)?;
    names.try_fold(first, |value, name| value.as_object()?.get(name))
}

/// A claim as a field's value: texts, numbers and booleans as they are, lists and objects as JSON in base64url. A text
/// that cannot stand in a field is left out.
fn written(value: &Value) -> Option<Vec<u8>> {
    match value {
        Value::String(text) if text.bytes().all(|byte| byte == b'\t' || (byte >= 0x20 && byte != 0x7f)) => {
            Some(text.trim().as_bytes().to_vec())
        }
        Value::String(_) | Value::Null => None,
        Value::Bool(_) | Value::Number(_) => Some(value.to_string().into_bytes()),
        Value::Array(_) | Value::Object(_) => Some(URL_SAFE_NO_PAD.encode(value.to_string()).into_bytes()),
    }
}

#[cfg(test)]
mod tests;
