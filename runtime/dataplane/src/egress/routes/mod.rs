//! The kernel's routes to clients (`return_path = "route"`), as an immutable value searched for each reply.
//!
//! Invariant: a table never changes, except its gateways' next hops, one word each. A change of the kernel's
//! routes makes a new table, which workers take up between two batches. No worker frees a table: the
//! publisher keeps it until it holds the only reference.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use waxwing_packet::{Family, Prefix};

use super::NextHop;
use super::hop::{decode, encode};
use crate::PortId;
use crate::locks::lock;
use crate::session::Session;

/// Where a route leads.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Path {
    /// To one of these gateways, by number. A gateway listed n times gets n shares of the flows.
    Gateways(Box<[u32]>),
    /// The client is a neighbour behind this port.
    OnLink(PortId),
    /// Through no attached port, or in a way that only the kernel can route.
    Elsewhere,
    /// The route rejects or drops the packet.
    Refused,
}

/// The result of a route lookup.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RouteLookup {
    Hop(NextHop),
    /// The client is a neighbour behind this port.
    OnLink(PortId),
    /// The route leaves through no attached port, or none of its gateways is resolved.
    Unusable,
    NoRoute,
}

#[derive(Debug, Default)]
pub struct Routes {
    v4: Ranges<u32>,
    v6: Ranges<u128>,
    paths: Box<[Path]>,
    gateways: Box<[AtomicU64]>,
}

impl Routes {
    /// A table of these routes. `gateways` is the number of gateways, all unresolved at first.
    #[must_use]
    pub fn new(routes: &BTreeMap<Prefix, Path>, gateways: usize) -> Self {
        let mut numbers: BTreeMap<&Path, u32> = BTreeMap::new();
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (prefix, path) in routes {
            let next = u32::try_from(numbers.len()).unwrap_or(NO_PATH);
            let number = *numbers.entry(path).or_insert(next);
            let (first, last) = prefix.bounds();
            let into = match first.family() {
                Family::V4 => &mut v4,
                Family::V6 => &mut v6,
            };
            into.push((first.bits(), last.bits(), number));
        }
        let mut paths: Vec<(u32, Path)> = numbers
            .into_iter()
            .map(|(path, number)| (number, path.clone()))
            .collect();
        paths.sort_unstable();
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the lower 32 bits of a mapped address are the IPv4 address"
        )]
        Self {
            v4: Ranges::new(v4, MAPPED, |bits| bits as u32),
            v6: Ranges::new(v6, 0, |bits| bits),
            paths: paths.into_iter().map(|(_, path)| path).collect(),
            gateways: (0..gateways).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Sets a gateway's next hop, or marks it unresolved.
    pub fn set_gateway(&self, number: usize, hop: Option<NextHop>) {
        if let Some(word) = self.gateways.get(number) {
            word.store(hop.map_or(0, encode), Ordering::Relaxed);
        }
    }

    /// Where a session's replies go. All replies of a session use the same gateway while it is resolved.
    #[must_use]
    pub fn find(&self, session: &Session) -> RouteLookup {
        let path = match session.client.family() {
            Family::V4 => self.v4.find(u32::from_be_bytes(session.client.v4_octets())),
            Family::V6 => self.v6.find(session.client.bits()),
        };
        match self.paths.get(path as usize) {
            Some(Path::Gateways(gateways)) => self.one_of(gateways, session),
            Some(Path::OnLink(port)) => RouteLookup::OnLink(*port),
            Some(Path::Elsewhere) => RouteLookup::Unusable,
            Some(Path::Refused) | None => RouteLookup::NoRoute,
        }
    }

    /// The gateway chosen by the session's hash, or the next one that is resolved.
    fn one_of(&self, gateways: &[u32], session: &Session) -> RouteLookup {
        let first = match gateways {
            [_] => 0,
            several => spread(session, several.len()),
        };
        let (before, from) = gateways.split_at(first);
        let mut in_turn = from.iter().chain(before);
        in_turn
            .find_map(|number| {
                let word = self.gateways.get(*number as usize)?;
                decode(word.load(Ordering::Relaxed))
            })
            .map_or(RouteLookup::Unusable, RouteLookup::Hop)
    }
}

/// A number below `count`, the same for all packets of a session. (Fibonacci hashing: the upper bits of the
/// product are the well-mixed ones.)
#[expect(
    clippy::cast_possible_truncation,
    reason = "takes the halves of the address; the result is below `count`"
)]
fn spread(session: &Session, count: usize) -> usize {
    let bits = session.client.bits();
    let ports = u64::from(session.client_port) << 16 | u64::from(session.service_port);
    let key = (bits >> 64) as u64 ^ bits as u64 ^ ports << 32;
    let hash = key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    ((hash * count as u64) >> 32) as usize
}

