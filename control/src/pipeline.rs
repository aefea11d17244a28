//! From a source of objects to the catalog: scan, compile, publish. One task does it, one step after the other; nothing is
//! published before everything has been read well once, and what is wrong later never takes away what was right.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant, SystemTime},
};

use serde::Serialize;
use squire_mesh::{
    wire::squire as wire,
    workload::{Interner, Service, Workload, WorkloadUid},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    compile::{self, Compiler, Mesh, Settings},
    federation::{Federated, configured},
    manifest::{Object, Problem, Severity},
    metrics::Metrics,
    push::{Amendment, Catalog, Content, Encoder, Kind, Published, Resource},
    routes::{Routes, Verdict},
    source::{FileView, News, Source},
    tables::{Tables, Update},
};

/// After a file was seen while somebody wrote it.
const UNSETTLED: Duration = Duration::from_millis(100);

/// What the control plane knows and thinks at one moment; for people.
#[derive(Debug, Default)]
pub struct Status {
    /// Everything has been read well at least once.
    pub complete: bool,
    /// The source has been looked at.
    pub scanned: bool,
    /// What is wrong or odd.
    pub problems: Vec<Problem>,
    /// The files, or the kinds that are watched.
    pub files: Vec<FileView>,
    /// Workloads and services as they are now. Behind a lock, because a copy for each change would cost more than the
    /// change; it is held while a change is taken in, and for a look.
    pub mesh: Arc<RwLock<Mesh>>,
    /// The policies behind it.
    pub policies: Vec<Arc<Object>>,
}

/// How many of what the status holds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Counts {
    /// Files whose content is in force.
    pub good: usize,
    /// Files whose content is not.
    pub bad: usize,
}

impl Status {
    /// How many files are in force, and how many are not.
    pub fn counts(&self) -> Counts {
        let good = self.files.iter().filter(|file| file.good).count();
        Counts {
            good,
            bad: self.files.len() - good,
        }
    }
}

/// From a source to the catalog.
pub struct Pipeline<S> {
    source: S,
    interner: Interner,
    compiler: Compiler,
    mesh: Arc<RwLock<Mesh>>,
    tables: Tables,
    services: Encoder<Service>,
    routes: Routes,
    /// Policies, settings and routes as they were last taken in, and what was odd about the routes.
    others: Vec<Arc<Object>>,
    odd_routes: Vec<Problem>,
    due: Due,
    catalog: Arc<Catalog>,
    metrics: Metrics,
    status: watch::Sender<Arc<Status>>,
    federated: watch::Sender<Option<Arc<[Federated]>>>,
    verdicts: watch::Sender<Arc<[Verdict]>>,
    logged: BTreeSet<String>,
}

/// What has to be published.
#[derive(Default)]
struct Due {
    workloads: BTreeSet<WorkloadUid>,
    services: bool,
    /// Policies by workload; `None`: it has none any more.
    policies: BTreeMap<Arc<str>, Option<Resource>>,
}

impl Due {
    fn policies(&mut self, update: Update) {
        let put = update.resources.into_iter();
        let put = put.map(|resource| (Arc::clone(&resource.name), Some(resource)));
        let gone = update.removed.into_iter().map(|name| (name, None));
        self.policies.extend(put.chain(gone));
        self.workloads.extend(update.noted);
    }
}

impl<S: Source> Pipeline<S> {
    /// Publishes what `source` says into `catalog`.
    pub fn new(source: S, settings: Settings, catalog: Arc<Catalog>, metrics: Metrics) -> Self {
        let status = Status::default();
        Self {
            source,
            tables: Tables::new(settings.trust_domain.clone()),
            compiler: Compiler::new(settings),
            mesh: Arc::clone(&status.mesh),
            services: Encoder::new(Kind::Service),
            routes: Routes::default(),
            others: Vec::new(),
            odd_routes: Vec::new(),
            // Even if there are none.
            due: Due {
                services: true,
                ..Due::default()
            },
            interner: Interner::default(),
            catalog,
            metrics,
            status: watch::Sender::new(Arc::new(status)),
            federated: watch::Sender::new(None),
            verdicts: watch::Sender::default(),
            logged: BTreeSet::new(),
        }
    }

