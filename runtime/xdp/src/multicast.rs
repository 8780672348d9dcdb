//! The groups that those who look for an IPv6 address ask in.
//!
//! A network card hears only the groups that it is told of, and a switch forwards only those that
//! somebody has reported (RFC 4541). The kernel joins the groups of its own addresses. A VIP is none
//! of them, so without a member here no neighbour would find it (RFC 4861 section 7.2.1).
//!
//! Invariant: a group that stays is never left: the new members join before the old ones leave, and
//! the kernel counts members.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv6Addr, UdpSocket};

use waxwing_dataplane::steering::Rules;
use waxwing_packet::{Address, Family, ndp};

/// The kernel bounds a socket's memory for memberships: even the lowest bound allows so many.
const JOINS_PER_SOCKET: usize = 64;

/// Members of the groups; dropped, they leave.
#[derive(Default)]
pub(crate) struct Groups {
    joined: BTreeSet<Address>,
    members: Vec<UdpSocket>,
}

impl Groups {
    /// Joins the groups of the VIPs on these interfaces, by their indices, and leaves others. In
    /// transparent mode a VIP is answered for by others.
    ///
    /// # Errors
    /// As the kernel says, which has no groups on an interface without IPv6. Those of before stay.
    pub(crate) fn follow(&mut self, rules: &Rules, interfaces: &[u32]) -> io::Result<()> {
        let vips = rules.vips.iter().filter(|_| rules.bridge.is_none());
        let wanted: BTreeSet<Address> = vips
            .filter(|vip| vip.family() == Family::V6)
            .map(|vip| ndp::solicited_node(*vip))
            .collect();
        if wanted == self.joined {
            return Ok(());
        }
        let on_all = |group| interfaces.iter().map(move |index| (group, *index));
        let joins: Vec<(Address, u32)> = wanted.iter().copied().flat_map(on_all).collect();
        self.members = joins
            .chunks(JOINS_PER_SOCKET)
            .map(member)
            .collect::<io::Result<_>>()?;
        self.joined = wanted;
        Ok(())
    }
}

/// A socket that is a member of groups on interfaces.
fn member(joins: &[(Address, u32)]) -> io::Result<UdpSocket> {
    // A fresh namespace has no loopback address; the unspecified one always binds.
    let socket = UdpSocket::bind("[::1]:0").or_else(|_| UdpSocket::bind("[::]:0"))?;
    for (group, interface) in joins {
        let group = Ipv6Addr::from_bits(group.bits());
        socket.join_multicast_v6(&group, *interface)?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::net::IpAddr;

    use super::*;

    /// Whether loopback hears a group, by the kernel's list.
    fn is_heard(group: &str) -> bool {
        let list = fs::read_to_string("/proc/net/igmp6").expect("a list");
        list.lines()
            .any(|line| line.starts_with("1 ") && line.contains(group))
    }

    #[test]
    fn the_groups_of_vips_are_heard_for_as_long_as_they_are_vips() {
        let vip = |last: u16| {
            let vip = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0x0077, last);
            Address::from(IpAddr::V6(vip))
        };
        let rules = |vips: &[Address]| Rules {
            vips: vips.iter().copied().collect(),
            ..Rules::default()
        };
        let (a, b) = (
            "ff0200000000000000000001ff77aa01",
            "ff0200000000000000000001ff77aa02",
        );
        let v4 = Address::from(IpAddr::from([192, 0, 2, 1]));
        let mut groups = Groups::default();
        let mut follow = |vips: &[Address]| groups.follow(&rules(vips), &[1]).expect("joined");
        follow(&[v4, vip(0xaa01)]);
        assert!(is_heard(a) && !is_heard(b));
        follow(&[vip(0xaa01), vip(0xaa02)]);
        assert!(is_heard(a) && is_heard(b));
        follow(&[vip(0xaa02)]);
        assert!(!is_heard(a) && is_heard(b));
        drop(groups);
        assert!(!is_heard(b));
    }
}
