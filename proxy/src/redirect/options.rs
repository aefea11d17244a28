//! What is redirected and what passes, as flags, environment variables or annotations say it. It reads none of them
//! itself and changes nothing.

use std::net::IpAddr;

use squire_mesh::ports;

/// Entries all exclusions may have together: each is a rule that every new connection passes.
const MOST: usize = 512;

/// What is redirected and what passes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The user the sidecar runs as: its own connections pass.
    pub proxy_uid: u32,
    /// Where connections to the pod are redirected.
    pub inbound_port: u16,
    /// Where connections of the pod are redirected.
    pub outbound_port: u16,
    /// The sidecar's admin endpoint, which is reached as it is.
    pub admin_port: u16,
    /// Ports of the pod that are reached as they are.
    pub exclude_inbound_ports: Vec<Ports>,
    /// Ports that are dialled as they are, wherever.
    pub exclude_outbound_ports: Vec<Ports>,
    /// Networks that are dialled as they are.
    pub exclude_outbound_cidrs: Vec<Cidr>,
    /// Users whose connections pass, beside the sidecar's.
    pub exclude_uids: Vec<u32>,
}

/// A port, or all from one to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// The lowest.
    pub first: u16,
    /// The highest.
    pub last: u16,
}

/// A network: an address of it, and how many bits name it. Host bits are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    /// Its lowest address.
    pub address: IpAddr,
    /// Bits that all its addresses have in common.
    pub prefix: u8,
}

/// What is wrong with a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct OptionError(String);

/// One option: a flag `--NAME`, or `SQUIRE_REDIRECT_NAME` in the environment.
#[derive(Debug)]
pub struct Knob {
    /// Without the dashes before it.
    pub name: &'static str,
    /// One line.
    pub help: &'static str,
    set: fn(&mut Options, &str) -> Result<(), OptionError>,
}

/// All options.
pub const KNOBS: &[Knob] = &[
    Knob {
        name: "exclude-inbound-ports",
        help: "ports reached without the sidecar: 22,8000-8100",
        set: |options, text| list(text, ports, &mut options.exclude_inbound_ports),
    },
    Knob {
        name: "exclude-outbound-ports",
        help: "ports dialled without the sidecar",
        set: |options, text| list(text, ports, &mut options.exclude_outbound_ports),
    },
    Knob {
        name: "exclude-outbound-cidrs",
        help: "networks dialled without the sidecar: 169.254.169.254,10.96.0.0/12,fd00:1::/32",
        set: |options, text| list(text, cidr, &mut options.exclude_outbound_cidrs),
    },
    Knob {
        name: "exclude-uids",
        help: "users whose connections pass, beside the sidecar's own",
        set: |options, text| list(text, number, &mut options.exclude_uids),
    },
    Knob {
        name: "proxy-uid",
        help: "the user the sidecar runs as [2102]",
        set: |options, text| number(text).map(|uid| options.proxy_uid = uid),
    },
    Knob {
        name: "inbound-port",
        help: "the sidecar's inboundPort [15006]",
        set: |options, text| port(text).map(|port| options.inbound_port = port),
    },
    Knob {
        name: "outbound-port",
        help: "the sidecar's outboundPort [15001]",
        set: |options, text| port(text).map(|port| options.outbound_port = port),
    },
    Knob {
        name: "admin-port",
        help: "the port of the sidecar's admin endpoint, reached as it is [15020]",
        set: |options, text| port(text).map(|port| options.admin_port = port),
    },
];

impl Default for Options {
    fn default() -> Self {
        Self {
            proxy_uid: ports::PROXY_UID,
            inbound_port: ports::INBOUND,
            outbound_port: ports::OUTBOUND,
            admin_port: ports::ADMIN,
            exclude_inbound_ports: Vec::new(),
            exclude_outbound_ports: Vec::new(),
            exclude_outbound_cidrs: Vec::new(),
            exclude_uids: Vec::new(),
        }
    }
}

impl From<u16> for Ports {
    fn from(port: u16) -> Self {
        Self {
            first: port,
            last: port,
        }
    }
}

impl Cidr {
    /// Whether an address is one of it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        masked(address, self.prefix) == self.address
    }
}

impl Knob {
    /// Its variable in the environment.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("SQUIRE_REDIRECT_{}", self.name.to_ascii_uppercase().replace('-', "_"))
    }

    /// Sets it; a list takes the place of what was there.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn set(&self, options: &mut Options, text: &str) -> Result<(), OptionError> {
        (self.set)(options, text.trim())
    }
}

impl Options {
    /// Whether the values fit together.
    ///
    /// # Errors
    /// What does not.
    pub fn check(&self) -> Result<(), OptionError> {
        let ports = [self.inbound_port, self.outbound_port, self.admin_port];
        if ports[0] == ports[1] || ports[0] == ports[2] || ports[1] == ports[2] {
            let what = format!("inbound-port, outbound-port and admin-port must differ, and are {ports:?}");
            return Err(OptionError(what));
        }
        let exclusions = self.exclude_inbound_ports.len()
            + self.exclude_outbound_ports.len()
            + self.exclude_outbound_cidrs.len()
            + self.exclude_uids.len();
        if exclusions > MOST {
            let what =
                format!("{exclusions} exclusions are too many, {MOST} the most: write ranges or larger networks");
            return Err(OptionError(what));
        }
        Ok(())
    }
}

