//! One of several instances of an HTTP application: says who it is, counts what reaches it, and can be told to fail, to be
//! slow, or to hold its answers.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{
            AtomicU16, AtomicU64, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::Duration,
};

use tokio::{io::AsyncWriteExt, net::TcpStream, sync::Notify, time::sleep};

use crate::{
    apps::{App, serving},
    http::{Message, body_of, read_head},
};

/// The instance.
#[derive(Debug)]
pub struct Backend {
    app: App,
    control: Arc<Control>,
}

#[derive(Debug)]
struct Control {
    name: String,
    status: AtomicU16,
    slow: AtomicU64,
    requests: AtomicUsize,
    release: Notify,
}

impl Backend {
    /// Starts one that answers 200 and its name.
    pub async fn start(name: &str) -> Self {
        let control = Arc::new(Control {
            name: name.to_owned(),
            status: AtomicU16::new(200),
            slow: AtomicU64::new(0),
            requests: AtomicUsize::new(0),
            release: Notify::new(),
        });
        let shared = Arc::clone(&control);
        let app = serving(move |stream| serve(stream, Arc::clone(&shared))).await;
        Self { app, control }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.app.address()
    }

    /// Answers with this status from now on.
    pub fn answers(&self, status: u16) {
        self.control.status.store(status, Relaxed);
    }

    /// Takes so long for each answer from now on.
    pub fn takes(&self, time: Duration) {
        self.control
            .slow
            .store(u64::try_from(time.as_millis()).unwrap(), Relaxed);
    }

    /// Requests that reached it.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.control.requests.load(SeqCst)
    }

    /// Lets those for `/held` that wait go on.
    pub fn release(&self) {
        self.control.release.notify_waiters();
    }
}

async fn serve(mut stream: TcpStream, control: Arc<Control>) {
    let mut rest = Vec::new();
    while let Ok(Some(head)) = read_head(&mut stream, &mut rest).await {
        if body_of(&mut stream, &mut rest, &head, Message::Request).await.is_err() {
            return;
        }
        let released = control.release.notified();
        control.requests.fetch_add(1, SeqCst);
        match control.slow.load(Relaxed) {
            0 => {}
            time => sleep(Duration::from_millis(time)).await,
        }
        let path = head.split(' ').nth(1).unwrap_or_default();
        let breaks = path.ends_with("/breaks");
        if path.ends_with("/held") {
            released.await;
        }
        let (name, status) = (&control.name, control.status.load(Relaxed));
        let length = head.len() + if breaks { 1 } else { 0 };
        let answer = format!("HTTP/1.1 {status} Said\r\nX-Backend: {name}\r\nContent-Length: {length}\r\n\r\n{head}");
        if stream.write_all(answer.as_bytes()).await.is_err() || breaks {
            return;
        }
    }
}
