//! Fragments: each is translated on its own, by the verdict on its datagram's first fragment.
//!
//! Only the first fragment has ports. It is handled like a whole packet, and its verdict is stored under the
//! datagram's addresses and identification. Later fragments find the verdict there and get their addresses
//! translated. Nothing is reassembled: the transport checksum is in the first fragment and is updated
//! incrementally, as in any packet. A fragment that arrives before its first one is copied and waits (RFC
//! 4787 REQ-14).
//!
//! The fragments of one datagram may arrive at several workers, because network cards spread fragments by
//! their addresses and whole packets (some also first fragments) by their ports. So there is one table for
//! all workers, with a lock per bucket. Whole packets never touch it.
//!
//! # Invariants
//! 1. **No byte twice.** At most one fragment passes for each byte of a datagram. A second one with the same
//!    range is dropped as a duplicate. One that overlaps another, or contradicts the datagram's end, spoils
//!    the datagram: it and all that follow are dropped (RFC 5722, RFC 8200 section 4.5; also for IPv4).
//! 2. **No lost wake-up.** A fragment starts to wait under the same lock that protects the first fragment's
//!    verdict. So it either finds the verdict or is released by it.
//! 3. **Bounds.** Memory is allocated at start. A lookup reads one bucket. A datagram has at most
//!    [`FRAGMENTS_MAX`] fragments, expires after the timeout, and is forgotten once all of it has passed, so
//!    that its identification may be reused (RFC 4963).
//! 4. **Order has priority.** Datagrams whose first fragment is missing or was dropped get at most half of a
//!    bucket, and never take a slot of the others: a flood of them does not hurt datagrams that arrive in
//!    order (RFC 4787 REQ-14 a). Within each kind the oldest is evicted: the fragments of a real datagram
//!    arrive within milliseconds.
//! 5. **Lock order.** A worker locks at most one bucket, and within it at most one held frame; never the
//!    reverse.

mod datagram;
mod held;
mod pass;
mod table;

pub(crate) use pass::FragmentPass;
pub use table::FragmentTable;

use std::time::Duration;

/// The most fragments of a datagram. The largest datagram, 64 KiB, has 45 at an MTU of 1500 bytes, and 54 at
/// 1280, the minimum of IPv6.
pub(crate) const FRAGMENTS_MAX: usize = 64;

/// Limits on fragments, over all workers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FragmentLimits {
    /// Concurrent datagrams, about 400 bytes each; rounded up to whole buckets.
    pub datagrams: usize,
    /// Fragments waiting for their datagram's first.
    pub held: usize,
    /// The longest frame that can wait, in bytes.
    pub held_len_max: usize,
    /// How long a datagram may take, from the first fragment seen to the last.
    pub timeout: Duration,
}

impl Default for FragmentLimits {
    /// Enough for a busy service, in less than 3 MiB. The fragments of a datagram arrive within milliseconds,
    /// so 4096 concurrent datagrams are some hundred thousand per second. Few arrive out of order, so 512
    /// frames of 2 KiB hold them. Five seconds are long for a network, and short for an identification to be
    /// reused.
    fn default() -> Self {
        Self {
            datagrams: 4096,
            held: 512,
            held_len_max: 2048,
            timeout: Duration::from_secs(5),
        }
    }
}
