//! Copies of fragments that wait for their datagram's first, in the order of arrival.
//!
//! Invariant: the slots form a ring. A new fragment takes the next slot, evicting the oldest fragment if the
//! slot is taken. A ticket names one use of one slot and gives access to nothing else. Frames themselves
//! never wait here: workers need them to receive into.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::PortId;
use crate::locks::lock;

/// One use of a slot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Ticket(u64);

/// The result of [`Held::put`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Put {
    Held(Ticket),
    /// Held in the slot of the oldest fragment, which was evicted.
    EvictedOldest(Ticket),
    /// Not held: too long, or others went once around the ring meanwhile.
    No,
}

pub(super) struct Held {
    slots: Box<[Mutex<Slot>]>,
    next: AtomicU64,
    len_max: usize,
}

struct Slot {
    ticket: Ticket,
    taken: bool,
    /// The previous fragment of the same datagram.
    before: Option<Ticket>,
    port: PortId,
    len: usize,
    bytes: Box<[u8]>,
}

impl Held {
    pub(super) fn new(count: usize, len_max: usize) -> Self {
        let slot = |_| {
            Mutex::new(Slot {
                ticket: Ticket(0),
                taken: false,
                before: None,
                port: PortId(0),
                len: 0,
                bytes: vec![0; len_max].into(),
            })
        };
        Self {
            slots: (0..count.max(1)).map(slot).collect(),
            next: AtomicU64::new(0),
            len_max,
        }
    }

    /// Copies a frame that arrived on `port`. `before` is the previous one of its datagram.
    pub(super) fn put(&self, frame: &[u8], port: PortId, before: Option<Ticket>) -> Put {
        if frame.len() > self.len_max {
            return Put::No;
        }
        let ticket = Ticket(self.next.fetch_add(1, Ordering::Relaxed));
        let mut slot = lock(self.slot(ticket));
        if slot.taken && slot.ticket > ticket {
            return Put::No;
        }
        slot.bytes[..frame.len()].copy_from_slice(frame);
        let was_taken = std::mem::replace(&mut slot.taken, true);
        (slot.ticket, slot.before) = (ticket, before);
        (slot.port, slot.len) = (port, frame.len());
        if was_taken {
            Put::EvictedOldest(ticket)
        } else {
            Put::Held(ticket)
        }
    }

    /// The tickets of a datagram's fragments, from its newest one, in the order of arrival. Evicted ones are
    /// not among them: being the oldest, they end the chain.
    pub(super) fn chain(&self, newest: Ticket, into: &mut Vec<Ticket>) {
        into.clear();
        let mut next = Some(newest);
        while let Some(ticket) = next.filter(|_| into.len() < super::FRAGMENTS_MAX) {
            let slot = lock(self.slot(ticket));
            if !slot.taken || slot.ticket != ticket {
                break;
            }
            into.push(ticket);
            next = slot.before;
        }
        into.reverse();
    }

    /// Takes a fragment out, after passing it and its ingress port to `with`; `None` if it was evicted.
    pub(super) fn take<R>(
        &self,
        ticket: Ticket,
        with: impl FnOnce(&[u8], PortId) -> R,
    ) -> Option<R> {
        let mut slot = lock(self.slot(ticket));
        if !slot.taken || slot.ticket != ticket {
            return None;
        }
        slot.taken = false;
        Some(with(&slot.bytes[..slot.len], slot.port))
    }

    pub(super) fn len(&self) -> usize {
        let taken = |slot: &&Mutex<Slot>| lock(slot).taken;
        self.slots.iter().filter(taken).count()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.slots.len() * (size_of::<Mutex<Slot>>() + self.len_max)
    }

    fn slot(&self, Ticket(turn): Ticket) -> &Mutex<Slot> {
        let count = self.slots.len() as u64;
        #[expect(clippy::cast_possible_truncation, reason = "below the ring's length")]
        let at = (turn % count) as usize;
        &self.slots[at]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket(put: Put) -> Ticket {
        match put {
            Put::Held(ticket) | Put::EvictedOldest(ticket) => ticket,
            Put::No => panic!("not held"),
        }
    }

    #[test]
    fn the_oldest_are_evicted_and_the_others_leave_in_order() {
        let held = Held::new(4, 8);
        let mut newest = None;
        for n in 0..6 {
            let put = held.put(&[n; 3], PortId(n), newest);
            assert_eq!(matches!(put, Put::EvictedOldest(_)), n >= 4, "{n}");
            newest = Some(ticket(put));
        }
        assert_eq!(held.len(), 4);
        let mut tickets = Vec::new();
        held.chain(newest.expect("six were put"), &mut tickets);
        let taken: Vec<u8> = tickets
            .iter()
            .filter_map(|t| held.take(*t, |bytes, port| (bytes == [port.0; 3]).then_some(port.0)))
            .flatten()
            .collect();
        assert_eq!(taken, [2, 3, 4, 5]);
        assert_eq!(held.len(), 0);
        assert_eq!(held.take(tickets[0], |_, _| ()), None, "once only");
    }

    #[test]
    fn a_frame_that_is_too_long_is_not_held() {
        let held = Held::new(4, 8);
        assert_eq!(held.put(&[0; 9], PortId(0), None), Put::No);
        assert!(matches!(held.put(&[0; 8], PortId(0), None), Put::Held(_)));
    }
}