/// The prefix of IPv4-mapped addresses.
const MAPPED: u128 = 0xffff << 32;

/// No path.
const NO_PATH: u32 = u32::MAX;

/// The address space cut wherever the longest matching prefix changes: range `i` begins at `starts[i]` and
/// has `paths[i]`.
#[derive(Debug, Default)]
struct Ranges<K> {
    starts: Box<[K]>,
    paths: Box<[u32]>,
}

impl<K: Copy + Ord> Ranges<K> {
    /// Builds the ranges from prefixes (first address, last address, path) in ascending order, outer ones
    /// before the ones they contain. `zero` is the family's first address.
    fn new(prefixes: Vec<(u128, u128, u32)>, zero: u128, narrow: impl Fn(u128) -> K) -> Self {
        let mut cuts = vec![(zero, NO_PATH)];
        let mut open: Vec<(u128, u32)> = Vec::new();
        let begin = |cuts: &mut Vec<(u128, u32)>, at: u128, path| {
            // Of several prefixes with one first address, the innermost comes last and wins.
            cuts.pop_if(|(start, _)| *start == at);
            if cuts.last().is_none_or(|(_, before)| *before != path) {
                cuts.push((at, path));
            }
        };
        let close = |cuts: &mut Vec<(u128, u32)>, open: &mut Vec<(u128, u32)>, last: u128| {
            open.pop();
            let around = open.last().map_or(NO_PATH, |(_, path)| *path);
            if let Some(next) = last.checked_add(1) {
                begin(cuts, next, around);
            }
        };
        for (first, last, path) in prefixes {
            while let Some((end, _)) = open.last().copied().filter(|(end, _)| *end < first) {
                close(&mut cuts, &mut open, end);
            }
            begin(&mut cuts, first, path);
            open.push((last, path));
        }
        while let Some((end, _)) = open.last().copied() {
            close(&mut cuts, &mut open, end);
        }
        // A range that would begin after the last IPv4 address does not exist.
        cuts.retain(|(start, _)| zero == 0 || start >> 32 == zero >> 32);
        Self {
            starts: cuts.iter().map(|(start, _)| narrow(*start)).collect(),
            paths: cuts.iter().map(|(_, path)| *path).collect(),
        }
    }

    fn find(&self, key: K) -> u32 {
        let behind = self.starts.partition_point(|start| *start <= key);
        let path = behind.checked_sub(1).and_then(|at| self.paths.get(at));
        path.copied().unwrap_or(NO_PATH)
    }
}

/// The table in effect, shared by its publisher and the workers; `None` if replies go to the last hop.
#[derive(Debug, Default)]
pub struct PublishedRoutes {
    table: Mutex<Option<Arc<Routes>>>,
    generation: AtomicU64,
}

impl PublishedRoutes {
    /// Publishes a table and returns the previous one.
    pub fn replace(&self, table: Option<Arc<Routes>>) -> Option<Arc<Routes>> {
        let mut held = lock(&self.table);
        let before = std::mem::replace(&mut *held, table);
        self.generation.fetch_add(1, Ordering::Release);
        before
    }

    /// The same table.
    pub(crate) fn copy(&self) -> Self {
        let table = lock(&self.table).clone();
        Self {
            table: Mutex::new(table),
            generation: AtomicU64::new(1),
        }
    }
}

/// A worker's reference to the table in effect.
#[derive(Debug, Default)]
pub(crate) struct CachedRoutes {
    table: Option<Arc<Routes>>,
    generation: u64,
}

impl CachedRoutes {
    /// Switches to the published table if it changed since the last call.
    #[inline]
    pub(crate) fn refresh(&mut self, published: &PublishedRoutes) {
        if published.generation.load(Ordering::Acquire) != self.generation {
            self.take(published);
        }
    }

    #[cold]
    fn take(&mut self, published: &PublishedRoutes) {
        let held = lock(&published.table);
        self.table.clone_from(&held);
        self.generation = published.generation.load(Ordering::Relaxed);
    }

    /// The table; `None` if replies go to the last hop.
    #[inline]
    pub(crate) fn table(&self) -> Option<&Routes> {
        self.table.as_deref()
    }
}

#[cfg(test)]
mod tests;
