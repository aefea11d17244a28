//! The store in a Kubernetes namespace, shared by every replica of a control plane: the state in a Secret, a Secret for each
//! join token, the issuance log in a chain of ConfigMaps, and one for the word of each replica. Whatever is written names the version that it replaces, so that of
//! two replicas one writes and the other learns that it was second. Only the leader changes the state; all append to the log
//! and use tokens up. It holds no lease itself, and never keeps a copy to answer from.

mod chunks;

use std::{
    collections::BTreeMap,
    io::Read,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Secret},
};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions},
};
use tokio::{runtime::Handle, sync::watch, time::timeout};

use self::chunks::{Chunks, Tip};
use super::{LogPart, Store, StoreError, TokenStatus};
use crate::{
    digest::Sha256,
    log::Head,
    state::{State, StateError},
    token::TokenRecord,
};

/// The Secret that holds the state.
pub const STATE_SECRET: &str = "squire-ca";
const STATE_KEY: &str = "state.json";
const TOKEN_KEY: &str = "record.json";
/// Present in the Secret of a token that was used.
const USED: &str = "squire.mesh/used";
/// What every object of a CA is labelled with.
const LABEL: &str = "squire.mesh/ca";
/// What the names of the ConfigMaps begin with in which replicas leave word for each other while a root is rotated.
const EVIDENCE: &str = "squire-ca-evidence";
const EVIDENCE_KEY: &str = "heard.json";
/// Whose word it is.
const OF: &str = "squire.mesh/replica";
/// One answer of the API server takes no longer.
const PATIENCE: Duration = Duration::from_secs(10);

/// A CA's place in a namespace.
pub struct ClusterStore {
    secrets: Api<Secret>,
    namespace: String,
    chunks: Chunks,
    runtime: Handle,
    leads: watch::Receiver<bool>,
    replica: String,
    maps: Api<ConfigMap>,
    /// The version of the state that was read or written last; none: there was no state.
    version: Mutex<Option<String>>,
    tip: Mutex<Option<Tip>>,
}

impl ClusterStore {
    /// The store in this namespace. Nothing is read yet. To be made within a runtime, on which it talks; its methods block and
    /// are called where that is allowed. `leads` tells whether this replica, of that name, may change the state.
    #[must_use]
    pub fn new(client: Client, namespace: &str, replica: &str, leads: watch::Receiver<bool>) -> Self {
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
        Self {
            secrets: Api::namespaced(client, namespace),
            chunks: Chunks::new(maps.clone(), namespace),
            maps,
            replica: replica.to_owned(),
            namespace: namespace.to_owned(),
            runtime: Handle::current(),
            leads,
            version: Mutex::default(),
            tip: Mutex::default(),
        }
    }

    fn object(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("secret/{}/{name}", self.namespace))
    }

    /// Waits for an answer of the API server.
    fn ask<T>(
        &self,
        path: &str,
        action: &'static str,
        asked: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, StoreError> {
        // The clock belongs to the runtime too.
        let answer = self.runtime.block_on(async { timeout(PATIENCE, asked).await });
        let path = || self.object(path);
        match answer {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(source)) => Err(StoreError::api(path(), action, source)),
            Err(_) => Err(StoreError::Silent { path: path(), action }),
        }
    }

    fn secret(name: String, of: &str, key: &str, bytes: &[u8]) -> Secret {
        Secret {
            metadata: ObjectMeta {
                name: Some(name),
                labels: Some(labels(of)),
                ..ObjectMeta::default()
            },
            type_: Some(format!("squire.mesh/ca-{of}")),
            data: Some(BTreeMap::from([(key.to_owned(), ByteString(bytes.to_vec()))])),
            ..Secret::default()
        }
    }

    fn evidence(&self) -> Result<Vec<ConfigMap>, StoreError> {
        let params = ListParams::default().labels(&format!("{LABEL}=evidence"));
        Ok(self.ask(EVIDENCE, "list", self.maps.list(&params))?.items)
    }

    fn read_token(&self, digest: &Sha256) -> Result<Option<(Secret, TokenRecord)>, StoreError> {
        let name = token_name(digest);
        let Some(secret) = self.ask(&name, "read", self.secrets.get_opt(&name))? else {
            return Ok(None);
        };
        let record = secret.data.as_ref().and_then(|data| data.get(TOKEN_KEY));
        let record = record
            .ok_or("it has no record")
            .and_then(|bytes| serde_json::from_slice(&bytes.0).map_err(|_| "its record is not one"));
        match record {
            Ok(record) => Ok(Some((secret, record))),
            Err(reason) => Err(StoreError::Damaged {
                path: self.object(&name),
                reason: reason.to_owned(),
            }),
        }
    }

    /// The end of the log as the API server has it.
    fn reload_tip(&self, tip: &mut Option<Tip>) -> Result<(), StoreError> {
        *tip = self.ask(chunks::PREFIX, "read the end of the log", self.chunks.tip())?;
        Ok(())
    }

    fn append(&self, tip: &mut Option<Tip>, lines: &[u8], head: &Head) -> Result<(), StoreError> {
        loop {
            if tip.is_none() {
                self.reload_tip(tip)?;
            }
            let missing = || StoreError::Damaged {
                path: PathBuf::from(format!("configmap/{}/{}", self.namespace, chunks::PREFIX)),
                reason: "there is no issuance log although there is a CA".into(),
            };
            let end = tip.as_ref().ok_or_else(missing)?;
            if end.head == *head {
                // Written before, although the answer was lost.
                return Ok(());
            }
            if end.head.bytes + lines.len() as u64 != head.bytes || end.head.count >= head.count {
                return Err(StoreError::Moved {
                    path: self.place(),
                    head: Box::new(end.head),
                });
            }
            let appended = self.ask(
                chunks::PREFIX,
                "append to the log",
                self.chunks.append(end, lines, head),
            );
            match appended {
                Ok(Some(next)) => {
                    *tip = Some(next);
                    return Ok(());
                }
                // Somebody else was first: see what is there now.
                Ok(None) => *tip = None,
                Err(error) => {
                    *tip = None;
                    return Err(error);
                }
            }
        }
    }
}

