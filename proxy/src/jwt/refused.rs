//! Why a token is refused, and what the client is told: Envoy's words, which clients of Istio know, and RFC 6750's header.

use crate::http::LocalReply;

/// Why a token is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenRefused {
    #[error("Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections")]
    Malformed,
    #[error("Jwt is too large, or the request has too many of them")]
    TooLarge,
    #[error("Jwt header is not a JSON object in base64url, or names a critical extension")]
    Header,
    #[error("Jwt header [alg] is not supported")]
    Algorithm,
    #[error("Jwt payload is not a JSON object in base64url with well-formed claims")]
    Payload,
    #[error("Jwt issuer is not configured")]
    Issuer,
    #[error("Audiences in Jwt are not allowed")]
    Audience,
    #[error("Jwt is expired")]
    Expired,
    #[error("Jwt not yet valid")]
    NotYetValid,
    #[error("Jwks doesn't have key to match kid or alg from Jwt")]
    NoKey,
    #[error("Jwt verification fails")]
    Signature,
    #[error("Jwks remote fetch is failed")]
    KeysUnavailable,
}

impl TokenRefused {
    /// The metric label.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::TooLarge => "too_large",
            Self::Header => "header",
            Self::Algorithm => "algorithm",
            Self::Payload => "payload",
            Self::Issuer => "issuer",
            Self::Audience => "audience",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::NoKey => "no_key",
            Self::Signature => "signature",
            Self::KeysUnavailable => "keys_unavailable",
        }
    }

    /// 401 with the reason (spec §3.14.54; RFC 6750 §3). `realm`: the URL that was asked for.
    pub(crate) fn reply(self, realm: &str) -> LocalReply {
        let mut reply = LocalReply::text(401, &self.to_string());
        let challenge = format!("Bearer realm=\"{realm}\", error=\"invalid_token\"");
        reply
            .fields
            .push(("www-authenticate".into(), challenge.into_bytes().into()));
        reply
    }
}
