//! Going through the table's lines: listing, expiry, eviction.
//!
//! Invariant: each call looks at a bounded number of lines (listing apart), and removes a session
//! only in the TCP state in which it was judged: one that got established meanwhile stays.

use super::sync::{AtomicUsize, Ordering};
use super::{Removed, Session, SessionRef, SessionTable, SlotCache};
use crate::Tick;

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

impl Evictable {
    /// Of sessions that may be ended the one with the highest is ended first; `None` for never.
    pub(crate) const fn rank(self, session: &Session, now: Tick) -> Option<(u8, u32)> {
        match self {
            Self::HalfOpen => Some((1, now.since(session.created))),
            Self::Closing => Some((0, now.since(session.seen))),
            Self::Never => None,
        }
    }
}

impl SessionTable {
    /// Every session, each as it was at one moment; they come and go while this runs. From any
    /// thread, and in the workers' way no more than any look-up.
    pub fn iter(&self) -> impl Iterator<Item = (SessionRef, Session)> + '_ {
        (0..self.lines.len()).filter_map(|at| self.at(at))
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

    /// Makes room: looks at the next `window` slots and removes the oldest half-open session
    /// among them or, where there is none, the longest idle closing one. `None` where all are to
    /// stay, or where another worker was faster with the one chosen.
    pub fn evict(
        &self,
        pool: &mut SlotCache,
        window: usize,
        classify: impl Fn(&Session) -> Evictable,
        now: Tick,
    ) -> Option<Removed> {
        let (_, at, session) = self
            .window(&self.shared().evict, window)
            .filter_map(|(at, session)| {
                let rank = classify(&session).rank(&session, now)?;
                Some((rank, at, session))
            })
            .max_by_key(|(rank, ..)| *rank)?;
        self.remove_if(pool, at, Some(session.tcp))
    }

    /// The sessions in the next `slots` slots behind a cursor, which it moves on.
    fn window<'a>(
        &'a self,
        cursor: &AtomicUsize,
        slots: usize,
    ) -> impl Iterator<Item = (SessionRef, Session)> + use<'a> {
        let slots = slots.min(self.lines.len());
        let start = cursor.fetch_add(slots, Ordering::Relaxed);
        (start..start.saturating_add(slots)).filter_map(|at| self.at(at % self.lines.len()))
    }

    fn at(&self, slot: usize) -> Option<(SessionRef, Session)> {
        let (version, session) = self.lines.get(slot)?.read()?;
        Some((
            SessionRef {
                slot: u32::try_from(slot).ok()?,
                version,
            },
            session,
        ))
    }
}
