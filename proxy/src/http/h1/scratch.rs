//! Buffers of one request that are used again by the next: heads, and the bytes they are written to. A few are kept on
//! each thread, so that an idle connection holds none and a busy one allocates nothing.

#![allow(clippy::vec_box, reason = "heads are moved in and out without being copied")]

use std::cell::RefCell;

use super::head::{RequestHead, ResponseHead};

/// Of each kind, on each thread: as many as there are requests under way at a time in a busy sidecar. With 16, and 64
/// requests under way, allocating anew was a twentieth of all the work.
const KEEP: usize = 128;
/// A buffer that grew beyond this goes back to the allocator.
const MAX_KEPT: usize = 4 * 1024;

thread_local! {
    static BYTES: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
    static REQUESTS: RefCell<Vec<Box<RequestHead>>> = const { RefCell::new(Vec::new()) };
    static RESPONSES: RefCell<Vec<Box<ResponseHead>>> = const { RefCell::new(Vec::new()) };
}

pub(super) fn take_bytes() -> Vec<u8> {
    let bytes = BYTES.with(|pool| pool.borrow_mut().pop());
    bytes.unwrap_or_else(|| Vec::with_capacity(1024))
}

pub(super) fn give_bytes(mut bytes: Vec<u8>) {
    bytes.clear();
    if bytes.capacity() <= MAX_KEPT {
        give(&BYTES, bytes);
    }
}

pub(super) fn take_request() -> Box<RequestHead> {
    REQUESTS.with(|pool| pool.borrow_mut().pop()).unwrap_or_default()
}

pub(super) fn give_request(head: Box<RequestHead>) {
    if head.capacity() <= MAX_KEPT {
        give(&REQUESTS, head);
    }
}

pub(super) fn take_response() -> Box<ResponseHead> {
    RESPONSES.with(|pool| pool.borrow_mut().pop()).unwrap_or_default()
}

pub(super) fn give_response(head: Box<ResponseHead>) {
    if head.capacity() <= MAX_KEPT {
        give(&RESPONSES, head);
    }
}

/// Gives this thread's spare buffers back to the allocator.
pub(crate) fn release() {
    let _ = BYTES.try_with(|pool| *pool.borrow_mut() = Vec::new());
    let _ = REQUESTS.try_with(|pool| *pool.borrow_mut() = Vec::new());
    let _ = RESPONSES.try_with(|pool| *pool.borrow_mut() = Vec::new());
}

fn give<T>(pool: &'static std::thread::LocalKey<RefCell<Vec<T>>>, item: T) {
    // The pool may be gone already while a thread ends.
    let _ = pool.try_with(|pool| {
        let mut pool = pool.borrow_mut();
        if pool.len() < KEEP {
            pool.push(item);
        }
    });
}
