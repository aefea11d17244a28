//! What waits to be written on one connection: frames, one behind the other, so that many go out with one write. Holds a
//! buffer only while something waits.

use std::cell::RefCell;

/// Buffers kept for reuse on each thread, and how large each may be.
const KEEP: usize = 8;
const KEPT: usize = 64 * 1024;

thread_local! {
    static POOL: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Bytes in order.
#[derive(Debug, Default)]
pub(super) struct Out {
    bytes: Vec<u8>,
    written: usize,
}

impl Out {
    /// To append to.
    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        if self.bytes.capacity() == 0 {
            let spare = POOL.with(|pool| pool.borrow_mut().pop());
            self.bytes = spare.unwrap_or_else(|| Vec::with_capacity(4 * 1024));
        }
        &mut self.bytes
    }

    /// What has not been written.
    pub(super) fn pending(&self) -> &[u8] {
        &self.bytes[self.written..]
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.written
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// So much more has been written.
    pub(super) fn advance(&mut self, count: usize) {
        self.written += count;
        if self.is_empty() {
            self.written = 0;
            let mut spare = std::mem::take(&mut self.bytes);
            spare.clear();
            // The pool may be gone already while a thread ends: then the buffer is simply freed.
            let _ = POOL.try_with(|pool| {
                let mut pool = pool.borrow_mut();
                if pool.len() < KEEP && spare.capacity() <= KEPT {
                    pool.push(spare);
                }
            });
        } else if self.written > KEPT {
            self.bytes.drain(..self.written);
            self.written = 0;
        }
    }
}
