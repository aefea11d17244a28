//! Keeps what the process holds of memory close to what it uses: lists of the API server, compiling and handshakes come in
//! bursts, and leave the heap full of holes. It frees nothing that is in use.
#![allow(
    unsafe_code,
    reason = "two calls of the C library's allocator, which has no safe face"
)]

use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// Between two times of tidying up. A heap without holes is walked in a few milliseconds.
const EVERY: Duration = Duration::from_secs(10);
/// Heaps at most. By default there are eight for each core, and each keeps holes of its own.
#[cfg(target_env = "gnu")]
const ARENAS: libc::c_int = 2;

/// Tells the allocator what this process is like. To be called before there is a second thread.
pub fn settle() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes two numbers; what it does not know it ignores.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, ARENAS);
    }
}

/// Gives back to the kernel what is free, now and then, until `stop`.
pub(crate) async fn keep_tidy(stop: CancellationToken) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        // Where threads serve streams, nobody waits for this.
        if tokio::task::spawn_blocking(trim).await.is_err() {
            return;
        }
    }
}

fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: may be called at any time; pieces in use stay where they are.
    unsafe {
        libc::malloc_trim(0);
    }
}