impl Store for ClusterStore {
    fn place(&self) -> PathBuf {
        self.object(STATE_SECRET)
    }

    fn leads(&self) -> bool {
        *self.leads.borrow()
    }

    fn replica(&self) -> Option<&str> {
        Some(&self.replica)
    }

    fn testify(&self, testimony: &[u8]) -> Result<(), StoreError> {
        let name = format!("{EVIDENCE}-{}", self.replica);
        let map = serde_json::json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": name, "labels": labels("evidence"), "annotations": {OF: self.replica}},
            "data": {EVIDENCE_KEY: String::from_utf8_lossy(testimony)},
        });
        // Nobody else writes it: whatever is there is older.
        let params = PatchParams::apply("squire-control").force();
        self.ask(&name, "write", self.maps.patch(&name, &params, &Patch::Apply(&map)))?;
        Ok(())
    }

    fn testimonies(&self) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        let others = self.evidence()?.into_iter().filter_map(|map| {
            let replica = map.metadata.annotations?.remove(OF)?;
            let text = map.data?.remove(EVIDENCE_KEY)?;
            (replica != self.replica).then(|| (replica, text.into_bytes()))
        });
        Ok(others.collect())
    }

    fn clear_testimonies(&self) -> Result<(), StoreError> {
        for map in self.evidence()? {
            let name = map.metadata.name.unwrap_or_default();
            match self.ask(&name, "remove", self.maps.delete(&name, &DeleteParams::default())) {
                Err(StoreError::Api { source, .. }) if is_gone(&source) => {}
                removed => drop(removed?),
            }
        }
        Ok(())
    }

    fn load(&self) -> Result<Option<State>, StoreError> {
        let found = self.ask(STATE_SECRET, "read", self.secrets.get_opt(STATE_SECRET))?;
        let mut version = self.version.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(secret) = found else {
            *version = None;
            return Ok(None);
        };
        let bytes = secret.data.and_then(|mut data| data.remove(STATE_KEY));
        let bytes = bytes.map(|bytes| zeroize::Zeroizing::new(bytes.0)).unwrap_or_default();
        let state = State::parse(&bytes).map_err(|error| StoreError::Damaged {
            path: self.place(),
            reason: error.to_string(),
        })?;
        *version = secret.metadata.resource_version;
        Ok(Some(state))
    }

    fn save(&self, state: &State) -> Result<(), StoreError> {
        if !self.leads() {
            return Err(StoreError::Follower(self.place()));
        }
        let mut version = self.version.lock().unwrap_or_else(PoisonError::into_inner);
        let mut secret = Self::secret(STATE_SECRET.into(), "state", STATE_KEY, &state.to_bytes()?);
        secret.metadata.resource_version.clone_from(&version);
        let params = PostParams::default();
        let written = if version.is_some() {
            self.ask(
                STATE_SECRET,
                "write",
                self.secrets.replace(STATE_SECRET, &params, &secret),
            )
        } else {
            self.ask(STATE_SECRET, "create", self.secrets.create(&params, &secret))
        };
        *version = written?.metadata.resource_version;
        Ok(())
    }

    fn add_token(&self, digest: &Sha256, record: &TokenRecord) -> Result<(), StoreError> {
        let bytes = serde_json::to_vec(record).map_err(|error| StateError::Json(error.to_string()))?;
        let name = token_name(digest);
        let secret = Self::secret(name.clone(), "token", TOKEN_KEY, &bytes);
        self.ask(&name, "create", self.secrets.create(&PostParams::default(), &secret))?;
        Ok(())
    }

    fn token(&self, digest: &Sha256) -> Result<TokenStatus, StoreError> {
        Ok(match self.read_token(digest)? {
            None => TokenStatus::Unknown,
            Some((secret, _)) if is_used(&secret) => TokenStatus::Used,
            Some((_, record)) => TokenStatus::Fresh(record),
        })
    }

    fn use_token(&self, digest: &Sha256) -> Result<bool, StoreError> {
        let Some((mut secret, _)) = self.read_token(digest)? else {
            return Ok(false);
        };
        if is_used(&secret) {
            return Ok(false);
        }
        // With the version that was read: of two replicas, one is second and is told so.
        let annotations = secret.metadata.annotations.get_or_insert_default();
        annotations.insert(USED.to_owned(), "true".to_owned());
        let name = token_name(digest);
        match self.ask(
            &name,
            "use the token",
            self.secrets.replace(&name, &PostParams::default(), &secret),
        ) {
            Ok(_) => Ok(true),
            Err(StoreError::Changed { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn sweep_tokens(&self, limit: SystemTime) -> Result<usize, StoreError> {
        let params = ListParams::default().labels(&format!("{LABEL}=token"));
        let listed = self.ask("*", "list the tokens", self.secrets.list(&params))?;
        let mut removed = 0;
        for secret in listed {
            let record = secret.data.as_ref().and_then(|data| data.get(TOKEN_KEY));
            let record: Option<TokenRecord> = record.and_then(|bytes| serde_json::from_slice(&bytes.0).ok());
            let Some(name) = secret
                .metadata
                .name
                .filter(|_| record.is_some_and(|record| record.expires() < limit))
            else {
                continue;
            };
            let params = DeleteParams::default().preconditions(Preconditions {
                resource_version: secret.metadata.resource_version,
                uid: secret.metadata.uid,
            });
            match self.ask(&name, "remove", self.secrets.delete(&name, &params)) {
                Ok(_) => removed += 1,
                // Another replica was first.
                Err(StoreError::Changed { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(removed)
    }

    fn log_head(&self) -> Result<Option<Head>, StoreError> {
        let mut tip = self.tip.lock().unwrap_or_else(PoisonError::into_inner);
        self.reload_tip(&mut tip)?;
        Ok(tip.as_ref().map(|tip| tip.head))
    }

    fn log_base(&self) -> Result<Head, StoreError> {
        let first = self.ask(chunks::PREFIX, "read the beginning of the log", self.chunks.oldest())?;
        Ok(first.map_or(Head::EMPTY, |(part, _)| part.base))
    }

    fn oldest_log_part(&self) -> Result<Option<LogPart>, StoreError> {
        let first = self.ask(chunks::PREFIX, "read the beginning of the log", self.chunks.oldest())?;
        Ok(first.filter(|(_, sealed)| *sealed).map(|(part, _)| part))
    }

    fn drop_log_part(&self, part: &LogPart) -> Result<(), StoreError> {
        if !self.leads() {
            return Err(StoreError::Follower(self.place()));
        }
        self.ask(&part.name, "let go of", self.chunks.remove(&part.name))
    }

    fn read_log(&self, from: u64) -> Result<Box<dyn Read>, StoreError> {
        let chunks = self.ask(chunks::PREFIX, "list the log", self.chunks.from(from))?;
        Ok(Box::new(chunks.reader(self.chunks.clone(), self.runtime.clone())))
    }

    fn append_log(&self, lines: &[u8], head: &Head) -> Result<(), StoreError> {
        let mut tip = self.tip.lock().unwrap_or_else(PoisonError::into_inner);
        self.append(&mut tip, lines, head)
    }

    fn set_log_aside(&self, _: SystemTime) -> Result<String, StoreError> {
        let mut tip = self.tip.lock().unwrap_or_else(PoisonError::into_inner);
        *tip = None;
        self.ask(chunks::PREFIX, "set the log aside", self.chunks.set_aside())
    }

    /// What others have appended meanwhile is no leftover of ours: nothing is ever cut off here. An append is one write, so no
    /// line is ever torn; one of which no answer came is in the log or is not, and both are true.
    fn cut_log(&self, head: &Head) -> Result<(), StoreError> {
        let mut tip = self.tip.lock().unwrap_or_else(PoisonError::into_inner);
        self.reload_tip(&mut tip)?;
        if tip.is_none() && *head == Head::EMPTY {
            self.ask(chunks::PREFIX, "begin the log", self.chunks.begin())?;
            self.reload_tip(&mut tip)?;
        }
        Ok(())
    }
}

impl StoreError {
    fn api(path: PathBuf, action: &'static str, source: kube::Error) -> Self {
        match &source {
            kube::Error::Api(status) if status.code == 409 => Self::Changed { path },
            _ => Self::Api {
                path,
                action,
                source: Box::new(source),
            },
        }
    }
}

fn is_gone(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

fn labels(of: &str) -> BTreeMap<String, String> {
    BTreeMap::from([
        (LABEL.to_owned(), of.to_owned()),
        ("app.kubernetes.io/part-of".to_owned(), "squire".to_owned()),
    ])
}

/// Names of objects are bounded; half of a hash tells tokens apart, and all of it stands in the record.
fn token_name(digest: &Sha256) -> String {
    format!("squire-ca-token-{}", &digest.to_string()[..32])
}

fn is_used(secret: &Secret) -> bool {
    let annotations = secret.metadata.annotations.as_ref();
    annotations.is_some_and(|annotations| annotations.contains_key(USED))
}

impl std::fmt::Debug for ClusterStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClusterStore")
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}
