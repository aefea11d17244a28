//! The writer of the state: takes one update whole or refuses it whole, then publishes the next snapshot. It never
//! publishes what it could not fully read, and never forgets a good state because of a bad update.

use std::{collections::HashMap, fmt, sync::Arc, time::SystemTime};

use prost::Message;
use prost_types::Any;
use squire_mesh::{
    bundle::{TrustBundle, TrustBundles},
    policy::Table,
    ports,
    spiffe::TrustDomain,
    svid::Revocations,
    wire::squire as wire,
    workload::{Interner, Service, Workload, WorkloadUid},
};
use tokio::sync::watch;

use super::{Kind, Snapshot, State, selected::Wanted};

/// More reasons than that do not help anybody.
const MAX_REASONS: usize = 5;

/// Strings and label sets below which trimming is not worth the walk.
const TRIM_AT: usize = 4_096;

/// The one writer.
pub struct Store {
    pub(super) uid: WorkloadUid,
    trust_domain: TrustDomain,
    bootstrap: Arc<TrustBundles>,
    pub(super) next: Snapshot,
    /// Which workloads are asked for; `None`: all of them.
    pub(super) wanted: Option<Wanted>,
    interner: Interner,
    /// The interner is trimmed when it has grown to this.
    trim_at: usize,
    versions: [HashMap<Arc<str>, Box<str>>; Kind::ALL.len()],
    publish: watch::Sender<Arc<Snapshot>>,
}

/// One update of one table, as it came in.
#[derive(Debug, Clone)]
pub struct Update {
    /// Which table.
    pub kind: Kind,
    /// The control plane's name for the state after it; empty: more of the first push is to come.
    pub version: String,
    /// Added and replaced resources.
    pub changed: Vec<Change>,
    /// Names of those that are gone.
    pub removed: Vec<String>,
}

/// One added or replaced resource.
#[derive(Debug, Clone)]
pub struct Change {
    /// Its name.
    pub name: String,
    /// The control plane's name for its content.
    pub version: String,
    /// What it is; `None` is refused.
    pub resource: Option<Any>,
}

/// Why an update was not applied; the table stays as it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Refused {
    /// Which table.
    pub kind: Kind,
    /// The state that was not reached.
    pub version: String,
    /// What is wrong, resource by resource; the first few.
    pub reasons: Vec<String>,
    /// Since when the table is older than it should be.
    pub since: SystemTime,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} update {:?} refused: {}",
            self.kind,
            self.version,
            self.reasons.join("; ")
        )
    }
}

/// Resources that were read and are known to be good.
enum Read {
    TrustBundles(Vec<TrustBundle>),
    Revocations(Option<Revocations>),
    Workloads(Vec<Workload>),
    Services(Vec<Service>),
    Policy(Option<Table>),
}

impl Store {
    /// Starts with the roots of the bootstrap file and nothing else.
    #[must_use]
    pub fn new(uid: WorkloadUid, trust_domain: TrustDomain, bootstrap: Arc<TrustBundles>) -> (Self, State) {
        let next = Snapshot::bootstrap(Arc::clone(&bootstrap));
        let (publish, state) = watch::channel(Arc::new(next.clone()));
        let (interner, versions) = (Interner::default(), Default::default());
        (
            Self {
                uid,
                trust_domain,
                bootstrap,
                next,
                wanted: None,
                interner,
                trim_at: TRIM_AT,
                versions,
                publish,
            },
            state,
        )
    }

    /// One more reader.
    #[must_use]
    pub fn follow(&self) -> State {
        self.publish.subscribe()
    }

    /// The names a sidecar has to ask for; empty: all there are.
    #[must_use]
    pub fn subscription(&self, kind: Kind) -> Vec<String> {
        match kind {
            Kind::Policy => vec![self.uid.to_string()],
            Kind::Revocation => vec![ports::REVOCATIONS.to_owned()],
            Kind::Workload => self.wanted.as_ref().map(Wanted::names).unwrap_or_default(),
            Kind::TrustBundle | Kind::Service => Vec::new(),
        }
    }

