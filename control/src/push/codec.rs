//! gRPC as the discovery stream needs it: requests read and responses written as frames of a body, each in a buffer of its own that is gone when the
//! message is. A control plane holds thousands of streams that are silent most of the time; what a general-purpose codec keeps for the next message
//! (as much as the longest so far) would be most of its memory. On the wire this is exactly `envoy.service.discovery.v3`.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::HeaderMap;
use http_body_util::BodyExt as _;
use hyper::body::{Body as HttpBody, Frame};
use prost::{
    Message,
    bytes::{Buf as _, BufMut as _, Bytes, BytesMut},
    encoding::{self, WireType, encoded_len_varint},
};
use squire_mesh::wire::discovery::DeltaDiscoveryRequest;
use tokio::sync::mpsc;
use tonic::{Status, body::Body};

/// Largest request: a proxy that reconnects names every resource it holds.
const MAX_REQUEST: usize = 16 * 1024 * 1024;
/// Whether a message is compressed (a byte), and its length (four).
const PREFIX: usize = 5;

/// A response that shares its resources with other streams.
#[derive(Clone, Debug, Default)]
pub(super) struct Response {
    pub(super) system_version: String,
    pub(super) resources: Vec<Bytes>,
    pub(super) type_url: &'static str,
    pub(super) nonce: String,
    pub(super) removed: Vec<Arc<str>>,
}

impl Response {
    /// The message with its prefix, in a buffer of its size.
    fn framed(&self) -> Bytes {
        let length = self.length();
        let mut buffer = BytesMut::with_capacity(PREFIX + length);
        buffer.put_u8(0);
        // Pages are bounded far below 4 GiB.
        buffer.put_u32(length as u32);
        text(1, &self.system_version, &mut buffer);
        for resource in &self.resources {
            // A message field and a bytes field look the same on the wire: key, length, content.
            encoding::encode_key(2, WireType::LengthDelimited, &mut buffer);
            encoding::encode_varint(resource.len() as u64, &mut buffer);
            buffer.put_slice(resource);
        }
        text(4, self.type_url, &mut buffer);
        text(5, &self.nonce, &mut buffer);
        for name in &self.removed {
            text(6, name, &mut buffer);
        }
        debug_assert_eq!(buffer.len(), PREFIX + length);
        buffer.freeze()
    }

    fn length(&self) -> usize {
        // The keys of all fields take one byte.
        let field = |length: usize| 1 + encoded_len_varint(length as u64) + length;
        field(self.system_version.len())
            + self.resources.iter().map(|one| field(one.len())).sum::<usize>()
            + field(self.type_url.len())
            + field(self.nonce.len())
            + self.removed.iter().map(|one| field(one.len())).sum::<usize>()
    }
}

fn text(tag: u32, value: &str, buffer: &mut BytesMut) {
    encoding::encode_key(tag, WireType::LengthDelimited, buffer);
    encoding::encode_varint(value.len() as u64, buffer);
    buffer.put_slice(value.as_bytes());
}

/// What a stream is sent: responses, at last a status. Boxed, because a channel has room for 32 at once from its beginning.
pub(super) type Outgoing = Box<Result<Response, Status>>;

/// The responses of one stream, as a body. What is sent last, or the end of the channel, is the status.
pub(super) struct Responses {
    messages: mpsc::Receiver<Outgoing>,
    ended: bool,
}

impl Responses {
    /// The body of the answer to a stream's request.
    pub(super) fn body(messages: mpsc::Receiver<Outgoing>) -> Body {
        Body::new(Self { messages, ended: false })
    }
}

impl HttpBody for Responses {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let status = match ready!(self.messages.poll_recv(cx)).map(|sent| *sent) {
            Some(Ok(response)) => return Poll::Ready(Some(Ok(Frame::data(response.framed())))),
            Some(Err(status)) => status,
            None => Status::ok(""),
        };
        self.ended = true;
        let mut trailers = HeaderMap::new();
        // A status of ours always fits into headers.
        if status.add_header(&mut trailers).is_err() {
            trailers.insert(Status::GRPC_STATUS, (tonic::Code::Internal as i32).into());
        }
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}

/// The requests of one stream, as its body brings them.
pub(super) struct Requests {
    body: Body,
    /// The beginning of a message; empty between messages, and then without memory.
    partial: BytesMut,
}

impl Requests {
    /// Those of a body.
    pub(super) fn of(body: Body) -> Self {
        Self {
            body,
            partial: BytesMut::new(),
        }
    }