/// A comma-separated list; spaces around the entries and empty entries do not matter.
fn list<T>(text: &str, parse: impl Fn(&str) -> Result<T, OptionError>, into: &mut Vec<T>) -> Result<(), OptionError> {
    let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    *into = entries.map(parse).collect::<Result<_, _>>()?;
    Ok(())
}

fn ports(text: &str) -> Result<Ports, OptionError> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (port(first.trim_end())?, port(last.trim_start())?);
    if first > last {
        return Err(OptionError(format!("{text:?} ends before it begins")));
    }
    Ok(Ports { first, last })
}

fn port(text: &str) -> Result<u16, OptionError> {
    match text.parse() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(OptionError(format!("{text:?} is not a port from 1 to 65535"))),
    }
}

fn number(text: &str) -> Result<u32, OptionError> {
    text.parse()
        .map_err(|_| OptionError(format!("{text:?} is not the number of a user")))
}

fn cidr(text: &str) -> Result<Cidr, OptionError> {
    let wrong = || OptionError(format!("{text:?} is not an address or a network such as 10.0.0.0/8"));
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix.parse::<u8>().map_err(|_| wrong())?)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let prefix = prefix.unwrap_or(bits);
    if prefix > bits {
        return Err(wrong());
    }
    let address = masked(address, prefix);
    Ok(Cidr { address, prefix })
}

/// The address with all bits behind the prefix zero.
fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let host = 32_u32.saturating_sub(u32::from(prefix));
            IpAddr::V4((v4.to_bits() & u32::MAX.checked_shl(host).unwrap_or(0)).into())
        }
        IpAddr::V6(v6) => {
            let host = 128_u32.saturating_sub(u32::from(prefix));
            IpAddr::V6((v6.to_bits() & u128::MAX.checked_shl(host).unwrap_or(0)).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(name: &str, text: &str) -> Result<Options, OptionError> {
        let mut options = Options::default();
        let knob = KNOBS.iter().find(|knob| knob.name == name).unwrap();
        knob.set(&mut options, text).map(|()| options)
    }

    #[test]
    fn lists_are_read_as_annotations_write_them() {
        let options = set("exclude-inbound-ports", " 22, 8000-8100,,9000 - 9001 ").unwrap();
        let pairs: Vec<_> = options
            .exclude_inbound_ports
            .iter()
            .map(|p| (p.first, p.last))
            .collect();
        assert_eq!(pairs, [(22, 22), (8000, 8100), (9000, 9001)]);
        let options = set(
            "exclude-outbound-cidrs",
            "10.1.2.3/8,169.254.169.254, fd00:1::5/32,::/0",
        )
        .unwrap();
        let texts: Vec<_> = options
            .exclude_outbound_cidrs
            .iter()
            .map(|cidr| format!("{}/{}", cidr.address, cidr.prefix))
            .collect();
        assert_eq!(texts, ["10.0.0.0/8", "169.254.169.254/32", "fd00:1::/32", "::/0"]);
        assert_eq!(set("exclude-uids", "0,101").unwrap().exclude_uids, [0, 101]);
        assert!(set("exclude-uids", "").unwrap().exclude_uids.is_empty());
    }

    #[test]
    fn a_network_contains_its_addresses_and_no_others() {
        let contains = |network: &str, address: &str| cidr(network).unwrap().contains(address.parse().unwrap());
        assert!(contains("10.0.0.0/8", "10.255.0.1"));
        assert!(contains("0.0.0.0/0", "198.18.0.1"));
        assert!(contains("fd00:1::/32", "fd00:1:2::3"));
        assert!(!contains("10.0.0.0/8", "11.0.0.0"));
        assert!(!contains("0.0.0.0/0", "fd00::1"));
        assert!(!contains("::/0", "10.0.0.1"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (name, text) in [
            ("exclude-inbound-ports", "22,http"),
            ("exclude-inbound-ports", "0"),
            ("exclude-outbound-ports", "9-8"),
            ("exclude-outbound-ports", "1-65536"),
            ("exclude-outbound-cidrs", "10.0.0.0/33"),
            ("exclude-outbound-cidrs", "example.org"),
            ("exclude-uids", "-1"),
            ("proxy-uid", "root"),
            ("inbound-port", ""),
        ] {
            let error = set(name, text).unwrap_err().to_string();
            assert!(error.contains('"'), "{name} {text}: {error}");
        }
    }

    #[test]
    fn options_that_contradict_each_other_are_refused() {
        let same = Options {
            inbound_port: 15001,
            ..Options::default()
        };
        assert!(same.check().is_err());
        let many = Options {
            exclude_uids: vec![1; MOST + 1],
            ..Options::default()
        };
        assert!(many.check().unwrap_err().to_string().contains("512"));
        assert_eq!(Options::default().check(), Ok(()));
    }
}
