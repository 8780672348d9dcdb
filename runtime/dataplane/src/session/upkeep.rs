//! Scans of the table: listing, expiry, eviction.
//!
//! Invariant: each call except listing visits a bounded number of slots. It removes a session only in the TCP
//! state in which it was judged, so a session that became established meanwhile stays.

use waxwing_packet::Mac;

use super::sync::{AtomicUsize, Ordering};
use super::{Candidate, Removed, Session, SessionRef, SessionTable, SlotCache};
use crate::{NextHop, Tick};

/// Whether, and in which order, a session may be evicted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Evictable {
    /// First: it is not assured, or it has timed out.
    Unassured,
    /// If all are assured: it was closed or reset.
    Closing,
    /// It is assured and open.
    Never,
}

impl SessionTable {
    /// All sessions, each consistent in itself; sessions begin and end while this runs. May be called from
    /// any thread and disturbs workers no more than a lookup.
    pub fn iter(&self) -> impl Iterator<Item = (SessionRef, Session)> + '_ {
        (0..self.slots_taken()).filter_map(|at| self.at(at))
    }

    /// Every `step`-th slot's session.
    pub fn sample(&self, step: usize) -> impl Iterator<Item = Session> + '_ {
        let slots = (0..self.slots_taken()).step_by(step.max(1));
        slots.filter_map(|at| Some(self.at(at)?.1))
    }

    /// Moves the return hops for which `moved` returns another MAC address; returns how many. Visits every
    /// session.
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

    /// Visits the next `slots` slots behind a cursor that workers share. Removes the sessions for which
    /// `expired` holds, and passes each to `ended`.
    ///
    /// A session that is touched between the check and the removal is removed too: its packet arrived just as
    /// its timeout passed.
    pub fn sweep(
        &self,
        pool: &mut SlotCache,
        slots: usize,
        mut expired: impl FnMut(&Session) -> bool,
        mut ended: impl FnMut(Removed),
    ) {
        for (at, session) in self.window(&self.cursors().sweep, slots) {
            if expired(&session)
                && let Some(removed) = self.remove_if(pool, at, Some(session.tcp))
            {
                ended(removed);
            }
        }
    }

    /// Evicts a session: the first unassured one among the next `window` slots behind a cursor or, if there
    /// is none, the longest idle closing one. `None` if all must stay.
    ///
    /// So a flood evicts itself, slot after slot, and a legitimate handshake has the time of a whole round to
    /// complete.
    pub fn evict(
        &self,
        pool: &mut SlotCache,
        window: usize,
        classify: impl Fn(&Session) -> Evictable,
        now: Tick,
    ) -> Option<Removed> {
        let cursor = &self.cursors().evict;
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
                Evictable::Unassured => {
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

    /// The sessions in the next `slots` slots behind a cursor, which it advances.
    fn window<'a>(
        &'a self,
        cursor: &AtomicUsize,
        slots: usize,
    ) -> impl Iterator<Item = (SessionRef, Session)> + use<'a> {
        let start = cursor.fetch_add(slots.min(self.slots_taken()), Ordering::Relaxed);
        self.live(start, slots)
            .map(|(_, at, session)| (at, session))
    }

    /// The sessions in `slots` slots from `start` on, wrapping around once at most.
    fn live(
        &self,
        start: usize,
        slots: usize,
    ) -> impl Iterator<Item = (usize, SessionRef, Session)> + use<'_> {
        let used = self.slots_taken();
        let start = start % used.max(1);
        let slots = slots.min(used);
        (start..start + slots).filter_map(move |slot| {
            let (at, session) = self.at(slot % used)?;
            Some((slot, at, session))
        })
    }

    fn at(&self, slot: usize) -> Option<(SessionRef, Session)> {
        let (at, stored) = self.read(Candidate(u32::try_from(slot).ok()?))?;
        Some((at, stored.session()))
    }
}
