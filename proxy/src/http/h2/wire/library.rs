//! The face of this room on the `h2` crate: heads are translated on the way in and on the way out.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Ping, PingPong, Reason, RecvStream, SendStream, client, ext::Protocol, server};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, uri::Parts};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    Head, Receiving,
    error::{By, Error},
    fields::{Field, FieldList},
};
use crate::http::h2::limits::Limits;

/// The server's end of a connection.
pub(in super::super) struct Server<S> {
    connection: server::Connection<S, Bytes>,
    ping: Option<PingPong>,
}

type Accepted = (FieldList, RecvStream, server::SendResponse<Bytes>);

impl<S> Server<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    pub(super) async fn handshake(io: S, limits: Limits) -> Result<Self, Error> {
        let mut connection = limits.server().handshake(io).await?;
        Ok(Self {
            ping: connection.ping_pong(),
            connection,
        })
    }

    pub(super) fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Accepted, Error>>> {
        self.connection.poll_accept(cx).map(|accepted| {
            accepted.map(|accepted| {
                let (request, responding) = accepted?;
                let (head, receiving) = request_fields(request);
                Ok((head, receiving, responding))
            })
        })
    }

    pub(super) fn graceful_shutdown(&mut self) {
        self.connection.graceful_shutdown();
    }

    pub(super) fn abrupt_shutdown(&mut self, reason: Reason) {
        self.connection.abrupt_shutdown(reason);
    }

    pub(super) fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.connection.poll_closed(cx).map_err(Error::from)
    }

    pub(super) fn ping(&mut self) -> bool {
        self.ping
            .as_mut()
            .is_some_and(|ping| ping.send_ping(Ping::opaque()).is_ok())
    }

    pub(super) fn has_answered(&mut self, cx: &mut Context<'_>) -> bool {
        self.ping.as_mut().is_some_and(|ping| ping.poll_pong(cx).is_ready())
    }
}

pub(super) fn poll_trailers(
    receiving: &mut RecvStream,
    cx: &mut Context<'_>,
) -> Poll<Result<Option<FieldList>, Error>> {
    let trailers = ready!(receiving.poll_trailers(cx))?;
    Poll::Ready(Ok(trailers.map(|trailers| {
        let mut fields = FieldList::default();
        add(&mut fields, &trailers);
        fields
    })))
}

pub(super) fn poll_send(
    sending: &mut SendStream<Bytes>,
    bytes: &mut Bytes,
    last: bool,
    cx: &mut Context<'_>,
) -> Poll<Result<(), Error>> {
    if bytes.is_empty() {
        return Poll::Ready(match last {
            true => sending.send_data(Bytes::new(), true).map_err(Error::from),
            false => Ok(()),
        });
    }
    while !bytes.is_empty() {
        if sending.capacity() == 0 {
            sending.reserve_capacity(bytes.len());
            while sending.capacity() == 0 {
                if let Some(Ok(_)) = ready!(sending.poll_capacity(cx)) {
                    continue;
                }
                return Poll::Ready(Err(match sending.poll_reset(cx) {
                    Poll::Ready(reason) => reset(reason),
                    Poll::Pending => reset(Ok(Reason::CANCEL)),
                }));
            }
        }
        let piece = bytes.split_to(sending.capacity().min(bytes.len()));
        sending.send_data(piece, last && bytes.is_empty())?;
    }
    Poll::Ready(Ok(()))
}

pub(super) fn send_trailers(sending: &mut SendStream<Bytes>, fields: &FieldList) -> Result<(), Error> {
    sending.send_trailers(map(fields)).map_err(Error::from)
}

/// A connection to a server.
pub(in super::super) struct Client<S>
where
    S: AsyncRead + AsyncWrite,
{
    connection: client::Connection<S, Bytes>,
    ping: Option<PingPong>,
}

impl<S> Client<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    pub(super) async fn handshake(io: S, limits: &Limits) -> Result<(client::SendRequest<Bytes>, Self), Error> {
        let (opener, mut connection) = limits.client().handshake(io).await?;
        let ping = connection.ping_pong();
        Ok((opener, Self { connection, ping }))
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        std::future::Future::poll(std::pin::Pin::new(&mut self.connection), cx).map_err(Error::from)
    }

    pub(super) fn ping(&mut self) -> bool {
        self.ping
            .as_mut()
            .is_some_and(|ping| ping.send_ping(Ping::opaque()).is_ok())
    }

    pub(super) fn has_answered(&mut self, cx: &mut Context<'_>) -> bool {
        self.ping.as_mut().is_some_and(|ping| ping.poll_pong(cx).is_ready())
    }
}

/// A reset that was waited for.
pub(super) fn reset(reason: Result<Reason, h2::Error>) -> Error {
    match reason {
        Ok(reason) => Error::Reset { reason, by: By::Peer },
        Err(error) => error.into(),
    }
}

pub(super) fn send_interim(responding: &mut server::SendResponse<Bytes>, fields: &FieldList) -> Result<(), Error> {
    responding.send_informational(response(fields)?).map_err(Error::from)
}

