//! The way to a server, which can be cut: whoever goes through it is then partitioned from that server, and from nobody else.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinHandle,
};

/// The way; it ends when it is dropped.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    way: Arc<Way>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Way {
    cut: AtomicBool,
    cutting: Notify,
}

impl Relay {
    /// A way to `server`, at a port of this machine.
    pub async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let way = Arc::new(Way::default());
        let shared = Arc::clone(&way);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, server, Arc::clone(&shared)));
            }
        });
        Self { address, way, task }
    }

    /// Where it begins.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Nothing passes any more.
    pub fn cut(&self) {
        self.way.cut.store(true, SeqCst);
        self.way.cutting.notify_waiters();
    }

    /// New connections pass again.
    pub fn mend(&self) {
        self.way.cut.store(false, SeqCst);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(mut client: TcpStream, server: SocketAddr, way: Arc<Way>) {
    let cutting = way.cutting.notified();
    tokio::pin!(cutting);
    cutting.as_mut().enable();
    if way.cut.load(SeqCst) {
        return;
    }
    let Ok(mut server) = TcpStream::connect(server).await else {
        return;
    };
    tokio::select! {
        () = &mut cutting => {}
        // Either end may end it.
        _ = copy_bidirectional(&mut client, &mut server) => {}
    }
}
