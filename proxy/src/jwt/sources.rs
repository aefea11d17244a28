//! Where keys come from and how long they are good: inline, a file that is read again when it changes, a URL (or what the
//! issuer's discovery document names) that is fetched, kept, refreshed on a timer while it is used, and asked again, not too
//! often, when a token names a key it did not have. The last good set stays when a source fails.

use std::{
    collections::HashMap,
    fs,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use http_body_util::Full;
use squire_mesh::policy::{TokenIssuer, TokenKeys};
use tokio::time::timeout;

use super::keys::{KeySet, MAX_SET};
use crate::callouts::{
    client::{Client, Origin},
    metrics::CalloutMetrics,
};

/// When keys are fetched again.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// A set in use that is older than this is refreshed in the background.
    pub(crate) refresh: Duration,
    /// One older than this, because nobody used it, is not used before it was tried to refresh it.
    pub(crate) stale: Duration,
    /// The shortest time between two fetches because of unknown keys.
    pub(crate) unknown_key: Duration,
    /// The shortest time between two fetches after a failure; also how often a file is looked at.
    pub(crate) failed: Duration,
}

impl Pace {
    /// With this age at which keys are refreshed.
    pub(crate) fn every(refresh: Duration) -> Self {
        Self {
            refresh,
            stale: refresh + refresh / 10,
            unknown_key: Duration::from_secs(10),
            failed: Duration::from_secs(1),
        }
    }
}

/// A source: the keys' place, and the issuer where that is what leads to them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Place {
    keys: TokenKeys,
    discover: Option<Box<str>>,
    limit: Duration,
}

impl Place {
    pub(super) fn of(issuer: &TokenIssuer) -> Self {
        Self {
            keys: issuer.keys.clone(),
            discover: (issuer.keys == TokenKeys::Discovery).then(|| issuer.issuer.clone()),
            limit: issuer.timeout,
        }
    }
}

/// What is known of a source without waiting.
pub(super) enum Known {
    Set(Arc<KeySet>),
    /// It has to be fetched first.
    Unfetched,
    /// There is none, and it is too early to ask again.
    Failed,
}

/// All sources in use.
pub(super) struct Sources {
    client: Arc<Client>,
    metrics: Arc<CalloutMetrics>,
    pace: Pace,
    all: Mutex<HashMap<Place, Arc<Source>>>,
}

struct Source {
    place: Place,
    held: Mutex<Held>,
    /// One fetch at a time.
    fetching: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Held {
    set: Option<Arc<KeySet>>,
    /// When the set came.
    since: Option<Instant>,
    /// Whether anybody has asked for it since.
    used: bool,
    /// When it was last tried, and whether that failed.
    tried: Option<Instant>,
    failed: bool,
    /// Of a file: what it looked like when it was read.
    stamp: Option<(SystemTime, u64)>,
}

/// Sources that are no longer named by any rule are forgotten beyond so many.
const MAX_SOURCES: usize = 256;

impl Sources {
    pub(super) fn new(client: Arc<Client>, metrics: Arc<CalloutMetrics>, pace: Pace) -> Self {
        Self {
            client,
            metrics,
            pace,
            all: Mutex::default(),
        }
    }

    /// What is there now. A set that grows old is refreshed in the background.
    pub(super) fn known(self: &Arc<Self>, place: &Place) -> Known {
        let source = self.source(place);
        match &place.keys {
            TokenKeys::Inline(text) => {
                let mut held = source.lock();
                if held.tried.is_none() {
                    held.tried = Some(Instant::now());
                    self.accept(
                        &mut held,
                        "inline jwks",
                        KeySet::read(text.as_bytes()).map_err(str::to_owned),
                    );
                }
            }
            TokenKeys::File(path) => self.look_at(&source, path),
            TokenKeys::Url(_) | TokenKeys::Discovery => return self.fetched(&source),
        }
        let held = source.lock();
        held.set.clone().map_or(Known::Failed, Known::Set)
    }

