//! The session table as the fast path reads it: many flows of a batch, step by step. Whose session an entry
//! names, the caller compares.

use waxwing_packet::Protocol;
use waxwing_packet::plain::{FlowHasher, PackedTags};

use super::glimpse::Glimpse;
use super::index::{Buckets, Lane, Place};
use super::line::Line;
use super::{FlowHash, Key};
use crate::prefetch::prefetch_at;

/// What lookups of a batch keep at hand.
#[derive(Clone, Copy)]
pub struct Reader<'a> {
    pub(super) key: &'a Key,
    pub(super) buckets: Buckets<'a>,
    pub(super) lines: &'a [Line],
}

/// Each place's bucket is prefetched.
impl FlowHasher for Reader<'_> {
    type Hash = Place;

    #[inline(always)]
    fn v4(&self, addresses: u64, ports: u32, protocol: Protocol) -> Place {
        self.place(self.key.local_v4(addresses, ports, protocol))
    }

    #[inline(always)]
    fn v6(&self, addresses: [u64; 4], ports: u32, protocol: Protocol) -> Place {
        self.place(self.key.local_v6(addresses, ports, protocol))
    }
}

impl<'a> Reader<'a> {
    /// Where the index has a flow, if it has it. Prefetches the bucket.
    #[inline(always)]
    #[must_use]
    pub fn place(&self, hash: FlowHash) -> Place {
        self.buckets.place(hash)
    }

    /// The first entry at a place. Prefetches the session's line. Call it for a whole batch after
    /// [`Reader::place`] was called for all of it.
    #[inline(always)]
    #[must_use]
    pub fn first(&self, place: Place) -> Lane {
        let lane = self.buckets.first(place);
        prefetch_at(self.lines, lane.slot() as usize);
        lane
    }

    /// The entry behind another one at a place.
    #[inline]
    #[must_use]
    pub fn next(&self, place: Place, lane: Lane) -> Lane {
        self.buckets.next(place, lane)
    }

    /// The session that an entry names; `None` if there is none, or if it changed during the read.
    #[must_use]
    pub fn glimpse(&self, lane: Lane) -> Option<Glimpse> {
        self.lines.get(lane.slot() as usize)?.glimpse()
    }

    /// Like [`Reader::glimpse`], with the VLAN tags of the return hop; `None` also if that changed.
    #[must_use]
    pub fn glimpse_with_tags(&self, lane: Lane) -> Option<(Glimpse, PackedTags)> {
        self.lines.get(lane.slot() as usize)?.glimpse_with_tags()
    }

    /// All lines, by slot.
    #[inline(always)]
    pub(crate) const fn lines(&self) -> &'a [Line] {
        self.lines
    }
}
