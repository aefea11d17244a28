//! Peers given as data: a JSON file with commands and configuration templates. How to start Envoy, haproxy or nginx is written there, not
//! here; a proxy built elsewhere joins in the same way. See `benches/README.md` for the format.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::{Layer, Pair, Startup, launch};
use crate::ground::{Ground, Values, fill};
use crate::load::Protocol;
use crate::process::Process;

/// A peer file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PeerFile {
    peers: Vec<Description>,
}

/// One peer at one layer.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Description {
    /// Its name in the report.
    pub(crate) name: String,
    /// Its layer.
    pub(crate) layer: Layer,
    /// Its executable, for the size figure.
    binary: Option<String>,
    /// A command that prints its version.
    #[serde(default)]
    version: Vec<String>,
    /// Files to write into its directory before it starts: name → template, relative to the peer file.
    #[serde(default)]
    files: BTreeMap<String, PathBuf>,
    /// Processes to start first and not to count, such as a stand-in control plane.
    #[serde(default)]
    support: Vec<Vec<String>>,
    /// Whether it judges each request: then one that its policy does not allow must be answered 403.
    #[serde(default)]
    authorizes: bool,
    /// The command of the server-side proxy: mutual TLS on `{{mesh}}`, plaintext to `{{app}}`.
    server: Vec<String>,
    /// The command of the client-side proxy: plaintext on `{{entry}}`, mutual TLS to `{{mesh}}`.
    client: Vec<String>,
    /// Where the peer file is.
    #[serde(skip)]
    home: PathBuf,
}

/// Reads the peers of one file.
pub(crate) fn load_file(path: &Path) -> Result<Vec<Description>> {
    let read = || -> Result<PeerFile> { Ok(serde_json::from_str(&fs::read_to_string(path)?)?) };
    let mut file = read().with_context(|| format!("cannot use the peer file {}", path.display()))?;
    let home = path.parent().unwrap_or_else(|| Path::new(".")).canonicalize()?;
    for description in &mut file.peers {
        description.home.clone_from(&home);
    }
    Ok(file.peers)
}

impl Description {
    /// What the version command prints first.
    pub(crate) fn version(&self) -> Option<String> {
        let (program, arguments) = self.version.split_first()?;
        crate::machine::first_line(program, arguments)
    }

    /// Whether its executable is on this machine.
    pub(crate) fn installed(&self) -> bool {
        self.binary.is_none() || self.binary().is_some()
    }

    /// The executable file, looked up like a shell would.
    pub(crate) fn binary(&self) -> Option<PathBuf> {
        crate::machine::find_program(self.binary.as_deref()?)
    }

    /// Starts server side, then client side; times the latter.
    pub(crate) async fn start(&self, ground: &Ground, app: SocketAddr, protocol: Protocol) -> Result<Pair> {
        self.start_pair(ground, app, protocol)
            .await
            .with_context(|| format!("cannot start {}", self.name))
    }

    async fn start_pair(&self, ground: &Ground, app: SocketAddr, protocol: Protocol) -> Result<Pair> {
        let dir = ground.room(&self.name)?;
        let (entry, mesh) = (ground.address()?, ground.address()?);
        let values = self.values(ground, &dir, protocol, [("entry", entry), ("mesh", mesh), ("app", app)]);
        self.write_files(&dir, &values)?;

        let support = self
            .support
            .iter()
            .enumerate()
            .map(|(number, command)| Process::spawn(&format!("support-{number}"), &filled(command, &values)?, &dir))
            .collect::<Result<Vec<_>>>()?;
        let mut server = Process::spawn("server", &filled(&self.server, &values)?, &dir)?;
        launch::accepting(mesh, &mut server).await?;
        let started = Instant::now();
        let mut client = Process::spawn("client", &filled(&self.client, &values)?, &dir)?;
        launch::accepting(entry, &mut client).await?;
        let accept = started.elapsed();
        launch::serving(entry, protocol, &mut [&mut client, &mut server]).await?;
        let startup = Startup {
            accept,
            serve: started.elapsed(),
        };
        launch::refusing_plaintext(mesh).await?;
        if self.authorizes {
            launch::authorizing(entry).await?;
        }
        Ok(Pair {
            entry,
            client: Some(client),
            server: Some(server),
            support,
            startup: Some(startup),
        })
    }

    fn values(&self, ground: &Ground, dir: &Path, protocol: Protocol, addresses: [(&str, SocketAddr); 3]) -> Values {
        let mut values = ground.values();
        let (name, flag) = match protocol {
            Protocol::Http1 => ("http1", ""),
            Protocol::Http2 => ("http2", "http2"),
        };
        values.set("protocol", name);
        values.set("http2", flag);
        values.set("dir", dir.display().to_string());
        values.set("home", self.home.display().to_string());
        for (name, address) in addresses {
            values.set_address(name, address);
        }
        values
    }

    fn write_files(&self, dir: &Path, values: &Values) -> Result<()> {
        for (name, template) in &self.files {
            let source = self.home.join(template);
            let text = fs::read_to_string(&source).with_context(|| format!("cannot read {}", source.display()))?;
            let text = fill(&text, values).with_context(|| format!("in {}", source.display()))?;
            fs::write(dir.join(name), text)?;
        }
        Ok(())
    }
}

fn filled(command: &[String], values: &Values) -> Result<Vec<String>> {
    command.iter().map(|word| fill(word, values)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_peer_file_that_we_ship_can_be_filled() {
        let ground = Ground::prepare(None).unwrap();
        let peers = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers");
        let addresses = ["entry", "mesh", "app"].map(|name| (name, ground.address().unwrap()));
        for file in ["peers.json", "example.json"] {
            for peer in load_file(&peers.join(file)).unwrap() {
                let dir = ground.room(&peer.name).unwrap();
                for protocol in [Protocol::Http1, Protocol::Http2] {
                    let values = peer.values(&ground, &dir, protocol, addresses);
                    peer.write_files(&dir, &values).unwrap();
                    for command in [&peer.server, &peer.client] {
                        assert!(!filled(command, &values).unwrap().is_empty(), "{}", peer.name);
                    }
                }
            }
        }
    }

    #[test]
    fn an_unknown_key_in_a_peer_file_is_refused() {
        let ground = Ground::prepare(None).unwrap();
        let file = ground.room("files").unwrap().join("peers.json");
        fs::write(
            &file,
            r#"{"peers": [{"name": "x", "layer": "l4", "server": [], "client": [], "clint": []}]}"#,
        )
        .unwrap();
        let error = format!("{:#}", load_file(&file).unwrap_err());
        assert!(error.contains("clint") && error.contains("peers.json"), "{error}");
    }
}
