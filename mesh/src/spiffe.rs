//! SPIFFE IDs and trust domains, parsed once into types that are always valid (SPIFFE-ID standard, sections 2.1 to 2.4).
//! It never looks at certificates and never decides whom to trust.

use std::{fmt, str::FromStr, sync::Arc};

/// Longest SPIFFE ID that is accepted, in bytes (SPIFFE-ID 2.3).
pub const MAX_ID_BYTES: usize = 2048;
/// Longest trust domain name that is accepted, in bytes (SPIFFE-ID 2.3).
pub const MAX_TRUST_DOMAIN_BYTES: usize = 255;

const SCHEME: &str = "spiffe";

/// The name of a trust domain: lower case, cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

/// A SPIFFE ID in its normal form (`spiffe`, lower-case trust domain, path as given): cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    text: Arc<str>,
    trust_domain: TrustDomain,
}

/// Why a string is not a SPIFFE ID or not a trust domain; each message names the rule and its section.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeIdError {
    /// The string is empty.
    #[error("the SPIFFE ID is empty: write spiffe://<trust-domain>/<path> (SPIFFE-ID 2)")]
    Empty,
    /// More than 2048 bytes.
    #[error("the SPIFFE ID has {0} bytes: at most {MAX_ID_BYTES} are allowed (SPIFFE-ID 2.3)")]
    TooLong(usize),
    /// Not `spiffe://`.
    #[error("the scheme must be `spiffe`: write spiffe://<trust-domain>/<path> (SPIFFE-ID 2)")]
    Scheme,
    /// `?` and what follows.
    #[error("a SPIFFE ID must not have a query (`?`) (SPIFFE-ID 2)")]
    Query,
    /// `#` and what follows.
    #[error("a SPIFFE ID must not have a fragment (`#`) (SPIFFE-ID 2)")]
    Fragment,
    /// Nothing between `//` and the path.
    #[error("the trust domain must not be empty (SPIFFE-ID 2.1)")]
    NoTrustDomain,
    /// `user@`.
    #[error("the trust domain must not carry user information (`@`) (SPIFFE-ID 2.1)")]
    UserInfo,
    /// `:8080`.
    #[error("the trust domain must not carry a port (`:`) (SPIFFE-ID 2.1)")]
    Port,
    /// More than 255 bytes.
    #[error("the trust domain has {0} bytes: at most {MAX_TRUST_DOMAIN_BYTES} are allowed (SPIFFE-ID 2.3)")]
    TrustDomainTooLong(usize),
    /// A character outside `[a-z0-9.-_]`.
    #[error("{0:?} is not allowed in a trust domain: use letters, digits, `.`, `-`, `_` (SPIFFE-ID 2.1)")]
    TrustDomainChar(char),
    /// `%xx`.
    #[error("percent-encoding (`%`) is not allowed in a SPIFFE ID (SPIFFE-ID 2.1, 2.2)")]
    PercentEncoding,
    /// `//`.
    #[error("the path must not have an empty segment (`//`) (SPIFFE-ID 2.2)")]
    EmptySegment,
    /// `/./` or `/../`.
    #[error("the path must not have the segment `.` or `..` (SPIFFE-ID 2.2)")]
    DotSegment,
    /// `/` at the end.
    #[error("the path must not end in `/` (SPIFFE-ID 2.2)")]
    TrailingSlash,
    /// A character outside `[a-zA-Z0-9._-]`.
    #[error("{0:?} is not allowed in a path segment: use letters, digits, `.`, `-`, `_` (SPIFFE-ID 2.2)")]
    PathChar(char),
}

impl TrustDomain {
    /// The name, lower case.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The ID of the trust domain itself: no path. Signing certificates carry it (X.509-SVID 3.2).
    #[must_use]
    pub fn id(&self) -> SpiffeId {
        SpiffeId {
            text: format!("{SCHEME}://{}", self.0).into(),
            trust_domain: self.clone(),
        }
    }
}