    /// What is held already, name to version, so that a new stream need not send it again.
    pub fn held(&self, kind: Kind) -> impl Iterator<Item = (String, String)> + '_ {
        self.versions[kind.index()]
            .iter()
            .map(|(name, version)| (name.to_string(), version.to_string()))
    }

    /// Replaces the roots of the bootstrap file, as long as the control plane has not pushed any.
    pub fn bootstrap(&mut self, bundles: Arc<TrustBundles>) {
        let pushed = self.next.tables.of(Kind::TrustBundle).applied.is_some();
        if !pushed && bundles.digest() != self.bootstrap.digest() {
            self.bootstrap = Arc::clone(&bundles);
            self.next.bundles = bundles;
            self.publish();
        }
    }

    /// Applies an update and publishes the state after it.
    ///
    /// # Errors
    /// When any part of it is not exactly understood; nothing has changed then, but the refusal shows in the state.
    pub fn apply(&mut self, update: Update) -> Result<(), Arc<Refused>> {
        match self.read(&update) {
            Ok(read) => {
                self.commit(read, &update);
                self.publish();
                Ok(())
            }
            Err(reasons) => {
                let status = self.next.tables.of_mut(update.kind);
                let since = status
                    .refused
                    .as_ref()
                    .map_or_else(SystemTime::now, |earlier| earlier.since);
                let refused = Arc::new(Refused {
                    kind: update.kind,
                    version: update.version,
                    reasons,
                    since,
                });
                status.refused = Some(Arc::clone(&refused));
                self.publish();
                Err(refused)
            }
        }
    }

    pub(super) fn publish(&self) {
        self.publish.send_replace(Arc::new(self.next.clone()));
    }

    /// Every resource of the update as a domain value, or everything that is wrong with it.
    fn read(&mut self, update: &Update) -> Result<Read, Vec<String>> {
        // The answer to an alias is a name without content.
        let answers = update.kind == Kind::Workload && self.wanted.is_some();
        let has_content = |change: &&Change| !answers || change.resource.is_some() || !Wanted::is_answer(&change.name);
        let changed = || update.changed.iter().filter(has_content);
        let interner = &mut self.interner;
        match update.kind {
            Kind::TrustBundle => {
                let bundles = read_all(update.kind, changed(), |name, message: wire::TrustBundle| {
                    let bundle = TrustBundle::try_from(message).map_err(|error| error.to_string())?;
                    named(name, bundle.trust_domain().as_str())?;
                    Ok(bundle)
                })?;
                self.own_roots_stay(&bundles, &update.removed)
                    .map(|()| Read::TrustBundles(bundles))
            }
            Kind::Revocation => read_all(update.kind, changed(), |name, message: wire::Revocation| {
                named(name, ports::REVOCATIONS)?;
                Revocations::try_from(message).map_err(|error| error.to_string())
            })
            .map(|mut all| Read::Revocations(all.pop())),
            Kind::Workload => read_all(update.kind, changed(), |name, message: wire::Workload| {
                let workload = Workload::from_wire(message, interner).map_err(|error| error.to_string())?;
                named(name, workload.uid.as_str())?;
                Ok(workload)
            })
            .map(Read::Workloads),
            Kind::Service => read_all(update.kind, changed(), |name, message: wire::Service| {
                let service = Service::from_wire(message, interner).map_err(|error| error.to_string())?;
                named(name, service.name.as_str())?;
                Ok(service)
            })
            .map(Read::Services),
            Kind::Policy => read_all(update.kind, changed(), |name, message: wire::Policy| {
                named(name, self.uid.as_str())?;
                Table::try_from(message).map_err(|error| error.to_string())
            })
            .map(|mut all| Read::Policy(all.pop())),
        }
    }

    /// Without roots of our own trust domain we could never hear from the control plane again.
    fn own_roots_stay(&self, bundles: &[TrustBundle], removed: &[String]) -> Result<(), Vec<String>> {
        let own = &self.trust_domain;
        let emptied = bundles.iter().any(|b| b.trust_domain() == own && b.roots().is_empty());
        let gone = removed.iter().any(|name| name == own.as_str());
        if emptied || gone {
            return Err(vec![format!(
                "it would leave our own trust domain {own} without a root"
            )]);
        }
        Ok(())
    }

    fn commit(&mut self, read: Read, update: &Update) {
        let next = &mut self.next;
        match read {
            Read::TrustBundles(bundles) => {
                let mut all = (*next.bundles).clone();
                all = bundles.into_iter().fold(all, |all, bundle| all.with(bundle));
                all = domains(&update.removed).fold(all, |all, domain| all.without(&domain));
                // Links and configurations depend on roots alone, by digest: keys for tokens change without touching them.
                if all != *next.bundles || !all.is_same_as(&next.bundles) {
                    next.bundles = Arc::new(all);
                }
            }
            Read::Revocations(Some(revocations)) => next.revocations = Arc::new(revocations),
            Read::Revocations(None) if update.removed.is_empty() => {}
            Read::Revocations(None) => next.revocations = Arc::default(),
            Read::Workloads(workloads) => {
                update.removed.iter().for_each(|uid| next.remove_workload(uid));
                for workload in workloads {
                    next.put_workload(Arc::new(workload));
                }
                self.note_answers(update);
                self.next.me = self.next.workload(self.uid.as_str()).cloned();
            }
            Read::Services(services) => {
                update.removed.iter().for_each(|name| next.remove_service(name));
                services
                    .into_iter()
                    .for_each(|service| next.put_service(Arc::new(service)));
            }
            Read::Policy(Some(table)) => next.policy = Some(Arc::new(table)),
            Read::Policy(None) if update.removed.is_empty() => {}
            Read::Policy(None) => next.policy = None,
        }
        self.remember(update);
        if self.interner.len() > self.trim_at {
            self.interner.trim();
            self.trim_at = (self.interner.len() * 2).max(TRIM_AT);
        }
    }

    fn remember(&mut self, update: &Update) {
        let versions = &mut self.versions[update.kind.index()];
        for name in &update.removed {
            versions.remove(name.as_str());
        }
        // Answers have no content, and no version.
        for change in update.changed.iter().filter(|change| change.resource.is_some()) {
            versions.insert(change.name.as_str().into(), change.version.as_str().into());
        }
        let status = self.next.tables.of_mut(update.kind);
        status.refused = None;
        if !update.version.is_empty() {
            status.version = update.version.as_str().into();
            status.applied = Some(SystemTime::now());
        }
    }
}

