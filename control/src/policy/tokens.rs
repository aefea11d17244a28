//! `security.istio.io RequestAuthentication`: validated and read (spec §3.14). Keys are fetched and tokens verified by the
//! sidecars, elsewhere.

use squire_mesh::policy::{ClaimHeader, TOKEN_TIMEOUT, TokenIssuer, TokenKeys, TokenPlace};

use super::{
    Body, Selects, duration, labels,
    report::{Fields, Node, Report},
};
use crate::manifest::Object;

const RULE: [&str; 13] = [
    "issuer",
    "audiences",
    "jwksUri",
    "jwks_uri",
    "jwks",
    "fromHeaders",
    "fromParams",
    "fromCookies",
    "outputPayloadToHeader",
    "forwardOriginalToken",
    "outputClaimToHeaders",
    "timeout",
    "spaceDelimitedClaims",
];

pub(super) fn parse(_object: &Object, report: &mut Report<'_>) -> (Selects, Body) {
    let spec = report.spec(&["selector", "targetRef", "targetRefs", "jwtRules"]);
    let selects = labels::workload_selector(&spec, report);
    let rules = spec.get("jwtRules").map(|list| list.list(report)).unwrap_or_default();
    let issuers = rules.iter().filter_map(|node| rule(node, report)).collect();
    (selects, Body::Tokens(issuers))
}

fn rule(node: &Node<'_>, report: &mut Report<'_>) -> Option<TokenIssuer> {
    let fields = node.fields(report, &RULE);
    let issuer = fields.text("issuer", report).filter(|issuer| !issuer.is_empty());
    if issuer.is_none() {
        report.error(
            &format!("{}.issuer", node.path),
            "missing",
            "name the token's issuer (its iss claim)",
        );
    }
    let texts = |key: &str, report: &mut Report<'_>| -> Box<[Box<str>]> {
        let texts = fields.texts(key, report).into_iter();
        texts.map(|(_, text)| text.into()).collect()
    };
    let audiences = texts("audiences", report);
    let space_delimited = texts("spaceDelimitedClaims", report);
    let keys = keys(&fields, issuer.unwrap_or_default(), report);
    let places = places(&fields, report);
    let claim_headers = claim_headers(&fields, report);
    let payload_header = fields
        .text("outputPayloadToHeader", report)
        .filter(|name| !name.is_empty());
    if let Some(name) = payload_header {
        output_name(name, &format!("{}.outputPayloadToHeader", node.path), report);
    }
    let forward = fields.get("forwardOriginalToken").and_then(|node| node.boolean(report));
    let timeout = duration::timeout(&fields, report);
    Some(TokenIssuer {
        issuer: issuer?.into(),
        audiences,
        keys: keys?,
        places,
        forward: forward.unwrap_or(false),
        payload_header: payload_header.map(|name| name.to_ascii_lowercase().into()),
        claim_headers,
        timeout: timeout.unwrap_or(TOKEN_TIMEOUT),
        space_delimited,
    })
}

/// One of `jwks` and `jwksUri`; neither: OpenID Connect discovery, which needs an issuer that is a URL.
fn keys(fields: &Fields<'_>, issuer: &str, report: &mut Report<'_>) -> Option<TokenKeys> {
    let path = |key: &str| format!("{}.{key}", fields.path);
    let filled = |text: &&str| !text.is_empty();
    let uri = fields.text("jwksUri", report).filter(filled);
    let uri = uri.or_else(|| fields.text("jwks_uri", report).filter(filled));
    let inline = fields.text("jwks", report).filter(filled);
    match (uri, inline) {
        (Some(_), Some(_)) => {
            report.error(&path("jwks"), "jwks and jwksUri exclude each other", "keep one of them");
            None
        }
        (Some(uri), None) => {
            let file = uri.strip_prefix("file://").filter(|file| file.starts_with('/'));
            if let Some(file) = file {
                return Some(TokenKeys::File(file.into()));
            }
            if !is_url(uri) {
                report.error(
                    &path("jwksUri"),
                    format!("{uri:?} is neither an HTTP URL nor a file"),
                    "write https://…, or file:///… for a file beside the sidecar",
                );
                return None;
            }
            Some(TokenKeys::Url(uri.into()))
        }
        (None, Some(jwks)) => {
            let keys = serde_json::from_str::<serde_json::Value>(jwks);
            if !keys.is_ok_and(|keys| keys.get("keys").is_some_and(serde_json::Value::is_array)) {
                report.error(&path("jwks"), "not a JSON Web Key Set", "write {\"keys\": […]}");
                return None;
            }
            Some(TokenKeys::Inline(jwks.into()))
        }
        (None, None) => {
            if !issuer.is_empty() && !is_url(issuer) {
                report.warn(
                    &path("jwksUri"),
                    format!("no keys, and {issuer:?} is no URL to discover them at: its tokens are refused"),
                    "set jwksUri or jwks",
                );
            }
            Some(TokenKeys::Discovery)
        }
    }
}