    fn fetched(self: &Arc<Self>, source: &Arc<Source>) -> Known {
        let mut held = source.lock();
        held.used = true;
        let fresh = held.since.is_some_and(|since| since.elapsed() < self.pace.stale);
        let waits = held.tried.is_some_and(|tried| tried.elapsed() < self.pace.failed);
        match &held.set {
            // Of a source that fails, the last good set stays; the timer tries on.
            Some(set) if fresh || waits || held.failed => Known::Set(Arc::clone(set)),
            _ if waits && held.failed => Known::Failed,
            _ => Known::Unfetched,
        }
    }

    /// Fetches again, in the background, what is used and has grown old; called every second. Says how many that are.
    pub(super) fn refresh(self: &Arc<Self>) -> usize {
        let mut due: Vec<_> = self.lock().values().map(Arc::clone).collect();
        due.retain(|source| source.is_due(self.pace) && source.fetching.try_lock().is_ok());
        let count = due.len();
        for source in due {
            let sources = Arc::clone(self);
            tokio::spawn(async move { sources.fetch(&source, None).await });
        }
        count
    }

    /// Fetches a source that is not there, or that lacks a key (`lacking`: the set in which it was not found). Returns
    /// when it has been tried, by us or by another request meanwhile.
    pub(super) async fn obtain(self: &Arc<Self>, place: &Place, lacking: Option<Arc<KeySet>>) {
        let source = self.source(place);
        self.fetch(&source, lacking).await;
    }

    /// Whether a source may be asked again because of a key it did not have.
    pub(super) fn may_have_more(self: &Arc<Self>, place: &Place) -> bool {
        match place.keys {
            TokenKeys::Inline(_) | TokenKeys::File(_) => false,
            TokenKeys::Url(_) | TokenKeys::Discovery => {
                let source = self.source(place);
                let held = source.lock();
                held.tried.is_none_or(|tried| tried.elapsed() >= self.pace.unknown_key)
            }
        }
    }

    async fn fetch(&self, source: &Source, lacking: Option<Arc<KeySet>>) {
        let asked = Instant::now();
        let _alone = source.fetching.lock().await;
        {
            let mut held = source.lock();
            let newer = match (&lacking, &held.set) {
                (Some(old), Some(set)) => !Arc::ptr_eq(old, set),
                _ => false,
            };
            // Somebody else has tried while we waited for our turn.
            if newer || held.tried.is_some_and(|tried| tried >= asked) {
                return;
            }
            held.tried = Some(asked);
        }
        let limit = source.place.limit;
        let (url, result) = match timeout(limit, self.download(&source.place)).await {
            Ok(done) => done,
            Err(_) => (url_of(&source.place), Err(format!("no answer within {limit:?}"))),
        };
        let mut held = source.lock();
        held.tried = Some(Instant::now());
        self.accept(&mut held, &url, result);
    }

    /// Takes a new set, or keeps the last good one and says why.
    fn accept(&self, held: &mut Held, what: &str, result: Result<KeySet, String>) {
        self.metrics.fetched(result.is_ok());
        held.failed = result.is_err();
        match result {
            Ok(set) => {
                // The same keys stay the same set, so that a key which is not there is known not to be there.
                if held.set.as_deref() != Some(&set) {
                    held.set = Some(Arc::new(set));
                }
                held.since = Some(Instant::now());
                held.used = false;
            }
            Err(why) if held.set.is_some() => {
                tracing::warn!(
                    keys = what,
                    why,
                    "token keys could not be had; the last good ones stay in use"
                );
            }
            Err(why) => tracing::warn!(
                keys = what,
                why,
                "token keys could not be had; their tokens are refused"
            ),
        }
    }

