//! IP blocks. Host bits are masked; IPv4-mapped IPv6 counts as IPv4 (spec §3.13.52); families never match across.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::{IpNet, Ipv4Net};

/// An address block, or a single address as a block of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cidr(IpNet);

impl Cidr {
    /// Whether the address lies in the block.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.0.contains(&ip.to_canonical())
    }

    /// Whether the whole of `other` lies in this block.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.0.contains(&other.0)
    }

    /// From an address and a prefix length; none if the prefix is too long.
    #[must_use]
    pub fn new(ip: IpAddr, prefix: u8) -> Option<Self> {
        let net = IpNet::new(ip, prefix).ok()?;
        Some(Self(canonical(net).trunc()))
    }

    /// The (masked) network address.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.0.addr()
    }

    /// The prefix length.
    #[must_use]
    pub fn prefix(&self) -> u8 {
        self.0.prefix_len()
    }
}

fn canonical(net: IpNet) -> IpNet {
    let IpNet::V6(v6) = net else { return net };
    let Some(mapped) = v6.addr().to_ipv4_mapped() else {
        return net;
    };
    match v6
        .prefix_len()
        .checked_sub(96)
        .map(|prefix| Ipv4Net::new(mapped, prefix))
    {
        Some(Ok(v4)) => IpNet::V4(v4),
        _ => net,
    }
}

/// The text is neither an address nor a block.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither an IP address nor a CIDR block")]
pub struct InvalidCidr(String);

impl FromStr for Cidr {
    type Err = InvalidCidr;

    fn from_str(text: &str) -> Result<Self, InvalidCidr> {
        let invalid = || InvalidCidr(text.to_owned());
        match text.split_once('/') {
            None => {
                let ip: IpAddr = text.parse().map_err(|_| invalid())?;
                Self::new(ip, if ip.is_ipv4() { 32 } else { 128 }).ok_or_else(invalid)
            }
            Some((address, prefix)) => {
                let ip: IpAddr = address.parse().map_err(|_| invalid())?;
                let decimal = !prefix.is_empty() && prefix.bytes().all(|byte| byte.is_ascii_digit());
                if !decimal || (prefix.len() > 1 && prefix.starts_with('0')) {
                    return Err(invalid());
                }
                prefix
                    .parse()
                    .ok()
                    .and_then(|prefix| Self::new(ip, prefix))
                    .ok_or_else(invalid)
            }
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn membership() {
        for (block, ip, expected) in [
            ("10.0.0.0/8", "10.1.2.3", true),
            ("10.0.0.0/8", "11.1.2.3", false),
            ("10.9.9.9/8", "10.1.2.3", true),
            ("10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1", "10.0.0.2", false),
            ("0.0.0.0/0", "::1", false),
            ("::/0", "10.0.0.1", false),
            ("10.0.0.0/8", "::ffff:10.1.2.3", true),
            ("::ffff:10.0.0.0/104", "10.1.2.3", true),
            ("2001:db8::/32", "2001:db8::1", true),
        ] {
            assert_eq!(
                block.parse::<Cidr>().unwrap().contains(ip.parse().unwrap()),
                expected,
                "{block} {ip}"
            );
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "10.0.0.0/33",
            "10.0.0/8",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "10.0.0.0/08",
            "a/8",
            "::/129",
            "010.0.0.1",
        ] {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
    }
}
