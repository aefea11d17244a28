//! The pure pieces of the data path for who counts what they cost (`benches/micro/counted`): one call each, on memory alone. Only there with the
//! feature `measure`; no process uses it.

#![allow(
    clippy::expect_used,
    reason = "whoever measures wants to hear of anything wrong at once"
)]

use std::{hint::black_box, sync::Arc, time::SystemTime};

use squire_mesh::{
    bundle::{TrustBundle, TrustBundles},
    policy::path::PathNormalization,
    svid::{Role, VerifiedPeer, identify},
    tls::Svid,
};

use crate::{
    chunk::{RECORD, RECORD_HEADER},
    http::{
        Edits, Forwarded,
        h1::head::{Answers, RequestHead, ResponseHead},
    },
    tls::{
        fixture::{Ca, DB, WEB, handshake},
        handshake::Established,
        records::{Engine, Opened},
    },
};

/// Two ends of one connection whose handshake is over.
pub struct Pair {
    client: Established,
    server: Established,
    slot: Vec<u8>,
}

impl Pair {
    /// By a real handshake over loopback, on the calling thread's runtime.
    ///
    /// # Panics
    /// When it fails.
    pub async fn new() -> Self {
        let ca = Ca::new();
        let alpn: (&[&[u8]], &[&[u8]]) = (&[b"squire/1"], &[b"squire/1"]);
        let (client, server) = handshake(&ca, DB, alpn, (Engine::Squire, Engine::Squire)).await;
        Self {
            client: client.expect("a client's handshake"),
            server: server.expect("a server's handshake"),
            slot: vec![0; RECORD],
        }
    }

    /// Seals one record of so many bytes at one end, and opens it at the other.
    ///
    /// # Panics
    /// When it does not come out as it went in.
    pub fn carry(&mut self, length: usize) {
        self.slot[RECORD_HEADER..][..length].fill(b'x');
        let sealed = self.client.records.seal(&mut self.slot, length).expect("sealing");
        match self.server.records.open(&mut self.slot[..sealed]) {
            Ok(Opened::Data { plaintext, .. }) => assert_eq!(plaintext.len(), length),
            other => unreachable!("{other:?}"),
        }
    }
}

/// A peer to be identified.
pub struct Peer {
    svid: Svid,
    bundles: Arc<TrustBundles>,
    bundle: TrustBundle,
    now: SystemTime,
}

impl Default for Peer {
    fn default() -> Self {
        let ca = Ca::new();
        let (svid, bundles) = (ca.svid(WEB), ca.bundles());
        let bundle = bundles.get(svid.id().trust_domain()).expect("its own").clone();
        Self {
            svid,
            bundles,
            bundle,
            now: SystemTime::now(),
        }
    }
}

impl Peer {
    /// As a peer that was never seen under these bundles; `known`: as one that was.
    ///
    /// # Panics
    /// When it is refused.
    pub fn identify(&self, known: bool) -> VerifiedPeer {
        // A new set begins without memory of whom it has verified.
        let forgetful = (!known).then(|| TrustBundles::new([self.bundle.clone()]));
        let bundles = forgetful.as_ref().unwrap_or(&self.bundles);
        identify(self.svid.chain(), bundles, self.now, Role::Client).expect("an SVID of the CA")
    }
}

/// Heads of HTTP/1, and room to write them anew.
#[derive(Default)]
pub struct Heads {
    request: RequestHead,
    response: ResponseHead,
    out: Vec<u8>,
}

impl Heads {
    /// Reads a request's head and writes it as it is forwarded.
    ///
    /// # Panics
    /// When it is refused or not whole.
    pub fn request(&mut self, head: &[u8]) {
        let read = self.request.read(head, PathNormalization::MergeSlashes);
        assert_eq!(read.expect("a request"), Some(head.len()));
        self.out.clear();
        self.request.write(&mut self.out, &Edits::default(), &Forwarded::none());
        black_box(&self.out);
    }

    /// Reads a response's head and writes it as it is forwarded.
    ///
    /// # Panics
    /// When it is refused or not whole.
    pub fn response(&mut self, head: &[u8]) {
        assert_eq!(self.response.read(head).expect("a response"), Some(head.len()));
        self.out.clear();
        self.response.write(&mut self.out, &Edits::default(), None);
        black_box((
            &self.out,
            self.response.length(Answers {
                head: false,
                connect: false,
                upgrade: false,
            }),
        ));
    }
}
