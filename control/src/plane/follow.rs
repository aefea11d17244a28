//! Where the objects come from: a directory, or the API server of the cluster in which this process is one of the replicas.
//! From the source on there is one path; what a cluster has besides (an election, remarks on objects, the status of routes)
//! is started here.

use std::sync::Arc;

use squire_mesh::svid::Revocations;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    compile::Settings,
    config::{Config, Kubernetes, Objects},
    error::ControlError,
    federation::Federated,
    lease::Candidate,
    metrics::Metrics,
    pipeline::{Pipeline, Status},
    push::Catalog,
    routes::Verdict,
    source::{
        Directory, Source,
        kubernetes::{Cluster, publish_remarks, publish_route_status},
    },
    tables,
};

/// What the parts of a control plane are started with.
pub(super) struct Parts<'a> {
    pub(super) config: &'a Config,
    pub(super) catalog: &'a Arc<Catalog>,
    pub(super) metrics: &'a Metrics,
    pub(super) stop: &'a CancellationToken,
    pub(super) tasks: &'a TaskTracker,
}

/// This process as one of the replicas in a cluster.
pub(super) struct Member {
    pub(super) client: kube::Client,
    pub(super) namespace: String,
    pub(super) replica: String,
    /// Whether it is the leader.
    pub(super) leads: watch::Receiver<bool>,
}

/// What the objects tell, beside what is published.
pub(super) struct Followed {
    pub(super) status: watch::Receiver<Arc<Status>>,
    /// Which trust domains are federated with; `None` until that is known.
    pub(super) federated: watch::Receiver<Option<Arc<[Federated]>>>,
    /// What came of each route.
    verdicts: watch::Receiver<Arc<[Verdict]>>,
}

/// Who is revoked, as it changes.
pub(super) type Revoked = watch::Receiver<Arc<Revocations>>;

impl Parts<'_> {
    /// Finds the cluster, where there is one, and stands for election among the replicas.
    pub(super) async fn enter_cluster(&self) -> Result<Option<Member>, ControlError> {
        let Objects::Kubernetes(kubernetes) = &self.config.objects else {
            return Ok(None);
        };
        let client = kubernetes.access.client().await?;
        let Kubernetes {
            namespace,
            replica,
            lease,
            ..
        } = kubernetes;
        let candidate = Candidate::new(client.clone(), namespace, replica, *lease, self.metrics.clone());
        let leads = candidate.leads();
        self.tasks.spawn(candidate.run(self.stop.clone()));
        Ok(Some(Member {
            client,
            namespace: namespace.clone(),
            replica: replica.clone(),
            leads,
        }))
    }

    /// Starts to follow the objects, wherever they come from. Besides, who is revoked because of them.
    pub(super) fn follow_objects(&self, member: Option<&Member>) -> (Followed, Option<Revoked>) {
        let Some(member) = member else {
            // Without a cluster there is a directory.
            let dir = match &self.config.objects {
                Objects::Directory(dir) => dir.clone(),
                Objects::Kubernetes(_) => Default::default(),
            };
            return (self.publish(Directory::new(dir, tables::review()).watched()), None);
        };
        let domain = self.config.trust_domain.clone();
        let cluster = Cluster::watch(
            &member.client,
            domain,
            tables::review(),
            self.metrics,
            self.stop,
            self.tasks,
        );
        let gone = cluster.revoked();
        let remarks = publish_remarks(
            member.client.clone(),
            cluster.mirror(),
            member.leads.clone(),
            member.replica.clone(),
            self.metrics.clone(),
        );
        let mirror = cluster.mirror();
        let followed = self.publish(cluster);
        let statuses = publish_route_status(
            member.client.clone(),
            mirror,
            followed.verdicts.clone(),
            member.leads.clone(),
            self.metrics.clone(),
        );
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = remarks => {}
                () = statuses => {}
            }
        });
        (followed, Some(gone))
    }

    /// Publishes what a source says.
    fn publish<S: Source>(&self, source: S) -> Followed {
        let settings = Settings {
            trust_domain: self.config.trust_domain.clone(),
            cluster_domain: self.config.cluster_domain.clone(),
        };
        let pipeline = Pipeline::new(source, settings, Arc::clone(self.catalog), self.metrics.clone());
        let followed = Followed {
            status: pipeline.status(),
            federated: pipeline.federated(),
            verdicts: pipeline.verdicts(),
        };
        self.tasks.spawn(pipeline.run(self.stop.clone()));
        followed
    }
}
