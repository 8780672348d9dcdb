//! Fragments: each is translated by itself, by what its datagram's first one said.
//!
//! Only a datagram's first fragment has ports. It goes the way of a whole packet, and what becomes
//! of it is noted under the datagram's addresses and identification; the others are looked up there,
//! and get their addresses translated. Nothing is put together and nothing is cut: the transport
//! checksum lies in the first fragment, and is updated there by the difference as ever. A fragment
//! that comes before its first one is copied, and waits (RFC 4787 REQ-14).
//!
//! The fragments of one datagram may come to several workers, since a network card spreads
//! fragments by their addresses and whole packets, and perhaps first fragments, by their ports. So
//! there is one table for all workers, with a lock on each of its buckets. Whole packets touch none
//! of this.
//!
//! # Invariants
//! 1. **Nothing twice.** Of every byte of a datagram one fragment at most is let through. A second
//!    one of the very same place is dropped as a duplicate, whatever it holds; one that overlaps
//!    another, or contradicts it on where the datagram ends, spoils the datagram: it and all that
//!    still come are dropped (RFC 5722, RFC 8200 section 4.5; for IPv4 as well).
//! 2. **One moment of decision.** A fragment that waits is put there under the lock under which the
//!    first one's word is noted. So it either finds the word, or is found by it.
//! 3. **Bounds.** Memory is allocated at start. A look-up reads one bucket. A datagram has at most
//!    [`FRAGMENTS_MAX`] fragments, lives for the timeout from the first one seen on, and is forgotten
//!    as soon as all of it passed, so that its identification may come again (RFC 4963).
//! 4. **The orderly come first.** Datagrams whose first fragment has not come, or was dropped, get
//!    half of a bucket at most, and take no place of the others: a flood of them costs those that
//!    come in order nothing (RFC 4787 REQ-14 a). The oldest of a kind gives way to the newest, since the
//!    parts of a datagram follow each other within milliseconds, and a flood's never do.
//! 5. **Locks.** A worker holds the lock of one bucket at most, and inside of it one of a held
//!    frame's place, never the other way round.

mod datagram;
mod held;
mod pass;
mod table;

pub(crate) use pass::FragmentPass;
pub use table::FragmentTable;

use std::time::Duration;

/// The most fragments that a datagram may have. The largest datagram of 64 KiB has 45 at an MTU of
/// 1500 bytes, and 54 at 1280, the least of IPv6.
pub(crate) const FRAGMENTS_MAX: usize = 64;

/// How much is kept of fragments, over all workers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FragmentLimits {
    /// Datagrams that are on their way at once, some 400 bytes each; rounded up to the buckets of the
    /// table.
    pub datagrams: usize,
    /// Fragments that wait for their datagram's first one at once.
    pub held: usize,
    /// The longest frame that may wait, in bytes.
    pub held_len_max: usize,
    /// How long a datagram may take from the first fragment that is seen to the last.
    pub timeout: Duration,
}

impl Default for FragmentLimits {
    /// What a busy service needs, in less than 3 MiB: the parts of a datagram lie milliseconds
    /// apart, so that 4096 datagrams are some hundred thousand in a second; and those that come out
    /// of order are few, so that 1 MiB holds them (512 frames of an Ethernet's 1500 bytes). Five
    /// seconds are long for a network and short for an identification to come again.
    fn default() -> Self {
        Self {
            datagrams: 4096,
            held: 512,
            held_len_max: 2048,
            timeout: Duration::from_secs(5),
        }
    }
}