    /// Tells what is known and thought.
    pub fn status(&self) -> watch::Receiver<Arc<Status>> {
        self.status.subscribe()
    }

    /// Tells which trust domains are federated with; `None` until that is known.
    pub fn federated(&self) -> watch::Receiver<Option<Arc<[Federated]>>> {
        self.federated.subscribe()
    }

    /// Tells what came of each route.
    pub fn verdicts(&self) -> watch::Receiver<Arc<[Verdict]>> {
        self.verdicts.subscribe()
    }

    /// Follows the source until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            // Reading, parsing and compiling block: not on a thread that serves streams.
            let stepped = tokio::task::spawn_blocking(move || {
                let unsettled = self.step();
                (self, unsettled)
            });
            let unsettled;
            (self, unsettled) = match stepped.await {
                Ok(stepped) => stepped,
                Err(error) => {
                    tracing::error!(%error, "following the source has failed: what was published stays in force");
                    return stop.cancel();
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(UNSETTLED), if unsettled => {}
                () = self.source.due() => {}
            }
        }
    }

    /// One look. Whether to look again soon.
    fn step(&mut self) -> bool {
        let started = Instant::now();
        let scan = self.source.scan(&mut self.interner);
        self.metrics
            .scans
            .with_label_values(&[if scan.changed { "changed" } else { "same" }])
            .inc();
        let stale = self
            .source
            .stale_since()
            .and_then(|since| SystemTime::now().duration_since(since).ok());
        self.metrics
            .stale_seconds
            .set(stale.map_or(0, |age| i64::try_from(age.as_secs()).unwrap_or(i64::MAX)));
        if scan.changed || !self.status.borrow().scanned {
            self.take_in(started);
        }
        scan.unsettled
    }

    fn take_in(&mut self, started: Instant) {
        let News {
            changes,
            others,
            mut problems,
            files,
            complete,
        } = self.source.news();
        let same = |(one, other): (&Arc<Object>, &Arc<Object>)| Arc::ptr_eq(one, other);
        let edited = self.others.len() != others.len() || !self.others.iter().zip(&others).all(same);
        {
            let mesh = Arc::clone(&self.mesh);
            // Whoever panicked under it has left whole workloads.
            let mut mesh = mesh.write().unwrap_or_else(PoisonError::into_inner);
            let touched = self.compiler.apply(changes, &mut mesh, &mut self.interner);
            self.metrics.workloads_compiled.inc_by(touched.looked_at as u64);
            if touched.services || edited {
                mesh.services.clone_from(self.compiler.services());
                self.odd_routes = self.routes.attach(&others, &mut mesh.services);
                self.due.services = true;
            }
            let mut update = self.tables.update(&others, &mut mesh.workloads, &touched.workloads);
            self.metrics.tables_compiled.inc_by(update.compiled as u64);
            problems.extend(mesh.remarks.iter().map(|remark| remarked(remark, &self.source)));
            problems.extend(self.odd_routes.iter().cloned());
            problems.append(&mut update.problems);
            self.due.workloads.extend(touched.workloads);
            self.due.policies(update);
            if complete {
                let due = std::mem::take(&mut self.due);
                self.publish(&mesh, due, started);
                let verdicts = self.routes.verdicts();
                self.verdicts.send_if_modified(|known| {
                    let changed = !Arc::ptr_eq(known, &verdicts);
                    *known = verdicts;
                    changed
                });
            }
        }
        if complete && (edited || self.federated.borrow().is_none()) {
            let federated = configured(others.iter().map(|object| &**object));
            self.federated.send_if_modified(|known| {
                let changed = known.as_deref() != Some(&federated[..]);
                if changed {
                    *known = Some(federated.into());
                }
                changed
            });
        }
        self.others.clone_from(&others);
        self.interner.trim_if_grown();
        self.log(&problems);
        let status = Status {
            complete,
            scanned: true,
            problems,
            files,
            mesh: Arc::clone(&self.mesh),
            policies: others,
        };
        let counts = status.counts();
        for (state, number) in [("good", counts.good), ("bad", counts.bad)] {
            self.metrics.files.with_label_values(&[state]).set(as_gauge(number));
        }
        self.metrics.problems.set(as_gauge(status.problems.len()));
        self.metrics.ready.set(complete.into());
        self.status.send_replace(Arc::new(status));
    }

    fn publish(&mut self, mesh: &Mesh, due: Due, started: Instant) {
        let (mut workloads, mut identities) = (Amendment::default(), Vec::with_capacity(due.workloads.len()));
        for uid in &due.workloads {
            let (name, workload) = (uid.to_shared(), mesh.workloads.get(uid));
            identities.push((Arc::clone(&name), workload.map(|workload| workload.identity.clone())));
            match workload {
                Some(workload) => workloads.put.push(encode(workload)),
                None => workloads.gone.push(name),
            }
        }
        let mut encoded = workloads.put.len();
        let mut policies = Amendment::default();
        for (name, resource) in due.policies {
            match resource {
                Some(resource) => policies.put.push(resource),
                None => policies.gone.push(name),
            }
        }
        let mut kinds = vec![(Kind::Workload, workloads), (Kind::Policy, policies)];
        if due.services {
            let named = mesh.services.values().map(|each| (each.name.to_shared(), each));
            let content = |each: &Service| Content::of(&wire::Service::from(each));
            let services = self.services.amend(named, content);
            encoded += services.put.len();
            kinds.push((Kind::Service, services));
        }
        // The first publication is one, even if there is nothing.
        let first = self.catalog.version(Kind::Workload) == 0;
        kinds.retain(|(_, amendment)| first || !amendment.is_empty());
        self.metrics.resources_encoded.inc_by(encoded as u64);
        let published = self.catalog.amend(kinds, identities);
        self.metrics.compile_seconds.observe(started.elapsed().as_secs_f64());
        for (kind, published) in published {
            record(&self.metrics, kind, published);
        }
    }

    /// Each problem once when it comes, and once when it goes.
    fn log(&mut self, problems: &[Problem]) {
        let now: BTreeSet<String> = problems.iter().map(ToString::to_string).collect();
        for problem in problems
            .iter()
            .filter(|problem| !self.logged.contains(&problem.to_string()))
        {
            match problem.severity {
                Severity::Error => tracing::error!("{problem}"),
                Severity::Warning => tracing::warn!("{problem}"),
            }
        }
        for solved in self.logged.difference(&now) {
            tracing::info!("no longer: {solved}");
        }
        self.logged = now;
    }
}

