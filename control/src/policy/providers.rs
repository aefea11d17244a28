//! External authorization providers of the mesh config: Istio's `envoyExtAuthzHttp` and `envoyExtAuthzGrpc`, and the same
//! fields in our own form. Reads and checks; asks nobody.

use squire_mesh::policy::{BodyInCheck, HttpCheck, Provider, ProviderAddress, ProviderKind, TextMatch};

use super::{
    duration,
    report::{Fields, Node, Report},
};

/// Fields of both kinds, as Istio names them.
const FIELDS: [&str; 8] = [
    "service",
    "port",
    "timeout",
    "failOpen",
    "statusOnError",
    "includeRequestBodyInCheck",
    // There is no route to choose again once a request is authorized.
    "clearRouteCache",
    "type",
];

/// Fields of providers over HTTP.
const HTTP_FIELDS: [&str; 7] = [
    "pathPrefix",
    "includeRequestHeadersInCheck",
    "includeHeadersInCheck",
    "includeAdditionalHeadersInCheck",
    "headersToUpstreamOnAllow",
    "headersToDownstreamOnDeny",
    "headersToDownstreamOnAllow",
];

/// An entry of `extensionProviders` in our own settings: the provider's fields beside its `type`.
pub(super) fn own(name: &str, node: &Node<'_>, report: &mut Report<'_>) -> Option<Provider> {
    let kind = match node.open(report).text("type", report) {
        Some("grpc") => ProviderKind::Grpc,
        Some("http") => ProviderKind::Http,
        other => {
            let message = other.map_or_else(|| "missing".to_owned(), |other| format!("unknown type {other:?}"));
            report.error(&format!("{}.type", node.path), message, "use grpc or http");
            return None;
        }
    };
    Some(read(name, kind, node, report))
}

/// An entry of `extensionProviders` in Istio's settings. Kinds that authorize nothing (tracing, access logs) are not ours.
pub(super) fn istio(node: &Node<'_>, report: &mut Report<'_>) -> Option<Provider> {
    let fields = node.open(report);
    let (inner, kind) = [
        ("envoyExtAuthzHttp", ProviderKind::Http),
        ("envoyExtAuthzGrpc", ProviderKind::Grpc),
    ]
    .into_iter()
    .find_map(|(key, kind)| Some((fields.get(key)?, kind)))?;
    let name = fields.text("name", report).unwrap_or_default();
    if name.is_empty() {
        report.error(&format!("{}.name", node.path), "missing", "name the provider");
        return None;
    }
    Some(read(name, kind, &inner, report))
}

fn read(name: &str, kind: ProviderKind, node: &Node<'_>, report: &mut Report<'_>) -> Provider {
    let known: Vec<_> = match kind {
        ProviderKind::Http => FIELDS.into_iter().chain(HTTP_FIELDS).collect(),
        ProviderKind::Grpc => FIELDS.to_vec(),
    };
    let fields = node.fields(report, &known);
    let default = Provider::new(name, kind);
    let timeout = duration::timeout(&fields, report);
    let fail_open = fields.get("failOpen").and_then(|node| node.boolean(report));
    if let Some(node) = fields.get("clearRouteCache") {
        node.boolean(report);
    }
    Provider {
        fail_open: fail_open.unwrap_or(default.fail_open),
        address: address(&fields, report),
        timeout: timeout.unwrap_or(default.timeout),
        status_on_error: status_on_error(&fields, report).unwrap_or(default.status_on_error),
        body: body(&fields, report),
        http: http(&fields, report),
        ..default
    }
}

/// `service` is `[<namespace>/]<host>`; the namespace only says where Istio looks the host up.
fn address(fields: &Fields<'_>, report: &mut Report<'_>) -> Option<ProviderAddress> {
    let service = fields.text("service", report).unwrap_or_default();
    let host = service
        .rsplit_once('/')
        .map_or(service, |(_, host)| host)
        .trim_end_matches('.');
    let port = fields.get("port").and_then(|node| number(&node, 1..=65535, report));
    match (host, port) {
        ("", _) | (_, None) => {
            report.warn(
                &fields.path,
                "no service and port: what this provider should be asked is denied",
                "set service: <name>.<namespace>.svc.cluster.local and port",
            );
            None
        }
        (host, Some(port)) => Some(ProviderAddress {
            host: host.to_ascii_lowercase().into(),
            port: u16::try_from(port).ok()?,
        }),
    }
}

