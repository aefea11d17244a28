//! Finding tokens in a request, at the places its rules name, and taking them out of what is forwarded. Verifies nothing.

use squire_mesh::policy::{TokenIssuer, TokenPlace};

use super::TokenRefused;
use crate::http::{Edits, RequestView};

/// Bytes of one token.
const MAX_TOKEN: usize = 16 << 10;
/// Tokens in one request.
const MAX_TOKENS: usize = 4;

/// A token and the rules that look at its place.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) token: String,
    pub(super) place: TokenPlace,
    /// Indices into the rules.
    pub(super) rules: Vec<usize>,
}

/// What is kept of a request to verify its tokens and to write the edits.
#[derive(Debug, Clone)]
pub(super) struct Subject {
    pub(super) found: Vec<Found>,
    /// The URL, for the challenge.
    pub(super) realm: String,
    target: Option<String>,
    cookies: Vec<String>,
}

/// Every token at any place that a rule names.
pub(super) fn find(issuers: &[TokenIssuer], view: &RequestView<'_>) -> Result<Subject, TokenRefused> {
    let mut places: Vec<(TokenPlace, Vec<usize>)> = Vec::new();
    for (index, issuer) in issuers.iter().enumerate() {
        let own = if issuer.places.is_empty() {
            usual()
        } else {
            issuer.places.to_vec()
        };
        for place in own {
            match places.iter_mut().find(|(known, _)| *known == place) {
                Some((_, rules)) => rules.push(index),
                None => places.push((place, vec![index])),
            }
        }
    }
    let mut subject = Subject {
        found: Vec::new(),
        realm: String::new(),
        target: view.target.map(str::to_owned),
        cookies: Vec::new(),
    };
    for (place, rules) in places {
        for token in tokens(&place, view, &mut subject.cookies) {
            if token.len() > MAX_TOKEN || subject.found.len() == MAX_TOKENS {
                return Err(TokenRefused::TooLarge);
            }
            subject.found.push(Found {
                token,
                place: place.clone(),
                rules: rules.clone(),
            });
        }
    }
    if !subject.found.is_empty() {
        subject.realm = realm(view);
    }
    Ok(subject)
}

/// Where tokens are looked for if nothing is said.
fn usual() -> Vec<TokenPlace> {
    vec![
        TokenPlace::Header {
            name: "authorization".into(),
            prefix: "Bearer ".into(),
        },
        TokenPlace::Param("access_token".into()),
    ]
}

fn tokens(place: &TokenPlace, view: &RequestView<'_>, cookies: &mut Vec<String>) -> Vec<String> {
    let mut found = Vec::new();
    match place {
        TokenPlace::Header { name, prefix } => view.fields.visit(name, &mut |value| {
            let text = String::from_utf8_lossy(value);
            if let Some(token) = text.trim().strip_prefix(prefix.trim_start()) {
                found.push(token.trim().to_owned());
            }
            true
        }),
        TokenPlace::Param(name) => {
            let query = view
                .target
                .and_then(|target| target.split_once('?'))
                .map(|(_, query)| query);
            for (key, value) in query
                .into_iter()
                .flat_map(|query| query.split('&'))
                .filter_map(|p| p.split_once('='))
            {
                if key == &**name {
                    found.push(value.to_owned());
                }
            }
        }
        TokenPlace::Cookie(name) => {
            cookies.clear();
            view.fields.visit("cookie", &mut |value| {
                let text = String::from_utf8_lossy(value);
                cookies.extend(text.split(';').map(|pair| pair.trim().to_owned()));
                true
            });
            let values = cookies.iter().filter_map(|pair| pair.split_once('='));
            let own = values.filter(|(key, _)| *key == &**name);
            found.extend(own.map(|(_, value)| value.trim_matches('"').to_owned()));
        }
    }
    // An empty value is no token.
    found.retain(|token| !token.is_empty());
    found
}

/// The URL, as far as it can stand in a quoted string.
pub(super) fn realm(view: &RequestView<'_>) -> String {
    let path = view.path().unwrap_or_default();
    let quotable = |c: &char| (c.is_ascii_graphic()) && *c != '"' && *c != '\\';
    let url = view.authority.chars().chain(path.chars()).filter(quotable);
    format!("http://{}", url.take(1024).collect::<String>())
}

impl Subject {
    /// Takes the tokens at these places out of the request.
    pub(super) fn strip(&self, places: &[&TokenPlace], edits: &mut Edits) {
        let (mut params, mut cookies) = (Vec::new(), Vec::new());
        for place in places {
            match place {
                TokenPlace::Header { name, .. } => edits.remove.push(name.clone()),
                TokenPlace::Param(name) => params.push(&**name),
                TokenPlace::Cookie(name) => cookies.push(&**name),
            }
        }
        let key_of = |pair: &str| pair.split_once('=').map_or(pair, |(key, _)| key).to_owned();
        if let (false, Some((path, query))) = (
            params.is_empty(),
            self.target.as_deref().and_then(|t| t.split_once('?')),
        ) {
            let kept: Vec<_> = query
                .split('&')
                .filter(|pair| !params.contains(&&*key_of(pair)))
                .collect();
            let target = if kept.is_empty() {
                path.to_owned()
            } else {
                format!("{path}?{}", kept.join("&"))
            };
            edits.target = Some(target.into());
        }
        if !cookies.is_empty() {
            let kept: Vec<_> = self
                .cookies
                .iter()
                .filter(|pair| !cookies.contains(&&*key_of(pair)))
                .collect();
            if kept.is_empty() {
                edits.remove.push("cookie".into());
            } else {
                let kept = kept.into_iter().map(String::as_str).collect::<Vec<_>>().join("; ");
                edits.set.push(("cookie".into(), kept.into_bytes().into()));
            }
        }
    }
}
