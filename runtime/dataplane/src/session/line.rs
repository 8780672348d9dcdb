//! One session in one cache line, read without a lock.
//!
//! Invariant: the fields of a live line are what one insert wrote, except the last-seen tick, the TCP bits,
//! the return hop, and the flags of [`stored::MOVING`] and [`stored::SAMPLED`], each of which changes as a
//! whole. See the invariants of [`super`].

use waxwing_packet::VlanTags;
use waxwing_packet::plain::PackedTags;

use super::glimpse::Glimpse;
use super::stored::{self, Stored, is_live, tcp_of};
use super::sync::{AtomicU32, AtomicU64, Ordering, fence};
use super::words::{high, pack};
use super::{Session, SessionRef, TcpState};
use crate::{BackendId, NextHop, Tick};

/// The line. [`Stored`] documents its words. Fields that are written together share a word.
#[repr(align(64))]
#[derive(Default)]
pub(crate) struct Line {
    client: [AtomicU64; 2],
    endpoints: AtomicU64,
    state: AtomicU64,
    hop: AtomicU64,
    /// The lowest bit of the return hop's sequence number says which one is valid; the other is for the next
    /// hop.
    tags: [AtomicU32; 2],
    created: AtomicU32,
    seen: AtomicU32,
    /// The positions of the index words, of the forward and the reply flow.
    positions: [AtomicU32; 2],
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Line>() == 64);

impl Line {
    /// The session; `None` if the line is free or changed its session during the read.
    #[inline(always)]
    pub(super) fn read(&self) -> Option<Stored> {
        loop {
            let state = self.state.load(Ordering::Acquire);
            if !is_live(state) {
                return None;
            }
            let hop = self.hop.load(Ordering::Acquire);
            let stored = self.take(state, hop);
            // A thread that wrote a value read above had changed the version or the hop before (release
            // fence), and one of the loads below sees that.
            fence(Ordering::Acquire);
            if high(self.state.load(Ordering::Relaxed)) != high(state) {
                return None;
            }
            // A new hop is the only change that spans two words: read it as a whole. The loop repeats only
            // when another thread made progress.
            if self.hop.load(Ordering::Relaxed) == hop {
                return Some(stored);
            }
        }
    }

    /// Like [`Line::read`], but only what the fast path compares; `None` also if the session changed during
    /// the read.
    #[inline(always)]
    pub(crate) fn glimpse(&self) -> Option<Glimpse> {
        self.glimpse_or_tags::<false>().map(|(glimpse, _)| glimpse)
    }

    /// Like [`Line::glimpse`], with the VLAN tags of the return hop; `None` also if that changed.
    #[inline(always)]
    pub(crate) fn glimpse_with_tags(&self) -> Option<(Glimpse, PackedTags)> {
        self.glimpse_or_tags::<true>()
    }

    #[inline(always)]
    fn glimpse_or_tags<const TAGS: bool>(&self) -> Option<(Glimpse, PackedTags)> {
        let state = self.state.load(Ordering::Acquire);
        let hop = self.hop.load(Ordering::Acquire);
        let glimpse = Glimpse {
            client: [0, 1].map(|half: usize| self.client[half].load(Ordering::Relaxed)),
            endpoints: self.endpoints.load(Ordering::Relaxed),
            state,
            hop,
            seen: Tick(self.seen.load(Ordering::Relaxed)),
        };
        let tags = if TAGS {
            let tci = self.tags[stored::tags_at(hop)].load(Ordering::Relaxed);
            stored::packed_tags(hop, tci)
        } else {
            PackedTags::default()
        };
        // See `read`.
        fence(Ordering::Acquire);
        let is_same = self.state.load(Ordering::Relaxed) == state
            && (!TAGS || self.hop.load(Ordering::Relaxed) == hop);
        (is_same && is_live(state)).then_some((glimpse, tags))
    }

    #[inline(always)]
    fn take(&self, state: u64, hop: u64) -> Stored {
        Stored {
            client: [0, 1].map(|half: usize| self.client[half].load(Ordering::Relaxed)),
            endpoints: self.endpoints.load(Ordering::Relaxed),
            state,
            hop,
            tags: self.tags[stored::tags_at(hop)].load(Ordering::Relaxed),
            created: self.created.load(Ordering::Relaxed),
            seen: self.seen.load(Ordering::Relaxed),
        }
    }