impl FromStr for TrustDomain {
    type Err = SpiffeIdError;

    fn from_str(name: &str) -> Result<Self, SpiffeIdError> {
        if name.is_empty() {
            return Err(SpiffeIdError::NoTrustDomain);
        }
        if name.len() > MAX_TRUST_DOMAIN_BYTES {
            return Err(SpiffeIdError::TrustDomainTooLong(name.len()));
        }
        for c in name.chars() {
            match c {
                'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '-' | '_' => {}
                '@' => return Err(SpiffeIdError::UserInfo),
                ':' => return Err(SpiffeIdError::Port),
                '%' => return Err(SpiffeIdError::PercentEncoding),
                other => return Err(SpiffeIdError::TrustDomainChar(other)),
            }
        }
        Ok(Self(name.to_ascii_lowercase().into()))
    }
}

impl SpiffeId {
    /// The identity of a Kubernetes service account: `spiffe://<trust-domain>/ns/<namespace>/sa/<account>`.
    ///
    /// # Errors
    /// When a name is not a valid path segment or the whole is too long.
    pub fn workload(trust_domain: &TrustDomain, namespace: &str, account: &str) -> Result<Self, SpiffeIdError> {
        segment(namespace)?;
        segment(account)?;
        let text = format!("{SCHEME}://{trust_domain}/ns/{namespace}/sa/{account}");
        if text.len() > MAX_ID_BYTES {
            return Err(SpiffeIdError::TooLong(text.len()));
        }
        Ok(Self {
            text: text.into(),
            trust_domain: trust_domain.clone(),
        })
    }

