//! Return hops that a client's packet came from and that the server has not confirmed yet.
//!
//! Invariant: an established TCP session takes a new return hop only if the packet from there fits what the
//! server sends next: its sequence number what the server acknowledges, its acknowledgment what the server
//! sends. Whoever sees neither guesses both once in four million packets.

use waxwing_packet::VlanTags;

use super::SessionRef;
use super::sync::{Mutex, lock};
use crate::NextHop;

/// How far the numbers of a client's packet and of the server's next one may lie apart: what is in flight.
const APART_MAX: u32 = 1 << 20;
/// How many of the server's packets are compared. If much is in flight, only one that is sent again fits.
const COMPARED_MAX: u8 = 8;
/// How many sessions may wait at a time. Of two with one place, the first waits for its client's next packet.
#[cfg(not(loom))]
const PLACES: u32 = 1024;
#[cfg(loom)]
const PLACES: u32 = 1;

/// A new return hop, and the numbers of the packet that came from there.
#[derive(Clone, Copy, Debug)]
pub struct HopMove {
    pub hop: NextHop,
    pub tags: VlanTags,
    pub sequence: u32,
    pub acknowledgment: u32,
}

impl HopMove {
    /// Whether the numbers fit a packet of the server that ends at `sequence`.
    fn fits(&self, sequence: u32, acknowledgment: u32) -> bool {
        let are_near = |one: u32, other: u32| {
            one.wrapping_sub(other) < APART_MAX || other.wrapping_sub(one) < APART_MAX
        };
        are_near(self.acknowledgment, sequence) && are_near(self.sequence, acknowledgment)
    }
}

/// What comes of a move when the server's packet is compared.
pub(super) enum Judged {
    Moves(HopMove),
    Waits,
    /// Nothing fits, or another session took the place.
    Stays,
}

/// By slot, modulo the places.
pub(super) struct HopMoves(Box<[Mutex<Option<Waiting>>]>);

struct Waiting {
    at: SessionRef,
    to: HopMove,
    compared: u8,
}

impl HopMoves {
    pub(super) fn new() -> Self {
        Self((0..PLACES).map(|_| Mutex::new(None)).collect())
    }

    pub(super) fn note(&self, at: SessionRef, to: HopMove) {
        let compared = 0;
        *lock(self.place(at)) = Some(Waiting { at, to, compared });
    }

    /// Compares a packet of the server that ends at `sequence`.
    pub(super) fn judge(&self, at: SessionRef, sequence: u32, acknowledgment: u32) -> Judged {
        let mut place = lock(self.place(at));
        let Some(waiting) = place.as_mut().filter(|waiting| waiting.at == at) else {
            return Judged::Stays;
        };
        waiting.compared += 1;
        let judged = if waiting.to.fits(sequence, acknowledgment) {
            Judged::Moves(waiting.to)
        } else if waiting.compared < COMPARED_MAX {
            return Judged::Waits;
        } else {
            Judged::Stays
        };
        *place = None;
        judged
    }

    fn place(&self, at: SessionRef) -> &Mutex<Option<Waiting>> {
        &self.0[(at.slot % PLACES) as usize]
    }

    pub(super) const fn memory_bytes() -> usize {
        PLACES as usize * size_of::<Mutex<Option<Waiting>>>()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use waxwing_packet::Mac;

    use super::*;
    use crate::PortId;

    const fn at(slot: u32) -> SessionRef {
        SessionRef { slot, version: 1 }
    }

    const fn to(sequence: u32, acknowledgment: u32) -> HopMove {
        HopMove {
            hop: NextHop {
                port: PortId(0),
                mac: Mac([2; 6]),
            },
            tags: VlanTags::NONE,
            sequence,
            acknowledgment,
        }
    }

    #[test]
    fn both_numbers_must_fit_the_servers() {
        let near = [0, 1, APART_MAX - 1, u32::MAX, APART_MAX.wrapping_neg() + 1];
        let far = [APART_MAX, APART_MAX.wrapping_neg(), 1 << 31];
        for base in [0, 5, u32::MAX] {
            let asked = |apart: u32, other: u32| {
                to(base.wrapping_add(apart), base.wrapping_add(other)).fits(base, base)
            };
            for one in near {
                assert!(near.iter().all(|other| asked(one, *other)));
                assert!(
                    far.iter()
                        .all(|other| !asked(one, *other) && !asked(*other, one))
                );
            }
        }
    }

    #[test]
    fn a_move_waits_for_a_few_packets_and_for_one_session_a_place() {
        let moves = HopMoves::new();
        moves.note(at(1), to(0, 0));
        for _ in 1..COMPARED_MAX {
            assert!(matches!(moves.judge(at(1), 1 << 30, 0), Judged::Waits));
        }
        assert!(matches!(moves.judge(at(1), 1 << 30, 0), Judged::Stays));
        assert!(matches!(moves.judge(at(1), 0, 0), Judged::Stays));
        moves.note(at(1), to(0, 0));
        moves.note(at(1 + PLACES), to(0, 0));
        assert!(matches!(moves.judge(at(1), 0, 0), Judged::Stays));
        assert!(matches!(
            moves.judge(at(1 + PLACES), 0, 0),
            Judged::Moves(_)
        ));
    }
}
