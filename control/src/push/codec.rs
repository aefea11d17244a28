//! The gRPC codec of the discovery stream: requests as prost decodes them, responses put together from resources that
//! were encoded once. On the wire this is exactly `envoy.service.discovery.v3.DeltaDiscoveryResponse`.

use std::sync::Arc;

use prost::{
    Message,
    bytes::{Buf, Bytes},
    encoding,
};
use squire_mesh::wire::discovery::DeltaDiscoveryRequest;
use tonic::{
    Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

/// A response that shares its resources with other streams.
#[derive(Clone, Debug, Default)]
pub(super) struct Response {
    pub(super) system_version: String,
    pub(super) resources: Vec<Bytes>,
    pub(super) type_url: &'static str,
    pub(super) nonce: String,
    pub(super) removed: Vec<Arc<str>>,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct DiscoveryCodec;

impl Codec for DiscoveryCodec {
    type Encode = Response;
    type Decode = DeltaDiscoveryRequest;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self::Encoder {
        Self
    }

    fn decoder(&mut self) -> Self::Decoder {
        Self
    }
}

impl Encoder for DiscoveryCodec {
    type Item = Response;
    type Error = Status;

    fn encode(&mut self, response: Response, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        encoding::string::encode(1, &response.system_version, buffer);
        for resource in &response.resources {
            // A message field and a bytes field look the same on the wire: key, length, content.
            encoding::bytes::encode(2, resource, buffer);
        }
        encoding::encode_key(4, encoding::WireType::LengthDelimited, buffer);
        encoding::encode_varint(response.type_url.len() as u64, buffer);
        prost::bytes::BufMut::put_slice(buffer, response.type_url.as_bytes());
        encoding::string::encode(5, &response.nonce, buffer);
        for name in &response.removed {
            encoding::encode_key(6, encoding::WireType::LengthDelimited, buffer);
            encoding::encode_varint(name.len() as u64, buffer);
            prost::bytes::BufMut::put_slice(buffer, name.as_bytes());
        }
        Ok(())
    }
}

impl Decoder for DiscoveryCodec {
    type Item = DeltaDiscoveryRequest;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Self::Item>, Status> {
        let length = buffer.remaining();
        DeltaDiscoveryRequest::decode(buffer.copy_to_bytes(length))
            .map(Some)
            .map_err(|error| Status::invalid_argument(format!("not a DeltaDiscoveryRequest: {error}")))
    }
}