    /// The trust domain, whose bundle alone can vouch for this ID.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The path with its leading `/`; empty for the ID of a trust domain itself.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.text[SCHEME.len() + 3 + self.trust_domain.0.len()..]
    }

    /// The whole ID.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The namespace, when the path has the form `/ns/<namespace>/sa/<account>`.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        self.kubernetes().map(|(namespace, _)| namespace)
    }

    /// The service account, when the path has the form `/ns/<namespace>/sa/<account>`.
    #[must_use]
    pub fn service_account(&self) -> Option<&str> {
        self.kubernetes().map(|(_, account)| account)
    }

    fn kubernetes(&self) -> Option<(&str, &str)> {
        let (namespace, account) = self.path().strip_prefix("/ns/")?.split_once("/sa/")?;
        let plain = |name: &str| !name.is_empty() && !name.contains('/');
        (plain(namespace) && plain(account)).then_some((namespace, account))
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeIdError;

    fn from_str(text: &str) -> Result<Self, SpiffeIdError> {
        if text.is_empty() {
            return Err(SpiffeIdError::Empty);
        }
        if text.len() > MAX_ID_BYTES {
            return Err(SpiffeIdError::TooLong(text.len()));
        }
        let (scheme, rest) = text.split_once("://").ok_or(SpiffeIdError::Scheme)?;
        if !scheme.eq_ignore_ascii_case(SCHEME) {
            return Err(SpiffeIdError::Scheme);
        }
        let (host, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let trust_domain: TrustDomain = host.parse()?;
        check_path(path)?;
        Ok(Self {
            text: format!("{SCHEME}://{trust_domain}{path}").into(),
            trust_domain,
        })
    }
}

fn check_path(path: &str) -> Result<(), SpiffeIdError> {
    if path.is_empty() {
        return Ok(());
    }
    if path.contains('#') {
        return Err(SpiffeIdError::Fragment);
    }
    if path.contains('?') {
        return Err(SpiffeIdError::Query);
    }
    if path.ends_with('/') {
        return Err(SpiffeIdError::TrailingSlash);
    }
    path.split('/').skip(1).try_for_each(segment)
}

fn segment(segment: &str) -> Result<(), SpiffeIdError> {
    match segment {
        "" => return Err(SpiffeIdError::EmptySegment),
        "." | ".." => return Err(SpiffeIdError::DotSegment),
        _ => {}
    }
    match segment
        .chars()
        .find(|c| !matches!(c, 'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '-' | '_'))
    {
        None => Ok(()),
        Some('%') => Err(SpiffeIdError::PercentEncoding),
        Some(other) => Err(SpiffeIdError::PathChar(other)),
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use SpiffeIdError as E;
    use proptest::prelude::*;

    fn id(text: &str) -> Result<SpiffeId, E> {
        text.parse()
    }

    fn refused(cases: &[(&str, E)]) {
        for (text, why) in cases {
            assert_eq!(id(text).as_ref(), Err(why), "{text}");
        }
    }

    #[test]
    fn statement_1_scheme_is_spiffe_domain_not_empty_no_query_no_fragment() {
        refused(&[
            ("", E::Empty),
            ("http://example.com/a", E::Scheme),
            ("spiffe:/example.com/a", E::Scheme),
            ("spiffe:example.com", E::Scheme),
            ("//example.com/a", E::Scheme),
            ("xspiffe://example.com/a", E::Scheme),
            (" spiffe://example.com/a", E::Scheme),
            ("spiffe://example.com/a?q=1", E::Query),
            ("spiffe://example.com?q=1", E::Query),
            ("spiffe://example.com/a#f", E::Fragment),
            ("spiffe://example.com#f", E::Fragment),
        ]);
    }

    #[test]
    fn statement_2_host_not_empty_no_userinfo_no_port() {
        refused(&[
            ("spiffe://", E::NoTrustDomain),
            ("spiffe:///a", E::NoTrustDomain),
            ("spiffe://user@example.com/a", E::UserInfo),
            ("spiffe://user:secret@example.com/a", E::Port),
            ("spiffe://example.com:8080/a", E::Port),
            ("spiffe://example.com:/a", E::Port),
        ]);
    }

    #[test]
    fn statement_3_scheme_and_domain_ignore_case_and_are_issued_in_lower_case_the_path_keeps_it() {
        let upper = id("SPIFFE://Example.COM/Ns/A").unwrap();
        assert_eq!(upper.as_str(), "spiffe://example.com/Ns/A");
        assert_eq!(upper, id("spiffe://example.com/Ns/A").unwrap());
        assert_ne!(upper, id("spiffe://example.com/ns/a").unwrap());
    }

    #[test]
    fn statement_4_host_alphabet_no_percent_encoding_no_ipv6() {
        assert!(id("spiffe://my_td-1.x/a_b-c.d").is_ok());
        refused(&[
            ("spiffe://ex%61mple.com/a", E::PercentEncoding),
            ("spiffe://[::1]/a", E::TrustDomainChar('[')),
            ("spiffe://exa mple.com/a", E::TrustDomainChar(' ')),
            ("spiffe://exämple.com/a", E::TrustDomainChar('ä')),
            ("spiffe://example.com\0/a", E::TrustDomainChar('\0')),
            ("spiffe://example~com/a", E::TrustDomainChar('~')),
        ]);
    }

    #[test]
    fn statement_5_names_like_addresses_are_plain_names() {
        for host in ["1.2.3.4", "999.1.2.3", "a..b", "-a-", ".", "localhost"] {
            let parsed = id(&format!("spiffe://{host}/service")).unwrap();
            assert_eq!(parsed.trust_domain().as_str(), host);
        }
    }

    #[test]
    fn statement_6_no_percent_encoding_in_the_path() {
        refused(&[
            ("spiffe://example.com/a%2fb", E::PercentEncoding),
            ("spiffe://example.com/%", E::PercentEncoding),
        ]);
    }

    #[test]
    fn statement_7_no_empty_and_no_dot_segments() {
        refused(&[
            ("spiffe://example.com//a", E::EmptySegment),
            ("spiffe://example.com/a//b", E::EmptySegment),
            ("spiffe://example.com/./a", E::DotSegment),
            ("spiffe://example.com/a/..", E::DotSegment),
        ]);
        assert!(id("spiffe://example.com/...").is_ok(), "three dots are a plain segment");
    }

    #[test]
    fn statement_8_no_trailing_slash() {
        refused(&[
            ("spiffe://example.com/", E::TrailingSlash),
            ("spiffe://example.com/a/", E::TrailingSlash),
        ]);
    }

    #[test]
    fn statement_9_segment_alphabet() {
        refused(&[
            ("spiffe://example.com/a b", E::PathChar(' ')),
            ("spiffe://example.com/a~b", E::PathChar('~')),
            ("spiffe://example.com/a:b", E::PathChar(':')),
            ("spiffe://example.com/ä", E::PathChar('ä')),
            ("spiffe://example.com/a\n", E::PathChar('\n')),
        ]);
    }

    #[test]
    fn statement_10_2048_bytes_are_supported_a_domain_of_255_and_no_more() {
        let longest = format!("spiffe://example.com/{}", "a".repeat(MAX_ID_BYTES - 21));
        assert_eq!(longest.len(), MAX_ID_BYTES);
        assert_eq!(id(&longest).unwrap().as_str(), longest);
        assert_eq!(id(&format!("{longest}a")), Err(E::TooLong(2049)));
        assert!(id(&format!("spiffe://{}/a", "a".repeat(255))).is_ok());
        assert_eq!(
            id(&format!("spiffe://{}/a", "a".repeat(256))),
            Err(E::TrustDomainTooLong(256))
        );
    }

    #[test]
    fn the_parts_of_a_workload_identity() {
        let domain: TrustDomain = "Cluster.Local".parse().unwrap();
        let web = SpiffeId::workload(&domain, "shop", "web").unwrap();
        assert_eq!(web.as_str(), "spiffe://cluster.local/ns/shop/sa/web");
        assert_eq!((web.namespace(), web.service_account()), (Some("shop"), Some("web")));
        assert_eq!(web.path(), "/ns/shop/sa/web");
        assert_eq!(domain.id().path(), "");
        assert_eq!(domain.id(), id("spiffe://cluster.local").unwrap());
        for other in [
            "/ns/shop",
            "/ns/shop/sa",
            "/ns/a/b/sa/c",
            "/ns/a/sa/b/c",
            "/x/ns/a/sa/b",
            "/sa/a/ns/b",
        ] {
            assert_eq!(id(&format!("spiffe://td{other}")).unwrap().namespace(), None, "{other}");
        }
        assert_eq!(SpiffeId::workload(&domain, "a/b", "c"), Err(E::PathChar('/')));
        assert_eq!(SpiffeId::workload(&domain, "", "c"), Err(E::EmptySegment));
        assert_eq!(SpiffeId::workload(&domain, "a", ".."), Err(E::DotSegment));
    }

    #[test]
    fn every_refusal_names_its_section() {
        for error in [
            E::Empty,
            E::Scheme,
            E::Query,
            E::Port,
            E::PercentEncoding,
            E::TooLong(3000),
            E::PathChar('~'),
        ] {
            assert!(error.to_string().contains("(SPIFFE-ID 2"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn what_parses_is_in_normal_form_and_parses_again(text in "(spiffe|SPIFFE)://[a-zA-Z0-9._-]{1,20}(/[a-zA-Z0-9._-]{1,8}){0,4}") {
            if let Ok(parsed) = id(&text) {
                prop_assert_eq!(id(parsed.as_str()), Ok(parsed.clone()));
                prop_assert!(parsed.as_str().eq_ignore_ascii_case(&text));
                prop_assert!(text.ends_with(parsed.path()));
            }
        }

        #[test]
        fn no_input_panics_and_nothing_outside_the_alphabet_gets_in(text in "\\PC{0,40}") {
            for candidate in [text.clone(), format!("spiffe://{text}"), format!("spiffe://td/{text}")] {
                if let Ok(parsed) = id(&candidate) {
                    prop_assert!(parsed.as_str()[9..].bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/".contains(&b)));
                }
            }
        }
    }
}
