//! Follows each kind with a watch of its own, for ever: lists, watches, lists again where the API server has forgotten the
//! past. Failures are counted and shown, and tried again with growing patience; they never take away what is known.

use std::{sync::Arc, time::Duration};

use futures_util::{FutureExt as _, StreamExt as _};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client,
    api::{ApiResource, ListParams, PartialObjectMeta},
    runtime::watcher::{self, Event, watcher},
};
use rand::Rng as _;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    kinds::{KINDS, Kind},
    mirror::Mirror,
    raw::Raw,
};
use crate::metrics::{Metrics, count};

/// Before the first try after a failure; doubles up to [`LONGEST`].
const SHORTEST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(10);
/// Seconds that one watch lasts; then the next one takes over. A connection that has died without a word is noticed by then.
const WATCH: u32 = 120;
/// How often to look for a kind that is absent, when nobody tells of new CRDs.
const ABSENT: Duration = Duration::from_secs(15);
/// After a failure, a watch that says nothing for this long is asked after.
const SILENCE: Duration = Duration::from_secs(1);

/// Starts to follow every kind.
pub(super) fn start(
    client: &Client,
    mirror: &Arc<Mirror>,
    metrics: &Metrics,
    stop: &CancellationToken,
    tasks: &TaskTracker,
) {
    let (news, crds) = watch::channel(());
    tasks.spawn(until(stop.clone(), follow_crds(client.clone(), news)));
    for kind in &KINDS {
        let follower = Follower {
            kind,
            client: client.clone(),
            mirror: Arc::clone(mirror),
            metrics: metrics.clone(),
            crds: crds.clone(),
            pause: SHORTEST,
        };
        tasks.spawn(until(stop.clone(), follower.run()));
    }
}

async fn until(stop: CancellationToken, task: impl Future<Output = ()>) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = task => {}
    }
}

/// Tells of every change of the CRDs. Where that may not be watched, absent kinds are looked for now and then all the same.
async fn follow_crds(client: Client, news: watch::Sender<()>) {
    let api: Api<PartialObjectMeta<CustomResourceDefinition>> = Api::all(client);
    let mut events = Box::pin(watcher(api, watcher::Config::default().timeout(WATCH)));
    let mut pause = SHORTEST;
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init | Event::InitApply(_)) => {}
            Ok(Event::InitDone | Event::Apply(_) | Event::Delete(_)) => {
                pause = SHORTEST;
                news.send_replace(());
            }
            Err(error) => {
                tracing::debug!(%error, "CRDs cannot be watched");
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST * 6);
            }
        }
    }
}

struct Follower {
    kind: &'static Kind,
    client: Client,
    mirror: Arc<Mirror>,
    metrics: Metrics,
    crds: watch::Receiver<()>,
    pause: Duration,
}

/// What an API server says about a kind.
enum Served {
    /// It is served so.
    As(ApiResource),
    /// There is no such kind.
    Absent,
}

impl Follower {
    async fn run(mut self) {
        loop {
            match self.discover().await {
                Ok(Served::As(resource)) => self.follow(&resource).await,
                Ok(Served::Absent) => {
                    self.metrics.watch_up.with_label_values(&[self.kind.label()]).set(0);
                    self.mirror.absent(self.kind);
                    self.appears().await;
                }
                Err(error) => self.failed(&error).await,
            }
        }
    }

    /// Waits until there is reason to look for an absent kind again. A CRD is served a moment after it is there.
    async fn appears(&mut self) {
        if timeout(ABSENT, self.crds.changed()).await.is_ok() {
            self.pause = SHORTEST;
        }
        sleep(self.pause).await;
        self.pause = (self.pause * 2).min(LONGEST);
        // While CRDs have just changed, look again soon: without another event.
        if self.pause < Duration::from_secs(4) {
            self.crds.mark_changed();
        }
    }

