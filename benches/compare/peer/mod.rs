//! Who is measured. A [`Peer`] knows how to start one pair of proxies in front of an application; a [`Pair`] is that pair, running. Never
//! measures anything but how long starting took.

mod described;
mod launch;
mod squire;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::figures::Figure;
use crate::ground::Ground;
use crate::load::Protocol;
use crate::process::Process;
use crate::usage::{Cpu, Memory};
pub(crate) use described::{Description, load_file};
pub(crate) use launch::serving;
pub(crate) use squire::{Rules, Squire, Variant};

/// At which layer a proxy handles the traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Layer {
    /// Bytes.
    L4,
    /// HTTP requests.
    L7,
}

/// What a column is in comparisons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    /// No proxy at all.
    Baseline,
    /// What we build.
    Squire,
    /// What we compare with.
    Peer,
}

/// One column of the report: a peer at a layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Column {
    /// The peer's name.
    pub(crate) name: String,
    /// Its layer; `None` for the baseline.
    pub(crate) layer: Option<Layer>,
    /// Its part in comparisons.
    pub(crate) role: Role,
}

impl Column {
    /// For people: `envoy L4`.
    pub(crate) fn title(&self) -> String {
        match self.layer {
            None => "no proxy".to_owned(),
            Some(Layer::L4) => format!("{} L4", self.name),
            Some(Layer::L7) => format!("{} L7", self.name),
        }
    }
}

/// Something that can stand between a client and an application.
pub(crate) enum Peer {
    /// Nothing: the client talks to the application.
    Direct,
    /// What we build.
    Squire(Squire),
    /// Proxies described by commands and configuration templates.
    Described(Description),
}

impl Peer {
    /// Its column in the report.
    pub(crate) fn column(&self) -> Column {
        match self {
            Self::Direct => Column {
                name: "direct".to_owned(),
                layer: None,
                role: Role::Baseline,
            },
            Self::Squire(squire) => Column {
                name: squire.name().to_owned(),
                layer: Some(squire.layer),
                role: Role::Squire,
            },
            Self::Described(description) => Column {
                name: description.name.clone(),
                layer: Some(description.layer),
                role: Role::Peer,
            },
        }
    }

    /// Whether it can be started on this machine.
    pub(crate) fn installed(&self) -> bool {
        match self {
            Self::Direct => true,
            Self::Squire(squire) => squire.installed(),
            Self::Described(description) => description.installed(),
        }
    }

    /// Whether it is somebody's product, and not a shape of Squire that is there for a comparison.
    pub(crate) fn ships(&self) -> bool {
        self.variant() == Variant::Standard
    }

    fn variant(&self) -> Variant {
        match self {
            Self::Squire(squire) => squire.variant,
            Self::Direct | Self::Described(_) => Variant::Standard,
        }
    }

    /// Whether a figure is taken of it: shapes of Squire that do not ship are there for one figure each.
    pub(crate) fn takes(&self, figure: Figure) -> bool {
        match self.variant() {
            Variant::Standard => figure != Figure::Rules,
            Variant::Unpooled => figure == Figure::Connections,
            Variant::Plaintext => figure == Figure::Bulk,
            Variant::Rules(_) => figure == Figure::Rules,
        }
    }

    /// Its version, in its own words.
    pub(crate) fn version(&self) -> Option<String> {
        match self {
            Self::Direct => None,
            Self::Squire(squire) => squire.version(),
            Self::Described(description) => description.version(),
        }
    }

    /// The proxy's executable file.
    pub(crate) fn binary(&self) -> Option<PathBuf> {
        match self {
            Self::Direct => None,
            Self::Squire(squire) => Some(squire.proxy()),
            Self::Described(description) => description.binary(),
        }
    }

    /// Starts a fresh pair in front of `app` and waits until a request of that protocol has gone through it.
    pub(crate) async fn start(&self, ground: &Ground, app: SocketAddr, protocol: Protocol) -> Result<Pair> {
        match self {
            Self::Direct => Ok(Pair {
                entry: app,
                client: None,
                server: None,
                support: Vec::new(),
                startup: None,
            }),
            Self::Squire(squire) => squire.start(ground, app, protocol).await,
            Self::Described(description) => description.start(ground, app, protocol).await,
        }
    }
}

/// How long a client-side proxy took, from the start of its process, with everything it depends on already up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Startup {
    /// Until it accepted a connection.
    pub(crate) accept: Duration,
    /// Until a request had gone through both proxies and come back.
    pub(crate) serve: Duration,
}

/// A running pair of proxies (or none: the baseline). Ends its processes when dropped.
pub(crate) struct Pair {
    /// Where clients connect, in plaintext.
    pub(crate) entry: SocketAddr,
    /// The client-side proxy.
    pub(crate) client: Option<Process>,
    /// The server-side proxy.
    pub(crate) server: Option<Process>,
    /// What else it needs (a control plane): checked, but not counted.
    pub(crate) support: Vec<Process>,
    /// How long the client side took to start.
    pub(crate) startup: Option<Startup>,
}

impl Pair {
    /// Fails if a process of the pair has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        self.client
            .iter_mut()
            .chain(&mut self.server)
            .chain(&mut self.support)
            .try_for_each(Process::check)
    }

    /// The CPU time of both proxies so far; `None` for the baseline.
    pub(crate) fn cpu(&self) -> Result<Option<Cpu>> {
        match (&self.client, &self.server) {
            (Some(client), Some(server)) => Ok(Some(client.cpu()? + server.cpu()?)),
            _ => Ok(None),
        }
    }

    /// The memory of the client-side and of the server-side proxy; `None` for the baseline.
    pub(crate) fn memory(&self) -> Result<Option<(Memory, Memory)>> {
        match (&self.client, &self.server) {
            (Some(client), Some(server)) => Ok(Some((client.memory()?, server.memory()?))),
            _ => Ok(None),
        }
    }
}
