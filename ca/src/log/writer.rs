//! The one writer of the issuance log. It gathers what is waiting, appends it with one sync, and answers only then: whoever
//! holds a certificate finds it in the log. It never drops an entry silently.

use std::{
    io::{BufReader, Read as _},
    sync::Arc,
    thread,
    time::SystemTime,
};

use tokio::sync::{mpsc, oneshot};

use super::{Event, Head, LogFault, verify_end};
use crate::store::{Store, StoreError};

/// Entries that may wait.
const QUEUE: usize = 1024;
/// Entries that share one sync at most.
const BATCH: usize = 256;
/// How often another replica may have appended first before whoever waits is told so.
const OVERTAKEN: usize = 100;

/// A handle to the writer, which has ended, and let go of the store, when the last handle is dropped.
#[derive(Debug, Clone)]
pub struct Log {
    writing: Arc<Writing>,
}

/// The writer's thread, and the way to it.
#[derive(Debug)]
struct Writing {
    queue: Option<mpsc::Sender<Pending>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Drop for Writing {
    fn drop(&mut self) {
        // Nothing comes any more: the writer ends when what waits is written.
        drop(self.queue.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the writer of the issuance log has panicked: this is a bug, please report it");
        }
    }
}

#[derive(Debug)]
struct Pending {
    event: Event,
    now: SystemTime,
    done: oneshot::Sender<Result<u64, LogError>>,
}

/// Why an entry is not in the log.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LogError {
    /// The store failed.
    #[error("the issuance log cannot be written: {0}")]
    Store(Arc<StoreError>),
    /// What is there was tampered with.
    #[error(
        "the issuance log does not hold together: {0}; find out who changed it, and restore log.jsonl and log.head from a backup; without one, `squire ca log --restart REASON` sets it aside"
    )]
    Fault(LogFault),
    /// The writer is gone.
    #[error("the issuance log is closed: the CA is stopping")]
    Closed,
}

impl From<StoreError> for LogError {
    fn from(error: StoreError) -> Self {
        Self::Store(Arc::new(error))
    }
}

impl Log {
    /// Checks the end of the log, clears what a crash left at its end, and starts the writer.
    ///
    /// # Errors
    /// When the log cannot be read or was tampered with.
    pub fn open(store: Arc<dyn Store>) -> Result<Self, LogError> {
        let head = recover(&*store)?;
        Self::start(store, head)
    }

    fn start(store: Arc<dyn Store>, head: Head) -> Result<Self, LogError> {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let writer = Writer {
            store,
            head,
            dirty: false,
        };
        let thread = thread::Builder::new()
            .name("issuance-log".into())
            .spawn(move || writer.run(waiting))
            .map_err(|source| StoreError::Io {
                path: "thread".into(),
                action: "start the log writer",
                source,
            })?;
        let writing = Writing {
            queue: Some(queue),
            thread: Some(thread),
        };
        Ok(Self {
            writing: Arc::new(writing),
        })
    }

    /// Appends an entry; returns its number once it is durable.
    ///
    /// # Errors
    /// When it could not be made durable: then what it tells of must not take effect.
    pub async fn append(&self, event: Event, now: SystemTime) -> Result<u64, LogError> {
        let (done, answer) = oneshot::channel();
        self.queue()?
            .send(Pending { event, now, done })
            .await
            .map_err(|_| LogError::Closed)?;
        answer.await.map_err(|_| LogError::Closed)?
    }

    /// As [`Log::append`], for callers outside of async code.
    ///
    /// # Errors
    /// As [`Log::append`].
    pub fn append_blocking(&self, event: Event, now: SystemTime) -> Result<u64, LogError> {
        let (done, answer) = oneshot::channel();
        self.queue()?
            .blocking_send(Pending { event, now, done })
            .map_err(|_| LogError::Closed)?;
        answer.blocking_recv().map_err(|_| LogError::Closed)?
    }

    fn queue(&self) -> Result<&mpsc::Sender<Pending>, LogError> {
        self.writing.queue.as_ref().ok_or(LogError::Closed)
    }
}

/// Makes an empty log where there is none yet.
pub(crate) fn begin(store: &dyn Store) -> Result<(), LogError> {
    let head = store.log_head()?;
    if head.is_none_or(|head| head == Head::EMPTY) && is_empty(store)? {
        store.cut_log(&Head::EMPTY)?;
    }
    Ok(())
}