    fn look_at(&self, source: &Source, path: &str) {
        let mut held = source.lock();
        if held.tried.is_some_and(|tried| tried.elapsed() < self.pace.failed) {
            return;
        }
        held.tried = Some(Instant::now());
        let stamp = fs::metadata(path).and_then(|file| Ok((file.modified()?, file.len())));
        match stamp {
            Ok(stamp) if held.stamp == Some(stamp) => {}
            Ok((_, length)) if length > MAX_SET as u64 => {
                held.stamp = stamp.ok();
                self.accept(&mut held, path, Err("the file is longer than 1 MiB".to_owned()));
            }
            Ok(stamp) => {
                held.stamp = Some(stamp);
                let read = fs::read(path).map_err(|error| error.to_string());
                let set = read.and_then(|bytes| KeySet::read(&bytes).map_err(str::to_owned));
                self.accept(&mut held, path, set);
            }
            // Told once, not at every look.
            Err(_) if held.failed => {}
            Err(error) => {
                held.stamp = None;
                self.accept(&mut held, path, Err(error.to_string()));
            }
        }
    }

    async fn download(&self, place: &Place) -> (String, Result<KeySet, String>) {
        let url = match (&place.keys, &place.discover) {
            (TokenKeys::Url(url), _) => url.to_string(),
            (_, Some(issuer)) => match self.discover(issuer).await {
                Ok(url) => url,
                Err(why) => return (url_of(place), Err(why)),
            },
            _ => return (url_of(place), Err("nothing to fetch".to_owned())),
        };
        let set = self.get(&url).await;
        let set = set.and_then(|bytes| KeySet::read(&bytes).map_err(str::to_owned));
        (url, set)
    }

    /// OpenID Connect Discovery 1.0 §4: where the issuer says its keys are.
    async fn discover(&self, issuer: &str) -> Result<String, String> {
        let document = self.get(&discovery_of(issuer)).await?;
        let document = squire_mesh::json::object(&document).ok_or("the discovery document is not a JSON object")?;
        let text = |name: &str| document.get(name).and_then(serde_json::Value::as_str);
        if text("issuer") != Some(issuer) {
            return Err("the discovery document names another issuer".to_owned());
        }
        text("jwks_uri")
            .map(str::to_owned)
            .ok_or_else(|| "the discovery document has no jwks_uri".to_owned())
    }

    async fn get(&self, url: &str) -> Result<Bytes, String> {
        let (origin, path) = Origin::of_url(url).ok_or("not an HTTP URL")?;
        let request = http::Request::get(path)
            .header("host", origin.authority())
            .header("accept", "application/json")
            .header("user-agent", "squire")
            .body(Full::new(Bytes::new()))
            .map_err(|error| error.to_string())?;
        let response = self.client.send(&origin, request, MAX_SET).await;
        let response = response.map_err(|error| error.to_string())?;
        match response.status() {
            http::StatusCode::OK => Ok(response.into_body()),
            other => Err(format!("the server answered {other}")),
        }
    }

    fn source(&self, place: &Place) -> Arc<Source> {
        let mut all = self.lock();
        if let Some(source) = all.get(place) {
            return Arc::clone(source);
        }
        if all.len() >= MAX_SOURCES {
            all.clear();
        }
        let source = Arc::new(Source {
            place: place.clone(),
            held: Mutex::default(),
            fetching: tokio::sync::Mutex::default(),
        });
        all.insert(place.clone(), Arc::clone(&source));
        source
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Place, Arc<Source>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Source {
    /// Whether a set that was fetched is to be fetched again.
    fn is_due(&self, pace: Pace) -> bool {
        let held = self.lock();
        let old = held.since.is_some_and(|since| since.elapsed() >= pace.refresh);
        let pause = if held.failed {
            pace.failed.max(pace.refresh / 10)
        } else {
            pace.failed
        };
        let waits = held.tried.is_some_and(|tried| tried.elapsed() < pause);
        let fetched = matches!(self.place.keys, TokenKeys::Url(_) | TokenKeys::Discovery);
        fetched && held.used && old && !waits
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn discovery_of(issuer: &str) -> String {
    format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'))
}

fn url_of(place: &Place) -> String {
    match (&place.keys, &place.discover) {
        (TokenKeys::Url(url), _) => url.to_string(),
        (_, Some(issuer)) => discovery_of(issuer),
        _ => String::new(),
    }
}