/// An HTTP status, as text (Istio) or as a number.
fn status_on_error(fields: &Fields<'_>, report: &mut Report<'_>) -> Option<u16> {
    number(&fields.get("statusOnError")?, 200..=599, report).and_then(|status| u16::try_from(status).ok())
}

fn body(fields: &Fields<'_>, report: &mut Report<'_>) -> Option<BodyInCheck> {
    let node = fields.get("includeRequestBodyInCheck")?;
    let body = node.fields(report, &["maxRequestBytes", "allowPartialMessage", "packAsBytes"]);
    let flag =
        |key: &str, report: &mut Report<'_>| body.get(key).and_then(|node| node.boolean(report)).unwrap_or(false);
    let allow_partial = flag("allowPartialMessage", report);
    let pack_as_bytes = flag("packAsBytes", report);
    let Some(size) = body.get("maxRequestBytes") else {
        report.error(
            &format!("{}.maxRequestBytes", node.path),
            "missing",
            "say how many bytes are shown",
        );
        return None;
    };
    Some(BodyInCheck {
        max_bytes: number(&size, 1..=MAX_BODY, report)?,
        allow_partial,
        pack_as_bytes,
    })
}

/// The sidecar holds this much of a body for each request that is being asked about.
const MAX_BODY: u32 = 16 << 20;

fn http(fields: &Fields<'_>, report: &mut Report<'_>) -> HttpCheck {
    let matches = |key: &str, report: &mut Report<'_>| -> Vec<TextMatch> {
        let texts = fields.texts(key, report).into_iter();
        texts
            .map(|(_, text)| TextMatch::parse(&text.to_ascii_lowercase()))
            .collect()
    };
    let mut request_headers = matches("includeRequestHeadersInCheck", report);
    // What it was called before; Istio still takes both.
    request_headers.extend(matches("includeHeadersInCheck", report));
    let additional = fields
        .get("includeAdditionalHeadersInCheck")
        .map(|map| map.entries(report))
        .unwrap_or_default();
    let path_prefix = fields.text("pathPrefix", report).unwrap_or_default();
    if !path_prefix.is_empty() && !path_prefix.starts_with('/') {
        report.error(
            &format!("{}.pathPrefix", fields.path),
            "does not begin with /",
            "write /…",
        );
    }
    HttpCheck {
        path_prefix: path_prefix.trim_end_matches('/').into(),
        request_headers: request_headers.into(),
        additional_headers: additional
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_ascii_lowercase().into(), value.text(report)?.into())))
            .collect(),
        upstream_on_allow: matches("headersToUpstreamOnAllow", report).into(),
        downstream_on_deny: matches("headersToDownstreamOnDeny", report).into(),
        downstream_on_allow: matches("headersToDownstreamOnAllow", report).into(),
    }
}

