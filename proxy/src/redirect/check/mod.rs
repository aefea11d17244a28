//! `redirect --check`: proves with connections of its own that the rules do what they should. One comes in over an
//! interface made for it, one goes out to an address that nobody has; each can only be answered if it was redirected, and
//! none leaves the pod. It changes no rules, and sends the sidecar, if it runs, at most a connection without a byte.

mod cable;
mod packet;

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};

use self::{
    cable::{Cable, Ends},
    packet::{ACK, RST, SYN, Segment},
};
use super::{
    RedirectError,
    netlink::Refused,
    options::{Options, Ports},
};

/// How long a connection may take that never leaves the machine.
const PATIENCE: Duration = Duration::from_secs(2);
/// Ports of the connections that are made here.
const PORTS: std::ops::Range<u16> = 20_000..60_000;
/// How many of them may be tried before all count as excluded.
const TRIES: usize = 256;

/// What was found of one direction and family.
#[derive(Debug)]
pub struct Verdict {
    direction: Direction,
    family: &'static str,
    result: Captured,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Inbound,
    Outbound,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Captured {
    /// Proved.
    Yes,
    /// It went where nothing should go without the sidecar.
    No,
    /// Nothing came of it, either way.
    Unanswered,
    /// All that could be tried is excluded.
    Excluded,
    /// The pod has no such addresses.
    NoFamily,
}

impl Verdict {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_good(&self) -> bool {
        match self.result {
            Captured::Yes | Captured::Excluded | Captured::NoFamily => true,
            Captured::No | Captured::Unanswered => false,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = match self.direction {
            Direction::Inbound => "inbound",
            Direction::Outbound => "outbound",
        };
        let result = match self.result {
            Captured::Yes => "redirected",
            Captured::No => "NOT redirected",
            Captured::Unanswered => {
                "NOT proved: a connection was neither redirected nor let through (a packet filter?)"
            }
            Captured::Excluded => "everything is excluded",
            Captured::NoFamily => "not in use in this network namespace",
        };
        write!(f, "{direction} {}: {result}", self.family)
    }
}

/// Tries both directions with both families.
///
/// # Errors
/// When it cannot be tried: privileges or parts of the kernel are missing, or this process runs as a user whose
/// connections pass.
pub fn run(options: &Options) -> Result<Vec<Verdict>, RedirectError> {
    let uid = rustix::process::geteuid().as_raw();
    if uid == options.proxy_uid || options.exclude_uids.contains(&uid) {
        return Err(RedirectError::Excluded { uid });
    }
    // Before anything is made: is this allowed at all?
    super::allowed()?;
    // They answer in the sidecar's place, where it does not run yet.
    let _stand_ins = [options.inbound_port, options.outbound_port].map(stand_ins);
    let ends = [Ends::v4(), Ends::v6()];
    let (cable, there) = Cable::plug(&ends)?;
    let mut verdicts = Vec::new();
    for (ends, there) in ends.into_iter().zip(there) {
        let family = if ends.near.is_ipv4() { "IPv4" } else { "IPv6" };
        for direction in [Direction::Inbound, Direction::Outbound] {
            let result = match direction {
                _ if !there => Captured::NoFamily,
                Direction::Inbound => inbound(options, &cable, ends),
                Direction::Outbound => outbound(options, &cable, ends)?,
            };
            verdicts.push(Verdict {
                direction,
                family,
                result,
            });
        }
    }
    Ok(verdicts)
}

/// Listeners on a port, unless somebody listens there already.
fn stand_ins(port: u16) -> [io::Result<Socket>; 2] {
    let listen = |address: IpAddr| {
        let address = SocketAddr::new(address, port);
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.bind(&address.into())?;
        socket.listen(16)?;
        Ok(socket)
    };
    [
        listen(Ipv4Addr::UNSPECIFIED.into()),
        listen(Ipv6Addr::UNSPECIFIED.into()),
    ]
}

/// A connection begun from the far end, to a port where nobody listens: only a redirected one is accepted.
fn inbound(options: &Options, cable: &Cable, ends: Ends) -> Captured {
    let mut excluded = options.exclude_inbound_ports.clone();
    excluded.extend([options.admin_port, options.inbound_port, options.outbound_port].map(Ports::from));
    let unused = |port| TcpListener::bind(SocketAddr::new(ends.near, port)).is_ok();
    let Some(to) = free_port(&excluded, unused) else {
        return Captured::Excluded;
    };
    let syn = Segment {
        from: SocketAddr::new(ends.far, rand::random_range(PORTS)),
        to: SocketAddr::new(ends.near, to),
        flags: SYN,
        sequence: rand::random(),
    };
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        // As TCP does it: again, until there is an answer.
        cable.put(&syn);
        while let Some(answer) = cable.next() {
            if (answer.from, answer.to) != (syn.to, syn.from) {
                continue;
            }
            if answer.flags & (SYN | ACK | RST) == SYN | ACK {
                cable.put(&Segment {
                    flags: RST,
                    sequence: syn.sequence.wrapping_add(1),
                    ..syn
                });
                return Captured::Yes;
            }
            if answer.flags & RST != 0 {
                return Captured::No;
            }
        }
    }
    Captured::Unanswered
}

/// A connection to the far address, which nobody has: only a redirected one comes about.
fn outbound(options: &Options, cable: &Cable, ends: Ends) -> Result<Captured, RedirectError> {
    let passes = options
        .exclude_outbound_cidrs
        .iter()
        .any(|cidr| cidr.contains(ends.far));
    let port = free_port(&options.exclude_outbound_ports, |_| true);
    let Some(port) = port.filter(|_| !passes) else {
        return Ok(Captured::Excluded);
    };
    let to = SocketAddr::new(ends.far, port);
    let dial = || {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        socket.bind(&SocketAddr::new(ends.near, 0).into())?;
        let from = socket.local_addr()?.as_socket();
        Ok((socket.connect_timeout(&to.into(), PATIENCE), from))
    };
    let (connected, from) = dial().map_err(|source| Refused {
        what: format!("preparing a connection to {to}"),
        source,
    })?;
    if connected.is_ok() {
        return Ok(Captured::Yes);
    }
    let left = std::iter::from_fn(|| cable.next()).any(|segment| Some(segment.from) == from && segment.to == to);
    Ok(if left { Captured::No } else { Captured::Unanswered })
}

/// A port that is not excluded.
fn free_port(excluded: &[Ports], unused: impl Fn(u16) -> bool) -> Option<u16> {
    let mut candidates = (0..TRIES).map(|_| rand::random_range(PORTS));
    candidates.find(|port| {
        let passes = excluded.iter().any(|ports| (ports.first..=ports.last).contains(port));
        !passes && unused(*port)
    })
}
