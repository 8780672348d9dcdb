//! Source NAT: connections that reach their server from an address of the balancer.
//!
//! A server answers a client in its own network directly, past the balancer; it answers itself not over the
//! wire at all; and a server with another gateway never answers through the balancer. Such connections get a
//! source address and port from a pool, so that the reply comes back here.
//!
//! Invariant: a pool does not record which ports are taken. A source endpoint is taken towards one backend
//! endpoint, and the session table knows by which session, since it has one session per tuple. So no port is
//! given out twice, and none is lost when a session ends.

use waxwing_packet::{Address, Family, Prefix};

use super::{Backend, Ports, Service, SourceId, SourceUse};
use crate::DropReason;

/// The most source endpoints tried for a new session. In a pool that is 90 % taken at random, one new session
/// in 10^11 finds none; at 99 %, one in 13, and the client's next packet tries other ports.
const TRIES_MAX: usize = 256;

/// Source addresses, and the clients that get one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SourcePool {
    /// Networks whose clients get one, at every service. The narrowest network among all pools decides.
    pub clients: Box<[Prefix]>,
    /// Addresses of either family.
    pub addresses: Box<[SourceId]>,
    pub ports: Ports,
}

/// The source addresses of a snapshot.
#[derive(Debug, Default)]
pub struct Sources {
    /// By id, including those that only existing sessions still use.
    addresses: Box<[Option<Address>]>,
    pools: Box<[Pool]>,
    /// Networks with their pools, narrowest first.
    clients: Box<[(Prefix, usize)]>,
}

/// The part of a [`SourcePool`] of one address family.
#[derive(Debug)]
pub(crate) struct Pool {
    family: Family,
    addresses: Box<[SourceId]>,
    ports: Ports,
}

impl Sources {
    /// Every id must be above 0 and in `addresses`; other ids of a pool are ignored.
    #[must_use]
    pub fn new(addresses: &[(SourceId, Address)], pools: &[SourcePool]) -> Self {
        let len = addresses.iter().map(|(id, _)| id.index() + 1).max();
        let mut by_id = vec![None; len.unwrap_or(0)];
        for (id, address) in addresses.iter().filter(|(id, _)| !id.is_client()) {
            by_id[id.index()] = Some(*address);
        }
        let family_of = |id: &SourceId| Some(by_id.get(id.index())?.as_ref()?.family());
        let mut of_families = Vec::new();
        let mut clients = Vec::new();
        for pool in pools {
            for family in [Family::V4, Family::V6] {
                let of_family = pool.addresses.iter().copied();
                let of_family = of_family.filter(|id| family_of(id) == Some(family));
                let at = of_families.len();
                of_families.push(Pool {
                    family,
                    addresses: of_family.collect(),
                    ports: pool.ports,
                });
                let networks = pool.clients.iter().copied();
                let networks = networks.filter(|prefix| prefix.network().family() == family);
                clients.extend(networks.map(|prefix| (prefix, at)));
            }
        }
        clients.sort_by_key(|(prefix, _)| u8::MAX - prefix.bits());
        Self {
            addresses: by_id.into(),
            pools: of_families.into(),
            clients: clients.into(),
        }
    }

    #[inline]
    #[must_use]
    pub fn address(&self, id: SourceId) -> Option<Address> {
        *self.addresses.get(id.index())?
    }

    /// All addresses with their ids.
    pub fn iter(&self) -> impl Iterator<Item = (SourceId, Address)> {
        let addresses = (0..=u8::MAX).map(SourceId).zip(&self.addresses);
        addresses.filter_map(|(id, address)| Some((id, (*address)?)))
    }

    /// The pool for a new session's source endpoint; `None` if it keeps the client's own.
    ///
    /// # Errors
    /// [`DropReason::NoSourceAddress`] if the session needs source NAT and no pool has an address of its
    /// family.
    pub(crate) fn pool(
        &self,
        service: &Service,
        backend: &Backend,
        client: Address,
    ) -> Result<Option<&Pool>, DropReason> {
        let of_network = self.clients.iter().find(|(of, _)| of.contains(client));
        let pool = of_network.map_or_else(
            || self.pools.iter().find(|pool| pool.has(client.family())),
            |(_, at)| self.pools.get(*at),
        );
        let needs_one = of_network.is_some()
            || service.source_nat == SourceUse::Always
            || client == backend.address;
        match pool {
            _ if !needs_one => Ok(None),
            Some(pool) if pool.has(client.family()) => Ok(Some(pool)),
            _ => Err(DropReason::NoSourceAddress),
        }
    }
}

