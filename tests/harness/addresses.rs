//! Addresses in 127.0.0.0/8 that no other test uses, so that tests run side by side with fixed ports.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::atomic::{AtomicU16, Ordering},
};

static NEXT: AtomicU16 = AtomicU16::new(0);

/// A /24 of loopback.
#[derive(Debug, Clone, Copy)]
pub struct Subnet(u8, u8);

impl Subnet {
    /// One that nobody in this process has, and most likely nobody in another.
    #[must_use]
    pub fn unused() -> Self {
        let nth = NEXT.fetch_add(1, Ordering::Relaxed);
        let process = u8::try_from(std::process::id() % 200).unwrap();
        Self(20 + process, u8::try_from(nth % 256).unwrap())
    }

    /// The address with this last number.
    #[must_use]
    pub fn address(self, last: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(127, self.0, self.1, last))
    }
}
