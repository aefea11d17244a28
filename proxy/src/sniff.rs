//! What a client that may speak anything has started: mesh TLS (a ClientHello that offers one of our ALPN protocols) or
//! something of its own. Looks at bytes only; never answers, never decides who the client is.

use squire_mesh::ports;

use crate::chunk::{RECORD_HEADER, RECORD_PLAINTEXT};

/// What the first bytes say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sniffed {
    /// Too few bytes to tell.
    Undecided,
    /// A ClientHello that offers `squire/1` or `squire-tls/1`.
    Mesh,
    /// Anything else: plaintext, or the application's own TLS.
    Opaque,
}

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const EXTENSION_ALPN: u16 = 16;

/// Judges the first bytes of a connection.
pub(crate) fn sniff(bytes: &[u8]) -> Sniffed {
    let &[kind, ref rest @ ..] = bytes else {
        return Sniffed::Undecided;
    };
    if kind != HANDSHAKE || rest.first().is_some_and(|&major| major != 3) {
        return Sniffed::Opaque;
    }
    let &[_, _, _, high, low, ref body @ ..] = bytes else {
        return Sniffed::Undecided;
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if body.first().is_some_and(|&kind| kind != CLIENT_HELLO) || !(4..=RECORD_PLAINTEXT).contains(&length) {
        return Sniffed::Opaque;
    }
    let Some(record) = body.get(..length) else {
        return Sniffed::Undecided;
    };
    // A ClientHello cut into several records is none of ours: squires and the stacks they meet send it in one.
    if offers_mesh(&record[4..]).unwrap_or(false) {
        Sniffed::Mesh
    } else {
        Sniffed::Opaque
    }
}

/// Most bytes it can take to tell.
pub(crate) const ENOUGH: usize = RECORD_HEADER + RECORD_PLAINTEXT;

/// Reads a ClientHello body (RFC 8446 §4.1.2) up to its ALPN extension (RFC 7301 §3.1).
fn offers_mesh(hello: &[u8]) -> Option<bool> {
    let rest = hello.get(2 + 32..)?;
    let (_session, rest) = prefixed::<1>(rest)?;
    let (_suites, rest) = prefixed::<2>(rest)?;
    let (_compression, rest) = prefixed::<1>(rest)?;
    let (mut extensions, _) = prefixed::<2>(rest)?;
    while let &[a, b, ref rest @ ..] = extensions {
        let (body, next) = prefixed::<2>(rest)?;
        if u16::from_be_bytes([a, b]) == EXTENSION_ALPN {
            let (mut names, _) = prefixed::<2>(body)?;
            while !names.is_empty() {
                let (name, next) = prefixed::<1>(names)?;
                if name == ports::ALPN_SQUIRE || name == ports::ALPN_SPIFFE_TLS {
                    return Some(true);
                }
                names = next;
            }
            return Some(false);
        }
        extensions = next;
    }
    Some(false)
}

/// Splits off a vector whose length stands before it in `N` bytes.
fn prefixed<const N: usize>(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_at_checked(N)?;
    let length = length.iter().fold(0, |sum, &byte| sum << 8 | usize::from(byte));
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    /// A real ClientHello of rustls.
    fn hello(alpn: &[&[u8]]) -> Vec<u8> {
        let mut config = rustls::ClientConfig::builder_with_provider(squire_mesh::tls::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        let mut client = rustls::ClientConnection::new(Arc::new(config), "example.org".try_into().unwrap()).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn our_alpn_is_recognised_and_only_ours() {
        assert_eq!(sniff(&hello(&[b"squire/1"])), Sniffed::Mesh);
        assert_eq!(sniff(&hello(&[b"h2", b"squire-tls/1"])), Sniffed::Mesh);
        assert_eq!(sniff(&hello(&[b"h2", b"http/1.1"])), Sniffed::Opaque);
        assert_eq!(sniff(&hello(&[])), Sniffed::Opaque);
        assert_eq!(sniff(b"GET / HTTP/1.1\r\n"), Sniffed::Opaque);
        assert_eq!(sniff(b"\x16\x02garbage"), Sniffed::Opaque);
    }

    #[test]
    fn a_hello_that_is_not_whole_is_undecided_until_it_is() {
        let bytes = hello(&[b"squire/1"]);
        for end in 0..bytes.len() {
            assert_eq!(sniff(&bytes[..end]), Sniffed::Undecided, "{end} of {}", bytes.len());
        }
        assert!(bytes.len() <= ENOUGH);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..600), tls in any::<bool>()) {
            if tls && bytes.len() > 6 {
                let length = bytes.len() - 5;
                bytes[..6].copy_from_slice(&[22, 3, 1, (length >> 8) as u8, length as u8, 1]);
            }
            let _ = sniff(&bytes);
        }
    }
}
