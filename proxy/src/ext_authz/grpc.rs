//! Asking over gRPC (`envoy.service.auth.v3.Authorization/Check`), about requests and about connections of bytes. Status 0
//! allows, any other denies; a call that fails is no answer.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    sync::{Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use squire_mesh::{
    policy::{Provider, ProviderAddress, Request},
    wire::{
        auth::{
            AttributeContext, CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse,
            attribute_context::{HttpRequest, Peer, Request as Asked, TlsSession},
            authorization_client::AuthorizationClient,
            check_response::HttpResponse,
        },
        core::{self, HeaderValueOption, header_value_option::HeaderAppendAction},
    },
};
use tonic::{Code, Status};

use super::{Body, Context, Failure, Said, edits};
use crate::{
    callouts::{
        client::{Client, Origin},
        connect::Standing,
    },
    channel::Channel,
    http::{Edits, LocalReply, RequestView},
};

/// Of a provider's answer.
const MAX_ANSWER: usize = 1 << 20;

/// A check that is ready to be sent, with the names of the fields the request has.
pub(super) struct Check {
    request: CheckRequest,
    present: Vec<Box<str>>,
}

/// Writes the check.
pub(super) fn check(
    provider: &Provider,
    request: &Request<'_>,
    view: Option<&RequestView<'_>>,
    body: Body<'_>,
    context: &Context<'_>,
) -> Check {
    let scheme = |id: &str| format!("spiffe://{id}");
    let peer = request.source.principal.filter(|_| request.connection.mutual_tls);
    let mut present = Vec::new();
    let http = view.map(|view| {
        let http = shown(provider, view, body, context);
        present = http.headers.keys().map(|name| name.as_str().into()).collect();
        http
    });
    let attributes = AttributeContext {
        source: Some(Peer {
            address: Some(address(request.source.ip, context.source_port)),
            principal: peer.map(|peer| scheme(peer.as_str())).unwrap_or_default(),
            ..Peer::default()
        }),
        destination: Some(Peer {
            address: Some(address(request.destination.ip, request.destination.port)),
            principal: context.local.map(ToString::to_string).unwrap_or_default(),
            ..Peer::default()
        }),
        request: Some(Asked {
            time: Some(SystemTime::now().into()),
            http,
        }),
        context_extensions: BTreeMap::new(),
        tls_session: request.connection.sni.map(|sni| TlsSession { sni: sni.to_owned() }),
    };
    Check {
        request: CheckRequest {
            attributes: Some(attributes),
        },
        present,
    }
}

fn address(ip: IpAddr, port: u16) -> core::Address {
    let address = SocketAddr::new(ip.to_canonical(), port);
    core::Address {
        address: Some(core::address::Address::SocketAddress(core::SocketAddress {
            address: address.ip().to_string(),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(address.port().into())),
        })),
    }
}

fn shown(provider: &Provider, view: &RequestView<'_>, body: Body<'_>, context: &Context<'_>) -> HttpRequest {
    let path = context.edits.target.as_deref().or(view.target).unwrap_or_default();
    let mut headers = BTreeMap::from([
        (":authority".to_owned(), view.authority.to_owned()),
        (":method".to_owned(), view.method.to_owned()),
        (":path".to_owned(), path.to_owned()),
        (":scheme".to_owned(), "http".to_owned()),
    ]);
    edits::each_forwarded(view, context.edits, &mut |name, value| {
        let value = String::from_utf8_lossy(value);
        let joined = headers.entry(name.to_owned()).or_default();
        if !joined.is_empty() {
            joined.push_str(if name == "cookie" { "; " } else { "," });
        }
        joined.push_str(&value);
    });
    let mut http = HttpRequest {
        id: context.request_id.to_owned(),
        method: view.method.to_owned(),
        path: path.to_owned(),
        host: view.authority.to_owned(),
        scheme: "http".to_owned(),
        query: path
            .split_once('?')
            .map(|(_, query)| query.to_owned())
            .unwrap_or_default(),
        size: headers
            .get("content-length")
            .and_then(|length| length.parse().ok())
            .unwrap_or(-1),
        protocol: view.version.as_str().to_owned(),
        ..HttpRequest::default()
    };
    if let Some(limit) = provider.body {
        let partial = if body.complete { "false" } else { "true" };
        headers.insert("x-envoy-auth-partial-body".to_owned(), partial.to_owned());
        if limit.pack_as_bytes {
            http.raw_body = body.bytes.to_vec();
        } else {
            http.body = String::from_utf8_lossy(body.bytes).into_owned();
        }
    }
    http.headers = headers;
    http
}

/// One HTTP/2 connection for each provider, shared by all checks.
#[derive(Default)]
pub(super) struct Channels(Mutex<HashMap<ProviderAddress, Kept>>);

struct Kept {
    channel: Channel,
    standing: Standing,
}

impl Channels {
    /// Sends the check and reads the answer. `target`: of the request, for edits of its query.
    pub(super) async fn ask(
        &self,
        client: &Client,
        provider: &Provider,
        check: Check,
        target: Option<&str>,
    ) -> Result<Said, Failure> {
        let Some(address) = &provider.address else {
            return Err(Failure::NoAnswer("the provider has no address".to_owned()));
        };
        if let Some(channel) = self.kept(address) {
            match call(channel.clone(), check.request.clone()).await {
                // The connection has ended since; asking twice does no harm.
                Err(_) if channel.is_closed() => {}
                done => return answer(done, target, &check.present),
            }
        }
        let channel = self.open(client, address).await?;
        answer(call(channel, check.request).await, target, &check.present)
    }