    /// The next one; none: the proxy has closed its side. Safe to drop while waiting.
    ///
    /// # Errors
    /// When the body breaks, or what it brings is no message, too long, or compressed.
    pub(super) async fn message(&mut self) -> Result<Option<DeltaDiscoveryRequest>, Status> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(Some(message));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.partial.extend_from_slice(&data);
                    }
                }
                Some(Err(status)) => return Err(status),
                None if self.partial.is_empty() => return Ok(None),
                None => return Err(Status::internal("the stream ended within a message")),
            }
        }
    }

    /// The message at the front of what has come, once it is whole.
    fn take(&mut self) -> Result<Option<DeltaDiscoveryRequest>, Status> {
        let &[compressed, a, b, c, d, ..] = &*self.partial else {
            return Ok(None);
        };
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if compressed != 0 {
            return Err(Status::unimplemented(
                "compressed messages are not read here: send them as they are",
            ));
        }
        if length > MAX_REQUEST {
            return Err(Status::resource_exhausted(format!(
                "a request of {length} bytes; more than {MAX_REQUEST} are not read"
            )));
        }
        if self.partial.len() < PREFIX + length {
            return Ok(None);
        }
        self.partial.advance(PREFIX);
        let message = self.partial.split_to(length);
        // What is left begins a buffer of its own: none, between messages.
        self.partial = BytesMut::from(&*self.partial);
        DeltaDiscoveryRequest::decode(message)
            .map(Some)
            .map_err(|error| Status::invalid_argument(format!("not a DeltaDiscoveryRequest: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use squire_mesh::wire::discovery::DeltaDiscoveryResponse;

    use super::*;

    #[test]
    fn a_response_is_what_prost_reads() {
        let response = Response {
            system_version: "7".to_owned(),
            resources: vec![
                squire_mesh::wire::discovery::Resource {
                    name: "shop/web".to_owned(),
                    version: "1".to_owned(),
                    ..Default::default()
                }
                .encode_to_vec()
                .into(),
            ],
            type_url: squire_mesh::ports::TYPE_WORKLOAD,
            nonce: "a".to_owned(),
            removed: vec!["shop/gone".into()],
        };
        let framed = response.framed();
        assert_eq!(framed[..PREFIX], [0, 0, 0, 0, (framed.len() - PREFIX) as u8]);
        let read = DeltaDiscoveryResponse::decode(&framed[PREFIX..]).unwrap();
        assert_eq!(read.system_version_info, "7");
        assert_eq!(read.resources[0].name, "shop/web");
        assert_eq!((read.type_url.as_str(), read.nonce.as_str()), (response.type_url, "a"));
        assert_eq!(read.removed_resources, ["shop/gone"]);
    }

    #[tokio::test]
    async fn the_last_thing_sent_is_the_status() {
        let (send, receive) = mpsc::channel(2);
        let mut body = Responses::body(receive);
        send.send(Box::new(Ok(Response::default()))).await.unwrap();
        send.send(Box::new(Err(Status::unavailable("later")))).await.unwrap();
        assert!(body.frame().await.unwrap().unwrap().is_data());
        let trailers = body.frame().await.unwrap().unwrap().into_trailers().unwrap();
        assert_eq!(
            (&trailers["grpc-status"], &trailers["grpc-message"]),
            (&"14".parse().unwrap(), &"later".parse().unwrap())
        );
        assert!(body.frame().await.is_none());

        let (send, receive) = mpsc::channel::<Outgoing>(1);
        drop(send);
        let trailers = Responses::body(receive)
            .frame()
            .await
            .unwrap()
            .unwrap()
            .into_trailers()
            .unwrap();
        assert_eq!(trailers["grpc-status"], "0");
    }

    /// Prefixed messages, cut into frames of so many bytes.
    fn requests(messages: &[DeltaDiscoveryRequest], at_once: usize) -> Requests {
        let mut bytes = Vec::new();
        for message in messages {
            bytes.put_u8(0);
            bytes.put_u32(message.encoded_len() as u32);
            message.encode(&mut bytes).unwrap();
        }
        body(bytes.chunks(at_once).map(Bytes::copy_from_slice).collect())
    }

    fn body(frames: Vec<Bytes>) -> Requests {
        let frames = frames.into_iter().map(|data| Ok::<_, Status>(Frame::data(data)));
        Requests::of(Body::new(http_body_util::StreamBody::new(tokio_stream::iter(frames))))
    }

    #[tokio::test]
    async fn requests_come_out_whole_however_they_are_cut_and_leave_no_buffer_behind() {
        let sent: Vec<_> = ["a", "b"]
            .map(|nonce| DeltaDiscoveryRequest {
                response_nonce: nonce.repeat(100),
                ..Default::default()
            })
            .into();
        for at_once in [1, 7, 1000] {
            let mut requests = requests(&sent, at_once);
            for one in &sent {
                assert_eq!(requests.message().await.unwrap().as_ref(), Some(one), "{at_once}");
            }
            assert_eq!(requests.partial.capacity(), 0, "{at_once}");
            assert_eq!(requests.message().await.unwrap(), None);
        }
    }

    #[tokio::test]
    async fn what_is_no_message_is_refused_with_its_reason() {
        let long = (MAX_REQUEST as u32 + 1).to_be_bytes();
        for (bytes, code) in [
            (vec![1, 0, 0, 0, 0], tonic::Code::Unimplemented),
            ([&[0], &long[..]].concat(), tonic::Code::ResourceExhausted),
            (vec![0, 0, 0, 0, 1, 0xff], tonic::Code::InvalidArgument),
            (vec![0, 0, 0, 0, 9, 1], tonic::Code::Internal),
        ] {
            let refused = body(vec![bytes.clone().into()]).message().await.unwrap_err();
            assert_eq!(refused.code(), code, "{bytes:?}: {refused}");
        }
    }
}
