//! How the task of a connection tells the streams on it what has changed: that they must be judged again, that they are
//! cut, that it is time to look at the clock.

use std::{
    sync::atomic::{AtomicU8, Ordering},
    task::Context,
};

use futures_util::task::AtomicWaker;

const JUDGE: u8 = 1;
const CUT: u8 = 2;
const LOOK: u8 = 4;

/// One stream's.
#[derive(Default)]
pub(super) struct Ticket {
    told: AtomicU8,
    waker: AtomicWaker,
}

/// What a stream has been told since it looked last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Told {
    /// Policy has changed.
    pub(super) judge: bool,
    /// The connection is cut.
    pub(super) cut: bool,
    /// Whoever stalls should be noticed now.
    pub(super) look: bool,
}

impl Ticket {
    pub(super) fn judge(&self) {
        self.tell(JUDGE);
    }

    pub(super) fn cut(&self) {
        self.tell(CUT);
    }

    pub(super) fn look(&self) {
        self.tell(LOOK);
    }

    /// What it has been told; the next word wakes its task.
    pub(super) fn told(&self, cx: &Context<'_>) -> Told {
        self.waker.register(cx.waker());
        let told = match self.told.load(Ordering::Acquire) {
            0 => 0,
            _ => self.told.swap(0, Ordering::AcqRel),
        };
        Told {
            judge: told & JUDGE != 0,
            cut: told & CUT != 0,
            look: told & LOOK != 0,
        }
    }

    fn tell(&self, what: u8) {
        self.told.fetch_or(what, Ordering::AcqRel);
        self.waker.wake();
    }
}
