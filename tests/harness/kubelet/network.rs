//! The pods' network of a node: a bridge in a namespace of its own, the pods plugged into it, and this machine's own
//! namespace as the node's address on it, from which the API server and probes reach pods.

use std::{
    net::{IpAddr, Ipv4Addr},
    process::Command,
    sync::atomic::{AtomicU8, AtomicU16, Ordering},
};

use crate::namespace::Namespace;

/// The last number of the node's address.
const HOST: u8 = 253;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// A /24 of 198.18.0.0/15, the network for such things (RFC 2544).
#[derive(Debug)]
pub(super) struct Network {
    bridge: Namespace,
    prefix: [u8; 3],
    pods: AtomicU8,
}

impl Network {
    pub(super) fn new() -> Self {
        let nth = NEXT.fetch_add(1, Ordering::Relaxed);
        let prefix = unused(nth);
        let bridge = Namespace::bridge(&[]);
        let [a, b, c] = prefix;
        let link = format!("sqk{}-{nth}", std::process::id() % 1_000_000);
        let host = format!("{a}.{b}.{c}.{HOST}/24");
        // The pair goes when the bridge's namespace does.
        let own = std::process::id().to_string();
        bridge.run(&[
            "ip", "link", "add", "uplink", "type", "veth", "peer", "name", &link, "netns", &own,
        ]);
        bridge.run(&["ip", "link", "set", "uplink", "master", "br0", "up"]);
        ip(&["address", "add", &host, "dev", &link]);
        ip(&["link", "set", &link, "up"]);
        Self {
            bridge,
            prefix,
            pods: AtomicU8::new(1),
        }
    }

    fn address(&self, last: u8) -> IpAddr {
        let [a, b, c] = self.prefix;
        Ipv4Addr::new(a, b, c, last).into()
    }

    /// The node's address.
    pub(super) fn host(&self) -> IpAddr {
        self.address(HOST)
    }

    /// A pod's namespace, with an address.
    pub(super) fn plug(&self) -> (Namespace, IpAddr) {
        let number = self.pods.fetch_add(1, Ordering::Relaxed);
        assert!(number < HOST, "no address is left");
        let address = self.address(number);
        let namespace = Namespace::new();
        namespace.plug_into(&self.bridge, &format!("pod{number}"), &[&format!("{address}/24")]);
        // To Service addresses, among others; the node passes nothing on.
        namespace.run(&["ip", "route", "add", "default", "via", &self.host().to_string()]);
        (namespace, address)
    }
}

/// A /24 that nobody on this machine has.
fn unused(nth: u16) -> [u8; 3] {
    let output = Command::new("ip").args(["-o", "-4", "address"]).output().unwrap();
    let taken = String::from_utf8_lossy(&output.stdout).into_owned();
    let first = std::process::id().wrapping_mul(31).wrapping_add(u32::from(nth));
    let candidates = (0..512).map(|offset| first.wrapping_add(offset) % 512);
    let prefixes = candidates.map(|number| [198, 18 + u8::try_from(number / 256).unwrap(), (number % 256) as u8]);
    let free = |[a, b, c]: &[u8; 3]| !taken.contains(&format!(" {a}.{b}.{c}."));
    prefixes.into_iter().find(free).expect("512 networks are enough")
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments:?}: {errors}");
}
