//! Fragments that wait for their datagram's first one: copies, in the order in which they came.
//!
//! Invariant: the places form a ring, and whoever comes takes the next, from the oldest if it is
//! taken. A ticket says which turn of which place a copy has; it opens nothing else. Frames of the
//! workers never wait here: they are needed to receive into.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::PortId;
use crate::locks::lock;

/// A held fragment's turn in the ring.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Ticket(u64);

/// What became of a fragment that was to be held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Put {
    /// It is held.
    Held(Ticket),
    /// It is held, and the oldest one there was is not any more.
    EvictedOldest(Ticket),
    /// It is not: it is too long, or others took the whole ring while this one tried.
    No,
}

/// The ring.
pub(super) struct Held {
    places: Box<[Mutex<Place>]>,
    next: AtomicU64,
    len_max: usize,
}

struct Place {
    /// Whose turn it is or was.
    ticket: Ticket,
    taken: bool,
    /// The fragment of the same datagram that came before.
    before: Option<Ticket>,
    port: PortId,
    len: usize,
    bytes: Box<[u8]>,
}

impl Held {
    pub(super) fn new(count: usize, len_max: usize) -> Self {
        let place = |_| {
            Mutex::new(Place {
                ticket: Ticket(0),
                taken: false,
                before: None,
                port: PortId(0),
                len: 0,
                bytes: vec![0; len_max].into(),
            })
        };
        Self {
            places: (0..count.max(1)).map(place).collect(),
            next: AtomicU64::new(0),
            len_max,
        }
    }

    /// Copies a frame that came by a port, after `before` of the same datagram.
    pub(super) fn put(&self, frame: &[u8], port: PortId, before: Option<Ticket>) -> Put {
        if frame.len() > self.len_max {
            return Put::No;
        }
        let ticket = Ticket(self.next.fetch_add(1, Ordering::Relaxed));
        let mut place = lock(self.place(ticket));
        if place.taken && place.ticket > ticket {
            return Put::No;
        }
        place.bytes[..frame.len()].copy_from_slice(frame);
        let was_taken = std::mem::replace(&mut place.taken, true);
        (place.ticket, place.before) = (ticket, before);
        (place.port, place.len) = (port, frame.len());
        if was_taken {
            Put::EvictedOldest(ticket)
        } else {
            Put::Held(ticket)
        }
    }

    /// The tickets of a datagram's fragments by the newest one's, in the order in which they came.
    /// Those that had to give way are not among them: as the oldest, they end the chain.
    pub(super) fn chain(&self, newest: Ticket, into: &mut Vec<Ticket>) {
        into.clear();
        let mut next = Some(newest);
        while let Some(ticket) = next.filter(|_| into.len() < super::FRAGMENTS_MAX) {
            let place = lock(self.place(ticket));
            if !place.taken || place.ticket != ticket {
                break;
            }
            into.push(ticket);
            next = place.before;
        }
        into.reverse();
    }

    /// Takes a fragment out, after `with` has seen it and the port it came by; `None` where it had
    /// to give way meanwhile.
    pub(super) fn take<R>(
        &self,
        ticket: Ticket,
        with: impl FnOnce(&[u8], PortId) -> R,
    ) -> Option<R> {
        let mut place = lock(self.place(ticket));
        if !place.taken || place.ticket != ticket {
            return None;
        }
        place.taken = false;
        Some(with(&place.bytes[..place.len], place.port))
    }

    /// Fragments held now.
    pub(super) fn len(&self) -> usize {
        let taken = |place: &&Mutex<Place>| lock(place).taken;
        self.places.iter().filter(taken).count()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.places.len() * (size_of::<Mutex<Place>>() + self.len_max)
    }

    fn place(&self, Ticket(turn): Ticket) -> &Mutex<Place> {
        let count = self.places.len() as u64;
        #[expect(clippy::cast_possible_truncation, reason = "below the ring's length")]
        let at = (turn % count) as usize;
        &self.places[at]
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
    fn the_oldest_give_way_and_the_rest_come_out_in_order() {
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
