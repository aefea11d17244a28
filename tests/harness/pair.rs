//! The smallest mesh there is: `web`, whose application reaches `db`, where an application serves port 8080. Both have
//! sidecars.

use std::net::SocketAddr;

use crate::{Mesh, Sidecar, apps::App, http::Client, http2::Http2App, mirror::Mirror};

/// An application of a test.
pub trait Listens {
    /// Where it listens.
    fn listens_at(&self) -> SocketAddr;
}

impl Listens for App {
    fn listens_at(&self) -> SocketAddr {
        self.address()
    }
}

impl Listens for Mirror {
    fn listens_at(&self) -> SocketAddr {
        self.address()
    }
}

impl Listens for Http2App {
    fn listens_at(&self) -> SocketAddr {
        self.address()
    }
}

/// Both sidecars, and the application behind `db`.
#[derive(Debug)]
pub struct Pair<A = Mirror> {
    /// The application.
    pub app: A,
    /// The sidecar beside it.
    pub db: Sidecar,
    /// The sidecar of who calls it.
    pub web: Sidecar,
}

impl<A: Listens> Pair<A> {
    /// Starts the control plane of `mesh` and both sidecars.
    pub async fn start(mesh: &Mesh, app: A) -> Self {
        Self::with(mesh, app, &[]).await
    }

    /// The same, with these settings of both sidecars.
    pub async fn with(mesh: &Mesh, app: A, settings: &[&str]) -> Self {
        let mut db = mesh.pod("db").serves(8080, app.listens_at());
        let mut web = mesh.pod("web").reaches("db:8080");
        for setting in settings {
            (db, web) = (db.set(setting), web.set(setting));
        }
        mesh.start().await;
        let (db, web) = tokio::join!(db.start(), web.start());
        Self { app, db, web }
    }

    /// Where `web`'s application reaches `db`.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.web.to("db:8080")
    }

    /// A connection of `web`'s application to `db`.
    pub async fn client(&self) -> Client {
        Client::connect(self.address()).await.unwrap()
    }
}