fn is_url(text: &str) -> bool {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    rest.is_some_and(|rest| {
        let authority = rest.split(['/', '?']).next().unwrap_or_default();
        let port = authority
            .rsplit_once(':')
            .filter(|(_, port)| !port.contains(']'))
            .map(|(_, port)| port);
        let numeric = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
        numeric && !authority.is_empty() && !authority.starts_with(':') && !rest.contains([' ', '@', '#'])
    })
}

fn places(fields: &Fields<'_>, report: &mut Report<'_>) -> Box<[TokenPlace]> {
    let mut places = Vec::new();
    for header in fields
        .get("fromHeaders")
        .map(|list| list.list(report))
        .unwrap_or_default()
    {
        let inner = header.fields(report, &["name", "prefix"]);
        let prefix = inner.text("prefix", report).unwrap_or_default();
        match inner.text("name", report).unwrap_or_default() {
            "" => report.error(&format!("{}.name", header.path), "missing", "name the header"),
            name if !is_token(name) => report.error(
                &format!("{}.name", header.path),
                format!("{name:?} is not the name of a header"),
                "write a name such as x-token",
            ),
            name => places.push(TokenPlace::Header {
                name: name.to_ascii_lowercase().into(),
                prefix: prefix.into(),
            }),
        }
    }
    let params = fields.texts("fromParams", report).into_iter();
    places.extend(params.map(|(_, name)| TokenPlace::Param(name.into())));
    let cookies = fields.texts("fromCookies", report).into_iter();
    places.extend(cookies.map(|(_, name)| TokenPlace::Cookie(name.into())));
    places.into()
}

fn claim_headers(fields: &Fields<'_>, report: &mut Report<'_>) -> Box<[ClaimHeader]> {
    let mut outputs = Vec::new();
    let list = fields.get("outputClaimToHeaders");
    for output in list.map(|list| list.list(report)).unwrap_or_default() {
        let inner = output.fields(report, &["header", "claim"]);
        let mut text = |key: &str| {
            let text = inner.text(key, report).unwrap_or_default();
            if text.is_empty() {
                report.error(
                    &format!("{}.{key}", output.path),
                    "missing",
                    "set both header and claim",
                );
            }
            text
        };
        let (header, claim) = (text("header"), text("claim"));
        output_name(header, &format!("{}.header", output.path), report);
        outputs.push(ClaimHeader {
            header: header.to_ascii_lowercase().into(),
            claim: claim.into(),
        });
    }
    outputs.into()
}

/// A field that the sidecar sets must not be one that says how the message is read.
fn output_name(name: &str, path: &str, report: &mut Report<'_>) {
    const FRAMING: [&str; 8] = [
        "host",
        "connection",
        "content-length",
        "transfer-encoding",
        "te",
        "trailer",
        "upgrade",
        "keep-alive",
    ];
    if !is_token(name) || FRAMING.contains(&name.to_ascii_lowercase().as_str()) {
        report.error(
            path,
            format!("{name:?} cannot be set"),
            "choose a header of your own, such as x-jwt-claim-sub",
        );
    }
}

