//! Sends raw frames, and generates broken frames to a VIP, which a parser must survive.
//!
//! Invariant: the seed determines the broken frames, so that a failed run can be repeated.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd as _, OwnedFd};

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, sendto, socket};

/// Sends `count` frames of [`Garbage`] on an interface.
pub fn send(interface: &str, count: u32, garbage: Garbage) -> Result<()> {
    let wire = Wire::open(interface)?;
    garbage
        .take(usize::try_from(count)?)
        .try_for_each(|frame| wire.send(&frame))
}

/// A raw socket on an interface, in the namespace in which it was opened.
#[derive(Debug)]
pub struct Wire {
    packets: OwnedFd,
    link: LinkAddr,
}

impl Wire {
    /// Opens an interface in this thread's namespace.
    pub fn open(interface: &str) -> Result<Self> {
        let link = link(interface)?;
        let packets = socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            None,
        )
        .context("cannot open a packet socket (it needs CAP_NET_RAW)")?;
        Ok(Self { packets, link })
    }

    /// Sends a frame; waits while the socket's buffer is full.
    ///
    /// # Errors
    /// The interface is down, or the frame exceeds its MTU.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        loop {
            let sent = sendto(
                self.packets.as_raw_fd(),
                frame,
                &self.link,
                MsgFlags::empty(),
            );
            match sent {
                Err(Errno::ENOBUFS) => std::thread::yield_now(),
                sent => {
                    return sent.map(drop).with_context(|| {
                        format!("cannot send {} bytes on an interface", frame.len())
                    });
                }
            }
        }
    }
}

/// Returns the address of an interface for packet sockets.
pub(crate) fn link(interface: &str) -> Result<LinkAddr> {
    getifaddrs()
        .context("cannot list the interfaces")?
        .filter(|entry| entry.interface_name == interface)
        .find_map(|entry| {
            entry
                .address
                .as_ref()
                .and_then(|a| a.as_link_addr().copied())
        })
        .with_context(|| format!("no interface {interface}"))
}

/// An endless supply of broken frames.
#[derive(Clone, Debug)]
pub struct Garbage {
    destination: [u8; 6],
    source4: Ipv4Addr,
    vip4: Ipv4Addr,
    source6: Ipv6Addr,
    vip6: Ipv6Addr,
    port: u16,
    state: u64,
    turn: usize,
}

/// One way to break a good frame.
type Breaker = fn(&mut Garbage) -> Vec<u8>;

const BREAKERS: &[Breaker] = &[
    Garbage::noise,
    |g| g.ipv4(6, |ip| ip[20 + 12] = 0x10), // TCP data offset below its header
    |g| g.ipv4(6, |ip| ip[20 + 12] = 0xf0), // TCP data offset past the end
    |g| g.ipv4(6, |ip| ip[2..4].copy_from_slice(&[5, 0])), // total length past the end
    |g| g.ipv4(6, |ip| ip[2..4].copy_from_slice(&[0, 8])), // total length below the header
    |g| g.ipv4(6, |ip| ip[0] = 0x42),       // header length below the minimum
    |g| g.ipv4(6, |ip| ip[0] = 0x4f),       // options past the end
    |g| g.ipv4(6, |ip| ip[6..8].copy_from_slice(&[0x20, 0x01])), // a fragment
    |g| g.ipv4(253, |_| {}),                // a protocol without a service
    |g| g.ipv4(6, |ip| ip[20 + 2..20 + 4].copy_from_slice(&[0, 9])), // a port without a service
    |g| g.ipv4(17, |ip| ip[20 + 4..20 + 6].copy_from_slice(&[0xff, 0xff])), // UDP length
    |g| g.ipv4(1, |ip| ip.truncate(22)),    // ICMP cut off
    |g| g.ipv6(0),                          // hop-by-hop options past the end
    |g| g.ipv6(44),                         // a fragment header
    |g| g.ipv6(58),                         // an ICMPv6 message of no known type
    Garbage::arp,
    Garbage::cut,
    Garbage::flipped,
];

impl Garbage {
    /// Returns frames to the MAC address `destination`, from `sources` to `vips` (IPv4 and IPv6 in that
    /// order) and `port`. Addresses of the wrong family become unspecified.
    pub fn new(
        destination: [u8; 6],
        sources: [IpAddr; 2],
        vips: [IpAddr; 2],
        port: u16,
        seed: u64,
    ) -> Self {
        let v4 = |address| match address {
            IpAddr::V4(address) => address,
            IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
        };
        let v6 = |address| match address {
            IpAddr::V6(address) => address,
            IpAddr::V4(_) => Ipv6Addr::UNSPECIFIED,
        };
        Self {
            destination,
            source4: v4(sources[0]),
            vip4: v4(vips[0]),
            source6: v6(sources[1]),
            vip6: v6(vips[1]),
            port,
            // The generator below must not start at zero.
            state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            turn: 0,
        }
    }