/// Reads every resource; what is wrong with each comes with its name.
fn read_all<'c, M: Message + Default, T>(
    kind: Kind,
    changed: impl Iterator<Item = &'c Change>,
    mut read: impl FnMut(&str, M) -> Result<T, String>,
) -> Result<Vec<T>, Vec<String>> {
    let mut values = Vec::with_capacity(changed.size_hint().1.unwrap_or_default());
    let mut reasons = Vec::new();
    for change in changed {
        match decode(kind, change).and_then(|message| read(&change.name, message)) {
            Ok(value) => values.push(value),
            Err(_) if reasons.len() == MAX_REASONS => reasons.push("and more".to_owned()),
            Err(_) if reasons.len() > MAX_REASONS => {}
            Err(reason) => reasons.push(format!("{}: {reason}", change.name)),
        }
    }
    if reasons.is_empty() { Ok(values) } else { Err(reasons) }
}

fn decode<M: Message + Default>(kind: Kind, change: &Change) -> Result<M, String> {
    let any = change.resource.as_ref().ok_or("it holds no resource")?;
    if any.type_url != kind.type_url() {
        return Err(format!("its type is {:?}, not {:?}", any.type_url, kind.type_url()));
    }
    M::decode(&*any.value).map_err(|error| format!("cannot be decoded: {error}"))
}

/// A resource that is called otherwise than its content says was mixed up somewhere.
fn named(name: &str, content: &str) -> Result<(), String> {
    if name == content {
        Ok(())
    } else {
        Err(format!("its content is {content:?}"))
    }
}

/// Names that are no trust domain were never bundles of ours.
fn domains(names: &[String]) -> impl Iterator<Item = TrustDomain> + '_ {
    names.iter().filter_map(|name| name.parse().ok())
}

#[cfg(test)]
impl Store {
    /// For tests of memory: what the interner holds.
    pub(super) fn interned(&self) -> usize {
        self.interner.len()
    }
}
