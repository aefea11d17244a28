//! A network cable for the length of a check: two interfaces made for it, one with addresses (near), the other with
//! nobody behind it but this check (far). What goes into the far end comes in at the near end as if from outside the pod;
//! what leaves for a far address never leaves the pod. Both are gone when it is dropped.

use std::{
    io::{self, Read as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use socket2::{Domain, Socket, Type};

use super::packet::{Mac, Segment};
use crate::{
    redirect::{
        RedirectError,
        netlink::{Attribute, Batch, CREATE, EXCLUSIVE, Netlink, Refused},
    },
    sys,
};

const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
const NEW_ADDRESS: u16 = 20;
const NEW_NEIGHBOUR: u16 = 28;

const LINK_ADDRESS: u16 = 1;
const LINK_NAME: u16 = 3;
const LINK_INFO: u16 = 18;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const VETH_PEER: u16 = 1;
const ADDRESS_LOCAL: u16 = 2;
const ADDRESS_FLAGS: u16 = 8;
const NEIGHBOUR_ADDRESS: u16 = 1;
const NEIGHBOUR_MAC: u16 = 2;

const UP: u32 = 1;
/// Usable at once, without asking around whether somebody has the address.
const NO_DETECTION: u32 = 2;
const PERMANENT: u16 = 0x80;

const FAR: &str = "squire-check0";
const NEAR: &str = "squire-check1";
const FAR_MAC: Mac = [0x02, 0x73, 0x71, 0, 0, 1];
const NEAR_MAC: Mac = [0x02, 0x73, 0x71, 0, 0, 2];

/// How long one look at the far end waits for a frame.
const LOOK: Duration = Duration::from_millis(50);

/// The cable, plugged in.
#[derive(Debug)]
pub(super) struct Cable {
    route: Netlink,
    far: Socket,
}

/// The addresses of one family: ours, and the one nobody has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ends {
    pub(super) near: IpAddr,
    pub(super) far: IpAddr,
}

impl Cable {
    /// Makes it, with addresses of these families' ends; for each whether the kernel has that family.
    pub(super) fn plug(families: &[Ends]) -> Result<(Self, Vec<bool>), RedirectError> {
        let route = Netlink::open(libc::NETLINK_ROUTE).map_err(refused)?;
        let far = Socket::new(Domain::PACKET, Type::RAW, None);
        let far = far.map_err(|error| failed("opening a packet socket", error))?;
        // Interfaces may be given a number: nobody else uses one so high.
        let index = rand::random_range(1 << 20..i32::MAX - 1);
        unplug(&route);
        let mut batch = Batch::default();
        batch.message(
            "making a pair of interfaces (veth)",
            NEW_LINK,
            CREATE | EXCLUSIVE,
            &link(index, UP),
            &pair(index + 1),
        );
        // An interface cannot go up before it has its other end, and the near one is made first.
        batch.message("switching an interface on", NEW_LINK, 0, &link(index + 1, UP), &[]);
        route.send(&batch).map_err(refused)?;
        let cable = Self { route, far };
        sys::bind_to_interface(&cable.far, index)
            .and_then(|()| cable.far.set_read_timeout(Some(LOOK)))
            .map_err(|error| failed("listening on an interface", error))?;
        let there = families.iter().map(|ends| cable.address(index + 1, *ends));
        let there = there.collect::<Result<_, _>>()?;
        Ok((cable, there))
    }

    /// Gives the near end its address and makes the far one known to it. False: the kernel does not have that family.
    fn address(&self, index: i32, ends: Ends) -> Result<bool, RedirectError> {
        let (near, far, family, prefix) = match (ends.near, ends.far) {
            (IpAddr::V4(near), IpAddr::V4(far)) => (near.octets().to_vec(), far.octets().to_vec(), libc::AF_INET, 30),
            (IpAddr::V6(near), IpAddr::V6(far)) => (near.octets().to_vec(), far.octets().to_vec(), libc::AF_INET6, 64),
            _ => return Ok(false),
        };
        let family = u8::try_from(family).unwrap_or_default();
        let index = index.to_ne_bytes();
        let mut batch = Batch::default();
        let header = [&[family, prefix, 0, 0][..], &index].concat();
        let flags = Attribute::bytes(ADDRESS_FLAGS, NO_DETECTION.to_ne_bytes());
        let parts = [Attribute::bytes(ADDRESS_LOCAL, near), flags];
        batch.message("giving an interface an address", NEW_ADDRESS, CREATE, &header, &parts);
        match self.route.send(&batch) {
            Ok(()) => {}
            Err(error) if family_is_missing(&error, ends) => return Ok(false),
            Err(error) => return Err(refused(error)),
        }
        let mut batch = Batch::default();
        let state = PERMANENT.to_ne_bytes();
        let header = [&[family, 0, 0, 0][..], &index, &state, &[0, 0]].concat();
        let parts = [
            Attribute::bytes(NEIGHBOUR_ADDRESS, far),
            Attribute::bytes(NEIGHBOUR_MAC, FAR_MAC),
        ];
        batch.message("making a neighbour known", NEW_NEIGHBOUR, CREATE, &header, &parts);
        self.route.send(&batch).map_err(refused)?;
        Ok(true)
    }

    /// Puts a segment into the far end. It may be lost, as on any cable.
    pub(super) fn put(&self, segment: &Segment) {
        if let Some(frame) = segment.frame(FAR_MAC, NEAR_MAC) {
            let _ = self.far.send(&frame);
        }
    }

    /// The next segment that came out of the far end or went in; `None` when there is none for a moment.
    pub(super) fn next(&self) -> Option<Segment> {
        let mut frame = [0; 256];
        loop {
            match (&self.far).read(&mut frame) {
                Ok(length) => match Segment::of_frame(&frame[..length]) {
                    Some(segment) => return Some(segment),
                    None => continue,
                },
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        unplug(&self.route);
    }
}

impl Ends {
    /// Addresses kept for measurements between networks (RFC 2544, 198.18.0.0/15), where no pod has business.
    pub(super) fn v4() -> Self {
        let net = 0xc612_0000 | (rand::random_range(0..1_u32 << 15) << 2);
        Self {
            near: Ipv4Addr::from_bits(net | 1).into(),
            far: Ipv4Addr::from_bits(net | 2).into(),
        }
    }

    /// A random unique local network (RFC 4193).
    pub(super) fn v6() -> Self {
        let net = (0xfd << 120) | (u128::from(rand::random::<u64>() >> 8) << 64);
        Self {
            near: Ipv6Addr::from_bits(net | 1).into(),
            far: Ipv6Addr::from_bits(net | 2).into(),
        }
    }
}

/// The kernel has no IPv6, or none is wanted on new interfaces, and no interface of the pod has an address of it.
fn family_is_missing(error: &Refused, ends: Ends) -> bool {
    let says_so = matches!(
        error.source.raw_os_error(),
        Some(libc::EACCES | libc::EOPNOTSUPP | libc::EAFNOSUPPORT)
    );
    let used = || {
        let listed = std::fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
        let others = |line: &&str| !line.ends_with(" lo") && !line.contains("squire-check");
        listed.lines().filter(others).count() > 0
    };
    ends.near.is_ipv6() && says_so && !used()
}

fn failed(what: &str, source: io::Error) -> RedirectError {
    let what = what.to_owned();
    refused(Refused { what, source })
}

fn refused(Refused { what, source }: Refused) -> RedirectError {
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => RedirectError::NoPrivilege { what },
        _ => RedirectError::NoCable { what, source },
    }
}

/// Takes both interfaces away, also those a check left that was killed.
fn unplug(route: &Netlink) {
    let mut batch = Batch::default();
    let name = Attribute::text(LINK_NAME, FAR);
    batch.message("removing an interface", DELETE_LINK, 0, &link(0, 0), &[name]);
    let _ = route.send(&batch);
}

/// `struct ifinfomsg`: an interface, and which of `UP` it should have.
fn link(index: i32, up: u32) -> Vec<u8> {
    [[0; 4], index.to_ne_bytes(), up.to_ne_bytes(), up.to_ne_bytes()].concat()
}

fn pair(near: i32) -> [Attribute; 3] {
    let named = |name, mac: Mac| [Attribute::text(LINK_NAME, name), Attribute::bytes(LINK_ADDRESS, mac)];
    let [name, mac] = named(FAR, FAR_MAC);
    let peer = Attribute::headed(VETH_PEER, &link(near, 0), &named(NEAR, NEAR_MAC));
    let info = vec![
        Attribute::text(INFO_KIND, "veth"),
        Attribute::nested(INFO_DATA, vec![peer]),
    ];
    [name, mac, Attribute::nested(LINK_INFO, info)]
}
