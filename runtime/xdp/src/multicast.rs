//! Solicited-node multicast groups of the VIPs.
//!
//! A network card receives only the groups that its host has joined, and a switch forwards only groups
//! that a host has reported (RFC 4541). The kernel joins the groups of its own addresses; a VIP is not
//! among them. Without this membership no neighbour could resolve an IPv6 VIP (RFC 4861 section
//! 7.2.1).
//!
//! Invariant: a group that stays is never left, because new memberships start before old ones end, and
//! the kernel counts memberships.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv6Addr, UdpSocket};

use waxwing_dataplane::steering::Rules;
use waxwing_packet::{Address, Family, ndp};

/// The kernel limits a socket's memory for memberships; its lowest limit allows this many.
const JOINS_PER_SOCKET: usize = 64;

/// Memberships in groups, ended on drop.
#[derive(Default)]
pub(crate) struct Memberships {
    groups: BTreeSet<Address>,
    /// By index.
    interfaces: Vec<u32>,
    sockets: Vec<UdpSocket>,
}

impl Memberships {
    /// Joins the groups of [`Rules::answered`] on these interfaces (by index) and leaves all others. Joins
    /// none in transparent mode, where other hosts answer for the VIPs.
    ///
    /// # Errors
    /// The kernel's error, for example on an interface without IPv6. The memberships do not change.
    pub(crate) fn update(&mut self, rules: &Rules, interfaces: &[u32]) -> io::Result<()> {
        let vips = rules.answered.iter().filter(|_| rules.bridge.is_none());
        let groups = vips
            .filter(|vip| vip.family() == Family::V6)
            .map(|vip| ndp::solicited_node(*vip))
            .collect();
        self.set(groups, interfaces)
    }

    /// Joins the same groups on other interfaces.
    ///
    /// # Errors
    /// As [`Memberships::update`].
    pub(crate) fn move_to(&mut self, interfaces: &[u32]) -> io::Result<()> {
        self.set(self.groups.clone(), interfaces)
    }

    fn set(&mut self, groups: BTreeSet<Address>, interfaces: &[u32]) -> io::Result<()> {
        if groups == self.groups && interfaces == self.interfaces {
            return Ok(());
        }
        let on_all = |group| interfaces.iter().map(move |index| (group, *index));
        let joins: Vec<(Address, u32)> = groups.iter().copied().flat_map(on_all).collect();
        self.sockets = joins
            .chunks(JOINS_PER_SOCKET)
            .map(join)
            .collect::<io::Result<_>>()?;
        self.groups = groups;
        self.interfaces = interfaces.to_vec();
        Ok(())
    }
}

/// Returns a socket that has joined groups on interfaces.
fn join(joins: &[(Address, u32)]) -> io::Result<UdpSocket> {
    // In a new network namespace loopback is down; the unspecified address always binds.
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

    /// Returns whether the kernel lists a group for loopback.
    fn is_joined(group: &str) -> bool {
        let list = fs::read_to_string("/proc/net/igmp6").expect("a list");
        list.lines()
            .any(|line| line.starts_with("1 ") && line.contains(group))
    }

    #[test]
    fn the_group_of_a_vip_is_joined_while_the_rules_contain_the_vip() {
        let vip = |last: u16| {
            let vip = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0x0077, last);
            Address::from(IpAddr::V6(vip))
        };
        let rules = |vips: &[Address]| Rules {
            answered: vips.iter().copied().collect(),
            ..Rules::default()
        };
        let (a, b) = (
            "ff0200000000000000000001ff77aa01",
            "ff0200000000000000000001ff77aa02",
        );
        let v4 = Address::from(IpAddr::from([192, 0, 2, 1]));
        let mut memberships = Memberships::default();
        let mut update = |vips: &[Address]| {
            let updated = memberships.update(&rules(vips), &[1]);
            updated.expect("IPv6 on loopback");
        };
        update(&[v4, vip(0xaa01)]);
        assert!(is_joined(a) && !is_joined(b));
        update(&[vip(0xaa01), vip(0xaa02)]);
        assert!(is_joined(a) && is_joined(b));
        update(&[vip(0xaa02)]);
        assert!(!is_joined(a) && is_joined(b));
        drop(memberships);
        assert!(!is_joined(b));
    }
}