impl Pool {
    fn has(&self, family: Family) -> bool {
        self.family == family && !self.addresses.is_empty()
    }

    /// The source endpoints to try for a new session, at most [`TRIES_MAX`] + 1.
    ///
    /// The client's own port is preferred (RFC 4787 section 4.2.1), and a client keeps one address while that
    /// has a free port (RFC 4787 REQ-2): `client` is a hash of its address. `draw` decides the order of the
    /// ports; none repeats.
    pub(crate) fn candidates(
        &self,
        client: u64,
        draw: u64,
        own_port: u16,
    ) -> impl Iterator<Item = (SourceId, u16)> + use<'_> {
        let count = self.addresses.len();
        let first = reduce(client, count as u64);
        let ports = self.ports.count() as usize;
        let tries = (TRIES_MAX / count.max(1)).clamp(1, ports);
        let walk = Walk::new(self.ports, draw);
        let rotated = self.addresses.iter().cycle().skip(first).take(count);
        let drawn = rotated.flat_map(move |id| (0..tries).map(move |at| (*id, walk.port(at))));
        let kept = self.addresses.get(first);
        let kept = kept.filter(|_| self.ports.contains(own_port));
        kept.map(|id| (*id, own_port)).into_iter().chain(drawn)
    }
}

/// An order of a range's ports: from a start, in equal steps, wrapping around. Each port comes once, since
/// step and count are coprime.
#[derive(Clone, Copy)]
struct Walk {
    ports: Ports,
    start: u64,
    step: u64,
}

impl Walk {
    fn new(ports: Ports, draw: u64) -> Self {
        let count = u64::from(ports.count());
        let mut step = 1 + (draw & 0xffff_ffff) % count;
        while greatest_divisor(step, count) > 1 {
            step += 1;
        }
        Self {
            ports,
            start: (draw >> 32) % count,
            step,
        }
    }

    fn port(self, at: usize) -> u16 {
        let offset = (self.start + at as u64 * self.step) % u64::from(self.ports.count());
        self.ports.first() + u16::try_from(offset).unwrap_or(0)
    }
}

/// The greatest common divisor (Euclid).
const fn greatest_divisor(mut a: u64, mut b: u64) -> u64 {
    while b > 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// Maps a hash to a number below `count`.
fn reduce(hash: u64, count: u64) -> usize {
    usize::try_from(hash % count.max(1)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use std::collections::HashSet;

    use super::*;

    fn pool(addresses: u8, first: u16, last: u16) -> Pool {
        Pool {
            family: Family::V4,
            addresses: (1..=addresses).map(SourceId).collect(),
            ports: Ports::range(first, last).unwrap(),
        }
    }

    #[test]
    fn a_small_pool_is_tried_to_its_last_port() {
        for (addresses, last) in [(1, 1000), (1, 1007), (4, 1011), (16, 1015), (1, 1255)] {
            let pool = pool(addresses, 1000, last);
            for draw in 0..200_u64 {
                let draw = draw.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                let tried: Vec<_> = pool.candidates(draw >> 7, draw, 0).collect();
                let different: HashSet<_> = tried.iter().collect();
                let all = usize::from(addresses) * usize::from(last - 999);
                assert_eq!((tried.len(), different.len()), (all, all), "draw {draw:#x}");
            }
        }
    }

    #[test]
    fn a_large_pool_is_tried_within_bounds_at_every_address() {
        for addresses in [1, 2, 3, 100, 255] {
            let pool = pool(addresses, 1024, 65_535);
            let tried: Vec<_> = pool.candidates(7, 0x1234_5678_9abc_def0, 5).collect();
            let different: HashSet<_> = tried.iter().copied().collect();
            assert!(tried.len() <= TRIES_MAX && tried.len() == different.len());
            let used: HashSet<_> = tried.iter().map(|(id, _)| id).collect();
            assert_eq!(used.len(), usize::from(addresses));
        }
    }

    #[test]
    fn a_client_keeps_its_port_and_its_address_where_it_can() {
        let pool = pool(3, 1024, 2047);
        let first = |client, draw, port| pool.candidates(client, draw, port).next().unwrap();
        for draw in 0..100 {
            assert_eq!(first(4, draw << 29, 1500), (SourceId(2), 1500));
            assert_eq!(first(4, draw << 29, 40_000).0, SourceId(2));
        }
    }
}