fn number(node: &Node<'_>, range: std::ops::RangeInclusive<u32>, report: &mut Report<'_>) -> Option<u32> {
    let number = match node.value.as_str() {
        Some(text) => text.parse().ok(),
        None => node.value.as_u64().and_then(|number| u32::try_from(number).ok()),
    };
    let number = number.filter(|number| range.contains(number));
    if number.is_none() {
        report.error(
            &node.path,
            format!("must be a number from {} to {}", range.start(), range.end()),
            format!("write {}…{}", range.start(), range.end()),
        );
    }
    number
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use squire_mesh::policy::PROVIDER_TIMEOUT;

    use crate::{
        manifest::{Manifest, Severity},
        policy::MeshConfig,
    };

    use super::*;

    fn config(providers: &str) -> (MeshConfig, Vec<String>) {
        let text = format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata:\n  mesh: |\n    extensionProviders:\n{providers}"
        );
        let manifest = Manifest::parse("mesh.yaml", &text);
        assert!(manifest.problems.is_empty(), "{:?}", manifest.problems);
        let (config, problems) = MeshConfig::from_objects(&manifest.objects);
        let problems = problems
            .into_iter()
            .map(|problem| format!("{:?} {}: {}", problem.severity, problem.path, problem.message))
            .collect();
        (config, problems)
    }

    #[test]
    fn an_http_provider_is_read_with_all_of_its_fields() {
        let (config, problems) = config(
            "    - name: ext
      envoyExtAuthzHttp:
        service: foo/ext-authz.foo.svc.cluster.local
        port: 8000
        timeout: 1.5s
        failOpen: true
        statusOnError: '503'
        pathPrefix: /check
        includeRequestHeadersInCheck: [X-Ext-Authz, x-a*]
        includeAdditionalHeadersInCheck: {X-Fixed: 'yes'}
        includeRequestBodyInCheck: {maxRequestBytes: 4096, allowPartialMessage: true}
        headersToUpstreamOnAllow: [authorization]
        headersToDownstreamOnDeny: [set-cookie]
        headersToDownstreamOnAllow: ['*-id']
    - name: otel
      opentelemetry: {service: x, port: 4317}
",
        );
        assert!(problems.is_empty(), "{problems:?}");
        assert_eq!(
            config.extension_providers.len(),
            1,
            "what authorizes nothing is left out"
        );
        let text = |text: &str| [TextMatch::parse(text)].into();
        let expected = Provider {
            fail_open: true,
            address: Some(ProviderAddress {
                host: "ext-authz.foo.svc.cluster.local".into(),
                port: 8000,
            }),
            timeout: Duration::from_millis(1500),
            status_on_error: 503,
            body: Some(BodyInCheck {
                max_bytes: 4096,
                allow_partial: true,
                pack_as_bytes: false,
            }),
            http: HttpCheck {
                path_prefix: "/check".into(),
                request_headers: ["x-ext-authz", "x-a*"].map(TextMatch::parse).into(),
                additional_headers: [("x-fixed".into(), "yes".into())].into(),
                upstream_on_allow: text("authorization"),
                downstream_on_deny: text("set-cookie"),
                downstream_on_allow: text("*-id"),
            },
            ..Provider::new("ext", ProviderKind::Http)
        };
        assert_eq!(*config.extension_providers["ext"], expected);
    }

    #[test]
    fn a_grpc_provider_has_istios_defaults() {
        let (config, problems) = config(
            "    - name: ext\n      envoyExtAuthzGrpc: {service: ext.shop, port: 9000, clearRouteCache: true}\n",
        );
        assert!(problems.is_empty(), "{problems:?}");
        let provider = &config.extension_providers["ext"];
        assert_eq!(provider.kind, ProviderKind::Grpc);
        assert_eq!((provider.timeout, provider.status_on_error), (PROVIDER_TIMEOUT, 403));
        assert!(!provider.fail_open && provider.body.is_none());
    }

    #[test]
    fn what_cannot_be_meant_is_an_error_and_a_provider_without_an_address_stays_closed() {
        for (fields, expected) in [
            ("{service: a.b, port: 70000}", "port: must be a number from 1 to 65535"),
            (
                "{service: a.b, port: 80, statusOnError: '99'}",
                "statusOnError: must be a number",
            ),
            (
                "{service: a.b, port: 80, timeout: soon}",
                "timeout: \"soon\" is not a duration",
            ),
            (
                "{service: a.b, port: 80, includeRequestBodyInCheck: {}}",
                "maxRequestBytes: missing",
            ),
            (
                "{service: a.b, port: 80, pathPrefix: /x}",
                "unknown field \"pathPrefix\"",
            ),
        ] {
            let (_, problems) = config(&format!("    - name: p\n      envoyExtAuthzGrpc: {fields}\n"));
            assert!(
                problems.iter().any(|problem| problem.contains(expected)),
                "{fields}: {problems:?}"
            );
        }
        let (config, problems) = config("    - name: p\n      envoyExtAuthzGrpc: {failOpen: true}\n");
        assert!(
            problems[0].starts_with(&format!("{:?}", Severity::Warning)),
            "{problems:?}"
        );
        assert_eq!(config.extension_providers["p"].address, None);
    }
}