    /// Fills a free line that the caller owns, and sets it live; returns its version.
    pub(super) fn publish(&self, session: &Session, positions: [u32; 2]) -> u32 {
        let version = high(self.state.load(Ordering::Relaxed)).wrapping_add(1);
        let stored = Stored::new(session, version);
        // Orders the field writes after the version that turned free.
        fence(Ordering::Release);
        for (half, bits) in self.client.iter().zip(stored.client) {
            half.store(bits, Ordering::Relaxed);
        }
        self.endpoints.store(stored.endpoints, Ordering::Relaxed);
        self.tags[stored::tags_at(stored.hop)].store(stored.tags, Ordering::Relaxed);
        self.hop.store(stored.hop, Ordering::Relaxed);
        self.created.store(stored.created, Ordering::Relaxed);
        self.seen.store(stored.seen, Ordering::Relaxed);
        self.positions[0].store(positions[0], Ordering::Relaxed);
        self.positions[1].store(positions[1], Ordering::Relaxed);
        self.state.store(stored.state, Ordering::Release);
        version
    }

    /// Sets a live line free, if it still has this version and TCP state (if given). The one caller that
    /// succeeds owns the slot, and gets the session and the positions of its index words.
    pub(super) fn claim(&self, version: u32, tcp: Option<TcpState>) -> Option<(Session, [u32; 2])> {
        let mut state = self.state.load(Ordering::Acquire);
        loop {
            let expected = tcp.is_none_or(|tcp| tcp == tcp_of(state));
            if high(state) != version || !is_live(state) || !expected {
                return None;
            }
            let free = pack(version.wrapping_add(1), 0);
            match self
                .state
                .compare_exchange_weak(state, free, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => break,
                Err(now) => state = now,
            }
        }
        // The caller owns the line now: no other thread writes its hop or positions.
        let stored = self.take(state, self.hop.load(Ordering::Relaxed));
        Some((
            stored.session(),
            [0, 1].map(|i| self.positions[i].load(Ordering::Relaxed)),
        ))
    }

    /// The session's backend, if the line is live.
    #[inline(always)]
    pub(crate) fn backend(&self) -> BackendId {
        stored::backend_of(self.endpoints.load(Ordering::Relaxed))
    }

    /// Whether the line still has this version.
    #[inline]
    pub(super) fn is(&self, at: SessionRef) -> bool {
        high(self.state.load(Ordering::Acquire)) == at.version
    }

    /// Advances the last-seen tick and returns the previous one. It never goes back: workers read their
    /// clocks separately, and a stale caller must not age a newer session.
    #[inline]
    pub(crate) fn touch(&self, now: Tick) -> Tick {
        Tick(self.seen.fetch_max(now.0, Ordering::Relaxed))
    }

    /// Replaces the return hop. The caller holds the slot's lock and knows that the line is live.
    pub(super) fn set_hop(&self, hop: NextHop, tags: &VlanTags) {
        let (hop, tags) = stored::next_hop_words(self.hop.load(Ordering::Relaxed), hop, tags);
        // The tags go to the half that the current hop does not use. A slow reader may still read that half
        // for the previous hop; the fence makes it see that the hop changed.
        fence(Ordering::Release);
        self.tags[stored::tags_at(hop)].store(tags, Ordering::Relaxed);
        self.hop.store(hop, Ordering::Release);
    }

    /// Whether one of these flags is set: [`stored::MOVING`], [`stored::SAMPLED`].
    pub(super) fn has_flag(&self, flags: u64) -> bool {
        self.endpoints.load(Ordering::Relaxed) & flags != 0
    }

    /// Sets or clears a flag. The caller holds the slot's lock and knows that the line is live.
    pub(super) fn set_flag(&self, flag: u64, set: bool) {
        if set {
            self.endpoints.fetch_or(flag, Ordering::Relaxed);
        } else {
            self.endpoints.fetch_and(!flag, Ordering::Relaxed);
        }
    }

    /// Applies `f` to the TCP state, if the line has this version; returns the states before and after.
    #[inline]
    pub(super) fn update_tcp(
        &self,
        version: u32,
        f: impl Fn(TcpState) -> TcpState,
    ) -> Option<(TcpState, TcpState)> {
        let mut state = self.state.load(Ordering::Relaxed);
        loop {
            if high(state) != version || !is_live(state) {
                return None;
            }
            let before = tcp_of(state);
            let after = f(before);
            if after == before {
                return Some((before, after));
            }
            // Relaxed suffices: this publishes nothing else, and a read-modify-write continues the release
            // sequence of the insert's store.
            match self.state.compare_exchange_weak(
                state,
                state & !0xff | u64::from(after.bits()),
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Some((before, after)),
                Err(now) => state = now,
            }
        }
    }
}
