//! What the kernel says of its routing table.
//!
//! Invariant: an entry says what the kernel would do with a packet that matches it, as far as one that
//! was forwarded past the kernel can be treated so; what only the kernel can do (tunnels, labels) is
//! said to be unknown, and never half done.

use std::collections::BTreeMap;
use std::net::IpAddr;

use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteNextHopFlags,
    RouteType, RouteVia,
};
use rtnetlink::packet_route::rule::{RuleAttribute, RuleMessage};
use waxwing_packet::{Address, Prefix};

/// A route of the main table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// What it is for.
    pub prefix: Prefix,
    /// Of two for the same, the lower one counts.
    pub metric: u32,
    /// Where it leads; nowhere where there is none that is alive.
    pub hops: Vec<Hop>,
}

/// One way of a route.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hop {
    /// The index of the interface it leaves through.
    pub link: u32,
    /// The gateway; `None` where the destination itself is a neighbour.
    pub via: Option<Address>,
    /// Its share of the flows, at least 1.
    pub weight: u16,
    /// Whether frames go as they are: not in a tunnel, not under a label.
    pub plain: bool,
}

/// The routes that count, by what they are for: of several for the same prefix the one of the lowest
/// metric.
pub(crate) fn best(entries: impl IntoIterator<Item = Entry>) -> BTreeMap<Prefix, Vec<Hop>> {
    let mut best: BTreeMap<Prefix, Entry> = BTreeMap::new();
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

/// An entry of the main table that counts for forwarded packets; `None` for any other.
pub(super) fn entry(message: &RouteMessage) -> Option<Entry> {
    let header = &message.header;
    let bits = match header.address_family {
        AddressFamily::Inet => Address::v4([0; 4]),
        AddressFamily::Inet6 => Address::v6([0; 16]),
        _ => return None,
    };
    let refuses = match header.kind {
        RouteType::Unicast => false,
        RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit | RouteType::Throw => {
            true
        }
        _ => return None,
    };
    let general = header.tos == 0
        && header.source_prefix_length == 0
        && !header
            .flags
            .intersects(RouteFlags::Cloned | RouteFlags::Dead);
    let mut parts = Parts::default();
    let (mut base, mut metric, mut table) = (bits, 0, u32::from(header.table));
    let mut several = None;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => base = address_of(address)?,
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::Table(id) => table = *id,
            RouteAttribute::MultiPath(hops) => several = Some(hops),
            other => parts.take(other),
        }
    }
    if table != u32::from(RouteHeader::RT_TABLE_MAIN) || !general {
        return None;
    }
    let hops = match several {
        _ if refuses => Vec::new(),
        None => parts.hop(1).into_iter().collect(),
        Some(several) => several
            .iter()
            .filter(|hop| !hop.flags.contains(RouteNextHopFlags::Dead))
            .filter_map(|hop| {
                let mut parts = Parts {
                    link: Some(hop.interface_index),
                    ..Parts::default()
                };
                hop.attributes.iter().for_each(|part| parts.take(part));
                // `rtnh_hops` is the weight less one.
                parts.hop(u16::from(hop.hops) + 1)
            })
            .collect(),
    };
    Some(Entry {
        prefix: Prefix::new(base, header.destination_prefix_length),
        metric,
        hops,
    })
}

/// What is said of one way.
#[derive(Default)]
struct Parts {
    link: Option<u32>,
    via: Option<Address>,
    encapsulated: bool,
}

impl Parts {
    fn take(&mut self, attribute: &RouteAttribute) {
        match attribute {
            RouteAttribute::Oif(index) => self.link = Some(*index),
            RouteAttribute::Gateway(address) => self.via = address_of(address),
            RouteAttribute::Via(RouteVia::Inet(v4)) => self.via = Some(IpAddr::V4(*v4).into()),
            RouteAttribute::Via(RouteVia::Inet6(v6)) => self.via = Some(IpAddr::V6(*v6).into()),
            RouteAttribute::EncapType(_) | RouteAttribute::Encap(_) => self.encapsulated = true,
            _ => {}
        }
    }

    fn hop(&self, weight: u16) -> Option<Hop> {
        Some(Hop {
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

/// The kernel's tables of local addresses, of routes, and of routes for the rest.
const STANDARD_TABLES: [u8; 3] = [255, RouteHeader::RT_TABLE_MAIN, 253];

/// Whether a routing rule is none of those that every host has: it asks for more than the destination,
/// or for another table.
pub(super) fn is_policy(rule: &RuleMessage) -> bool {
    let asks = |attribute: &RuleAttribute| {
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
    !STANDARD_TABLES.contains(&rule.header.table) || rule.attributes.iter().any(asks)
}

#[cfg(test)]
mod tests;
