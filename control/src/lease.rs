//! One leader among the replicas, by a Lease of the API server. Whoever holds it renews it in good time; when it cannot, it
//! stops leading before anybody else may begin. Clocks of different machines are never compared: a lease is judged by how
//! long it has been seen unchanged. It decides nothing but who leads.

use std::time::Duration;

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout_at},
};
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// The name of the Lease.
pub const NAME: &str = "squire-control";

/// A replica that would lead.
pub struct Candidate {
    api: Api<Lease>,
    replica: String,
    /// How long a leader may be silent.
    lasts: Duration,
    leads: watch::Sender<bool>,
    metrics: Metrics,
    /// The version of the Lease that was seen last, and when it was seen first.
    seen: Option<(String, Instant)>,
    /// Until when the Lease is ours, if it is.
    ours_until: Option<Instant>,
}

impl Candidate {
    /// A replica of this name. A leader is replaced when it has been silent for `lasts`.
    #[must_use]
    pub fn new(client: Client, namespace: &str, replica: &str, lasts: Duration, metrics: Metrics) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            replica: replica.to_owned(),
            lasts,
            leads: watch::Sender::new(false),
            metrics,
            seen: None,
            ours_until: None,
        }
    }

    /// Whether this replica leads.
    #[must_use]
    pub fn leads(&self) -> watch::Receiver<bool> {
        self.leads.subscribe()
    }

    /// Tries to lead, and goes on leading, until `stop`; then lets go of the Lease, so that another need not wait.
    pub async fn run(mut self, stop: CancellationToken) {
        let pause = self.lasts / 5;
        loop {
            let until = self.ours_until.unwrap_or_else(|| Instant::now() + self.lasts);
            let ours = tokio::select! {
                () = stop.cancelled() => break,
                ours = timeout_at(until, self.try_once()) => ours,
            };
            match ours {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "the Lease of the leader cannot be read or written"),
                Err(_) => tracing::warn!("the API server does not answer about the Lease of the leader"),
            }
            let leads = self.ours_until.is_some_and(|until| Instant::now() < until);
            if !leads {
                self.ours_until = None;
            }
            self.announce(leads);
            // Not later than the Lease ends.
            let next = self.ours_until.map_or(pause, |until| {
                pause.min(until.saturating_duration_since(Instant::now()))
            });
            tokio::select! {
                () = stop.cancelled() => break,
                () = sleep(next) => {}
            }
        }
        let led = *self.leads.borrow();
        self.announce(false);
        if led {
            // Should this fail, another replica leads a little later.
            let _ = timeout_at(Instant::now() + Duration::from_secs(1), self.release()).await;
        }
    }

    fn announce(&self, leads: bool) {
        self.metrics.leads.set(leads.into());
        let changed = self
            .leads
            .send_if_modified(|before| std::mem::replace(before, leads) != leads);
        if changed && leads {
            tracing::info!(replica = self.replica, "this replica leads now");
        } else if changed {
            tracing::warn!(replica = self.replica, "this replica does not lead any more");
        }
    }

    /// Renews the Lease, or takes it if nobody holds it.
    async fn try_once(&mut self) -> Result<(), kube::Error> {
        // Counted from before the write, so that we stop before others may begin.
        let begun = Instant::now();
        let params = PostParams::default();
        let written = match self.api.get_opt(NAME).await? {
            None => self.api.create(&params, &self.lease(None)).await,
            Some(lease) => {
                if !self.may_take(&lease, begun) {
                    self.ours_until = None;
                    return Ok(());
                }
                self.api.replace(NAME, &params, &self.lease(Some(lease))).await
            }
        };
        match written {
            Ok(lease) => {
                self.seen = lease.metadata.resource_version.map(|version| (version, begun));
                // A quarter less than others wait: their view of the Lease may be that much older than ours.
                self.ours_until = Some(begun + self.lasts * 3 / 4);
                Ok(())
            }
            // Somebody else was first.
            Err(kube::Error::Api(status)) if status.code == 409 => {
                self.ours_until = None;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn may_take(&mut self, lease: &Lease, now: Instant) -> bool {
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        let seen_since = match &self.seen {
            Some((seen, since)) if *seen == version => *since,
            _ => {
                self.seen = Some((version, now));
                now
            }
        };
        let spec = lease.spec.as_ref();
        let holder = spec
            .and_then(|spec| spec.holder_identity.as_deref())
            .unwrap_or_default();
        let seconds = spec
            .and_then(|spec| spec.lease_duration_seconds)
            .and_then(|seconds| u64::try_from(seconds).ok());
        let lasts = seconds.map_or(self.lasts, Duration::from_secs).max(self.lasts);
        holder.is_empty() || holder == self.replica || now.duration_since(seen_since) >= lasts
    }

    fn lease(&self, current: Option<Lease>) -> Lease {
        let now = MicroTime(Timestamp::now());
        let spec = current
            .as_ref()
            .and_then(|lease| lease.spec.clone())
            .unwrap_or_default();
        let ours = spec.holder_identity.as_deref() == Some(&*self.replica);
        let metadata = match current {
            Some(lease) => lease.metadata,
            None => ObjectMeta {
                name: Some(NAME.to_owned()),
                ..ObjectMeta::default()
            },
        };
        Lease {
            metadata,
            spec: Some(LeaseSpec {
                holder_identity: Some(self.replica.clone()),
                lease_duration_seconds: i32::try_from(self.lasts.as_secs().max(1)).ok(),
                acquire_time: if ours { spec.acquire_time } else { Some(now.clone()) },
                renew_time: Some(now),
                lease_transitions: Some(spec.lease_transitions.unwrap_or_default() + i32::from(!ours)),
                ..LeaseSpec::default()
            }),
        }
    }

    async fn release(&self) -> Result<(), kube::Error> {
        let Some(mut lease) = self.api.get_opt(NAME).await? else {
            return Ok(());
        };
        let Some(spec) = &mut lease.spec else { return Ok(()) };
        if spec.holder_identity.as_deref() == Some(&*self.replica) {
            spec.holder_identity = None;
            self.api.replace(NAME, &PostParams::default(), &lease).await?;
        }
        Ok(())
    }
}
