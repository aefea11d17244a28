//! Ethernet frames with a TCP segment without data, for IPv4 and IPv6 (RFC 791, 8200, 9293): written, and read as far as
//! a check needs. It sends nothing.

use std::net::{IpAddr, SocketAddr};

/// A hardware address.
pub(super) type Mac = [u8; 6];

const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];
const TCP: u8 = 6;
const ETHERNET_HEADER: usize = 14;
const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
const TCP_HEADER: usize = 20;
/// Far more than one cable's length needs.
const HOPS: u8 = 64;

/// `SYN`: the first segment of a connection.
pub(super) const SYN: u8 = 0x02;
/// `RST`: there is no such connection, or no more.
pub(super) const RST: u8 = 0x04;
/// `ACK`.
pub(super) const ACK: u8 = 0x10;

/// What matters of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    pub(super) flags: u8,
    pub(super) sequence: u32,
}

impl Segment {
    /// The frame that carries it from one hardware address to another; `None` if the ends are of different families.
    pub(super) fn frame(&self, from: Mac, to: Mac) -> Option<Vec<u8>> {
        let mut tcp = Vec::with_capacity(TCP_HEADER);
        tcp.extend(self.from.port().to_be_bytes());
        tcp.extend(self.to.port().to_be_bytes());
        tcp.extend(self.sequence.to_be_bytes());
        tcp.extend([0; 4]);
        // Its header's length in words, its flags, a window, no checksum yet, nothing urgent.
        tcp.extend([5 << 4, self.flags, 0xff, 0xff, 0, 0, 0, 0]);
        let length = u16::try_from(TCP_HEADER).ok()?.to_be_bytes();
        let (kind, header, pseudo) = match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let total = u16::try_from(IPV4_HEADER + TCP_HEADER).ok()?.to_be_bytes();
                let mut header = vec![0x45, 0, total[0], total[1], 0, 0, 0x40, 0, HOPS, TCP, 0, 0];
                header.extend(from.octets());
                header.extend(to.octets());
                let sum = checksum(&[&header]);
                header[10..12].copy_from_slice(&sum);
                (IPV4, header, [&from.octets()[..], &to.octets()].concat())
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let mut header = vec![0x60, 0, 0, 0, length[0], length[1], TCP, HOPS];
                header.extend(from.octets());
                header.extend(to.octets());
                (IPV6, header, [&from.octets()[..], &to.octets()].concat())
            }
            _ => return None,
        };
        let sum = checksum(&[&pseudo, &[0, TCP], &length, &tcp]);
        tcp[16..18].copy_from_slice(&sum);
        Some([&to[..], &from, &kind, &header, &tcp].concat())
    }

    /// The segment a frame carries, if it does carry one.
    pub(super) fn of_frame(frame: &[u8]) -> Option<Self> {
        let kind = frame.get(12..ETHERNET_HEADER)?;
        let packet = frame.get(ETHERNET_HEADER..)?;
        let (from, to, tcp): (IpAddr, IpAddr, _) = if kind == IPV4 {
            let length = usize::from(packet.first()? & 0x0f) * 4;
            if *packet.get(9)? != TCP {
                return None;
            }
            (address4(packet, 12)?, address4(packet, 16)?, packet.get(length..)?)
        } else if kind == IPV6 {
            if *packet.get(6)? != TCP {
                return None;
            }
            (address6(packet, 8)?, address6(packet, 24)?, packet.get(IPV6_HEADER..)?)
        } else {
            return None;
        };
        let port = |at: usize| Some(u16::from_be_bytes(tcp.get(at..at + 2)?.try_into().ok()?));
        Some(Self {
            from: SocketAddr::new(from, port(0)?),
            to: SocketAddr::new(to, port(2)?),
            flags: *tcp.get(13)?,
            sequence: u32::from_be_bytes(tcp.get(4..8)?.try_into().ok()?),
        })
    }
}

fn address4(packet: &[u8], at: usize) -> Option<IpAddr> {
    let octets: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
    Some(octets.into())
}

fn address6(packet: &[u8], at: usize) -> Option<IpAddr> {
    let octets: [u8; 16] = packet.get(at..at + 16)?.try_into().ok()?;
    Some(octets.into())
}

/// The Internet checksum (RFC 1071) over parts that each have an even length.
fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let words = parts.iter().flat_map(|part| part.chunks_exact(2));
    let mut sum: u32 = words
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!u16::try_from(sum).unwrap_or_default()).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_reads_back_as_the_segment_it_carries() {
        for (from, to) in [("198.18.0.2:4000", "198.18.0.1:80"), ("[fd00::2]:4000", "[fd00::1]:80")] {
            let segment = Segment {
                from: from.parse().unwrap(),
                to: to.parse().unwrap(),
                flags: SYN,
                sequence: 7,
            };
            let frame = segment.frame([2; 6], [4; 6]).unwrap();
            assert_eq!(Segment::of_frame(&frame), Some(segment));
            for end in 0..frame.len() {
                let _ = Segment::of_frame(&frame[..end]);
            }
        }
    }

    #[test]
    fn the_checksum_is_that_of_the_example_everybody_knows() {
        let header = [
            0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0, 0, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8, 0, 0xc7,
        ];
        assert_eq!(checksum(&[&header]), [0xb8, 0x61]);
    }
}