/// What the name of a header field may be made of (RFC 9110 §5.6.2).
fn is_token(name: &str) -> bool {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    name.bytes().all(token)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::manifest::Manifest;

    fn read(rule: &str) -> (Vec<TokenIssuer>, Vec<String>) {
        let text = format!(
            "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: r, namespace: n}}\nspec:\n  jwtRules:\n  - {rule}\n"
        );
        let manifest = Manifest::parse("r.yaml", &text);
        assert!(manifest.problems.is_empty(), "{:?}", manifest.problems);
        let object = manifest.objects.first().unwrap();
        let mut report = Report::new(object);
        let (_, body) = parse(object, &mut report);
        let Body::Tokens(issuers) = body else {
            panic!("no tokens")
        };
        let problems = report.finish().into_iter();
        let problems = problems
            .map(|problem| format!("{}: {}", problem.path, problem.message))
            .collect();
        (issuers.into_vec(), problems)
    }

    #[test]
    fn a_rule_is_read_with_all_of_its_fields() {
        let (issuers, problems) = read(
            "{issuer: 'https://i', audiences: [a, b], jwksUri: 'https://i/keys', fromHeaders: [{name: X-Token, prefix: 'T '}], fromParams: [t], fromCookies: [c], \
             forwardOriginalToken: true, outputPayloadToHeader: X-Payload, outputClaimToHeaders: [{header: X-Sub, claim: sub}], timeout: 2s, spaceDelimitedClaims: [roles]}",
        );
        assert!(problems.is_empty(), "{problems:?}");
        let expected = TokenIssuer {
            audiences: ["a".into(), "b".into()].into(),
            places: [
                TokenPlace::Header {
                    name: "x-token".into(),
                    prefix: "T ".into(),
                },
                TokenPlace::Param("t".into()),
                TokenPlace::Cookie("c".into()),
            ]
            .into(),
            forward: true,
            payload_header: Some("x-payload".into()),
            claim_headers: [ClaimHeader {
                header: "x-sub".into(),
                claim: "sub".into(),
            }]
            .into(),
            timeout: Duration::from_secs(2),
            space_delimited: ["roles".into()].into(),
            ..TokenIssuer::new("https://i", TokenKeys::Url("https://i/keys".into()))
        };
        assert_eq!(issuers, [expected]);
    }

    #[test]
    fn keys_come_from_one_place() {
        for (rule, expected) in [
            (
                "{issuer: i, jwks: '{\"keys\": []}'}",
                TokenKeys::Inline("{\"keys\": []}".into()),
            ),
            (
                "{issuer: i, jwksUri: 'file:///etc/keys.json'}",
                TokenKeys::File("/etc/keys.json".into()),
            ),
            (
                "{issuer: i, jwks_uri: 'http://k.shop/keys'}",
                TokenKeys::Url("http://k.shop/keys".into()),
            ),
            ("{issuer: 'https://i'}", TokenKeys::Discovery),
        ] {
            let (issuers, problems) = read(rule);
            assert!(problems.is_empty(), "{rule}: {problems:?}");
            assert_eq!(issuers[0].keys, expected);
        }
    }

    #[test]
    fn what_cannot_be_meant_is_an_error() {
        for (rule, expected) in [
            ("{jwks: '{\"keys\": []}'}", "issuer: missing"),
            (
                "{issuer: i, jwksUri: 'file://keys.json'}",
                "jwksUri: \"file://keys.json\"",
            ),
            ("{issuer: i, jwksUri: 'ftp://i/k'}", "jwksUri: \"ftp://i/k\""),
            ("{issuer: i, jwks: '{}'}", "jwks: not a JSON Web Key Set"),
            ("{issuer: i, jwks: '{}', jwksUri: 'https://i/k'}", "exclude each other"),
            ("{issuer: i}", "no keys"),
            ("{issuer: 'https://i', outputPayloadToHeader: Host}", "cannot be set"),
            (
                "{issuer: 'https://i', outputClaimToHeaders: [{header: 'a b', claim: c}]}",
                "cannot be set",
            ),
            ("{issuer: 'https://i', timeout: 5}", "timeout: must be text"),
        ] {
            let (_, problems) = read(rule);
            assert!(
                problems.iter().any(|problem| problem.contains(expected)),
                "{rule}: {problems:?}"
            );
        }
    }
}
