//! The issuance log as a chain of ConfigMaps, each with some lines and, beside them, the head after its last line: both are
//! replaced by one write, which names the version it replaces. A full chunk is sealed by the write that fills it; only then
//! is the next one made, whose name only one replica can be the first to use.

use std::{
    collections::BTreeMap,
    io::{self, Read},
};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api,
    api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams},
};
use tokio::{runtime::Handle, time::timeout};

use super::{LABEL, PATIENCE, labels};
use crate::{log::Head, store::LogPart};

/// What the names of all chunks begin with.
pub(super) const PREFIX: &str = "squire-ca-log";
const LINES: &str = "log.jsonl";
/// The head after the last line.
const HEAD: &str = "squire.mesh/log-head";
/// The head before the first line.
const BASE: &str = "squire.mesh/log-base";
/// How many bytes of the log lie before the chunk.
const START: &str = "squire.mesh/log-start";
/// No line is added any more.
const SEALED: &str = "squire.mesh/log-sealed";
/// A chunk is rewritten with every append: small, so that this is cheap; some hundred lines, so that they are not many.
const FULL: usize = 48 * 1024;
/// The label of chunks in use, and of those that were set aside.
const IN_USE: &str = "log";
const ASIDE: &str = "log-aside";

/// The chunks of a namespace.
#[derive(Clone)]
pub(super) struct Chunks {
    api: Api<ConfigMap>,
    namespace: String,
}

/// The last chunk.
pub(super) struct Tip {
    pub(super) head: Head,
    name: Name,
    version: Option<String>,
    lines: String,
    base: Head,
    sealed: bool,
}

/// Which log, and which chunk of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Name {
    log: u32,
    chunk: u32,
}

/// Chunks that are going to be read: name and start, in order.
pub(super) struct Listed {
    chunks: Vec<(String, u64)>,
    from: u64,
}

type Answer<T> = Result<T, kube::Error>;

impl Chunks {
    pub(super) fn new(api: Api<ConfigMap>, namespace: &str) -> Self {
        Self {
            api,
            namespace: namespace.to_owned(),
        }
    }

    /// The last chunk; none: there is no log.
    pub(super) async fn tip(&self) -> Answer<Option<Tip>> {
        let Some(last) = self.list(IN_USE).await?.into_iter().next_back() else {
            return Ok(None);
        };
        Ok(self.api.get_opt(&last.0.to_string()).await?.and_then(Tip::read))
    }

    /// Makes an empty log. Another replica may be first: then there is one all the same.
    pub(super) async fn begin(&self) -> Answer<()> {
        let logs = self.list(ASIDE).await?;
        let log = logs.iter().map(|(name, _)| name.log + 1).max().unwrap_or(1);
        let first = chunk(Name { log, chunk: 1 }, "", &Head::EMPTY, &Head::EMPTY, false);
        match self.api.create(&PostParams::default(), &first).await {
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            made => made.map(drop),
        }
    }

