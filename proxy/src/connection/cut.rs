//! Ending a live connection from outside: a switch that is thrown once and wakes the task that serves the connection.

use std::{
    fmt,
    sync::atomic::{AtomicBool, AtomicU8, Ordering},
    task::{Context, Poll},
};

use futures_util::task::AtomicWaker;

/// Why a live connection no longer has the grounds it was opened on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Cut {
    /// The policy now denies it.
    Policy = 1,
    /// The peer's certificate, or ours, has expired.
    Expired = 2,
    /// The peer's identity or certificate is revoked.
    Revoked = 3,
    /// The root that vouched for the peer has left the trust bundle.
    Untrusted = 4,
    /// The sidecar is shutting down and the grace is over.
    Draining = 5,
    /// The address it comes from now belongs to a workload with another identity.
    Address = 6,
    /// The workload at the other end, and so its service account, is no longer part of the mesh.
    Gone = 7,
}

impl Cut {
    /// All of them, for metrics that start at zero.
    pub(crate) const ALL: [Self; 7] = [
        Self::Policy,
        Self::Expired,
        Self::Revoked,
        Self::Untrusted,
        Self::Draining,
        Self::Address,
        Self::Gone,
    ];

    /// The closed label.
    pub(crate) fn outcome_label(self) -> &'static str {
        match self {
            Self::Policy => "cut_policy",
            Self::Expired => "cut_expired",
            Self::Revoked => "cut_revoked",
            Self::Untrusted => "cut_untrusted",
            Self::Draining => "cut_draining",
            Self::Address => "cut_address",
            Self::Gone => "cut_gone",
        }
    }

    fn from_u8(value: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|cut| *cut as u8 == value)
    }
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Policy => "policy no longer allows it",
            Self::Expired => "the certificate it stood on has expired",
            Self::Revoked => "the peer's identity is revoked",
            Self::Untrusted => "the peer's root has left the trust bundle",
            Self::Draining => "this sidecar is shutting down and the grace period is over",
            Self::Gone => "the workload at the other end is no longer part of the mesh",
            Self::Address => "the peer's address now belongs to a workload with another identity",
        })
    }
}

/// Thrown at most once.
#[derive(Default)]
pub(super) struct CutSwitch {
    reason: AtomicU8,
    judge: AtomicBool,
    rest: AtomicBool,
    waker: AtomicWaker,
}

impl CutSwitch {
    pub(super) fn throw(&self, reason: Cut) {
        if self
            .reason
            .compare_exchange(0, reason as u8, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
        {
            self.waker.wake();
        }
    }

    pub(super) fn judge_again(&self) {
        self.judge.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// True once for each time it was asked for.
    pub(super) fn to_be_judged(&self) -> bool {
        self.judge.load(Ordering::Acquire) && self.judge.swap(false, Ordering::AcqRel)
    }

    pub(super) fn let_rest(&self) {
        self.rest.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// True once for each time it was asked for.
    pub(super) fn is_to_rest(&self) -> bool {
        self.rest.load(Ordering::Acquire) && self.rest.swap(false, Ordering::AcqRel)
    }

    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<Cut> {
        self.waker.register(cx.waker());
        match Cut::from_u8(self.reason.load(Ordering::Acquire)) {
            Some(reason) => Poll::Ready(reason),
            None => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_thrown_switch_wakes_its_task_and_keeps_the_first_reason() {
        let switch = std::sync::Arc::new(CutSwitch::default());
        let waiting = std::sync::Arc::clone(&switch);
        let task = tokio::spawn(async move { std::future::poll_fn(|cx| waiting.poll(cx)).await });
        tokio::task::yield_now().await;
        switch.throw(Cut::Policy);
        switch.throw(Cut::Expired);
        assert_eq!(task.await.unwrap(), Cut::Policy);
    }

    #[test]
    fn every_reason_survives_its_number() {
        for cut in Cut::ALL {
            assert_eq!(Cut::from_u8(cut as u8), Some(cut));
        }
        assert_eq!(Cut::from_u8(0), None);
    }
}
