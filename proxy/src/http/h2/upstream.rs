//! One HTTP/2 connection towards a server: a task drives it, any number of streams share it. It learns here that the server
//! wants no more streams (GOAWAY), and tells whoever listens.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::Context,
    time::{Duration, Instant},
};

use squire_mesh::svid::VerifiedPeer;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{Notify, watch},
    task::AbortHandle,
};
use tokio_util::task::TaskTracker;

use super::{
    limits::Limits,
    wire::{Client, Error, Opener},
};
use crate::{connection::Carrier, tls::handshake::Parameters};

/// What an upstream connection stands on.
#[derive(Clone, Default)]
pub(super) struct Grounds {
    /// Whom it leads to; none: plaintext.
    pub(super) peer: Option<Arc<VerifiedPeer>>,
    /// Of the credentials it was opened with; none: plaintext.
    pub(super) generation: Option<u64>,
    pub(super) carrier: Carrier,
    pub(super) tls: Option<Parameters>,
    /// How long its handshake took, where it needed one.
    pub(super) handshake: Option<Duration>,
}

/// A connection and what is known of it.
pub(super) struct Upstream {
    pub(super) grounds: Grounds,
    /// None: no further streams.
    sender: Mutex<Option<Opener>>,
    active: AtomicUsize,
    gone: AtomicBool,
    /// No stream has been given room on it yet.
    fresh: AtomicBool,
    idle_since: Mutex<Instant>,
    /// Somebody wants to know what the server's SETTINGS say.
    asked: Notify,
    /// Whether they are there.
    settled: watch::Sender<bool>,
    /// Wakes whoever waits for room on any connection of the same line.
    freed: Arc<Notify>,
    task: Mutex<Option<AbortHandle>>,
}

/// What upstream connections of one line share.
#[derive(Clone)]
pub(super) struct Signals {
    /// A stream has ended, or a connection.
    pub(super) freed: Arc<Notify>,
    /// A server has sent GOAWAY.
    pub(super) going_away: Arc<Notify>,
}

impl Upstream {
    /// Says hello, and drives the connection from then on in a task of its own.
    pub(super) async fn start<S>(
        io: S,
        limits: &Limits,
        grounds: Grounds,
        signals: &Signals,
        tasks: &TaskTracker,
    ) -> Result<Arc<Self>, Error>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = Client::handshake(io, limits).await?;
        let upstream = Arc::new(Self {
            grounds,
            sender: Mutex::new(Some(sender)),
            active: AtomicUsize::new(0),
            gone: AtomicBool::new(false),
            fresh: AtomicBool::new(true),
            idle_since: Mutex::new(Instant::now()),
            asked: Notify::new(),
            settled: watch::Sender::new(false),
            freed: Arc::clone(&signals.freed),
            task: Mutex::default(),
        });
        let driven = Arc::clone(&upstream);
        let going_away = Arc::clone(&signals.going_away);
        let task = tasks.spawn(async move { driven.drive(connection, &going_away).await });
        *upstream.task.lock().unwrap_or_else(PoisonError::into_inner) = Some(task.abort_handle());
        Ok(upstream)
    }

    async fn drive<S>(&self, mut connection: Client<S>, going_away: &Notify)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut asked = std::pin::pin!(self.asked.notified());
        let mut pinged = false;
        let ended = std::future::poll_fn(|cx| {
            let polled = connection.poll(cx);
            if polled.is_pending() && self.wants_no_more(cx) {
                going_away.notify_one();
            }
            // SETTINGS come before anything else a server says (RFC 9113 §3.4), so before it answers a PING.
            if !pinged && asked.as_mut().poll(cx).is_ready() {
                pinged = connection.ping();
                // Sent by polling the connection once more.
                cx.waker().wake_by_ref();
            }
            if pinged && !*self.settled.borrow() && connection.has_answered(cx) {
                self.settled.send_replace(true);
            }
            polled
        })
        .await;
        self.gone.store(true, Ordering::Release);
        self.settled.send_replace(true);
        self.retire();
        if let Err(error) = ended {
            tracing::debug!(%error, "an HTTP/2 connection to a server has ended");
        }
    }

    /// True once: the server has sent GOAWAY since the last look.
    fn wants_no_more(&self, cx: &mut Context<'_>) -> bool {
        let mut sender = self.sender();
        let refused = sender.as_mut().is_some_and(|sender| sender.is_gone(cx));
        if refused {
            *sender = None;
            drop(sender);
            self.freed.notify_waiters();
        }
        refused
    }

    /// No further streams; closes once the open ones have ended.
    pub(super) fn retire(&self) {
        let sender = self.sender().take();
        drop(sender);
        self.freed.notify_waiters();
    }

    /// Whether the server takes extended CONNECT (RFC 8441 §3). Waits for its SETTINGS if need be.
    pub(super) async fn takes_extended_connect(&self) -> bool {
        let says_so = || {
            let sender = self.sender();
            sender.as_ref().is_some_and(Opener::takes_extended_connect)
        };
        if !says_so() {
            self.asked.notify_one();
            // Ends with the connection, whose sender is gone then.
            let _ = self.settled.subscribe().wait_for(|settled| *settled).await;
        }
        says_so()
    }

    /// Ends it and all its streams now.
    pub(super) fn cut(&self) {
        self.retire();
        if let Some(task) = self.task.lock().unwrap_or_else(PoisonError::into_inner).take() {
            task.abort();
        }
        self.gone.store(true, Ordering::Release);
    }

    /// Whether it takes no further streams.
    pub(super) fn is_retired(&self) -> bool {
        self.sender().is_none()
    }

    /// Whether nothing is left of it.
    pub(super) fn is_over(&self) -> bool {
        self.gone.load(Ordering::Acquire) || (self.is_retired() && self.active() == 0)
    }

    /// Streams now.
    pub(super) fn active(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }

    /// Whether it has been without a stream for so long.
    pub(super) fn idle_for(&self, limit: Duration) -> bool {
        let since = *self.idle_since.lock().unwrap_or_else(PoisonError::into_inner);
        self.active() == 0 && since.elapsed() >= limit
    }

    /// Room for one stream, if it has fewer than `most` and the server allows more.
    pub(super) fn slot(self: &Arc<Self>, most: usize) -> Option<Slot> {
        let sender = self.sender().clone()?;
        let most = most.min(sender.room());
        let taken = self
            .active
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |active| {
                (active < most).then_some(active + 1)
            });
        taken.ok()?;
        Some(Slot {
            sender,
            first: self.fresh.swap(false, Ordering::Relaxed),
            upstream: Arc::clone(self),
        })
    }

    fn sender(&self) -> std::sync::MutexGuard<'_, Option<Opener>> {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Room for one stream on a connection, until it is dropped.
pub(super) struct Slot {
    pub(super) sender: Opener,
    /// Nobody had room on this connection before.
    pub(super) first: bool,
    pub(super) upstream: Arc<Upstream>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        if self.upstream.active.fetch_sub(1, Ordering::Relaxed) == 1 {
            *self.upstream.idle_since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        }
        self.upstream.freed.notify_one();
    }
}
