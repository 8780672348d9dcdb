//! The server's sequence number in each half-open connection, which its client has to acknowledge.
//!
//! Invariant: a number is the slot's latest, and may be read too early or too late. Then a client's packet
//! proves nothing, and its next one, or the server's first data, does. A wrong packet passes once in 65,536.

use std::collections::TryReserveError;
use std::sync::atomic::{AtomicU32, Ordering};

/// How far beyond the server's SYN a client may acknowledge: all that a server sends before the first ACK,
/// with TCP Fast Open (RFC 7413, RFC 6928).
const AHEAD_MAX: u32 = 1 << 16;

/// By slot: a sequence number.
pub(super) struct ServerSequences(Box<[AtomicU32]>);

impl ServerSequences {
    pub(super) fn new(sessions: u32) -> Result<Self, TryReserveError> {
        Ok(Self(super::memory::allocate(sessions as usize)?))
    }

    /// Records the number of the server's SYN.
    pub(super) fn set(&self, slot: u32, sequence: u32) {
        self.0[slot as usize].store(sequence, Ordering::Relaxed);
    }

    pub(super) fn get(&self, slot: u32) -> u32 {
        self.0[slot as usize].load(Ordering::Relaxed)
    }

    /// Whether a client that acknowledges this number has seen the server's SYN.
    pub(super) fn are_acknowledged(&self, slot: u32, acknowledgment: u32) -> bool {
        let next = self.get(slot).wrapping_add(1);
        acknowledgment.wrapping_sub(next) < AHEAD_MAX
    }

    pub(super) fn memory_bytes(&self) -> usize {
        size_of_val(&*self.0)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn only_what_follows_the_servers_syn_is_an_acknowledgment() {
        let sequences = ServerSequences::new(2).expect("memory");
        for sequence in [0, 7, u32::MAX - 1, u32::MAX, 1 << 31] {
            sequences.set(1, sequence);
            for (ahead, acknowledged) in [
                (0, false),
                (1, true),
                (AHEAD_MAX, true),
                (AHEAD_MAX + 1, false),
                (1 << 31, false),
                (u32::MAX, false),
            ] {
                let number = sequence.wrapping_add(ahead);
                assert_eq!(
                    sequences.are_acknowledged(1, number),
                    acknowledged,
                    "{sequence} {ahead}"
                );
            }
        }
        assert!(sequences.are_acknowledged(0, 1), "slots are apart");
    }
}
