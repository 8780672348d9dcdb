//! Where backends' frames go next.
//!
//! Invariant: a backend's next hop is one word, so that whoever reads it while it changes sees the
//! one before or the one after, and nothing in between.

use std::sync::atomic::{AtomicU64, Ordering};

use waxwing_packet::Mac;

use crate::prefetch::prefetch;
use crate::routes::Published;
use crate::{BackendId, DropReason, PortId};

/// Where a frame goes next: a MAC address behind a port, or behind a VLAN on one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NextHop {
    /// The egress port.
    pub port: PortId,
    /// The destination MAC.
    pub mac: Mac,
}

/// The next hop of every backend, written when the kernel's neighbour table changes and read per
/// packet; a word each, so that a reader sees one or the other. Beside it the routes to clients, where
/// replies go by them.
#[derive(Debug)]
pub struct NextHops {
    words: Box<[AtomicU64]>,
    /// Bit set by a worker that wanted an unresolved hop; the control thread takes it up.
    wanted: Box<[AtomicU64]>,
    routes: Published,
}

/// Marks a word that holds a next hop.
const RESOLVED: u64 = 1 << 63;

/// A next hop as one word; a word that holds none is zero.
#[inline]
pub(crate) const fn encode(hop: NextHop) -> u64 {
    let [a, b, c, d, e, f] = hop.mac.0;
    RESOLVED | u64::from_be_bytes([0, hop.port.0, a, b, c, d, e, f])
}

/// The next hop that a word holds.
#[inline]
pub(crate) fn decode(word: u64) -> Option<NextHop> {
    (word & RESOLVED != 0).then(|| {
        let [_, port, mac @ ..] = word.to_be_bytes();
        NextHop {
            port: PortId(port),
            mac: Mac(mac),
        }
    })
}

impl NextHops {
    /// All unresolved, for backends with an id below `backends_max`.
    #[must_use]
    pub fn new(backends_max: usize) -> Self {
        let zeros = |n: usize| (0..n).map(|_| AtomicU64::new(0)).collect();
        Self {
            words: zeros(backends_max),
            wanted: zeros(backends_max.div_ceil(64)),
            routes: Published::default(),
        }
    }

    /// The routes that replies to clients go by, if they do.
    #[inline]
    #[must_use]
    pub const fn routes(&self) -> &Published {
        &self.routes
    }

    /// The backend's next hop, or `None` while it is unresolved.
    #[inline]
    #[must_use]
    pub fn get(&self, backend: BackendId) -> Option<NextHop> {
        decode(self.words[backend.index()].load(Ordering::Relaxed))
    }

    /// The same, for a packet that is to go there: where it is unresolved it is asked for.
    ///
    /// # Errors
    /// [`DropReason::NeighborUnresolved`].
    #[inline]
    pub fn get_or_want(&self, backend: BackendId) -> Result<NextHop, DropReason> {
        self.get(backend).ok_or_else(|| {
            self.want(backend);
            DropReason::NeighborUnresolved
        })
    }

    /// Has a backend's next hop fetched into the cache.
    #[inline(always)]
    pub(crate) fn prefetch(&self, backend: BackendId) {
        if let Some(word) = self.words.get(backend.index()) {
            prefetch(word);
        }
    }

    /// Sets or clears it.
    pub fn set(&self, backend: BackendId, hop: Option<NextHop>) {
        self.words[backend.index()].store(hop.map_or(0, encode), Ordering::Relaxed);
    }

    /// A worker asks for it to be resolved.
    pub fn want(&self, backend: BackendId) {
        self.wanted[backend.index() / 64].fetch_or(1 << (backend.index() % 64), Ordering::Relaxed);
    }

    /// The backends asked for since the last call.
    #[must_use]
    pub fn take_wanted(&self) -> Vec<BackendId> {
        let mut wanted = Vec::new();
        for (at, word) in (0_u32..).zip(&self.wanted) {
            let mut bits = word.swap(0, Ordering::Relaxed);
            while bits != 0 {
                wanted.push(BackendId(at * 64 + bits.trailing_zeros()));
                bits &= bits - 1;
            }
        }
        wanted
    }
}
