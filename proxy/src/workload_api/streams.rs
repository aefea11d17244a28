//! The streams of the Workload API: everything at once, and everything again whenever any of it changes (Workload API 4.3).

use std::{sync::Arc, time::Duration};

use futures_util::stream::{self, BoxStream, StreamExt as _};
use squire_mesh::bundle::TrustBundles;
use tokio::time::{Instant, sleep_until};
use tonic::Status;

use super::{answers, figures::WorkloadApiFigures, svid::Follower};
use crate::{
    identity::KeyedSvid,
    state::{Kind, Snapshot, State},
};

/// Who asks before there is an identity, or word from the control plane, is told so after this time.
const PATIENCE: Duration = Duration::from_secs(10);

/// What tonic sends.
pub(super) type Answers<T> = BoxStream<'static, Result<T, Status>>;

/// Something that answers again and again, until it fails.
trait Source: Send + 'static {
    type Answer: Send;

    /// The next answer; an error is the last.
    fn next(&mut self) -> impl Future<Output = Result<Self::Answer, Status>> + Send;
}

/// Counts a stream while it is open, and how it ended.
struct Open {
    figures: Arc<WorkloadApiFigures>,
    method: &'static str,
    failed: bool,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.figures.closed(self.method);
        self.figures.answered(self.method, !self.failed);
    }
}

fn answers_of<S: Source>(source: S, method: &'static str, figures: &Arc<WorkloadApiFigures>) -> Answers<S::Answer> {
    figures.opened(method);
    let open = Open {
        figures: Arc::clone(figures),
        method,
        failed: false,
    };
    stream::unfold((source, open), |(mut source, mut open)| async move {
        if open.failed {
            return None;
        }
        let answer = source.next().await;
        open.failed = answer.is_err();
        Some((answer, (source, open)))
    })
    .boxed()
}

/// `FetchX509SVID`.
pub(super) fn svids(
    svids: Follower,
    state: State,
    figures: &Arc<WorkloadApiFigures>,
) -> Answers<squire_mesh::wire::workload_api::X509SvidResponse> {
    let source = Svids {
        svids,
        state,
        sent: None,
        deadline: Instant::now() + PATIENCE,
    };
    answers_of(source, "FetchX509SVID", figures)
}

/// A stream of bundles, each as `answer` says it.
pub(super) fn bundles<T: Send + 'static>(
    state: State,
    method: &'static str,
    answer: fn(&TrustBundles) -> T,
    figures: &Arc<WorkloadApiFigures>,
) -> Answers<T> {
    let source = Bundles {
        state,
        answer,
        sent: None,
        deadline: Instant::now() + PATIENCE,
    };
    answers_of(source, method, figures)
}

struct Svids {
    svids: Follower,
    state: State,
    sent: Option<(Arc<KeyedSvid>, Arc<TrustBundles>)>,
    deadline: Instant,
}

impl Source for Svids {
    type Answer = squire_mesh::wire::workload_api::X509SvidResponse;

    async fn next(&mut self) -> Result<Self::Answer, Status> {
        loop {
            let svid = self.svids.borrow_and_update().clone();
            let snapshot = Arc::clone(&self.state.borrow_and_update());
            match svid {
                Some(svid) => {
                    not_revoked(&snapshot, &svid)?;
                    if self.is_news(&svid, &snapshot.bundles) {
                        let answer = answers::x509_svid(&svid, &snapshot.bundles);
                        self.sent = Some((svid, Arc::clone(&snapshot.bundles)));
                        return Ok(answer);
                    }
                }
                None if self.sent.is_some() => {
                    return Err(Status::unavailable("the SVID has expired, and the CA did not renew it"));
                }
                None => {}
            }
            tokio::select! {
                changed = self.svids.changed() => changed.map_err(|_| ending())?,
                changed = self.state.changed() => changed.map_err(|_| ending())?,
                () = sleep_until(self.deadline), if self.sent.is_none() => {
                    return Err(Status::unavailable("no SVID yet: the sidecar's log says what the CA answered"));
                }
            }
        }
    }
}

impl Svids {
    fn is_news(&self, svid: &Arc<KeyedSvid>, bundles: &Arc<TrustBundles>) -> bool {
        let same = |(sent, with): &(Arc<KeyedSvid>, Arc<TrustBundles>)| Arc::ptr_eq(sent, svid) && with == bundles;
        !self.sent.as_ref().is_some_and(same)
    }
}

struct Bundles<T> {
    state: State,
    answer: fn(&TrustBundles) -> T,
    sent: Option<Arc<TrustBundles>>,
    deadline: Instant,
}

impl<T: Send + 'static> Source for Bundles<T> {
    type Answer = T;

    async fn next(&mut self) -> Result<T, Status> {
        loop {
            let snapshot = Arc::clone(&self.state.borrow_and_update());
            let pushed = snapshot.tables.of(Kind::TrustBundle).applied.is_some();
            if pushed && self.sent.as_ref() != Some(&snapshot.bundles) {
                let answer = (self.answer)(&snapshot.bundles);
                self.sent = Some(Arc::clone(&snapshot.bundles));
                return Ok(answer);
            }
            tokio::select! {
                changed = self.state.changed() => changed.map_err(|_| ending())?,
                () = sleep_until(self.deadline), if self.sent.is_none() => {
                    return Err(Status::unavailable("no word from the control plane yet: see the sidecar's log"));
                }
            }
        }
    }
}

/// Who is revoked is nobody any more.
fn not_revoked(snapshot: &Snapshot, svid: &KeyedSvid) -> Result<(), Status> {
    let revoked = snapshot
        .revocations
        .check_identity(svid.svid.id(), svid.svid.not_before());
    revoked.map_err(|revoked| Status::permission_denied(revoked.to_string()))
}

fn ending() -> Status {
    Status::unavailable("the sidecar is ending")
}