/// Counts a publication.
pub(crate) fn record(metrics: &Metrics, kind: Kind, published: Published) {
    let Published {
        changed,
        removed,
        total,
    } = published;
    metrics
        .resources
        .with_label_values(&[kind.label()])
        .set(as_gauge(total));
    for (change, number) in [("changed", changed), ("removed", removed)] {
        metrics
            .resource_changes
            .with_label_values(&[kind.label(), change])
            .inc_by(number as u64);
    }
    if changed + removed > 0 {
        tracing::info!(kind = kind.label(), changed, removed, total, "published");
    }
}

fn encode(workload: &Workload) -> Resource {
    let aliases = workload.aliases().map(|alias| alias.to_string().into());
    let content = Content::of(&wire::Workload::from(workload)).with_aliases(aliases);
    Resource::with(Kind::Workload, workload.uid.to_shared(), &content)
}

fn remarked(remark: &compile::Remark, source: &impl Source) -> Problem {
    let (file, document, line) = source.place(&remark.object).unwrap_or_else(|| ("".into(), 0, 0));
    Problem {
        severity: Severity::Warning,
        file,
        document,
        line,
        object: Some(remark.object.clone()),
        path: String::new(),
        message: remark.message.clone(),
        fix: String::new(),
    }
}

fn as_gauge(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