    /// Adds lines after `tip`; the new end, or none where somebody else was first.
    pub(super) async fn append(&self, tip: &Tip, lines: &[u8], head: &Head) -> Answer<Option<Tip>> {
        let added = String::from_utf8_lossy(lines);
        let params = PostParams::default();
        let written = if tip.sealed {
            let name = Name {
                chunk: tip.name.chunk + 1,
                ..tip.name
            };
            let next = chunk(name, &added, head, &tip.head, lines.len() >= FULL);
            self.api.create(&params, &next).await
        } else {
            let whole = format!("{}{added}", tip.lines);
            let mut next = chunk(tip.name, &whole, head, &tip.base, whole.len() >= FULL);
            next.metadata.resource_version.clone_from(&tip.version);
            self.api.replace(&tip.name.to_string(), &params, &next).await
        };
        match written {
            Ok(chunk) => Ok(Tip::read(chunk)),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The first chunk that there is, and whether it is sealed.
    pub(super) async fn oldest(&self) -> Answer<Option<(LogPart, bool)>> {
        let Some((name, _)) = self.list(IN_USE).await?.into_iter().next() else {
            return Ok(None);
        };
        let first = self.api.get_opt(&name.to_string()).await?.and_then(Tip::read);
        Ok(first.map(|tip| {
            let part = LogPart {
                name: name.to_string(),
                base: tip.base,
                end: tip.head,
                lines: tip.lines.into_bytes(),
            };
            (part, tip.sealed)
        }))
    }

    /// Removes a chunk; one that is gone already is.
    pub(super) async fn remove(&self, name: &str) -> Answer<()> {
        match self.api.delete(name, &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            removed => removed.map(drop),
        }
    }

    /// The chunks that hold the log from a byte on.
    pub(super) async fn from(&self, from: u64) -> Answer<Listed> {
        let all = self.list(IN_USE).await?;
        let first = all.iter().rposition(|(_, start)| *start <= from).unwrap_or_default();
        let chunks = all.iter().skip(first).map(|(name, start)| (name.to_string(), *start));
        Ok(Listed {
            chunks: chunks.collect(),
            from,
        })
    }

    /// Takes the log out of use, from its end on, so that half of it set aside is not taken for a whole one.
    pub(super) async fn set_aside(&self) -> Answer<String> {
        let patch = serde_json::json!({"metadata": {"labels": {LABEL: ASIDE}}});
        for (name, _) in self.list(IN_USE).await?.iter().rev() {
            let params = PatchParams::default();
            self.api
                .patch_metadata(&name.to_string(), &params, &Patch::Merge(&patch))
                .await?;
        }
        let log = self
            .list(ASIDE)
            .await?
            .last()
            .map(|(name, _)| name.log)
            .unwrap_or_default();
        Ok(format!("configmaps {PREFIX}-{log}-* in {}", self.namespace))
    }

    /// Names and starts of the chunks with this label, in order.
    async fn list(&self, label: &str) -> Answer<Vec<(Name, u64)>> {
        let params = ListParams::default().labels(&format!("{LABEL}={label}"));
        let listed = self.api.list_metadata(&params).await?;
        let read = |metadata: ObjectMeta| {
            let name = Name::parse(metadata.name.as_deref()?)?;
            Some((name, metadata.annotations?.get(START)?.parse().ok()?))
        };
        let mut names: Vec<_> = listed.into_iter().filter_map(|chunk| read(chunk.metadata)).collect();
        names.sort_unstable();
        Ok(names)
    }
}

impl Tip {
    fn read(chunk: ConfigMap) -> Option<Self> {
        let annotations = chunk.metadata.annotations?;
        Some(Self {
            name: Name::parse(chunk.metadata.name.as_deref()?)?,
            head: serde_json::from_str(annotations.get(HEAD)?).ok()?,
            base: serde_json::from_str(annotations.get(BASE)?).ok()?,
            sealed: annotations.contains_key(SEALED),
            version: chunk.metadata.resource_version,
            lines: chunk.data.and_then(|mut data| data.remove(LINES)).unwrap_or_default(),
        })
    }
}

fn chunk(name: Name, lines: &str, head: &Head, base: &Head, sealed: bool) -> ConfigMap {
    // A head is plain numbers and text, and always becomes JSON.
    let text = |head: &Head| serde_json::to_string(head).unwrap_or_default();
    let mut annotations = BTreeMap::from([
        (HEAD.to_owned(), text(head)),
        (BASE.to_owned(), text(base)),
        (START.to_owned(), base.bytes.to_string()),
    ]);
    if sealed {
        annotations.insert(SEALED.to_owned(), "true".to_owned());
    }
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.to_string()),
            labels: Some(labels(IN_USE)),
            annotations: Some(annotations),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([(LINES.to_owned(), lines.to_owned())])),
        ..ConfigMap::default()
    }
}

impl Name {
    fn parse(text: &str) -> Option<Self> {
        let (log, chunk) = text.strip_prefix(PREFIX)?.strip_prefix('-')?.split_once('-')?;
        Some(Self {
            log: log.parse().ok()?,
            chunk: chunk.parse().ok()?,
        })
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{PREFIX}-{}-{:06}", self.log, self.chunk)
    }
}

impl Listed {
    /// Reads them one after the other, each when it is wanted. Blocks.
    pub(super) fn reader(self, chunks: Chunks, runtime: Handle) -> impl Read {
        Reader {
            chunks,
            runtime,
            listed: self.chunks.into_iter(),
            from: self.from,
            current: io::Cursor::default(),
        }
    }
}

struct Reader {
    chunks: Chunks,
    runtime: Handle,
    listed: std::vec::IntoIter<(String, u64)>,
    from: u64,
    current: io::Cursor<Vec<u8>>,
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = self.current.read(buffer)?;
            if read > 0 || buffer.is_empty() {
                return Ok(read);
            }
            let Some((name, start)) = self.listed.next() else {
                return Ok(0);
            };
            let asked = async { timeout(PATIENCE, self.chunks.api.get(&name)).await };
            let chunk = self
                .runtime
                .block_on(asked)
                .map_err(io::Error::other)?
                .map_err(io::Error::other)?;
            let lines = chunk.data.and_then(|mut data| data.remove(LINES)).unwrap_or_default();
            self.current = io::Cursor::new(lines.into_bytes());
            self.current.set_position(self.from.saturating_sub(start));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_in_order_and_found_again() {
        let name = Name { log: 2, chunk: 41 };
        assert_eq!(name.to_string(), "squire-ca-log-2-000041");
        assert!(Name::parse(&name.to_string()) == Some(name) && name > Name { log: 1, chunk: 99 });
        for other in ["squire-ca", "squire-ca-log", "squire-ca-log-x-1", "other-1-1"] {
            assert!(Name::parse(other).is_none(), "{other}");
        }
    }
}
