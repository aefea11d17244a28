//! What a RequestAuthentication says of tokens: where they are found in a request, who issued them, which keys they are
//! verified with, and what the application is told of them (spec §3.14). Data only; nothing here verifies.

use std::time::Duration;

/// How long keys may take to be fetched where a rule does not say.
pub const TOKEN_TIMEOUT: Duration = Duration::from_secs(5);

/// One rule: tokens of one issuer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenIssuer {
    /// The `iss` claim.
    pub issuer: Box<str>,
    /// Audiences of which the `aud` claim must name one; empty: any.
    pub audiences: Box<[Box<str>]>,
    /// The keys that verify its tokens.
    pub keys: TokenKeys,
    /// Where its tokens are looked for; empty: `Authorization: Bearer`, then the query parameter `access_token`.
    pub places: Box<[TokenPlace]>,
    /// Whether the token is forwarded to the application.
    pub forward: bool,
    /// A header field (lower case) that is set to the token's payload, in base64url.
    pub payload_header: Option<Box<str>>,
    /// Header fields that are set to claims.
    pub claim_headers: Box<[ClaimHeader]>,
    /// How long its keys may take to be fetched.
    pub timeout: Duration,
    /// Top-level claims whose text is a list separated by spaces, beside `scope` and `permission`.
    pub space_delimited: Box<[Box<str>]>,
}

impl TokenIssuer {
    /// A rule with nothing but its issuer and keys.
    #[must_use]
    pub fn new(issuer: &str, keys: TokenKeys) -> Self {
        Self {
            issuer: issuer.into(),
            audiences: [].into(),
            keys,
            places: [].into(),
            forward: false,
            payload_header: None,
            claim_headers: [].into(),
            timeout: TOKEN_TIMEOUT,
            space_delimited: [].into(),
        }
    }
}

/// Where a JSON Web Key Set (RFC 7517) is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum TokenKeys {
    /// In the rule itself.
    Inline(Box<str>),
    /// At an HTTP or HTTPS URL.
    Url(Box<str>),
    /// In a file beside the sidecar (an absolute path; written `file:///…`), read again when it changes.
    File(Box<str>),
    /// Where the issuer's OpenID Connect discovery document says.
    Discovery,
}

/// A place in a request that holds a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenPlace {
    /// A header field (lower case), behind this prefix.
    Header {
        /// Its name.
        name: Box<str>,
        /// What stands before the token, such as `Bearer `.
        prefix: Box<str>,
    },
    /// A query parameter.
    Param(Box<str>),
    /// A cookie.
    Cookie(Box<str>),
}

/// A claim that the application is told in a header field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimHeader {
    /// The field's name (lower case).
    pub header: Box<str>,
    /// The claim; a dot leads into a nested one.
    pub claim: Box<str>,
}
