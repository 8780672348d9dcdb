//! Routes and routing rules in the kernel's messages.
//!
//! Invariant: an entry says what the kernel would do with a matching packet, as far as a packet
//! forwarded past the kernel can be treated the same way. What only the kernel can do (tunnels,
//! labels) is marked, never half done.

use std::collections::BTreeMap;
use std::net::IpAddr;

use rtnetlink::packet_core::Nla as _;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteNextHopFlags,
    RouteType, RouteVia,
};
use rtnetlink::packet_route::rule::{RuleAttribute, RuleMessage};
use waxwing_packet::{Address, Prefix};

/// `<linux/rtnetlink.h>`.
const RTA_NH_ID: u16 = 30;

/// A route of the main table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RouteEntry {
    /// The destinations.
    pub prefix: Prefix,
    /// Among routes to one prefix, the lowest metric wins.
    pub metric: u32,
    /// The next hops that are alive; empty if the route rejects packets.
    pub hops: Vec<RouteHop>,
    /// The nexthop object that the kernel names instead (`nexthop_compat_mode = 0`).
    pub(super) nexthop: Option<u32>,
}

/// One next hop of a route.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RouteHop {
    /// The index of the outgoing interface.
    pub link: u32,
    /// The gateway; `None` if the destination itself is a neighbour.
    pub via: Option<Address>,
    /// Its share of the flows, at least 1.
    pub weight: u16,
    /// Whether frames are sent unchanged: no tunnel, no label.
    pub plain: bool,
}

/// Returns each prefix's next hops, taken from its route of the lowest metric.
pub(crate) fn best(
    entries: impl IntoIterator<Item = RouteEntry>,
) -> BTreeMap<Prefix, Vec<RouteHop>> {
    let mut best: BTreeMap<Prefix, RouteEntry> = BTreeMap::new();
    for entry in entries {
        let known = best.get(&entry.prefix);
        if known.is_none_or(|known| entry.metric < known.metric) {
            best.insert(entry.prefix, entry);
        }
    }
    best.into_values()
        .map(|entry| (entry.prefix, entry.hops))
        .collect()
}

/// Parses a route; `None` unless it is in the main table and applies to forwarded packets.
pub(super) fn entry(message: &RouteMessage) -> Option<RouteEntry> {
    let header = &message.header;
    let bits = match header.address_family {
        AddressFamily::Inet => Address::v4([0; 4]),
        AddressFamily::Inet6 => Address::v6([0; 16]),
        _ => return None,
    };
    let rejects = match header.kind {
        RouteType::Unicast => false,
        RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit | RouteType::Throw => {
            true
        }
        _ => return None,
    };
    let by_destination_only = header.tos == 0
        && header.source_prefix_length == 0
        && !header
            .flags
            .intersects(RouteFlags::Cloned | RouteFlags::Dead);
    let mut single = HopAttributes::default();
    let (mut base, mut metric, mut table) = (bits, 0, u32::from(header.table));
    let (mut multipath, mut nexthop) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => base = address_of(address)?,
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::Table(id) => table = *id,
            RouteAttribute::MultiPath(hops) => multipath = Some(hops),
            RouteAttribute::Other(other) if other.kind() == RTA_NH_ID => {
                let mut id = [0; 4];
                if other.value_len() == id.len() {
                    other.emit_value(&mut id);
                    nexthop = Some(u32::from_ne_bytes(id));
                }
            }
            other => single.add(other),
        }
    }
    if table != u32::from(RouteHeader::RT_TABLE_MAIN) || !by_destination_only {
        return None;
    }
    let hops: Vec<RouteHop> = match multipath {
        _ if rejects => Vec::new(),
        None => single.hop(1).into_iter().collect(),
        Some(members) => members
            .iter()
            .filter(|member| !member.flags.contains(RouteNextHopFlags::Dead))
            .filter_map(|member| {
                let mut attributes = HopAttributes {
                    link: Some(member.interface_index),
                    ..HopAttributes::default()
                };
                member.attributes.iter().for_each(|it| attributes.add(it));
                // `rtnh_hops` is the weight minus one.
                attributes.hop(u16::from(member.hops) + 1)
            })
            .collect(),
    };
    Some(RouteEntry {
        prefix: Prefix::new(base, header.destination_prefix_length),
        metric,
        nexthop: nexthop.filter(|_| hops.is_empty() && !rejects),
        hops,
    })
}

/// The attributes of one next hop.
#[derive(Default)]
struct HopAttributes {
    link: Option<u32>,
    via: Option<Address>,
    encapsulated: bool,
}

impl HopAttributes {
    fn add(&mut self, attribute: &RouteAttribute) {
        match attribute {
            RouteAttribute::Oif(index) => self.link = Some(*index),
            RouteAttribute::Gateway(address) => self.via = address_of(address),
            RouteAttribute::Via(RouteVia::Inet(v4)) => self.via = Some(IpAddr::V4(*v4).into()),
            RouteAttribute::Via(RouteVia::Inet6(v6)) => self.via = Some(IpAddr::V6(*v6).into()),
            RouteAttribute::EncapType(_) | RouteAttribute::Encap(_) => self.encapsulated = true,
            _ => {}
        }
    }

    fn hop(&self, weight: u16) -> Option<RouteHop> {
        Some(RouteHop {
            link: self.link?,
            via: self.via,
            weight,
            plain: !self.encapsulated,
        })
    }
}

fn address_of(address: &RouteAddress) -> Option<Address> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4).into()),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6).into()),
        _ => None,
    }
}

/// The routing tables that every host has: local, main, default.
const STANDARD_TABLES: [u8; 3] = [255, RouteHeader::RT_TABLE_MAIN, 253];

/// Returns whether a routing rule is not one of those that every host has: it matches more than the
/// destination, or names another table.
pub(super) fn is_policy(rule: &RuleMessage) -> bool {
    let is_condition = |attribute: &RuleAttribute| {
        matches!(
            attribute,
            RuleAttribute::Source(_)
                | RuleAttribute::Destination(_)
                | RuleAttribute::Iifname(_)
                | RuleAttribute::Oifname(_)
                | RuleAttribute::FwMark(1..)
                | RuleAttribute::L3MDev(true)
                | RuleAttribute::IpProtocol(_)
                | RuleAttribute::SourcePortRange(_)
                | RuleAttribute::DestinationPortRange(_)
        )
    };
    !STANDARD_TABLES.contains(&rule.header.table) || rule.attributes.iter().any(is_condition)
}

#[cfg(test)]
mod tests;