    /// In which version the kind is served.
    async fn discover(&self) -> Result<Served, kube::Error> {
        if !self.kind.optional {
            return Ok(Served::As(self.kind.resource(self.kind.versions[0])));
        }
        for version in self.kind.versions {
            let group = format!("{}/{version}", self.kind.group);
            match self.client.list_api_group_resources(&group).await {
                Ok(list) if list.resources.iter().any(|resource| resource.name == self.kind.plural) => {
                    return Ok(Served::As(self.kind.resource(version)));
                }
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Served::Absent)
    }

    /// Follows the kind until the API server says that there is none.
    async fn follow(&mut self, resource: &ApiResource) {
        let api: Api<Raw> = Api::all_with(self.client.clone(), resource);
        let mut config = watcher::Config::default().timeout(WATCH);
        if let Some(name) = self.kind.name {
            config = config.fields(&format!("metadata.name={name}"));
        }
        let limits = ListParams {
            field_selector: config.field_selector.clone(),
            ..ListParams::default().limit(1)
        };
        let mut events = Box::pin(watcher(api.clone(), config));
        let mut troubled = false;
        loop {
            let next = if troubled {
                match timeout(SILENCE, events.next()).await {
                    Ok(next) => next,
                    // A watch that goes on where it had broken off says nothing: ask whether the API server answers.
                    Err(_) => match api.list_metadata(&limits).await {
                        Ok(_) => {
                            troubled = false;
                            self.works();
                            self.mirror.well(self.kind);
                            continue;
                        }
                        Err(error) => Some(Err(watcher::Error::WatchFailed(error))),
                    },
                }
            } else {
                events.next().await
            };
            match next {
                // A watcher never ends.
                None => return,
                Some(Ok(event)) => {
                    troubled = false;
                    self.took(event, resource);
                    // A list or a burst is taken in without waiting, but never all of a thread's time.
                    while let Some(Some(Ok(event))) = events.next().now_or_never() {
                        self.took(event, resource);
                        tokio::task::consume_budget().await;
                    }
                }
                Some(Err(error)) if self.kind.optional && is_gone(&error) => return,
                Some(Err(error)) => {
                    troubled = true;
                    self.watch_failed(&error).await;
                }
            }
        }
    }

    fn took(&mut self, event: Event<Raw>, resource: &ApiResource) {
        let name = match &event {
            Event::Init => "init",
            Event::InitApply(_) => "listed",
            Event::InitDone => "init_done",
            Event::Apply(_) => "applied",
            Event::Delete(_) => "deleted",
        };
        let labels = [self.kind.label(), name];
        self.metrics.watch_events.with_label_values(&labels).inc();
        if !matches!(event, Event::Init) {
            self.works();
        }
        let event = match event {
            Event::Apply(raw) => Event::Apply(raw.typed(resource)),
            Event::InitApply(raw) => Event::InitApply(raw.typed(resource)),
            other => other,
        };
        self.mirror.apply(self.kind, event);
    }

    fn works(&mut self) {
        self.pause = SHORTEST;
        self.metrics.watch_up.with_label_values(&[self.kind.label()]).set(1);
    }

    async fn watch_failed(&mut self, error: &watcher::Error) {
        match error {
            watcher::Error::InitialListFailed(error)
            | watcher::Error::WatchStartFailed(error)
            | watcher::Error::WatchFailed(error) => self.failed(error).await,
            // The past is forgotten: what is there now is listed at once.
            watcher::Error::WatchError(status) if status.code == 410 => {
                count(&self.metrics.watch_errors, "expired").inc();
            }
            watcher::Error::WatchError(status) => {
                self.failed(&kube::Error::Api(status.clone())).await;
            }
            watcher::Error::NoResourceVersion => {
                count(&self.metrics.watch_errors, "broken").inc();
                self.mirror.troubled(self.kind, error.to_string(), "");
                self.wait().await;
            }
        }
    }

    async fn failed(&mut self, error: &kube::Error) {
        let (reason, fix) = match error {
            kube::Error::Api(status) if status.code == 410 => {
                return count(&self.metrics.watch_errors, "expired").inc();
            }
            kube::Error::Api(status) if status.code == 403 => (
                "forbidden",
                "give the control plane's service account the right to get, list and watch it",
            ),
            kube::Error::Api(status) if status.code == 401 => (
                "unauthorized",
                "the API server does not accept the control plane's credentials: see to its token",
            ),
            kube::Error::Api(status) if status.code == 429 => ("throttled", "the API server asks for patience"),
            kube::Error::Api(_) => ("refused", "see the API server's log"),
            _ => (
                "unreachable",
                "see whether the API server runs and can be reached from here",
            ),
        };
        count(&self.metrics.watch_errors, reason).inc();
        self.metrics.watch_up.with_label_values(&[self.kind.label()]).set(0);
        self.mirror.troubled(self.kind, said(error), fix);
        self.wait().await;
    }

    /// Longer each time, and not all at once.
    async fn wait(&mut self) {
        let spread = rand::rng().random_range(0.5..1.0);
        sleep(self.pause.mul_f64(spread)).await;
        self.pause = (self.pause * 2).min(LONGEST);
    }
}

/// The kind is not there any more.
fn is_gone(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => matches!(error, kube::Error::Api(status) if status.code == 404),
        watcher::Error::WatchError(status) => status.code == 404,
        watcher::Error::NoResourceVersion => false,
    }
}

/// What the API server said, or what kept it from saying anything: down to the cause.
fn said(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        return status.message.clone();
    }
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
