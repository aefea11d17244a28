//! Connections to servers of the mesh, with mutual TLS and this sidecar's own identity; names the mesh does not know go
//! outside. These are the sidecar's own connections: egress policy of the workload is not asked.

use std::{io, net::IpAddr, sync::Arc, time::SystemTime};

use squire_mesh::svid::VerifiedPeer;

use super::{
    connect::{Connect, Connected, Connecting, Standing},
    outside::Outside,
};
use crate::{
    authorize::grounds,
    config::{Host, HostPort},
    credentials::CredentialsWatch,
    demand::{Demand, Need},
    dial::{DialError, Dialer},
    link::{Framing, LinkStream},
    pool::{Key, Pool},
    route::{Endpoint, Route, Target, Via, endpoint, route},
    state::{Snapshot, State},
};

/// Endpoints tried before a server counts as not reached.
const TRIES: usize = 3;

/// Reaches services and workloads by the tables the control plane pushed, with the data path's pool and credentials.
pub(crate) struct Mesh {
    pub(crate) state: State,
    /// Where to ask for what is not known; none: everything is.
    pub(crate) demand: Option<Demand>,
    pub(crate) credentials: CredentialsWatch,
    pub(crate) dialer: Arc<Dialer>,
    pub(crate) pool: Arc<Pool>,
    /// Address to dial peers from, where configured.
    pub(crate) bind_source: Option<IpAddr>,
    /// In explicit mode peers are dialled from the workload's own address.
    pub(crate) explicit: bool,
}

impl Mesh {
    fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.state.borrow())
    }

    fn source(&self) -> Option<IpAddr> {
        self.bind_source.or_else(|| {
            let snapshot = self.snapshot();
            let me = snapshot.me.as_ref().filter(|_| self.explicit)?;
            me.addresses.first().copied()
        })
    }

    /// The endpoints of a name, if it is one of the mesh.
    async fn endpoints(&self, host: &str, port: u16) -> io::Result<Option<Vec<Endpoint>>> {
        // A literal address may be one of the mesh too: then it must not be spoken to in plaintext.
        let host = match host.trim_matches(['[', ']']).parse() {
            Ok(ip) => Host::Ip(ip),
            Err(_) => Host::Name(host.into()),
        };
        let target = Target::Name(HostPort { host, port });
        if let Some(demand) = &self.demand {
            demand.known(Need::Target(&target)).await.map_err(io::Error::other)?;
        }
        let snapshot = self.snapshot();
        if let Target::Name(HostPort {
            host: Host::Name(name), ..
        }) = &target
            && snapshot.named(name).is_none()
        {
            return Ok(None);
        }
        let none = |why: &'static str| io::Error::new(io::ErrorKind::NotFound, why);
        match route(&snapshot, &target).map_err(none)? {
            Route::Endpoint(endpoint) => Ok(Some(vec![*endpoint])),
            Route::Service(service, port) => {
                let ready: Vec<_> = snapshot.ready_endpoints(service.name.as_str(), port).collect();
                if ready.is_empty() {
                    return Err(none("the service has no ready endpoint for that port"));
                }
                // From a random one on: connections are few and kept, so they need no balancing by load.
                let first = rand::random_range(0..ready.len());
                let some = ready.iter().cycle().skip(first).take(ready.len().min(TRIES));
                let endpoints: Result<_, _> = some.map(|(workload, port)| endpoint(workload, *port)).collect();
                endpoints.map(Some).map_err(none)
            }
        }
    }

    async fn reach(&self, endpoint: Endpoint) -> Result<Connected, DialError> {
        let from = self.source();
        match endpoint.via {
            Via::Plaintext => {
                let from = from.filter(|_| endpoint.workload.is_some());
                let tcp = self.dialer.tcp(endpoint.address, from).await?;
                crate::socket::tune(&socket2::SockRef::from(&tcp));
                Ok(Connected {
                    stream: Box::new(tcp),
                    standing: Standing::ALWAYS,
                })
            }
            Via::Mesh(peer, Framing::Squire) => {
                let key = Key {
                    peer,
                    address: endpoint.address,
                    from,
                };
                let leased = self.pool.lease(&key).await?;
                let standing = self.standing(&leased.peer);
                let stream = self.pool.stream(key, leased, rand::random());
                Ok(Connected {
                    stream: Box::new(stream),
                    standing,
                })
            }
            Via::Mesh(peer, Framing::Plain) => {
                let credentials = self.credentials.borrow().clone().ok_or(DialError::NoIdentity)?;
                let dialled = self
                    .dialer
                    .mesh(&credentials, &peer, Framing::Plain, endpoint.address, from)
                    .await?;
                let standing = self.standing(&dialled.peer);
                // Nobody takes back a link that carries one connection only.
                let stream = LinkStream::accepted(dialled.link, 0, Box::new(|_, _| {}));
                Ok(Connected {
                    stream: Box::new(stream),
                    standing,
                })
            }
        }
    }

    /// Our SVID and trust are those of now, and the peer is still trusted.
    fn standing(&self, peer: &Arc<VerifiedPeer>) -> Standing {
        let (state, credentials, peer) = (self.state.clone(), self.credentials.clone(), Arc::clone(peer));
        let current = |credentials: &CredentialsWatch| credentials.borrow().as_ref().map(|now| now.generation);
        let generation = current(&credentials);
        Standing::while_true(move || {
            current(&credentials) == generation && grounds(&state.borrow(), &peer, SystemTime::now()).is_ok()
        })
    }
}

impl Connect for Mesh {
    fn connect<'a>(&'a self, host: &'a str, port: u16) -> Connecting<'a> {
        Box::pin(async move {
            let Some(endpoints) = self.endpoints(host, port).await? else {
                return Outside.connect(host, port).await;
            };
            let mut last = io::Error::from(io::ErrorKind::NotFound);
            for endpoint in endpoints {
                match Box::pin(self.reach(endpoint)).await {
                    Ok(connected) => return Ok(connected),
                    Err(error) => last = io::Error::other(error),
                }
            }
            Err(last)
        })
    }
}