/// Sets a damaged log aside and starts a new one that tells of it. For admins who have no backup: the CA goes on, and what
/// was lost stays visible. Blocks; safe to repeat.
///
/// # Errors
/// When the store fails.
pub fn restart(store: &Arc<dyn Store>, reason: &str, now: SystemTime) -> Result<(), LogError> {
    let set_aside = store.set_log_aside(now)?;
    begin(&**store)?;
    let log = Log::open(Arc::clone(store))?;
    log.append_blocking(
        Event::Restarted {
            reason: reason.to_owned(),
            set_aside,
        },
        now,
    )?;
    Ok(())
}

fn is_empty(store: &dyn Store) -> Result<bool, LogError> {
    let mut first = [0];
    let read = store.read_log(0)?.read(&mut first);
    read.map(|bytes| bytes == 0)
        .map_err(|error| LogError::Fault(LogFault::Unreadable(error.to_string())))
}

/// Checks the end of the log; whole lines beyond the head are kept, a torn one is cut off.
fn recover(store: &dyn Store) -> Result<Head, LogError> {
    let recorded = store.log_head()?.ok_or(LogError::Fault(LogFault::NoHead))?;
    let end = BufReader::new(store.read_log(recorded.start_of_last())?);
    let verified = verify_end(end, &recorded).map_err(LogError::Fault)?;
    if verified.head != recorded || verified.torn > 0 {
        store.cut_log(&verified.head)?;
    }
    Ok(verified.head)
}

struct Writer {
    store: Arc<dyn Store>,
    head: Head,
    /// The last append failed: what it left behind must be cut off first.
    dirty: bool,
}

impl Writer {
    fn run(mut self, mut waiting: mpsc::Receiver<Pending>) {
        let mut batch = Vec::with_capacity(BATCH);
        while let Some(first) = waiting.blocking_recv() {
            batch.push(first);
            while batch.len() < BATCH
                && let Ok(next) = waiting.try_recv()
            {
                batch.push(next);
            }
            self.write(&mut batch);
        }
    }

    fn write(&mut self, batch: &mut Vec<Pending>) {
        let batch = std::mem::take(batch);
        let mut overtaken = 0;
        let (numbers, result) = loop {
            let (numbers, lines, head) = self.entries(&batch);
            match self.commit(&lines, &head) {
                // A log that several replicas share: ours follow after theirs.
                Err(LogError::Store(error)) if overtaken < OVERTAKEN => match &*error {
                    StoreError::Moved { head, .. } => {
                        self.head = **head;
                        overtaken += 1;
                    }
                    _ => break (numbers, Err(LogError::Store(error))),
                },
                result => break (numbers, result),
            }
        };
        if let Err(error) = &result {
            self.dirty = true;
            tracing::error!(%error, "the issuance log cannot be written: no certificate is issued until it can");
        }
        for (pending, number) in batch.into_iter().zip(numbers) {
            // A sender that no longer waits has given up on its certificate. An event is plain text and always becomes JSON;
            // should it not, its sender hears "closed".
            let _ = number.map(|number| pending.done.send(result.clone().map(|()| number)));
        }
    }

    /// The lines of these entries after the head, their numbers, and the head after them.
    fn entries(&self, batch: &[Pending]) -> (Vec<Option<u64>>, Vec<u8>, Head) {
        let (mut lines, mut head) = (Vec::new(), self.head);
        let numbers = batch
            .iter()
            .map(|pending| match head.extend(pending.event.clone(), pending.now) {
                Ok((line, next)) => {
                    lines.extend(line);
                    head = next;
                    Some(next.count)
                }
                Err(error) => {
                    tracing::error!(%error, "an issuance log entry could not be written as JSON");
                    None
                }
            });
        let numbers = numbers.collect();
        (numbers, lines, head)
    }

    fn commit(&mut self, lines: &[u8], head: &Head) -> Result<(), LogError> {
        if self.dirty {
            self.store.cut_log(&self.head)?;
            self.dirty = false;
        }
        self.store.append_log(lines, head)?;
        self.head = *head;
        Ok(())
    }
}
