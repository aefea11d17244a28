//! From a source of objects to the catalog: scan, compile, publish. One task does it, one step after the other; nothing is
//! published before everything has been read well once, and what is wrong later never takes away what was right.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use serde::Serialize;
use squire_mesh::{
    wire::squire as wire,
    workload::{Interner, Service, Workload},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    compile::{self, Mesh, Settings},
    federation::{Federated, configured},
    manifest::{Object, Problem, Severity},
    metrics::Metrics,
    push::{Catalog, Content, Encoder, Identities, Kind, Published, Resource},
    routes::Routes,
    source::{FileView, Placed, Snapshot, Source},
    tables::Tables,
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
    /// What was published last.
    pub mesh: Mesh,
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
    settings: Settings,
    interner: Interner,
    tables: Tables,
    workloads: Encoder<Workload>,
    services: Encoder<Service>,
    routes: Routes,
    catalog: Arc<Catalog>,
    metrics: Metrics,
    status: watch::Sender<Arc<Status>>,
    federated: watch::Sender<Option<Arc<[Federated]>>>,
    logged: BTreeSet<String>,
}

impl<S: Source> Pipeline<S> {
    /// Publishes what `source` says into `catalog`.
    pub fn new(source: S, settings: Settings, catalog: Arc<Catalog>, metrics: Metrics) -> Self {
        let status = watch::Sender::new(Arc::new(Status::default()));
        Self {
            source,
            tables: Tables::new(settings.trust_domain.clone()),
            workloads: Encoder::new(Kind::Workload),
            services: Encoder::new(Kind::Service),
            routes: Routes::default(),
            settings,
            interner: Interner::default(),
            catalog,
            metrics,
            status,
            federated: watch::Sender::new(None),
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
        let Snapshot {
            inventory,
            others,
            mut problems,
            files,
            complete,
            places,
        } = self.source.snapshot();
        let mut mesh = compile::mesh(&inventory, &self.settings, &mut self.interner);
        problems.extend(mesh.remarks.iter().map(|remark| remarked(remark, &places)));
        problems.extend(self.routes.attach(&others, &mut mesh.services));
        let policies = self.tables.update(&others, mesh.workloads.values_mut());
        problems.extend(policies.problems);
        self.metrics.tables_compiled.inc_by(policies.compiled as u64);
        if complete {
            self.publish(&mesh, policies.resources, started);
            let federated = configured(others.iter().map(|object| &**object));
            self.federated.send_if_modified(|known| {
                let changed = known.as_deref() != Some(&federated[..]);
                if changed {
                    *known = Some(federated.into());
                }
                changed
            });
        }
        self.interner.trim();
        self.log(&problems);
        let status = Status {
            complete,
            scanned: true,
            problems,
            files,
            mesh,
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

    fn publish(&mut self, mesh: &Mesh, policies: Vec<Resource>, started: Instant) {
        let workloads = mesh.workloads.values();
        let identities: Identities = workloads
            .clone()
            .map(|workload| (workload.uid.to_shared(), workload.identity.clone()))
            .collect();
        let named = workloads.map(|each| (each.uid.to_shared(), each));
        let content = |each: &Workload| Content::of(&wire::Workload::from(each));
        let (workloads, encoded_workloads) = self.workloads.update(named, content);
        let named = mesh.services.values().map(|each| (each.name.to_shared(), each));
        let content = |each: &Service| Content::of(&wire::Service::from(each));
        let (services, encoded_services) = self.services.update(named, content);
        let encoded = encoded_workloads + encoded_services;
        self.metrics.resources_encoded.inc_by(encoded as u64);
        let kinds = [
            (Kind::Workload, workloads),
            (Kind::Service, services),
            (Kind::Policy, policies),
        ];
        let published = self.catalog.publish(kinds, Some(Arc::new(identities)));
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

fn remarked(remark: &compile::Remark, places: &BTreeMap<String, Placed>) -> Problem {
    let (file, document, line) = places.get(&remark.object).cloned().unwrap_or_else(|| ("".into(), 0, 0));
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
