//! Going through the table's lines: listing, expiry, eviction.
//!
//! Invariant: each call looks at a bounded number of lines (listing apart), and removes a session
//! only in the TCP state in which it was judged: one that got established meanwhile stays.

use waxwing_packet::Mac;

use super::sync::{AtomicUsize, Ordering};
use super::{Candidate, Removed, Session, SessionRef, SessionTable, SlotCache};
use crate::{NextHop, Tick};

/// Whether a session may be ended to make room for another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Evictable {
    /// First of all: its handshake is not complete.
    HalfOpen,
    /// Where there is none half-open: it was closed or reset.
    Closing,
    /// Never: it is established.
    Never,
}

impl SessionTable {
    /// Every session, each as it was at one moment; they come and go while this runs. From any
    /// thread, and in the workers' way no more than any look-up.
    pub fn iter(&self) -> impl Iterator<Item = (SessionRef, Session)> + '_ {
        (0..self.lines.len()).filter_map(|at| self.at(at))
    }

    /// Has the sessions whose next hop towards the client is another MAC by now go there: `moved` says
    /// which, if it is. How many there were. It looks at every session.
    pub fn move_hops(&self, moved: impl Fn(&Session) -> Option<Mac>) -> usize {
        let mut count = 0;
        for (at, session) in self.iter() {
            if let Some(mac) = moved(&session) {
                let port = session.hop.port;
                self.set_hop(at, NextHop { port, mac }, session.tags);
                count += 1;
            }
        }
        count
    }

    /// Looks at the next `slots` slots, which are each worker's turn by a shared cursor, and
    /// removes the sessions that `expired` holds for; `ended` gets each of them.
    ///
    /// A session that is touched between the two is removed all the same: its packet arrived in
    /// the very moment in which its time was up.
    pub fn sweep(
        &self,
        pool: &mut SlotCache,
        slots: usize,
        mut expired: impl FnMut(&Session) -> bool,
        mut ended: impl FnMut(Removed),
    ) {
        for (at, session) in self.window(&self.shared().sweep, slots) {
            if expired(&session)
                && let Some(removed) = self.remove_if(pool, at, Some(session.tcp))
            {
                ended(removed);
            }
        }
    }

    /// Makes room: goes on from where the last call ended and removes the first half-open session among
    /// the next `window` slots or, where there is none, the longest idle closing one. `None` where
    /// all are to stay.
    ///
    /// So a flood evicts itself, one slot after the other, and a connection among it has all the time
    /// that it takes to come round. Which of two that come at one moment goes first does not matter.
    pub fn evict(
        &self,
        pool: &mut SlotCache,
        window: usize,
        classify: impl Fn(&Session) -> Evictable,
        now: Tick,
    ) -> Option<Removed> {
        let cursor = &self.shared().evict;
        let start = cursor.load(Ordering::Relaxed);
        let mut closing: Option<(SessionRef, Session)> = None;
        for (slot, at, session) in self.live(start, window) {
            match classify(&session) {
                Evictable::Never => {}
                Evictable::Closing => {
                    let idle = |session: &Session| now.since(session.seen);
                    if closing.is_none_or(|(_, other)| idle(&session) > idle(&other)) {
                        closing = Some((at, session));
                    }
                }
                Evictable::HalfOpen => {
                    let removed = self.remove_if(pool, at, Some(session.tcp));
                    if removed.is_some() {
                        cursor.store(slot + 1, Ordering::Relaxed);
                        return removed;
                    }
                }
            }
        }
        cursor.store(start.wrapping_add(window), Ordering::Relaxed);
        let (at, session) = closing?;
        self.remove_if(pool, at, Some(session.tcp))
    }

    /// The sessions in the next `slots` slots behind a cursor, which it moves on.
    fn window<'a>(
        &'a self,
        cursor: &AtomicUsize,
        slots: usize,
    ) -> impl Iterator<Item = (SessionRef, Session)> + use<'a> {
        let start = cursor.fetch_add(slots.min(self.lines.len()), Ordering::Relaxed);
        self.live(start, slots)
            .map(|(_, at, session)| (at, session))
    }

    /// The sessions in so many slots from one on, at most once round.
    fn live(
        &self,
        start: usize,
        slots: usize,
    ) -> impl Iterator<Item = (usize, SessionRef, Session)> + use<'_> {
        let start = start % self.lines.len();
        let slots = slots.min(self.lines.len());
        (start..start + slots).filter_map(|slot| {
            let (at, session) = self.at(slot % self.lines.len())?;
            Some((slot, at, session))
        })
    }

    fn at(&self, slot: usize) -> Option<(SessionRef, Session)> {
        let (at, stored) = self.read(Candidate(u32::try_from(slot).ok()?))?;
        Some((at, stored.session()))
    }
}
