//! Pushes what `compile` made to every proxy, by incremental xDS over mutual TLS. One catalog holds the encoded
//! resources; each stream only holds how far it has read. Nothing is signed here, and nothing is decided: who may have
//! what follows from the peer's certificate and the workload it names.

mod catalog;
mod codec;
mod encoder;
mod fleet;
mod resource;
mod server;
mod stream;
mod subscription;

pub(crate) use fleet::epoch_seconds;

pub use catalog::{Amendment, Catalog, Identities, Published};
pub use encoder::Encoder;
pub use fleet::{Fleet, KindView, ProxyView};
pub use resource::{Content, Resource, Version};
pub use server::Ads;
pub use squire_mesh::resource::Kind;