    /// Marsaglia's xorshift64.
    fn random(&mut self, below: usize) -> usize {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        usize::try_from(self.state >> 33).unwrap_or(0) % below
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.random(256)).unwrap_or(0)
    }

    fn ethernet(&self, ethertype: u16) -> Vec<u8> {
        let source = [0x02, 0, 0, 0, 0xba, 0xd0];
        [&self.destination[..], &source, &ethertype.to_be_bytes()].concat()
    }

    fn noise(&mut self) -> Vec<u8> {
        let mut frame = self.ethernet(0);
        let len = 14 + self.random(300);
        for at in 12..len {
            let byte = self.byte();
            if at < frame.len() {
                frame[at] = byte;
            } else {
                frame.push(byte);
            }
        }
        frame
    }

    /// Returns a SYN to the VIP with another `protocol` number; `spoil` may change anything from the IP
    /// header on. The IP header's checksum is valid afterwards.
    fn ipv4(&mut self, protocol: u8, spoil: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut ip = vec![0x45, 0, 0, 40, 0, 1, 0, 0, 64, protocol, 0, 0];
        ip.extend(self.source4.octets());
        ip.extend(self.vip4.octets());
        ip.extend(self.tcp());
        spoil(&mut ip);
        let sum = checksum(&ip[..20]);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        [self.ethernet(0x0800), ip].concat()
    }

    fn ipv6(&mut self, next_header: u8) -> Vec<u8> {
        let mut ip = vec![0x60, 0, 0, 0, 0, 20, next_header, 64];
        ip.extend(self.source6.octets());
        ip.extend(self.vip6.octets());
        ip.extend([6, 0xff]);
        ip.extend(&self.tcp()[2..]);
        [self.ethernet(0x86dd), ip].concat()
    }

    fn tcp(&mut self) -> Vec<u8> {
        let mut tcp = vec![0; 20];
        tcp[0] = 0x80 | self.byte();
        tcp[1] = self.byte();
        tcp[2..4].copy_from_slice(&self.port.to_be_bytes());
        tcp[12] = 0x50;
        tcp[13] = 0x02; // SYN
        tcp
    }

    /// Returns an ARP request for the VIP that is cut off within an address.
    fn arp(&mut self) -> Vec<u8> {
        let mut frame = self.ethernet(0x0806);
        frame.extend([0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0]);
        frame
    }

    /// Returns a good SYN, cut off anywhere.
    fn cut(&mut self) -> Vec<u8> {
        let mut frame = self.ipv4(6, |_| {});
        let len = 14 + self.random(frame.len() - 14);
        frame.truncate(len);
        frame
    }

    /// Returns a good SYN with a few bits changed after the Ethernet header.
    fn flipped(&mut self) -> Vec<u8> {
        let mut frame = self.ipv4(6, |_| {});
        for _ in 0..3 {
            let at = 14 + self.random(frame.len() - 14);
            frame[at] ^= 1 << self.random(8);
        }
        frame
    }
}

impl Iterator for Garbage {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        let breaker = BREAKERS[self.turn % BREAKERS.len()];
        self.turn += 1;
        Some(breaker(self))
    }
}

/// Returns the Internet checksum (RFC 1071) of a header whose checksum field is zero.
fn checksum(header: &[u8]) -> u16 {
    let mut sum: u32 = header
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{CLIENT4, CLIENT6, VIP4, VIP6};

    fn garbage(seed: u64) -> Garbage {
        Garbage::new([2; 6], [CLIENT4, CLIENT6], [VIP4, VIP6], 80, seed)
    }

    #[test]
    fn frames_follow_from_the_seed() {
        let frames = |seed| garbage(seed).take(1000).collect::<Vec<_>>();
        assert_eq!(frames(7), frames(7));
        assert_ne!(frames(7), frames(8));
    }

    #[test]
    fn every_frame_can_be_sent() {
        for (turn, frame) in garbage(1).take(5000).enumerate() {
            assert!(
                (14..=1514).contains(&frame.len()),
                "frame {turn}: {} bytes",
                frame.len()
            );
            assert_eq!(frame[..6], [2; 6], "frame {turn}");
        }
    }
}