    fn kept(&self, address: &ProviderAddress) -> Option<Channel> {
        let mut all = self.lock();
        let kept = all.get(address)?;
        if kept.channel.is_closed() || !kept.standing.holds() {
            all.remove(address);
            return None;
        }
        Some(kept.channel.clone())
    }

    async fn open(&self, client: &Client, address: &ProviderAddress) -> Result<Channel, Failure> {
        let origin = Origin {
            tls: false,
            host: address.host.clone(),
            port: address.port,
        };
        let failed = |error: &dyn std::error::Error| Failure::NoAnswer(error.to_string());
        let (stream, standing) = client.stream(&origin).await.map_err(|error| failed(&error))?;
        let channel = Channel::over(stream, "http", &origin.authority())
            .await
            .map_err(|error| failed(&error))?;
        let kept = Kept {
            channel: channel.clone(),
            standing,
        };
        self.lock().insert(address.clone(), kept);
        Ok(channel)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ProviderAddress, Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn call(channel: Channel, request: CheckRequest) -> Result<CheckResponse, Status> {
    let origin = channel.origin();
    let mut client = AuthorizationClient::with_origin(channel, origin).max_decoding_message_size(MAX_ANSWER);
    Ok(client.check(request).await?.into_inner())
}

fn answer(
    response: Result<CheckResponse, Status>,
    target: Option<&str>,
    present: &[Box<str>],
) -> Result<Said, Failure> {
    let response = response.map_err(|status| {
        let (code, message) = (status.code(), status.message());
        Failure::NoAnswer(format!("the call failed: {code:?} {message}"))
    })?;
    let Some(status) = response.status else {
        return Err(Failure::NoAnswer("the answer has no status".to_owned()));
    };
    match (status.code == Code::Ok as i32, response.http_response) {
        (true, Some(HttpResponse::OkResponse(ok))) => Ok(allow(&ok, target, present)),
        (true, Some(HttpResponse::DeniedResponse(_))) => {
            Err(Failure::NoAnswer("the answer allows and denies at once".to_owned()))
        }
        (true, None) => Ok(Said::Allow {
            edits: Edits::default(),
            response: Edits::default(),
        }),
        (false, Some(HttpResponse::DeniedResponse(denied))) => Ok(Said::Deny(deny(denied))),
        (false, _) => Ok(Said::Deny(deny(DeniedHttpResponse::default()))),
    }
}

fn allow(ok: &OkHttpResponse, target: Option<&str>, present: &[Box<str>]) -> Said {
    let mut edits = changes(&ok.headers, |name| present.iter().any(|one| **one == *name));
    let removed = ok.headers_to_remove.iter().map(|name| name.to_ascii_lowercase());
    edits
        .remove
        .extend(removed.filter(|name| edits::is_free(name)).map(Into::into));
    if !ok.query_parameters_to_set.is_empty() || !ok.query_parameters_to_remove.is_empty() {
        let parameter = |parameter: &core::QueryParameter| (parameter.key.clone(), parameter.value.clone());
        let set: Vec<_> = ok.query_parameters_to_set.iter().map(parameter).collect();
        edits.target = target.map(|target| edits::target(target, &ok.query_parameters_to_remove, &set).into());
    }
    Said::Allow {
        edits,
        response: changes(&ok.response_headers_to_add, |_| false),
    }
}

/// Fields as a provider wants them. `present`: whether the message has a field already.
fn changes(options: &[HeaderValueOption], present: impl Fn(&str) -> bool) -> Edits {
    let mut edits = Edits::default();
    for option in options {
        let Some(header) = &option.header else { continue };
        let name = header.key.to_ascii_lowercase();
        let value = if header.raw_value.is_empty() {
            header.value.as_bytes()
        } else {
            &header.raw_value
        };
        if !edits::is_free(&name) || !edits::is_value(value) {
            continue;
        }
        let field = (name.as_str().into(), value.into());
        match (option.append, option.append_action()) {
            (Some(true), _) => edits.add.push(field),
            (_, HeaderAppendAction::AddIfAbsent) if present(&name) => {}
            (_, HeaderAppendAction::OverwriteIfExists) if !present(&name) => {}
            // Without a word on appending, Envoy replaces; a name that comes again in one answer is added to it.
            _ if edits.set.iter().any(|(known, _)| **known == *name) => edits.add.push(field),
            _ => edits.set.push(field),
        }
    }
    edits
}

fn deny(denied: DeniedHttpResponse) -> LocalReply {
    let status = denied.status.map_or(0, |status| status.code);
    let status = u16::try_from(status)
        .ok()
        .filter(|status| (200..600).contains(status))
        .unwrap_or(403);
    let edits = changes(&denied.headers, |_| false);
    LocalReply {
        status,
        fields: edits.set.into_iter().chain(edits.add).collect(),
        body: denied.body.into_bytes().into(),
    }
}
