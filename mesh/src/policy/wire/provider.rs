//! External authorization providers to and from the wire.

use std::time::Duration;

use super::{
    WireError,
    authorization::{text, write_text},
    invalid, list, port_number, unknown,
};
use crate::{
    policy::{BodyInCheck, HttpCheck, Provider, ProviderAddress, ProviderKind, TextMatch},
    wire::{milliseconds, squire as wire},
};

pub(super) fn provider(message: wire::ExtensionProvider) -> Result<Provider, WireError> {
    let kind = match wire::ProviderKind::try_from(message.kind) {
        Ok(wire::ProviderKind::Http) => ProviderKind::Http,
        Ok(wire::ProviderKind::Grpc) => ProviderKind::Grpc,
        Ok(wire::ProviderKind::Unspecified) | Err(_) => return Err(unknown("provider kind", message.kind)),
    };
    let address = ProviderAddress {
        host: message.host.into(),
        port: port_number(message.port)?,
    };
    let status = u16::try_from(message.status_on_error).ok();
    Ok(Provider {
        name: message.name.into(),
        kind,
        fail_open: message.fail_open,
        address: (!address.host.is_empty()).then_some(address),
        timeout: Duration::from_millis(message.timeout_ms),
        status_on_error: status
            .filter(|status| (200..600).contains(status))
            .ok_or_else(|| invalid("status on error", message.status_on_error))?,
        body: message.body.map(|body| BodyInCheck {
            max_bytes: body.max_bytes,
            allow_partial: body.allow_partial,
            pack_as_bytes: body.pack_as_bytes,
        }),
        http: message.http.map(http).transpose()?.unwrap_or_default(),
    })
}

pub(super) fn write(provider: &Provider) -> wire::ExtensionProvider {
    let address = provider.address.as_ref();
    wire::ExtensionProvider {
        name: provider.name.to_string(),
        kind: match provider.kind {
            ProviderKind::Http => wire::ProviderKind::Http.into(),
            ProviderKind::Grpc => wire::ProviderKind::Grpc.into(),
        },
        fail_open: provider.fail_open,
        host: address.map(|address| address.host.to_string()).unwrap_or_default(),
        port: address.map(|address| address.port.into()).unwrap_or_default(),
        timeout_ms: milliseconds(provider.timeout),
        status_on_error: provider.status_on_error.into(),
        body: provider.body.map(|body| wire::BodyInCheck {
            max_bytes: body.max_bytes,
            allow_partial: body.allow_partial,
            pack_as_bytes: body.pack_as_bytes,
        }),
        http: (provider.http != HttpCheck::default()).then(|| write_http(&provider.http)),
    }
}

fn http(message: wire::HttpCheck) -> Result<HttpCheck, WireError> {
    let fixed = |header: wire::FixedHeader| (header.name.into(), header.value.into());
    Ok(HttpCheck {
        path_prefix: message.path_prefix.into(),
        request_headers: list(message.request_headers, text)?,
        additional_headers: message.additional_headers.into_iter().map(fixed).collect(),
        upstream_on_allow: list(message.upstream_on_allow, text)?,
        downstream_on_deny: list(message.downstream_on_deny, text)?,
        downstream_on_allow: list(message.downstream_on_allow, text)?,
    })
}

fn write_texts(values: &[TextMatch]) -> Vec<wire::TextMatch> {
    values.iter().map(write_text).collect()
}

fn write_http(http: &HttpCheck) -> wire::HttpCheck {
    let fixed = |(name, value): &(Box<str>, Box<str>)| wire::FixedHeader {
        name: name.to_string(),
        value: value.to_string(),
    };
    wire::HttpCheck {
        path_prefix: http.path_prefix.to_string(),
        request_headers: write_texts(&http.request_headers),
        additional_headers: http.additional_headers.iter().map(fixed).collect(),
        upstream_on_allow: write_texts(&http.upstream_on_allow),
        downstream_on_deny: write_texts(&http.downstream_on_deny),
        downstream_on_allow: write_texts(&http.downstream_on_allow),
    }
}