pub(super) fn send_response(
    responding: &mut server::SendResponse<Bytes>,
    fields: &FieldList,
    ended: bool,
) -> Result<SendStream<Bytes>, Error> {
    responding.send_response(response(fields)?, ended).map_err(Error::from)
}

pub(super) fn send_request(
    opener: &mut client::SendRequest<Bytes>,
    head: &FieldList,
    ended: bool,
) -> Result<(client::ResponseFuture, SendStream<Bytes>), Error> {
    opener.send_request(request(head)?, ended).map_err(Error::from)
}

pub(super) fn poll_head(
    awaited: &mut client::ResponseFuture,
    cx: &mut Context<'_>,
) -> Poll<Result<Head<Receiving>, Error>> {
    if let Some(Ok(interim)) = ready!(awaited.poll_informational(cx)) {
        let fields = response_fields(interim.status(), interim.headers());
        return Poll::Ready(Ok(Head::Interim(interim.status().as_u16(), fields)));
    }
    let response = ready!(std::future::Future::poll(std::pin::Pin::new(awaited), cx))?;
    let fields = response_fields(response.status(), response.headers());
    let status = response.status().as_u16();
    Poll::Ready(Ok(Head::Final(status, fields, Receiving::H2(response.into_body()))))
}

fn request_fields(request: Request<RecvStream>) -> (FieldList, RecvStream) {
    let (parts, body) = request.into_parts();
    let mut fields = FieldList::with_room(512, parts.headers.len() + 4);
    fields.push(b":method", parts.method.as_str().as_bytes());
    let uri = parts.uri.into_parts();
    if let Some(scheme) = &uri.scheme {
        fields.push(b":scheme", scheme.as_str().as_bytes());
    }
    if let Some(authority) = &uri.authority {
        fields.push(b":authority", authority.as_str().as_bytes());
    }
    let protocol = parts.extensions.get::<Protocol>();
    if let Some(protocol) = protocol {
        fields.push(b":protocol", protocol.as_str().as_bytes());
    }
    let targeted = parts.method != Method::CONNECT || protocol.is_some();
    if let Some(path) = uri.path_and_query.filter(|_| targeted) {
        fields.push(b":path", path.as_str().as_bytes());
    }
    add(&mut fields, &parts.headers);
    (fields, body)
}

fn response_fields(status: StatusCode, headers: &HeaderMap) -> FieldList {
    let mut fields = FieldList::with_room(512, headers.len() + 1);
    fields.push(b":status", status.as_str().as_bytes());
    add(&mut fields, headers);
    fields
}

fn add(fields: &mut FieldList, headers: &HeaderMap) {
    for (name, value) in headers {
        fields.push_field(Field {
            name: name.as_str().as_bytes(),
            value: value.as_bytes(),
            sensitive: value.is_sensitive(),
        });
    }
}

fn map(fields: &FieldList) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(fields.len());
    for field in fields.iter().filter(|field| !field.is_pseudo()) {
        if let (Ok(name), Ok(mut value)) = (HeaderName::from_bytes(field.name), HeaderValue::from_bytes(field.value)) {
            value.set_sensitive(field.sensitive);
            headers.append(name, value);
        }
    }
    headers
}

fn response(fields: &FieldList) -> Result<Response<()>, Error> {
    let status = fields
        .get(":status")
        .and_then(|status| StatusCode::from_bytes(status).ok());
    let mut response = Response::new(());
    *response.status_mut() = status.ok_or_else(unfit)?;
    *response.headers_mut() = map(fields);
    Ok(response)
}

fn request(fields: &FieldList) -> Result<Request<()>, Error> {
    let mut request = Request::new(());
    let method = fields.get(":method").and_then(|method| Method::from_bytes(method).ok());
    *request.method_mut() = method.ok_or_else(unfit)?;
    *request.version_mut() = http::Version::HTTP_2;
    *request.uri_mut() = uri(fields).ok_or_else(unfit)?;
    *request.headers_mut() = map(fields);
    if let Some(protocol) = fields.get(":protocol") {
        let protocol = std::str::from_utf8(protocol).map_err(|_| unfit())?;
        request.extensions_mut().insert(Protocol::from(protocol));
    }
    Ok(request)
}

fn uri(fields: &FieldList) -> Option<Uri> {
    let mut parts = Parts::default();
    if let Some(scheme) = fields.get(":scheme") {
        parts.scheme = Some(scheme.try_into().ok()?);
    }
    if let Some(authority) = fields.get(":authority") {
        parts.authority = Some(authority.try_into().ok()?);
    }
    if let Some(path) = fields.get(":path") {
        parts.path_and_query = Some(path.try_into().ok()?);
    }
    Uri::from_parts(parts).ok()
}

/// What the crate's types cannot hold.
fn unfit() -> Error {
    Error::Reset {
        reason: Reason::INTERNAL_ERROR,
        by: By::Us,
    }
}
