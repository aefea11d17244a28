//! An issuer of tokens with an ES256 key of its own, and a server of its keys that can be changed while it runs.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::{
    apps::{App, serving_at},
    http::read_head,
};

/// Who signs tokens.
pub struct Issuer {
    key: KeyPair,
    name: &'static str,
    kid: &'static str,
}

impl Issuer {
    /// One of this name (its `iss`) with a new key, which is called `one`.
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        Self::with_key(name, "one")
    }

    /// One with a new key of this name.
    #[must_use]
    pub fn with_key(name: &'static str, kid: &'static str) -> Self {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        Self { key, name, kid }
    }

    /// Its JSON Web Key Set.
    #[must_use]
    pub fn jwks(&self) -> Value {
        // An uncompressed point: 4, x, y.
        let point = self.key.der_bytes();
        json!({"keys": [{"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.kid,
                         "x": base64(&point[1..33]), "y": base64(&point[33..65])}]})
    }

    /// A token with these claims on top of those of a service account for the CA.
    #[must_use]
    pub fn token(&self, change: &Value) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let mut claims = json!({"iss": self.name, "aud": ["squire-ca"], "sub": "system:serviceaccount:shop:web",
                                "exp": now + 600, "iat": now, "nbf": now});
        for (key, value) in change.as_object().unwrap() {
            claims[key] = value.clone();
        }
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(self.kid.to_owned());
        let key = EncodingKey::from_ec_der(&self.key.serialize_der());
        jsonwebtoken::encode(&header, &claims, &key).unwrap()
    }
}

/// Base64url without padding (RFC 7515, 2).
#[must_use]
pub fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0_u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for nth in 0..=chunk.len() {
            let index = (word >> (18 - 6 * nth)) & 63;
            text.push(char::from(ALPHABET[index as usize]));
        }
    }
    text
}

/// Serves key sets, and documents that lead to them, over HTTP.
#[derive(Debug)]
pub struct KeyServer {
    _app: App,
    pages: Arc<Mutex<Pages>>,
    asked: Arc<AtomicUsize>,
}

#[derive(Debug)]
enum Pages {
    /// The same for every path.
    One(String),
    /// By path; 404 for all others.
    Some(Vec<(String, String)>),
}

impl Pages {
    fn answer(&self, path: &str) -> String {
        let page = match self {
            Self::One(page) => Some(page),
            Self::Some(pages) => pages.iter().find(|(known, _)| known == path).map(|(_, page)| page),
        };
        match page {
            Some(page) => format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{page}", page.len()),
            None => "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_owned(),
        }
    }

    fn of(pages: &[(&str, Value)]) -> Self {
        Self::Some(
            pages
                .iter()
                .map(|(path, page)| ((*path).to_owned(), page.to_string()))
                .collect(),
        )
    }
}

impl KeyServer {
    /// Starts one at this address, with these keys at every path.
    pub async fn start(address: SocketAddr, keys: &Value) -> Self {
        Self::with(address, Pages::One(keys.to_string())).await
    }

    /// Starts one with these pages, by path.
    pub async fn serving(address: SocketAddr, pages: &[(&str, Value)]) -> Self {
        Self::with(address, Pages::of(pages)).await
    }

    async fn with(address: SocketAddr, pages: Pages) -> Self {
        let (pages, asked) = (Arc::new(Mutex::new(pages)), Arc::new(AtomicUsize::new(0)));
        let (served, counted) = (Arc::clone(&pages), Arc::clone(&asked));
        let app = serving_at(address, move |mut stream| {
            let (served, counted) = (Arc::clone(&served), Arc::clone(&counted));
            async move {
                let mut rest = Vec::new();
                while let Ok(Some(head)) = read_head(&mut stream, &mut rest).await {
                    counted.fetch_add(1, Ordering::SeqCst);
                    let path = head.split(' ').nth(1).unwrap_or_default();
                    let answer = served.lock().unwrap().answer(path);
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            }
        })
        .await;
        Self {
            _app: app,
            pages,
            asked,
        }
    }

    /// Serves these keys at every path from now on.
    pub fn rotate(&self, keys: &Value) {
        *self.pages.lock().unwrap() = Pages::One(keys.to_string());
    }

    /// Serves these pages from now on.
    pub fn pages(&self, pages: &[(&str, Value)]) {
        *self.pages.lock().unwrap() = Pages::of(pages);
    }

    /// How often it was asked.
    #[must_use]
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}
