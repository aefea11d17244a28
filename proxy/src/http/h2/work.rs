//! The futures that serve streams, in memory that is used again: each is a few KiB, and one is made for each request.

use std::{
    cell::RefCell,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio_util::sync::ReusableBoxFuture;

/// Spare ones that each thread keeps.
const KEEP: usize = 64;

thread_local! {
    static SPARE: RefCell<Vec<ReusableBoxFuture<'static, ()>>> = const { RefCell::new(Vec::new()) };
}

/// What serves one stream.
pub(super) struct Work(Option<ReusableBoxFuture<'static, ()>>);

impl Work {
    pub(super) fn new(work: impl Future<Output = ()> + Send + 'static) -> Self {
        let spare = SPARE.with(|spare| spare.borrow_mut().pop());
        Self(Some(match spare {
            Some(mut spare) => {
                spare.set(work);
                spare
            }
            None => ReusableBoxFuture::new(work),
        }))
    }
}

impl Future for Work {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(work) = &mut self.0 else {
            return Poll::Ready(());
        };
        ready!(work.poll(cx));
        if let Some(spare) = self.0.take() {
            // The pool may be gone already while a thread ends: then the memory is simply freed.
            let _ = SPARE.try_with(|kept| {
                let mut kept = kept.borrow_mut();
                if kept.len() < KEEP {
                    kept.push(spare);
                }
            });
        }
        Poll::Ready(())
    }
}

/// Gives this thread's spare memory back to the allocator.
pub(crate) fn release() {
    let _ = SPARE.try_with(|spare| *spare.borrow_mut() = Vec::new());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_work_is_done_once_and_its_memory_used_again() {
        for round in 0..KEEP * 3 {
            let (said, heard) = tokio::sync::oneshot::channel();
            Work::new(async move { said.send(round).unwrap() }).await;
            assert_eq!(heard.await, Ok(round));
        }
        assert_eq!(SPARE.with(|spare| spare.borrow().len()), 1);
        release();
        assert_eq!(SPARE.with(|spare| spare.borrow().capacity()), 0);
    }
}
