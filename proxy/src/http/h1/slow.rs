//! A client that takes nothing of a response that waits for it: it is given up after a while. As long as bytes flow this
//! costs nothing; there is a timer only once the client's socket has been full.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use tokio::time::{Sleep, sleep_until};

/// Since when a client takes nothing.
pub(super) struct Slow {
    limit: Duration,
    since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Slow {
    /// For a client that may take so long to take anything.
    pub(super) fn new(limit: Duration) -> Self {
        Self {
            limit,
            since: None,
            timer: None,
        }
    }

    /// It has taken something.
    pub(super) fn takes(&mut self) {
        self.since = None;
    }

    /// Bytes wait for it. Ready when they have waited too long.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let until = tokio::time::Instant::from_std(*self.since.get_or_insert_with(Instant::now) + self.limit);
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(until)));
        loop {
            ready!(timer.as_mut().poll(cx));
            // It may be of the time before the client took something.
            if timer.deadline() >= until {
                return Poll::Ready(());
            }
            timer.as_mut().reset(until);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::time::sleep;

    use super::*;

    const LIMIT: Duration = Duration::from_millis(200);

    #[tokio::test]
    async fn whoever_takes_something_has_all_the_time_again_and_whoever_does_not_is_given_up() {
        let mut slow = Slow::new(LIMIT);
        let mut once = async || poll_fn(|cx| Poll::Ready(slow.poll(cx))).await;
        assert!(once().await.is_pending());
        slow.takes();
        // While nothing waits for it no time counts, though the timer goes off.
        sleep(2 * LIMIT).await;
        let begun = Instant::now();
        poll_fn(|cx| slow.poll(cx)).await;
        assert!(begun.elapsed() >= LIMIT, "{:?}", begun.elapsed());
    }
}
